#!/usr/bin/env bash
# Merges over real object stores: runs `object_stores.py` for S3, Google and Azure, at once.
#
#     scripts/object_stores.sh [THALWEG]      THALWEG is the program [default: target/debug/thalweg]
#     scripts/object_stores.sh --install      only installs the servers
#
# Needs Python. The servers come from PyPI (moto) and npm (Azurite) and are kept in the user's cache; what does not
# install is skipped by name.
set -euo pipefail
cd "$(dirname "$0")/.."
azurite=azurite@3.37.0
python=$(scripts/python_environment.sh scripts/object_stores_requirements.txt) ||
    { echo "s3, gs, az: skipped, moto does not install" && exit 0; }
cache="${XDG_CACHE_HOME:-$HOME/.cache}/thalweg/$azurite"
mkdir -p "$cache"
exec 9> "$cache/lock"
flock 9
if [ ! -e "$cache/done" ]; then
    npm install --silent --no-fund --no-audit --prefix "$cache" "$azurite" > /dev/null && touch "$cache/done" || true
fi
flock -u 9
[ ! -e "$cache/done" ] || export AZURITE="$cache/node_modules/.bin/azurite-blob"

[ "${1:-}" != --install ] || exit 0
thalweg=$(realpath "${1:-target/debug/thalweg}")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
workers=()
for store in s3 gs az; do
    mkdir "$place/$store"
    "$python" scripts/object_stores.py "$thalweg" "$place/$store" "$store" &
    workers+=($!)
done
failed=0
for worker in "${workers[@]}"; do
    wait "$worker" || failed=1
done
exit "$failed"
