#!/usr/bin/env bash
# Builds the wheel of the Python package, installs it beside pinned packages, runs its tests and its type check.
#
#     scripts/python_check.sh [PROFILE]
#
# PROFILE is cargo's: `dev`, the default, shares its work with `cargo test`; `release` is what is published.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
profile=${1:-dev}
python=$(scripts/python_environment.sh)
target=${CARGO_TARGET_DIR:-$root/target}
wheels=$target/python/wheels
site=$target/python/site
rm -rf "$wheels" "$site"

"$python" -m maturin build --quiet --locked --profile "$profile" --manifest-path crates/py/Cargo.toml --out "$wheels"
wheel=$(echo "$wheels"/*.whl)
# With another interpreter, or none, the kind of a wheel changes without an error.
case $wheel in
    *-cp310-abi3-*.whl | *-cp315-abi3t-*.whl) ;;
    *) echo "python: a wheel for the stable ABI was expected, and this is \`$wheel\`" >&2 && exit 1 ;;
esac
"$python" -m pip install --quiet --no-deps --no-index --target "$site" "$wheel"
# As the check builds it: another selection of packages has other features, and compiles everything anew.
cargo build --quiet --workspace --all-targets

export PYTHONPATH=$site THALWEG=$target/debug/thalweg TRANSFORMERS_OFFLINE=1 HF_HUB_OFFLINE=1
cd crates/py
"$python" -m pytest --quiet -p no:cacheprovider
MYPYPATH=$site "$python" -m mypy --cache-dir "$target/python/mypy" "$site/thalweg" tests
