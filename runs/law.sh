#!/usr/bin/env bash
# Does the law of merging hold for small models, and does it forecast eight experts from subsets of one, two and four? At three
# widths a small Llama is trained on eight domains; eight experts train from it, one for each domain. All 255 subsets are merged
# and scored on held-out text of every domain. Run again, it resumes from what is there. Writes docs/results/law.csv; some minutes
# for each seed and width on one thread.
#
#     CORPORA=FOLDER runs/law.sh [OUT]     FOLDER/<domain>/{train,validation}.jsonl.zst; OUT = law-runs
#     THALWEG names the binary, SEEDS the seeds, WIDTHS the widths
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-law-runs}")
thalweg=${THALWEG:-target/release/thalweg}
corpora=$(realpath "${CORPORA:?the folder of the corpora}")
domains="stories novels textbook code math multilingual dialogue reference"
base_steps=400
steps=120
mkdir -p "$out"

{
    printf 'kind = "thalweg-suite"\nversion = 1\nname = "domains"\nrole = "selection"\ncontext_length = 64\nstart = "<|endoftext|>"\n'
    for domain in $domains; do
        printf '[[task]]\nname = "%s"\nkind = "text"\nfile = "%s"\nlimit = 24\ncut_tokens = 64\nmeasures = ["nats_per_token"]\n' \
            "$domain" "$corpora/$domain/validation.jsonl.zst"
    done
} > "$out/suite.toml"

train() { # FOLDER SEED WIDTH STEPS LEARNING_RATE START DOMAIN...
    [ -e "$1/done" ] && return
    rm -rf "$1"
    {
        cat <<TOML
kind = "thalweg-train"
version = 1
seed = $2
steps = $4
sequence_length = 64
batch_sequences = 16
tokenizer = "bpe-512"
[model]
hidden = $3
layers = 2
heads = 4
intermediate = $((2 * $3))
[optimizer]
learning_rate = $5
[schedule]
kind = "constant"
warmup_steps = 20
[checkpoints]
every_steps = $4
TOML
        for domain in "${@:7}"; do
            printf '[[data]]\nname = "%s"\nfrom = "%s"\nlimit = 400\n' "$domain" "$corpora/$domain/train.jsonl.zst"
        done
        [ -z "$6" ] || printf '[start]\nfrom = "%s"\nstate = "full"\n' "$6"
    } > "$1.toml"
    "$thalweg" train "$1.toml" -o "$1" --quiet -j 1
    touch "$1/done"
}

for seed in ${SEEDS:-1 2 3}; do
    for width in ${WIDTHS:-32 48 80}; do
        dir=$out/seed-$seed/width-$width
        mkdir -p "$dir"
        train "$dir/base" "$seed" "$width" $base_steps 4e-3 "" $domains
        base=$dir/base/step-$base_steps
        experts=()
        for domain in $domains; do
            train "$dir/$domain" "$seed" "$width" $((base_steps + steps)) 2e-3 "$base" "$domain"
            experts+=(-m "$dir/$domain/step-$((base_steps + steps))")
        done
        [ -s "$dir/curve.json" ] || {
            rm -f "$dir/curve.jsonl"
            "$thalweg" law curve "${experts[@]}" --base "$base" --suite "$out/suite.toml" -o "$dir/curve.jsonl" --json --quiet -j 1 > "$dir/part"
            mv "$dir/part" "$dir/curve.json"
        }
        # What the forecast may see: eight experts are held out.
        grep -E '"k":[0124],' "$dir/curve.jsonl" > "$dir/seen.jsonl"
        "$thalweg" law merge "$dir/seen.jsonl" --predict 8 --json --quiet > "$dir/forecast.json" || [ $? -eq 1 ]
        "$thalweg" law merge "$dir/curve.jsonl" --predict 16 --json --quiet > "$dir/law.json" || [ $? -eq 1 ]
    done
    cat "$out/seed-$seed"/width-*/curve.jsonl > "$out/seed-$seed/all.jsonl"
    "$thalweg" law merge "$out/seed-$seed/all.jsonl" --json --quiet > "$out/seed-$seed/joint.json" || [ $? -eq 1 ]
done
python3 runs/law_table.py "$out"
