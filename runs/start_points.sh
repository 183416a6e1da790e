#!/usr/bin/env bash
# Continued training from the merge that `thalweg init` writes and from the newest checkpoint, at three peak learning rates, on
# the same stories and on the African Storybook part of them alone. Run again, it resumes from what is there. Writes
# docs/results/start-points.csv; about half an hour on one thread.
#
#     runs/start_points.sh [OUT]     default: OUT = start-runs; THALWEG names the binary, JOBS the seeds at once
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-start-runs}
thalweg=${THALWEG:-target/release/thalweg}
seeds=${SEEDS:-1 2 3}
trunk_steps=1900

config() { # SEED STEPS RATE SCHEDULE EVERY_STEPS
    cat <<TOML
kind = "thalweg-train"
version = 1
seed = $1
steps = $2
sequence_length = 96
batch_sequences = 16
tokenizer = "bpe-512"

[model]
family = "llama"
hidden = 64
layers = 2
heads = 4
intermediate = 192

[optimizer]
kind = "adamw"
learning_rate = $3
weight_decay = 0.1
clip_norm = 1.0

[schedule]
$4

[checkpoints]
every_steps = $5
keep_states = 1
TOML
}

seed() { # SEED: the constant run, the start point from its newest checkpoints, and continued training
    local folder=$out/seed-$1 data from rate
    [ ! -e "$folder/done" ] || return 0
    mkdir -p "$folder"
    if [ ! -e "$folder/trunk/step-$trunk_steps" ]; then
        { config "$1" $trunk_steps 0.003 $'kind = "wsd"\nwarmup_steps = 60' 10; printf '\n[[data]]\nfrom = "stories"\n'; } > "$folder/trunk.toml"
        "$thalweg" train "$folder/trunk.toml" -o "$folder/trunk" --threads 1 --quiet > /dev/null
    fi
    "$thalweg" init "$folder/trunk" --for cpt -o "$folder/merge" --json --quiet > "$folder/init.json"
    for data in stories african-storybook; do
        for from in trunk/step-$trunk_steps merge; do
            for rate in 0.0015 0.003 0.006; do
                local name=$data-${from%%/*}-$rate
                [ ! -e "$folder/$name.done" ] || continue
                {
                    # Another seed, so that the order of the batches is another one.
                    config $((100 + $1)) 200 $rate $'kind = "cosine"\nwarmup_steps = 10\nfloor = 0.05' 200
                    if [ "$data" = stories ]; then
                        printf '\n[[data]]\nfrom = "stories"\n'
                    else
                        printf '\n[[data]]\nfrom = "../train.jsonl"\nvalidation = "../validation.jsonl"\n'
                    fi
                    printf '\n[validation]\nevery_steps = 10\nsequences = 128\n'
                    printf '\n[start]\nfrom = "%s"\nstate = "params-only"\n' "$from"
                } > "$folder/$name.toml"
                "$thalweg" train "$folder/$name.toml" -o "$folder/$name" --threads 1 --quiet > /dev/null
                rm -rf "$folder/$name"/state "$folder/$name"/step-* "$folder/$name"/tensorboard
                touch "$folder/$name.done"
            done
        done
    done
    touch "$folder/done"
    echo "$folder"
}

mkdir -p "$out"
for part in train validation; do
    zstd -dc corpora/stories/$part.jsonl.zst | grep '"source": *"african-storybook"' > "$out/$part.jsonl"
done
export -f config seed
export out thalweg trunk_steps
printf '%s\n' $seeds | xargs -P "${JOBS:-1}" -L 1 bash -euo pipefail -c 'seed "$0"'
python3 runs/start_points_table.py "$out"
