#!/bin/bash
# Runs the shares of a merge by Ray, for real, on this machine alone: the worker of one share is killed, one share fails
# as often as it is tried, and what the script prints is run. The output must have the bytes of one process.
#
#   scripts/ray_tasks.sh [THALWEG]      THALWEG is the program [default: target/debug/thalweg]
#
# PYTHON is a Python with `ray` [default: python3]. Needs root: Ray listens on all interfaces, so it gets a separate
# network, and processes that end with this script.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${IN_NAMESPACE:-}" ]; then
    exec env IN_NAMESPACE=1 unshare --net --pid --fork --kill-child --mount-proc bash "$0" "$@"
fi
ip link set lo up
thalweg=$(realpath "${1:-target/debug/thalweg}")
python=${PYTHON:-python3}
fixtures=$PWD/fixtures/hf-sharded
"$python" -c 'import ray; print("ray", ray.__version__)'
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export RAY_USAGE_STATS_ENABLED=0
ray=$(dirname "$(command -v "$python")")/ray
"$ray" start --head --node-ip-address=127.0.0.1 --port=6399 --num-cpus=2 --object-store-memory=80000000 \
    --include-dashboard=false --temp-dir="$place/ray" > "$place/ray.log" 2>&1 || { cat "$place/ray.log"; exit 1; }
export RAY_ADDRESS=127.0.0.1:6399

# The worker of share 1 is killed the first time; share 2 fails in all four attempts of the first run.
cat > "$place/program" << PROGRAM
#!/bin/bash
echo "\$*" >> "$place/calls"
if [[ "\$*" == *"--shard 1/4"* && ! -e "$place/killed" ]]; then touch "$place/killed"; kill -9 \$PPID; sleep 60; fi
if [[ "\$*" == *"--shard 2/4"* && ! -e "$place/heal" ]]; then echo "it fails" >&2; exit 1; fi
exec "$thalweg" "\$@"
PROGRAM
chmod +x "$place/program"
mkdir "$place/work"
cd "$place/work"
"$thalweg" plan -q "$fixtures" --last 2 --merged merged -o plan.json > /dev/null
"$thalweg" merge -q --plan plan.json -o expected > /dev/null
"$thalweg" launch ray plan.json -n 4

check() {
    if "$@"; then echo "ok: $*"; else echo "FAILED: $*" >&2; exit 1; fi
}

export THALWEG=$place/program
"$python" plan.ray.py > first.json 2> first.log && { echo "the first run did not fail" >&2; exit 1; }
cat first.log
check test ! -e merged
check grep -q '^share 1 is done' first.log
check grep -q '^share 2 failed: .*it fails' first.log
check test "$(grep -c -- '--shard 1/4' ../calls)" = 2
check test "$(grep -c -- '--shard 2/4' ../calls)" = 4
check grep -q '^to run what is missing: ' first.log
touch ../heal
again=$(sed -n 's/^to run what is missing: //p' first.log)
check test "${again##* }" = 2
eval "$again" > second.json
check diff -r --exclude=thalweg.json merged expected
check "$thalweg" verify -q merged --inputs
check test ! -e merged.thalweg-partial
# Once more: everything is done, and stays as it is.
before=$(stat -c %Y merged/thalweg.json)
"$python" plan.ray.py > third.json
check test "$(stat -c %Y merged/thalweg.json)" = "$before"
echo "the merge by Ray has the bytes of one process"
