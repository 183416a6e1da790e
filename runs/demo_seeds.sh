#!/usr/bin/env bash
# Does merging beat the newest raw checkpoint beyond its paired uncertainty, and how far ahead is the real anneal?
# Runs the demo for three seeds (two to three minutes each on two cores) and prints what each found, whatever it is.
#
#     runs/demo_seeds.sh [OUT [SEED...]]          default: OUT = demo-seeds, seeds 1 2 3
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-demo-seeds}
shift || true
[ $# -gt 0 ] || set -- 1 2 3
cargo build --release --quiet -p thalweg-cli
for seed in "$@"; do
    target/release/thalweg demo --seed "$seed" -o "$out/seed-$seed" --quiet > /dev/null
done
for seed in "$@"; do
    target/release/thalweg report "$out/seed-$seed" | awk -v seed="$seed" '
        # Rows: NAME.. [*] LOSS GAIN LOW to HIGH WORD..; the chosen merge has the star.
        / \* / || /^annealed, step/ || /^raw, step/ { print "seed " seed ": " $0 }'
done | tee "$out/rows.txt"
awk '
    / \* / { merges++; sub(/.* \* +/, ""); gain += $2; better += ($3 > 0) }
    / annealed, step/ { anneals++; sub(/.*annealed, step [0-9]+ +/, ""); anneal += $2 }
    END {
        printf "merged beats raw beyond its paired 95 %% interval in %d of %d seeds; mean gain %.4f nats per token\n", better, merges, gain / merges
        printf "the anneal gains %.4f on average: %.4f more than the merge\n", anneal / anneals, (anneal - gain) / merges
    }' "$out/rows.txt"
