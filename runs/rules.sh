#!/usr/bin/env bash
# Which rule merges experts best, beside the plain mean at the same scale? The eight experts of runs/law.sh at one width, three
# seeds, merged by every rule of `thalweg merge --rule` at several values of lambda, and scored on held-out text of every domain.
# Run again, it resumes from what is there. Writes docs/results/rules.csv; two minutes on two cores once the experts are trained.
#
#     CORPORA=FOLDER runs/rules.sh [OUT]     OUT = law-runs, the folder of runs/law.sh
#     THALWEG names the binary, SEEDS the seeds, WIDTHS the one width
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-law-runs}")
thalweg=${THALWEG:-target/release/thalweg}
export WIDTHS=${WIDTHS:-48}
domains="stories novels textbook code math multilingual dialogue reference"
runs/law.sh "$out" > "$out.log"
lambdas="0.5 1 1.5 2 3"

for seed in ${SEEDS:-1 2 3}; do
    dir=$out/seed-$seed/width-$WIDTHS
    base=$dir/base/step-400
    experts=()
    for domain in $domains; do
        # Coefficients of 1/8: at lambda 1 task arithmetic is the plain mean.
        experts+=(-m "$dir/$domain/step-520:0.125")
    done
    [ -s "$dir/rules.json" ] && continue
    work=$dir/rules
    rm -rf "$work"
    mkdir -p "$work"
    merge() { # NAME OPTION...
        "$thalweg" merge --base "$base" "${experts[@]}" "${@:2}" -o "$work/$1" --dtype f32 --quiet -j 1
    }
    for lambda in $lambdas; do
        merge "task-arithmetic@$lambda" --rule task-arithmetic --lambda "$lambda"
        for density in 0.2 0.5; do
            for rule in ties dare dare-ties della breadcrumbs breadcrumbs-ties sce; do
                seeded=()
                case $rule in dare* | della*) seeded=(--seed "$seed") ;; esac
                merge "$rule-$density@$lambda" --rule "$rule" --density "$density" --lambda "$lambda" "${seeded[@]}"
            done
        done
    done
    for rule in multi-slerp karcher model-stock; do
        merge "$rule@1" --rule "$rule"
    done
    single=()
    for domain in $domains; do
        single+=("$dir/$domain/step-520")
    done
    "$thalweg" eval "$base" "${single[@]}" "$work"/* --suite "$out/suite.toml" --json --quiet > "$dir/part"
    mv "$dir/part" "$dir/rules.json"
    rm -rf "$work"
done
python3 runs/rules_table.py "$out"
