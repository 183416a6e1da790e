#!/usr/bin/env bash
# Builds the wheel for a free-threaded Python, and uses it from many threads at once.
#
#     scripts/python_free_threaded.sh PYTHON [PROFILE]
#
# PYTHON is an interpreter without the GIL, 3.14 or later, such as python3.14t. From 3.15 on the wheel is of the stable
# ABI `abi3t` and serves every later Python, with and without the GIL; that of 3.14 serves 3.14 alone.
set -euo pipefail
cd "$(dirname "$0")/.."
free_threaded=${1:?give a free-threaded Python, such as python3.14t}
profile=${2:-dev}
"$free_threaded" -c 'import sys, sysconfig; sys.exit(not sysconfig.get_config_var("Py_GIL_DISABLED"))' ||
    { echo "\`$free_threaded\` has a GIL" >&2 && exit 1; }
python=$(scripts/python_environment.sh)
folder=${CARGO_TARGET_DIR:-$PWD/target}/python/free-threaded
rm -rf "$folder"
"$python" -m maturin build --quiet --locked --profile "$profile" --manifest-path crates/py/Cargo.toml \
    --interpreter "$free_threaded" --out "$folder"
wheel=$(echo "$folder"/*.whl)
case $wheel in
    *-cp314-cp314t-*.whl | *-cp315-abi3t-*.whl) ;;
    *) echo "a wheel for a Python without the GIL was expected, and this is \`$wheel\`" >&2 && exit 1 ;;
esac
# It has no dependencies, so unpacking it installs it.
"$python" -m zipfile -e "$wheel" "$folder/site"
PYTHONPATH=$folder/site "$free_threaded" scripts/free_threaded.py
echo "$wheel"
