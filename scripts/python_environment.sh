#!/usr/bin/env bash
# Makes a virtual environment with the packages of a file, and prints the path of its Python.
#
#     scripts/python_environment.sh [REQUIREMENTS]     default: those of the tests of the Python package
#
# It is kept in the user's cache under the digest of its requirements: PyTorch for Linux brings the libraries of CUDA,
# 5.7 GB in all, and installing them took six minutes. Two calls at once wait for each other.
set -euo pipefail
requirements=$(realpath "${1:-"$(dirname "$0")/../crates/py/requirements-test.txt"}")
python=${PYTHON:-python3}
digest=$({ cat "$requirements"; "$python" -V; } | sha256sum | cut -c1-16)
folder="${XDG_CACHE_HOME:-$HOME/.cache}/thalweg/python-$digest"
mkdir -p "$folder"
exec 9>"$folder/lock"
flock 9
if [ ! -e "$folder/done" ]; then
    rm -rf "$folder/env"
    "$python" -m venv "$folder/env" >&2
    "$folder/env/bin/python" -m pip install --quiet --requirement "$requirements" >&2
    touch "$folder/done"
fi
echo "$folder/env/bin/python"
