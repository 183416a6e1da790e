#!/usr/bin/env bash
# How good is the window that four scores propose, beside a grid of 38? For four ends of each run that `train.sh` made: the proposal
# from validation text, the grid on validation and test text, and what the proposed window scores on test text.
# What is there is not scored again. About 30 minutes on two cores.
#
#     runs/forecast/windows.sh [RUNS]          default: forecast-runs; the table: runs/forecast/windows.py RUNS
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
thalweg=$(realpath "${THALWEG:-$here/../../target/release/thalweg}")
cd "${1:-forecast-runs}"
run() { # thalweg with what all calls share
    "$thalweg" "$@" --suite "$here/choose.toml" --cache "$folder/window-scores" --threads 1 --quiet --json
}
sweep() { # NAME, OPTIONS
    local name=$1
    shift
    [ -s "$folder/windows-$end-$name.json" ] || {
        run sweep "$folder/trunk" --ends "$end" --report-suite "$here/windows-report.toml" --keep none \
            -o "$folder/windows-$end-$name" "$@" > "$folder/windows.part"
        mv "$folder/windows.part" "$folder/windows-$end-$name.json"
        rm -rf "$folder/windows-$end-$name"
    }
}
one() { # FOLDER END
    folder=$1 end=$2
    [ -s "$folder/windows-$end-proposal.json" ] || {
        run forecast "$folder/trunk" --end-step "$end" --anneal-steps 300 > "$folder/proposal.part" || [ $? = 1 ]
        mv "$folder/proposal.part" "$folder/windows-$end-proposal.json"
    }
    sweep every-10 --interval-steps 10 --counts 2,3,5,8,12,16,24,32 --schemes sma,wma
    sweep every-20 --interval-steps 20 --counts 3,5,8,12,16,24 --schemes sma,wma
    sweep every-40 --interval-steps 40 --counts 2,3,5,8,12 --schemes sma,wma
    read -r n interval scheme < <(python3 "$here/windows.py" --window "$folder/windows-$end-proposal.json")
    sweep proposed --interval-steps "$interval" --counts "$n" --schemes "$scheme"
}
export -f run sweep one
export here thalweg
for seed in 1 2 3; do printf '%s\n' */seed-$seed/done; done | sed 's,/done$,,' \
    | xargs -P "${JOBS:-2}" -I{} bash -euo pipefail -c 'for end in 700 1100 1500 1900; do one {} $end; done'
