#!/usr/bin/env bash
# Should a merge average the bias that balances the experts of a mixture, or take the newest one? Constant-rate runs of a small
# mixture at two bias rates; merges of three windows by each policy; held-out loss and tokens of each expert. Run again, it resumes
# from what is there. Writes docs/results/expert-bias.csv; about 45 minutes on one thread of a busy machine.
#
#     runs/expert_bias.sh [OUT]      default: OUT = expert-bias-runs; THALWEG names the binary, EXPERT_LOAD the built example
#                                    `cargo build --release -p thalweg-lab --example expert_load`, JOBS the runs at once
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-expert-bias-runs}
thalweg=${THALWEG:-target/release/thalweg}
expert_load=${EXPERT_LOAD:-target/release/examples/expert_load}
seeds=${SEEDS:-1 2 3}
rates=${RATES:-0.001 0.01}
last_step=1000
rebalance_steps=50

config() { # SEED STEPS LEARNING_RATE BIAS_RATE WARMUP_STEPS EVERY_STEPS
    cat <<TOML
kind = "thalweg-train"
version = 1
seed = $1
steps = $2
sequence_length = 96
batch_sequences = 16
tokenizer = "bpe-512"

[model]
family = "thalweg-moe"
hidden = 64
layers = 2
heads = 4
intermediate = 64
n_experts = 8
top_k = 2
balance = "bias:$4"

[[data]]
from = "stories"

[optimizer]
kind = "adamw"
learning_rate = $3
weight_decay = 0.1
clip_norm = 1.0

[schedule]
kind = "constant"
warmup_steps = $5

[checkpoints]
every_steps = $6
keep_states = 1
TOML
}

arms() { # FOLDER WINDOW COUNT INTERVAL BIAS_RATE SEED: every policy of one window
    local folder=$1/$2 name
    local window=(--count "$3" --interval-steps "$4" --end-step $last_step --quiet)
    mkdir -p "$folder"
    merge() { # NAME, OPTIONS
        name=$1
        shift
        [ -e "$folder/$name/thalweg.json" ] || "$thalweg" merge "$folder/../trunk" "${window[@]}" "$@" -o "$folder/$name" > /dev/null
    }
    merge average
    merge bias-newest --take-newest '*.e_score_correction_bias'
    merge matrix-newest --take-newest '*.mlp.gate.weight'
    merge router-newest --router newest
    python3 runs/expert_bias_table.py --zero "$folder/average" "$folder/bias-zero"
    # The bias alone moves: the learning rate is too small to change any number.
    if [ ! -e "$folder/rebalanced/step-$rebalance_steps" ]; then
        config $((100 + $6)) $rebalance_steps 1e-30 "$5" 0 $rebalance_steps > "$folder/rebalanced.toml"
        printf '\n[start]\nfrom = "average"\nstate = "params-only"\n' >> "$folder/rebalanced.toml"
        "$thalweg" train "$folder/rebalanced.toml" -o "$folder/rebalanced" --threads 1 --quiet > /dev/null
    fi
    local checkpoints=("$folder/average" "$folder/../trunk/step-$last_step" "$folder"/{bias,matrix,router}-newest "$folder/bias-zero" "$folder/rebalanced/step-$rebalance_steps")
    [ -s "$folder/scores.json" ] || {
        "$thalweg" eval "${checkpoints[@]}" --baseline first --suite runs/expert_bias.toml --cache "$folder/../scores" --threads 1 --quiet --json > "$folder/part"
        mv "$folder/part" "$folder/scores.json"
    }
    [ -s "$folder/loads.jsonl" ] || {
        RAYON_NUM_THREADS=1 "$expert_load" test 96 "${checkpoints[@]}" > "$folder/part"
        mv "$folder/part" "$folder/loads.jsonl"
    }
}

one() { # SEED BIAS_RATE: a constant run, then every window
    local folder=$out/bias-$2/seed-$1
    [ ! -e "$folder/done" ] || return 0
    mkdir -p "$folder"
    { config "$1" $last_step 0.003 "$2" 60 10; printf '\n[validation]\nevery_steps = 100\nsequences = 2000\n'; } > "$folder/trunk.toml"
    [ -e "$folder/trunk/step-$last_step" ] || "$thalweg" train "$folder/trunk.toml" -o "$folder/trunk" --threads 1 --quiet > /dev/null
    # The same loss as in the run's own log: the table holds the two programs against each other.
    RAYON_NUM_THREADS=1 "$expert_load" validation 96 "$folder/trunk/step-$last_step" > "$folder/validation-load.jsonl"
    for interval in 10 40 80; do
        arms "$folder" 8x$interval 8 $interval "$2" "$1"
    done
    touch "$folder/done"
    echo "$folder"
}

export -f config arms one
export out thalweg expert_load last_step rebalance_steps
for seed in $seeds; do for rate in $rates; do echo "$seed $rate"; done; done \
    | xargs -P "${JOBS:-1}" -L 1 bash -euo pipefail -c 'one "$0" "$1"'
python3 runs/expert_bias_table.py "$out"
