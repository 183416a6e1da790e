#!/usr/bin/env python3
"""Eight windows over ten checkpoints in one reading, against eight merges: `sweep.py THALWEG RUN OUT ROUNDS warm|cold`.

RUN holds ten checkpoints. SMA, WMA, EMA 0.2, decay linear, cosine and 1-sqrt over the last ten, SMA over the last eight and the
first eight. Warm keeps the pages locked; cold drops them before each command. Prints seconds and the ratio, and the bytes
that the process itself read.
"""
import ctypes, glob, json, mmap, os, re, shutil, statistics, subprocess, sys, time

thalweg, run, out, rounds, cache = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]
steps = sorted(int(re.sub(r"\D", "", d)) for d in os.listdir(run))
ten = ["--last", "10"]
windows = [(ten, s) for s in ("sma", "wma", "ema:0.2", "decay:linear", "decay:cosine", "decay:1-sqrt")]
windows += [(["--last", "8"], "sma"), (["--last", "8", "--end-step", str(steps[7])], "sma")]
files = glob.glob(run + "/*/*.safetensors")
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def prepare():
    for f in files:
        fd = os.open(f, os.O_RDONLY)
        if cache == "cold":
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def timed(*arguments):
    prepare()
    os.sync()
    started = time.monotonic()
    child = subprocess.Popen([thalweg, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(arguments)}: exit {child.returncode}")
    os.sync()
    timed.read_bytes = usage.ru_inblock * 512
    return time.monotonic() - started


if cache == "warm":
    for f in files:
        n, fd = os.path.getsize(f), os.open(f, os.O_RDONLY)
        with open(f, "rb", buffering=0) as h:
            while h.read(8 << 20):
                pass
        p = libc.mmap(None, n, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        if libc.mlock(p, n):
            print("mlock failed")
shutil.rmtree(out, ignore_errors=True)
os.makedirs(out)
plans = []
for i, (window, scheme) in enumerate(windows):
    path = f"{out}/plan{i}.json"
    subprocess.run([thalweg, "plan", run, *window, "--scheme", scheme, "--merged", f"{out}/one{i}", "-o", path, "-q"], check=True, stdout=subprocess.DEVNULL)
    plans.append(json.load(open(path)))
document = dict(plans[0], outputs=[dict(p["outputs"][0], path=f"{out}/all{i}") for i, p in enumerate(plans)])
json.dump(document, open(f"{out}/all.json", "w"))
one, all_ = [], []


def finished(name):
    """The receipt's digests and bytes read of an output, which is then removed: as in bench.py, each command starts without one."""
    receipt = json.load(open(f"{out}/{name}/thalweg.json"))
    shutil.rmtree(f"{out}/{name}")
    return [f["digest"] for f in receipt["files"] if f["name"].endswith(".safetensors")], receipt["bytes_read"]


for r in range(rounds):
    seconds, digests = 0, []
    for i in range(len(windows)):
        seconds += timed("merge", "--plan", f"{out}/plan{i}.json", "-q")
        digests.append(finished(f"one{i}")[0])
    one.append(seconds)
    all_.append(timed("merge", "--plan", f"{out}/all.json", "-q"))
    together = [finished(f"all{i}") for i in range(len(windows))]
    print(f"round {r}: eight merges {one[-1]:.2f} s, one reading {all_[-1]:.2f} s, same bytes {[d for d, _ in together] == digests}, "
          f"the process read {timed.read_bytes} bytes from the medium", flush=True)
print(f"{cache}: {statistics.median(all_):.2f} s / {statistics.median(one):.2f} s = {statistics.median(all_) / statistics.median(one):.2f} x; "
      f"read {together[0][1]} bytes, sources hold {sum(map(os.path.getsize, files))}")
shutil.rmtree(out)
