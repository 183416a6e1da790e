#!/usr/bin/env bash
# Trains what the forecast is validated on: constant-rate runs and, from four forks of each, real anneals of two lengths.
# Two sizes, dense and with experts, one other peak rate, one other decay shape; three seeds of each. Run again, it resumes
# from what is there. About 50 minutes on two cores, 4 GB.
#
#     runs/forecast/train.sh [OUT]          default: OUT = forecast-runs; THALWEG names the binary, JOBS the runs at once
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-forecast-runs}
thalweg=${THALWEG:-target/release/thalweg}
forks="400 800 1200 1600"
lengths="150 300"
last_step=1900

config() { # NAME SEED STEPS ANNEAL_STEPS CURVE KEEP_STATES [FORK]
    local family=llama hidden=64 layers=2 intermediate=192 rate=0.003 experts=""
    case $1 in *-m-* | m-*) hidden=96 layers=3 intermediate=288 ;; esac
    case $1 in *-moe*) family=olmoe intermediate=$((intermediate / 2)) experts=$'n_experts = 4\ntop_k = 2\nbalance = "aux:0.01"' ;; esac
    case $1 in *-half-rate) rate=0.0015 ;; esac
    cat <<TOML
kind = "thalweg-train"
version = 1
seed = $2
steps = $3
sequence_length = 96
batch_sequences = 16
tokenizer = "bpe-512"

[model]
family = "$family"
hidden = $hidden
layers = $layers
heads = 4
intermediate = $intermediate
$experts

[[data]]
from = "stories"

[optimizer]
kind = "adamw"
learning_rate = $rate
weight_decay = 0.1
clip_norm = 1.0

[schedule]
kind = "wsd"
warmup_steps = 60
anneal_steps = $4
curve = "$5"

[checkpoints]
every_steps = 10
keep_states = $6
TOML
    [ -z "${7:-}" ] || printf '\n[start]\nfrom = "trunk/step-%s"\nstate = "full"\n' "$7"
}

one() { # NAME SEED: the constant run, then its anneals, then only the training states that a fork needs are kept
    local folder=$out/$1/seed-$2 fork length curve curves="linear"
    [ ! -e "$folder/done" ] || return 0
    mkdir -p "$folder"
    config "$1" "$2" $last_step 0 linear 0 > "$folder/trunk.toml"
    "$thalweg" train "$folder/trunk.toml" -o "$folder/trunk" --threads 1 --quiet > /dev/null
    [ "$1" != s-dense ] || curves="linear 1-sqrt"
    for curve in $curves; do
        for fork in $forks; do
            for length in $lengths; do
                local name=anneal-$curve-$fork-$length
                config "$1" "$2" $((fork + length)) "$length" "$curve" 1 "$fork" \
                    | sed "s/^every_steps = 10/every_steps = $length/" > "$folder/$name.toml"
                "$thalweg" train "$folder/$name.toml" -o "$folder/$name" --threads 1 --quiet > /dev/null
            done
        done
    done
    rm -rf "$folder"/trunk/state "$folder"/anneal-*/state
    touch "$folder/done"
    echo "$folder"
}

export -f config one
export out thalweg forks lengths last_step
for name in s-dense s-moe s-dense-half-rate m-dense m-moe; do
    for seed in 1 2 3; do echo "$name $seed"; done
done | xargs -P "${JOBS:-2}" -L 1 bash -euo pipefail -c 'one "$0" "$1"'
