#!/usr/bin/env python3
"""SMA and WMA of 10 at all ends of a run, by `watch --once`: `windows.py RUN OUT ROUNDS warm|cold LABEL=THALWEG...`.

Several builds in turn, by `sweep` where the label begins so, and beside them `$LIMIT --outputs` (`target/limit`), which
reads the run once and writes as many bytes. Prints wall time with the sync after it, processor time, and the bytes that
each process read from the medium. The digests of all builds' merges must be equal.
"""
import glob, json, os, re, shutil, statistics, subprocess, sys, time

run, out, rounds, cache = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
builds = dict(argument.split("=", 1) for argument in sys.argv[5:])
checkpoints = sorted(glob.glob(run + "/*/"))
n_outputs = 2 * (len(checkpoints) - 9)
steps = sorted(int(re.sub(r".*?([0-9]+)/$", r"\1", path)) for path in checkpoints)
watch = ["watch", run, "--windows", "sma:10,wma:10", "--once", "-o", out, "-q"]
sweep = ["sweep", run, "--counts", "10", "--schemes", "sma,wma", "--ends", ",".join(map(str, steps[9:])), "-o", out, "-q"]
commands = {label: [thalweg, *(sweep if label.startswith("sweep") else watch)] for label, thalweg in builds.items()}
commands["limit"] = [os.environ.get("LIMIT", "target/limit"), "--threads", "2", "--outputs", str(n_outputs), "--fsync", out, *checkpoints]
rows, digests = {label: [] for label in commands}, {}


def prepare():
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    for path in glob.glob(run + "/*/*.safetensors"):
        fd = os.open(path, os.O_RDONLY)
        if cache == "cold":
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        while cache == "warm" and os.read(fd, 8 << 20):
            pass
        os.close(fd)


for r in range(rounds):
    for label, command in commands.items():
        prepare()
        started = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            sys.exit(f"{label} failed")
        os.sync()
        rows[label].append((time.monotonic() - started, usage.ru_utime, usage.ru_stime))
        print(f"{cache} {r} {label}: {rows[label][-1][0]:.2f} s, user {usage.ru_utime:.2f}, system {usage.ru_stime:.2f}, "
              f"read {usage.ru_inblock * 512 / 1e9:.2f} GB, load {os.getloadavg()[0]:.1f}", flush=True)
        if label != "limit":
            receipts = glob.glob(out + "/*/thalweg.json")
            digests[label] = sorted(json.load(open(path))["digest"] for path in receipts)
            assert len(receipts) == n_outputs
shutil.rmtree(out)
for label, found in rows.items():
    wall, user, system = (statistics.median(row[i] for row in found) for i in range(3))
    print(f"{cache} {label}: {wall:.2f} s, user {user:.2f}, system {system:.2f}")
assert len(set(map(tuple, digests.values()))) <= 1, "the merges differ"
