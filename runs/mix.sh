#!/usr/bin/env bash
# Do merged components rank mixtures like models that were trained on them? A small Llama is trained on stories; components
# on stories, code, math and dialogue (half of each is stories; again without) train from it for 16, 48 and 144 steps, and 24
# mixtures for 48. Merges at the mixtures' coefficients, and the mixtures' own runs stopped after 8 and 24 steps (as many steps
# in all as four components of 48 and of 144), are compared with the full runs. Run again, it resumes from what is there.
# Writes docs/results/mix.csv; some minutes for each seed on one thread.
#
#     CORPORA=FOLDER runs/mix.sh [OUT]     FOLDER/<domain>/{train,validation}.jsonl.zst; OUT = mix-runs
#     THALWEG names the binary, SEEDS the seeds
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-mix-runs}")
thalweg=${THALWEG:-target/release/thalweg}
corpora=$(realpath "${CORPORA:?the folder of the corpora}")
domains="stories code math dialogue"
base_steps=240
steps=48
lengths="16 48 144"
longest=144
mkdir -p "$out"

{
    printf 'kind = "thalweg-suite"\nversion = 1\nname = "domains"\nrole = "selection"\ncontext_length = 64\nstart = "<|endoftext|>"\n'
    for domain in $domains; do
        printf '[[task]]\nname = "%s"\nkind = "text"\nfile = "%s"\nlimit = 30\ncut_tokens = 64\nmeasures = ["nats_per_token"]\n' \
            "$domain" "$corpora/$domain/validation.jsonl.zst"
    done
} > "$out/suite.toml"

config() { # FILE SEED CHECKPOINTS DOMAIN...
    cat > "$1" <<TOML
kind = "thalweg-train"
version = 1
seed = $2
steps = $base_steps
sequence_length = 64
batch_sequences = 16
tokenizer = "bpe-512"
[model]
hidden = 48
layers = 2
heads = 4
intermediate = 96
[optimizer]
learning_rate = 4e-3
[schedule]
kind = "constant"
warmup_steps = 20
[checkpoints]
every_steps = 10000
steps = [$3]
keep_states = 1
TOML
    for domain in "${@:4}"; do
        printf '[[data]]\nname = "%s"\nfrom = "%s"\nlimit = 400\n' "$domain" "$corpora/$domain/train.jsonl.zst" >> "$1"
    done
}
train() { # CONFIG FOLDER
    [ -e "$2/done" ] && return
    rm -rf "$2"
    "$thalweg" train "$1" -o "$2" --quiet -j 1
    touch "$2/done"
}

for seed in ${SEEDS:-1 2 3}; do
    dir=$out/seed-$seed
    mkdir -p "$dir"
    config "$dir/base.toml" "$seed" "" stories
    train "$dir/base.toml" "$dir/base"
    base=$dir/base/step-$base_steps
    config "$dir/all.toml" "$seed" "$((base_steps + 16)), $((base_steps + 48))" $domains
    for beta in 0.5 0; do
        parts=$dir/beta-$beta
        "$thalweg" mix plan --config "$dir/all.toml" --base "$base" --general stories --beta $beta --tokens $((longest * 1024)) \
            -o "$parts" --quiet > /dev/null
        for domain in $domains; do
            train "$parts/$domain.toml" "$parts/$domain"
        done
    done
    python3 runs/mix_table.py mixtures "$dir" "$seed" "$base" "$base_steps" "$steps" $domains
    for i in $(seq -w 24); do
        train "$dir/reference-$i.toml" "$dir/reference-$i"
        for at in 8 24 48; do
            [ -s "$dir/score-$i-$at.json" ] || "$thalweg" eval "$dir/reference-$i/step-$((base_steps + at))" \
                --suite "$out/suite.toml" --json --quiet -j 1 > "$dir/score-$i-$at.json"
        done
    done
    python3 runs/mix_table.py references "$dir"
    for beta in 0.5 0; do
        for length in $lengths; do
            name=$beta-$length
            parts=()
            for domain in $domains; do
                parts+=(--component "$domain=$dir/beta-$beta/$domain/step-$((base_steps + length))")
            done
            [ -s "$dir/check-$name.json" ] || "$thalweg" mix check --base "$base" "${parts[@]}" --suite "$out/suite.toml" --json \
                --quiet -j 1 > "$dir/check-$name.json" || [ $? -eq 1 ]
            [ -s "$dir/merged-$name.jsonl" ] || "$thalweg" mix search "${parts[@]}" --general stories --beta $beta \
                --suite "$out/suite.toml" --mixtures "$dir/references.jsonl" -o "$dir/merged-$name.jsonl" --quiet -j 1 > /dev/null
            "$thalweg" mix validate --trials "$dir/merged-$name.jsonl" --references "$dir/references.jsonl" --json --quiet \
                > "$dir/validation-merged-$name.json"
        done
    done
    for at in 8 24; do
        "$thalweg" mix validate --trials "$dir/trained-$at.jsonl" --references "$dir/references.jsonl" --json --quiet \
            > "$dir/validation-trained-$at.json"
    done
done
python3 runs/mix_table.py tables "$out"
