#!/usr/bin/env bash
# Which rule merges experts best, beside the plain mean at the same scale? The eight experts of runs/law.sh at one width, three
# seeds, merged by every rule of `thalweg merge --rule` at several values of lambda. Lambda is chosen by the loss on validation
# documents of every domain, and what it gains is reported on test documents. Run again, it resumes from what is there. Writes
# docs/results/rules.csv; some minutes on two cores once the experts are trained.
#
#     runs/rules.sh [OUT]     OUT = law-runs, the folder of runs/law.sh, which trains the experts
#     THALWEG names the binary, SEEDS the seeds, WIDTH the width
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-law-runs}")
thalweg=${THALWEG:-target/release/thalweg}
width=${WIDTH:-48}
domains="stories novels textbook code math multilingual dialogue reference"
lambdas="0.1 0.2 0.35 0.5 0.75 1 1.5 2"
# The suite of runs/law.sh chooses; the same of documents that nothing else has read reports.
cp "$out/suite.toml" "$out/choice.toml"
sed -e 's/"selection"/"report"/' -e 's/"domains"/"domains-report"/' -e 's/validation.jsonl/test.jsonl/' "$out/suite.toml" > "$out/report.toml"

for seed in ${SEEDS:-1 2 3}; do
    dir=$out/seed-$seed/width-$width
    base=$dir/base/step-400
    experts=()
    for domain in $domains; do
        # Coefficients of 1/8: at lambda 1 task arithmetic is the plain mean.
        experts+=(-m "$dir/$domain/step-520:0.125")
    done
    [ -s "$dir/rules-choice.json" ] && [ -s "$dir/rules-report.json" ] && continue
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
    for name in choice report; do
        "$thalweg" eval "$base" "${single[@]}" "$work"/* --suite "$out/$name.toml" --json --quiet > "$dir/part"
        mv "$dir/part" "$dir/rules-$name.json"
    done
    rm -rf "$work"
done
python3 runs/rules_table.py "$out"
