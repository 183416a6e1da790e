#!/usr/bin/env bash
# What to resume from after a spike, with the control that the paper lacks: the newest checkpoint before it, the oldest of
# three, and the SMA of the three, each with the optimizer's moments reset, kept or averaged. Run again, it resumes from what
# is there. Writes docs/results/recovery.csv; about an hour on one thread.
#
#     runs/recover.sh [OUT]          default: OUT = recover-runs; THALWEG names the binary, JOBS the seeds at once
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-recover-runs}
thalweg=${THALWEG:-target/release/thalweg}
seeds=${SEEDS:-1 2 3 4 5 6 7 8 9 10}
last_step=560

config() { # SEED EVERY_STEPS KEEP_STATES [FROM MOMENTS SKIP] [FAULT_STEPS]: faults multiply the rate by 30 from step 411 on
    cat <<TOML
kind = "thalweg-train"
version = 1
seed = $1
steps = $last_step
sequence_length = 96
batch_sequences = 8
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
learning_rate = 0.003
weight_decay = 0.1
clip_norm = 1.0

[schedule]
kind = "constant"
warmup_steps = 60

[checkpoints]
every_steps = $2
keep_states = $3

[validation]
every_steps = 40
sequences = 128
TOML
    [ -z "${4:-}" ] || printf '\n[start]\nfrom = "%s"\nstate = "full"\nmoments = "%s"\nskip_data_steps = %s\n' "$4" "$5" "$6"
    [ -z "${7:-}" ] || printf '\n[[fault]]\nkind = "learning-rate"\nat_step = 411\nsteps = %s\nfactor = 30.0\n' "$7"
}

train() { # NAME: trains the config NAME.toml into NAME; a run that ends in a loss that is not finite has its log all the same
    "$thalweg" train "$1.toml" -o "$1" --threads 1 --quiet > /dev/null 2> "$1.err" || grep -q finite "$1.err"
}

arm() { # FOLDER SEED NAME FROM MOMENTS SKIP FAULT_STEPS: a resumed run, of which only the logs are kept
    [ ! -e "$1/$3.done" ] || return 0
    config "$2" 1000 1 "$4" "$5" "$6" "$7" > "$1/$3.toml"
    train "$1/$3"
    rm -rf "$1/$3"/state "$1/$3"/step-* "$1/$3"/tensorboard
    touch "$1/$3.done"
}

seed() { # SEED: the incident, what thalweg recover proposes, then every arm of every scenario
    local folder=$out/seed-$1 scenario faults skip from policy
    [ ! -e "$folder/done" ] || return 0
    mkdir -p "$folder"
    # The incident: the rate is 30 times too high for 8 steps, and the loss does not come back.
    config "$1" 20 0 "" "" "" 8 > "$folder/incident.toml"
    train "$folder/incident"
    "$thalweg" recover "$folder/incident" -o "$folder/merge" --json --quiet > "$folder/recover.json"
    # One source with coefficient 1: the checkpoint itself, whose moments a policy may reset.
    "$thalweg" merge "$folder/incident" --steps 400 -o "$folder/newest" --quiet > /dev/null
    "$thalweg" merge "$folder/incident" --steps 360 -o "$folder/oldest" --quiet > /dev/null
    skip=$(sed -n 's/.*"skip_data_steps": \([0-9]*\).*/\1/p' "$folder/recover.json" | head -n 1)
    for scenario in gone-replay gone-skip again-2 again-3 again-8; do
        faults=${scenario#again-}
        [ "$faults" != "$scenario" ] || faults=""
        for from in newest oldest merge; do
            for policy in newest reset average; do
                [ "$policy" != average ] || [ "$from" = merge ] || continue
                case $scenario-$from-$policy in
                    # With the data skipped the oldest passes over 40 steps more, to the same batch.
                    gone-skip-oldest-*) arm "$folder" "$1" "$scenario-$from-$policy" oldest "$policy" $((skip + 40)) "" ;;
                    gone-skip-*) arm "$folder" "$1" "$scenario-$from-$policy" "$from" "$policy" "$skip" "" ;;
                    # Replayed, the oldest with its moments is the incident's own run again, bit by bit: shown for one seed.
                    again-*-oldest-newest) [ "$1" != 1 ] || arm "$folder" "$1" "$scenario-$from-$policy" oldest newest 0 "$faults" ;;
                    *) arm "$folder" "$1" "$scenario-$from-$policy" "$from" "$policy" 0 "$faults" ;;
                esac
            done
        done
    done
    rm -rf "$folder"/incident/state "$folder"/incident/step-* "$folder"/incident/tensorboard
    touch "$folder/done"
    echo "$folder"
}

export -f config train arm seed
export out thalweg last_step
printf '%s\n' $seeds | xargs -P "${JOBS:-1}" -L 1 bash -euo pipefail -c 'seed "$0"'
python3 runs/recover_table.py "$out"
