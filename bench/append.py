#!/usr/bin/env python3
"""One more checkpoint in a mean of thirty, and what a watcher costs that finds nothing new: `append.py RUN WORK ROUNDS THALWEG`.

RUN holds more than thirty checkpoints. The mean of thirty is merged once, with its sums; then in each round the next
checkpoint is appended, and all 31 are merged from scratch, both with the sources dropped from the page cache. Then a
watcher that has nothing to do runs for ten seconds, looking at the run every second.
"""
import glob, json, os, shutil, signal, statistics, subprocess, sys, time

run, work, rounds, thalweg = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
checkpoints = sorted(path.rstrip("/") for path in glob.glob(run + "/*/"))
shutil.rmtree(work, ignore_errors=True)
os.makedirs(work)


def drop(folder):
    for path in glob.glob(folder + "/**/*.safetensors", recursive=True):
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def timed(*arguments):
    os.sync()
    for folder in (run, work):
        drop(folder)
    started = time.monotonic()
    subprocess.run([thalweg, *arguments, "-q"], check=True, stdout=subprocess.DEVNULL)
    os.sync()
    return time.monotonic() - started


old, sums, one, all_ = (f"{work}/{name}" for name in ("old", "sums", "one", "all"))
subprocess.run([thalweg, "merge", *checkpoints[:30], "-o", old, "--keep-sums", sums, "-q"], check=True, stdout=subprocess.DEVNULL)
rows = {"append": [], "scratch": []}
for _ in range(rounds):
    rows["append"].append(timed("merge", "--append", old, "-m", checkpoints[30], "--sums", sums, "-o", one))
    rows["scratch"].append(timed("merge", *checkpoints[:31], "-o", all_))
    digests = [json.load(open(path + "/thalweg.json"))["digest"] for path in (one, all_)]
    assert digests[0] == digests[1], "the merges differ"
    shutil.rmtree(one)
    shutil.rmtree(all_)
append, scratch = statistics.median(rows["append"]), statistics.median(rows["scratch"])
print(f"append {append:.2f} s, from scratch {scratch:.2f} s: {append / scratch:.2f} x; rounds {rows}")
shutil.rmtree(work)
os.makedirs(work)


def idle(name, folder, windows, more=()):
    out = f"{work}/{name}"
    command = [thalweg, "watch", folder, "--windows", windows, "-o", out, "-q", *more]
    subprocess.run([*command, "--once"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    child = subprocess.Popen([*command, "--poll", "1s"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ticks = os.sysconf("SC_CLK_TCK")
    cpu = lambda: sum(map(int, open(f"/proc/{child.pid}/stat").read().rsplit(")", 1)[1].split()[11:13])) / ticks
    time.sleep(2)
    before = cpu()
    time.sleep(10)
    share = 100 * (cpu() - before) / 10
    status = open(f"/proc/{child.pid}/status").read()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]
    child.send_signal(signal.SIGTERM)
    child.wait()
    print(f"idle, {name}: {share:.2f} % of a core at a look a second, {int(peak) / 1024:.0f} MiB at most")
    shutil.rmtree(out)


idle("40 checkpoints", run, "sma:3", ["--ends", "newest"])
many = work + "/many"
for step in range(5000):
    folder = f"{many}/step-{step}"
    os.makedirs(folder)
    header = b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    with open(folder + "/model.safetensors", "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header + bytes([step % 256, step // 256, 0, 60] * 4))
idle("5000 checkpoints", many, "sma:3", ["--ends", "newest"])
shutil.rmtree(work)
