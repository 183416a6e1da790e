#!/bin/bash
# Runs the shares of a merge by Slurm, for real, on this machine alone: one share is killed, one fails, and what the last
# step prints is run. The output must have the bytes of one process.
#
#   scripts/slurm_array.sh [THALWEG]      THALWEG is the program [default: target/debug/thalweg]
#
# Needs root, and Debian's packages `slurm-wlm` and `munge`. Slurm listens on 127.0.0.1 only, keeps everything in a scratch
# folder, and is stopped by its pid files.
set -euo pipefail
cd "$(dirname "$0")/.."
thalweg=$(realpath "${1:-target/debug/thalweg}")
fixtures=$PWD/fixtures/hf-sharded
for need in munged slurmctld slurmd sbatch; do
    command -v "$need" > /dev/null || { echo "no $need: apt-get install slurm-wlm munge" >&2; exit 2; }
done
place=$(mktemp -d)
chmod 755 "$place"
trap stop EXIT

stop() {
    for pid in "$place"/slurmd.pid "$place"/slurmctld.pid "$place"/munge/munged.pid; do
        [ -s "$pid" ] && kill "$(cat "$pid")" 2> /dev/null
    done
    sleep 1
    if [ -n "${KEEP:-}" ]; then echo "kept: $place"; else rm -rf "$place"; fi
}

mkdir -p "$place"/{munge,state,spool,work}
chown munge: "$place/munge"
chmod 700 "$place/munge"
(umask 077 && head -c 1024 /dev/urandom > "$place/munge/key" && chown munge: "$place/munge/key")
# The socket's folder must be open to all.
mkdir "$place/socket" && chown munge: "$place/socket" && chmod 755 "$place/socket"
cat > "$place/slurm.conf" << CONF
ClusterName=local
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$place/socket/munge.socket
CommunicationParameters=NoInAddrAny
SlurmctldPort=27817
SlurmdPort=27818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.pid
SlurmctldLogFile=$place/slurmctld.log
SlurmdLogFile=$place/slurmd.log
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$place/slurm.conf
runuser -u munge -- munged --key-file="$place/munge/key" --socket="$place/socket/munge.socket" \
    --pid-file="$place/munge/munged.pid" --log-file="$place/munge/munged.log" --seed-file="$place/munge/seed"
slurmctld
sleep 2
slurmd -N localhost
sleep 3
sinfo

# Share 1 is killed and share 2 fails, the first time.
cat > "$place/program" << PROGRAM
#!/bin/bash
first="$place/work/tried-\${SLURM_ARRAY_TASK_ID:-none}"
if [ ! -e "\$first" ] && [ "\${SLURM_ARRAY_TASK_ID:-}" = 1 ]; then touch "\$first"; kill -9 \$\$; fi
if [ ! -e "\$first" ] && [ "\${SLURM_ARRAY_TASK_ID:-}" = 2 ]; then touch "\$first"; exit 1; fi
exec "$thalweg" "\$@"
PROGRAM
chmod +x "$place/program"

cd "$place/work"
"$thalweg" plan -q "$fixtures" --last 2 --merged merged -o plan.json > /dev/null
"$thalweg" merge -q --plan plan.json -o expected > /dev/null

wait_for_jobs() {
    for _ in $(seq 120); do
        [ -z "$(squeue -h)" ] && return
        sleep 1
    done
    squeue
    echo "jobs did not end" >&2
    exit 1
}

check() {
    if "$@"; then echo "ok: $*"; else echo "FAILED: $*" >&2; exit 1; fi
}

export THALWEG=$place/program
"$thalweg" launch slurm plan.json -n 4 --submit -- -c 1
wait_for_jobs
finish=$(ls slurm-*.out | grep -v _ | head -1)
cat "$finish"
check test ! -e merged
check test -d merged.thalweg-partial
check grep -q '^to run what is missing (--array=1-2): bash ' "$finish"

again=$(sed -n 's/^to run what is missing (--array=[0-9,-]*): //p' "$finish")
echo "$again"
eval "$again"
wait_for_jobs
check diff -r --exclude=thalweg.json merged expected
check "$thalweg" verify -q merged --inputs
check test ! -e merged.thalweg-partial
# Submitted once more: everything is done, and stays as it is.
before=$(stat -c %Y merged/thalweg.json)
bash plan.slurm.sh
wait_for_jobs
check test "$(stat -c %Y merged/thalweg.json)" = "$before"
echo "the merge by Slurm has the bytes of one process"
