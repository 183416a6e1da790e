#!/usr/bin/env bash
# What does a run forget, do merges keep it, and does replay help? Phase A: stories and synthetic facts. Phase B: stories
# alone, 126 steps, in three arms of equal length: without replay; 4.8 % facts mixed into every batch; two batches of facts
# after every 40 steps. Each arm has as many steps, and both replays as many batches of facts. Run again, it resumes
# from what is there. Writes docs/results/forget.csv; some minutes for each seed on one thread.
#
#     runs/forget.sh [OUT]     default: OUT = forget-runs; THALWEG names the binary, SEEDS the seeds
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-forget-runs}
thalweg=${THALWEG:-target/release/thalweg}
stories=$PWD/corpora/stories/train.jsonl.zst
a=420

train() { # FOLDER SEED STEPS EVERY START DATA
    [ -e "$1/done" ] && return
    rm -rf "$1"
    local start=''
    [ -z "$5" ] || start=$(printf '[start]\nfrom = "%s"\nstate = "full"' "$5")
    cat > "$1.toml" <<TOML
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
$6
[optimizer]
learning_rate = 5e-3
[schedule]
kind = "constant"
warmup_steps = 20
[checkpoints]
every_steps = $4
$start
TOML
    "$thalweg" train "$1.toml" -o "$1" --quiet -j 1
    touch "$1/done"
}
part() { # NAME FILE SHARE
    printf '[[data]]\nname = "%s"\nfrom = "%s"\nlimit = 2000\nshare = %s\n' "$@"
}

for seed in ${SEEDS:-1 2 3}; do
    dir=$(realpath -m "$out/seed-$seed")
    [ -s "$dir/titles.txt" ] || python3 runs/forget_facts.py "$seed" 40 "$dir"
    facts=$dir/facts.jsonl
    train "$dir/a" "$seed" $a 60 "" "$(part stories "$stories" 0.4; part facts "$facts" 0.6)"
    end=$dir/a/step-$a
    train "$dir/none" "$seed" $((a + 126)) 6 "$end" "$(part stories "$stories" 1)"
    train "$dir/mixed" "$seed" $((a + 126)) 6 "$end" "$(part stories "$stories" 0.952; part facts "$facts" 0.048)"
    from=$end
    for cycle in 1 2 3; do
        to=$((a + 42 * cycle))
        train "$dir/bursts-$cycle" "$seed$cycle" $((to - 2)) 6 "$from" "$(part stories "$stories" 1)"
        train "$dir/replay-$cycle" "$seed$cycle" $to 6 "$dir/bursts-$cycle/step-$((to - 2))" "$(part facts "$facts" 1)"
        from=$dir/replay-$cycle/step-$to
    done
    # Means of the end of A and a checkpoint of B; the names count no steps.
    for pair in half-a:6 half-b:12 half-c:24 half-d:126; do
        [ -e "$dir/${pair%:*}" ] ||
            "$thalweg" merge -m "$end" -m "$dir/none/step-$((a + ${pair#*:}))" -o "$dir/${pair%:*}" --quiet
    done

    [ -s "$dir/entities.jsonl" ] || "$thalweg" forget entities --corpus "$facts" --corpus "$stories" --reference "$stories" \
        --titles "$dir/titles.txt" -o "$dir/entities.jsonl" --quiet
    [ -s "$dir/probes.jsonl" ] || "$thalweg" forget build --corpus "$facts" --corpus "$stories" --entities "$dir/entities.jsonl" \
        --like "$end" --prompt-tokens 32 --decode-tokens 24 --samples 40 --general 60 --seed "$seed" -o "$dir/probes.jsonl" --quiet
    score() { # NAME ARGUMENT...
        local file=$dir/scores-$1.json
        shift
        [ -s "$file" ] || "$thalweg" forget score "$@" --probes "$dir/probes.jsonl" --recalled-by "$end" -o "$file" --quiet -j 1
    }
    score none "$dir/none" --windows sma:3,sma:5,sma:10
    score mixed "$dir/mixed"
    score a "$end" "$dir"/half-[abcd]
    score bursts "$dir"/replay-1/step-$((a + 42)) "$dir"/bursts-2/step-$((a + 60)) "$dir"/replay-2/step-$((a + 84)) \
        "$dir"/bursts-3/step-$((a + 102)) "$dir"/bursts-3/step-$((a + 124)) "$dir"/replay-3/step-$((a + 126))
done
python3 runs/forget_table.py "$out"
