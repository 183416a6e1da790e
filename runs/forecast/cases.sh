#!/usr/bin/env bash
# Four scores of windows for every anneal that `train.sh` made, beside what the annealed model scored: the cases that forecasts
# learn from and are held against. What is there is not scored again. About 10 minutes on two cores.
#
#     runs/forecast/cases.sh [RUNS [CASES]]          default: forecast-runs, RUNS/cases.jsonl
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
thalweg=$(realpath "${THALWEG:-$here/../../target/release/thalweg}")
runs=$(realpath "${1:-forecast-runs}")
cases=$(realpath -m "${2:-$runs/cases.jsonl}")
cd "$runs" # so that cases name their run as `s-dense/seed-1/trunk`
score() { # ANNEAL
    local run name curve fork length
    run=$(dirname "$1") name=$(basename "$1")
    length=${name##*-} name=${name%-*} fork=${name##*-} curve=${name%-*} curve=${curve#anneal-}
    # Exit code 1 means that there is no forecast; the case is saved all the same.
    "$thalweg" forecast "$run/trunk" --suite "$here/report.toml" --anneal "$curve" --anneal-steps "$length" \
        --end-step $((fork + length)) --truth "$1/step-$((fork + length))" --cache "$run/scores" \
        --save-cases "$run/cases.jsonl" --threads 1 --quiet > /dev/null || [ $? = 1 ]
}
export -f score
export here thalweg
# The anneals of one run follow each other, because they share a file.
each_run() { for anneal in "$1"/anneal-*-*/; do score "${anneal%/}"; done; }
export -f each_run
printf '%s\n' */seed-*/done | sed 's,/done$,,' | xargs -P "${JOBS:-2}" -I{} bash -euo pipefail -c 'each_run {}'
cat */seed-*/cases.jsonl > "$cases"
wc -l < "$cases"
