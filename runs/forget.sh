#!/usr/bin/env bash
# What does a run forget, do merges keep it, and does replay help? Phase A: stories and synthetic facts. Phase B: stories
# alone, 126 steps, in three arms of equal length: without replay; 4.8 % facts mixed into every batch; two batches of facts
# after every 40 steps. Each arm has as many steps, and both replays as many batches of facts. Run again, it resumes
# from what is there. Writes docs/results/forget.csv; some minutes for each seed on one thread.
#
#     runs/forget.sh [OUT]     default: OUT = forget-runs; THALWEG names the binary, SEEDS the seeds
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-forget-runs}")
source runs/forget_common.sh

resume() { # FOLDER SEED STEPS FROM STORIES FACTS: resumes from a checkpoint, with these shares of both corpora
    config "$1.toml" "$2" "$3" "every_steps = 6"
    printf '[start]\nfrom = "%s"\nstate = "full"\n' "$4" >> "$1.toml"
    [ "$5" = 0 ] || data "$1.toml" stories "$stories" "$5"
    [ "$6" = 0 ] || data "$1.toml" facts "$dir/facts.jsonl" "$6"
    train "$1.toml" "$1"
}

for seed in ${SEEDS:-1 2 3}; do
    dir=$out/seed-$seed
    train_a "$seed" "$dir" "every_steps = 60"
    end=$dir/a/step-$a
    resume "$dir/none" "$seed" $((a + b)) "$end" 1 0
    resume "$dir/mixed" "$seed" $((a + b)) "$end" 0.952 0.048
    from=$end
    for cycle in 1 2 3; do
        to=$((a + 42 * cycle))
        resume "$dir/bursts-$cycle" "$seed$cycle" $((to - 2)) "$from" 1 0
        resume "$dir/replay-$cycle" "$seed$cycle" $to "$dir/bursts-$cycle/step-$((to - 2))" 0 1
        from=$dir/replay-$cycle/step-$to
    done
    # Means of the end of A and a checkpoint of B; the names count no steps.
    for pair in half-a:6 half-b:12 half-c:24 half-d:126; do
        [ -e "$dir/${pair%:*}" ] ||
            "$thalweg" merge -m "$end" -m "$dir/none/step-$((a + ${pair#*:}))" -o "$dir/${pair%:*}" --quiet
    done

    build_probes "$seed" "$dir"
    score "$dir" none "$dir/none" --windows sma:3,sma:5,sma:10
    score "$dir" mixed "$dir/mixed"
    score "$dir" a "$end" "$dir"/half-[abcd]
    score "$dir" bursts "$dir"/replay-1/step-$((a + 42)) "$dir"/bursts-2/step-$((a + 60)) "$dir"/replay-2/step-$((a + 84)) \
        "$dir"/bursts-3/step-$((a + 102)) "$dir"/bursts-3/step-$((a + 124)) "$dir"/replay-3/step-$((a + 126))
done
python3 runs/forget_table.py "$out"
