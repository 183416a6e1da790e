#!/usr/bin/env bash
# Which replay keeps what a run knew? Phase A: stories and synthetic facts, as in runs/forget.sh. Phase B: stories alone, 126 steps,
# with the four policies of `thalweg forget replay` at equal cost (6 steps of replay: one after every 20 steps, or three after every
# 60) and a control of as many steps. Scored midway between replays. Run again, it resumes from what is there. Writes
# docs/results/replay.csv; some minutes for each seed on one thread.
#
#     CORPORA=FOLDER runs/replay.sh [OUT]     default: CORPORA = corpora, OUT = replay-runs; THALWEG names the binary, SEEDS the seeds
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-replay-runs}")
source runs/forget_common.sh
policies="uniform focused intensive similar"
checkpoints=$'every_steps = 10000\nkeep_states = 1'

for seed in ${SEEDS:-1 2 3}; do
    dir=$out/seed-$seed
    train_a "$seed" "$dir" "$checkpoints"
    config "$dir/b.toml" "$seed" $((a + b)) "$checkpoints"
    data "$dir/b.toml" stories "$stories" 1
    # The memory has facts and stories as phase A had them: 40 and 27 documents.
    [ -s "$dir/memory.jsonl" ] || python3 runs/replay_table.py memory "$stories" 27 "$dir"
    build_probes "$seed" "$dir"
    for policy in $policies; do
        [ -s "$dir/$policy/schedule.json" ] || "$thalweg" forget replay --policy "$policy" --config "$dir/b.toml" \
            --from "$dir/a/step-$a" --memory "$dir/memory.jsonl" --entities "$dir/entities.jsonl" --interval 21 --epochs 3 \
            --max-replays 6 --seed "$seed" -o "$dir/$policy" --quiet
        for config in "$dir/$policy"/0*.toml; do
            train "$config" "${config%.toml}"
        done
    done
    # It has the steps that all policies share.
    train "$dir/intensive/control.toml" "$dir/control"
    for arm in control $policies; do
        models=()
        for step in $((a + 31)) $((a + 94)); do
            models+=("$(find "$dir/$arm" -maxdepth 2 -name "step-$step" | sort | sed -n 1p)")
        done
        # Right after a replay recall is at its peak.
        [ "$arm" = control ] || models+=("$(find "$dir/$arm"/*-b-replay -maxdepth 1 -name "step-$((a + 63))")")
        score "$dir" "$arm" "${models[@]}"
    done
done
python3 runs/replay_table.py tables "$out"
