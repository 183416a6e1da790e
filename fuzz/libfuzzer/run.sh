#!/bin/sh
# run.sh build | TARGET SECONDS [OPTION...]: looks for inputs that break a promise of one target.
# Works on the stable toolchain; needs a C++ compiler. New inputs go to $FUZZ_WORK/TARGET (default: below `target`).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
corpus=$here/../corpus
hostile=$here/../../fixtures/hostile
work=${FUZZ_WORK:-$here/target/inputs}
if [ "$1" = build ]; then
    # What cargo-fuzz passes, less the sanitizers, which need a nightly toolchain.
    RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing" \
        cargo build --release --manifest-path "$here/Cargo.toml" --target "$(rustc -vV | sed -n 's/^host: //p')"
    exit
fi
target=$1 seconds=$2
shift 2
mkdir -p "$work/$target" "$work/found"
FUZZ_TARGET=$target exec "$here"/target/*/release/thalweg-libfuzzer "$work/$target" "$corpus/$target" "$hostile" \
    -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$work/found/$target-" "$@"
