#!/usr/bin/env bash
# Is there a line of merged checkpoints, and does a step along it beat the best plain mean? Three seeds of a small Llama at
# a constant learning rate, 48 checkpoints 20 steps apart; steps of 0 to 2 lags by pc1 and secant, and plain means of many
# lengths, on two suites. Run again, it resumes from what is there. Writes docs/results/extrapolate.csv; some
# minutes for each seed on one thread.
#
#     runs/extrapolate.sh [OUT]     default: OUT = extrapolate-runs; THALWEG names the binary
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-extrapolate-runs}
thalweg=${THALWEG:-target/release/thalweg}
seeds=${SEEDS:-1 2 3}
mkdir -p "$out"

for part in validation:selection test:report; do
    cat > "$out/${part%:*}.toml" <<TOML
kind = "thalweg-suite"
version = 1
name = "${part%:*}"
role = "${part#*:}"
context_length = 96
start = "<|endoftext|>"
[[task]]
name = "stories"
kind = "text"
file = "$PWD/corpora/stories/${part%:*}.jsonl.zst"
limit = 60
cut_tokens = 96
measures = ["nats_per_token"]
TOML
done
for seed in $seeds; do
    cat > "$out/seed-$seed.toml" <<TOML
kind = "thalweg-train"
version = 1
seed = $seed
steps = 2000
sequence_length = 96
batch_sequences = 16
tokenizer = "bpe-512"
[model]
family = "llama"
hidden = 64
layers = 2
heads = 4
intermediate = 192
[[data]]
from = "stories"
[optimizer]
kind = "adamw"
learning_rate = 6e-3
weight_decay = 0.1
clip_norm = 1.0
[schedule]
kind = "wsd"
warmup_steps = 50
anneal_steps = 0
curve = "linear"
[checkpoints]
every_steps = 20
keep_states = 0
TOML
    [ -e "$out/seed-$seed/step-2000" ] || "$thalweg" train "$out/seed-$seed.toml" -o "$out/seed-$seed" --quiet
    ask() { # NAME ARGUMENT...
        local file=$out/seed-$seed-$1.json
        shift
        [ -s "$file" ] || "$thalweg" extrapolate "$out/seed-$seed" --suite "$out/validation.toml" --confirm "$out/test.toml" \
            --cache "$out/scores" --json --quiet "$@" > "$file" || [ $? -eq 1 ]
    }
    for window in 8 16; do
        points=$((48 / window))
        for line in pc1 secant; do
            ask "$line-$window" --last 48 --window "$window" --points "$points" --direction "$line"
        done
        for alpha in 0.25 1.5 2; do
            ask "pc1-$window-at-$alpha" --last 48 --window "$window" --points "$points" --alpha "$alpha"
        done
    done
    [ -s "$out/seed-$seed-sweep.json" ] || "$thalweg" sweep "$out/seed-$seed" --counts 2,4,8,12,16,24,32,48 \
        --suite "$out/validation.toml" --report-suite "$out/test.toml" --keep none -o "$out/seed-$seed-sweep" \
        --json --quiet > "$out/seed-$seed-sweep.json"
done
python3 runs/extrapolate_table.py "$out"
