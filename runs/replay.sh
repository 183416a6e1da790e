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
thalweg=${THALWEG:-target/release/thalweg}
stories=$(realpath "${CORPORA:-corpora}")/stories/train.jsonl.zst
a=420
steps=126
policies="uniform focused intensive similar"

config() { # FILE SEED STEPS
    cat > "$1" <<TOML
kind = "thalweg-train"
version = 1
seed = $2
steps = $3
sequence_length = 96
batch_sequences = 16
tokenizer = "bpe-512"
[model]
hidden = 64
layers = 3
heads = 4
intermediate = 128
[optimizer]
learning_rate = 5e-3
[schedule]
kind = "constant"
warmup_steps = 20
[checkpoints]
every_steps = 10000
keep_states = 1
TOML
}
data() { # FILE NAME SOURCE SHARE
    printf '[[data]]\nname = "%s"\nfrom = "%s"\nlimit = 2000\nshare = %s\n' "${@:2}" >> "$1"
}
train() { # CONFIG FOLDER
    [ -e "$2/done" ] && return
    rm -rf "$2"
    "$thalweg" train "$1" -o "$2" --quiet -j 1
    touch "$2/done"
}

for seed in ${SEEDS:-1 2 3}; do
    dir=$out/seed-$seed
    [ -s "$dir/titles.txt" ] || python3 runs/forget_facts.py "$seed" 40 "$dir"
    config "$dir/a.toml" "$seed" $a
    data "$dir/a.toml" stories "$stories" 0.4
    data "$dir/a.toml" facts "$dir/facts.jsonl" 0.6
    train "$dir/a.toml" "$dir/a"
    end=$dir/a/step-$a
    config "$dir/b.toml" "$seed" $((a + steps))
    data "$dir/b.toml" stories "$stories" 1
    # The memory has facts and stories as phase A had them: 40 and 27 documents.
    [ -s "$dir/memory.jsonl" ] || python3 runs/replay_table.py memory "$stories" 27 "$dir"
    [ -s "$dir/entities.jsonl" ] || "$thalweg" forget entities --corpus "$dir/facts.jsonl" --corpus "$stories" --reference "$stories" \
        --titles "$dir/titles.txt" -o "$dir/entities.jsonl" --quiet
    [ -s "$dir/probes.jsonl" ] || "$thalweg" forget build --corpus "$dir/facts.jsonl" --corpus "$stories" --entities "$dir/entities.jsonl" \
        --like "$end" --prompt-tokens 32 --decode-tokens 24 --samples 40 --general 60 --seed "$seed" -o "$dir/probes.jsonl" --quiet
    for policy in $policies; do
        [ -s "$dir/$policy/schedule.json" ] || "$thalweg" forget replay --policy "$policy" --config "$dir/b.toml" --from "$end" \
            --memory "$dir/memory.jsonl" --entities "$dir/entities.jsonl" --interval 21 --epochs 3 --max-replays 6 --seed "$seed" \
            -o "$dir/$policy" --quiet
        for config in "$dir/$policy"/0*.toml; do
            train "$config" "${config%.toml}"
        done
    done
    # It has the steps that all policies share.
    train "$dir/intensive/control.toml" "$dir/control"
    for arm in control $policies; do
        [ -s "$dir/scores-$arm.json" ] || {
            models=()
            for step in $((a + 31)) $((a + 94)); do
                models+=("$(find "$dir/$arm" -maxdepth 2 -name "step-$step" | sort | sed -n 1p)")
            done
            # Right after a replay recall is at its peak.
            [ "$arm" = control ] || models+=("$(find "$dir/$arm"/*-b-replay -maxdepth 1 -name "step-$((a + 63))")")
            "$thalweg" forget score "${models[@]}" --probes "$dir/probes.jsonl" --recalled-by "$end" -o "$dir/scores-$arm.json" --quiet -j 1
        }
    done
done
python3 runs/replay_table.py tables "$out"
