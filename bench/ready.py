#!/usr/bin/env python3
"""From a new checkpoint to its window of ten, by `watch --once`: `ready.py SET WORK LABEL=THALWEG[,OPTION...]...`.

SET holds more than ten checkpoints. The first ten are linked into a run, and merged; then one after the other is copied
into it (which is timed, with the sync after it), and the watcher is run again, everything in the page cache. A merge is
ready once its folder has its name, and is durable then; what the watcher does after that, such as `--prepare`, is given
by itself. Prints seconds and the ratio to the copy. `merge` times the same window merged from scratch.
"""
import glob, json, os, resource, shutil, statistics, subprocess, sys, time

source, work, builds = sys.argv[1], sys.argv[2], dict(argument.split("=", 1) for argument in sys.argv[3:])
names = sorted(os.path.basename(path.rstrip("/")) for path in glob.glob(source + "/*/"))


def merges(folder):
    return [path for path in glob.glob(folder + "/step*/thalweg.json") if "thalweg-partial" not in path]


def timed(act):
    os.sync()
    started = time.monotonic()
    act()
    os.sync()
    return time.monotonic() - started


def until(command, folder):
    """Seconds until there is one more merge in `folder`, and until the command ended after that; its processor time."""
    before = len(merges(folder))
    os.sync()
    used, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None and len(merges(folder)) == before:
        time.sleep(0.002)
    ready = time.monotonic()
    if child.wait():
        sys.exit(f"{command} failed")
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ready - started, time.monotonic() - ready, now.ru_utime - used.ru_utime + now.ru_stime - used.ru_stime


def warm(folders):
    for folder in folders:
        for path in glob.glob(folder + "/*"):
            with open(path, "rb", buffering=0) as file:
                while file.read(8 << 20):
                    pass


rows = {label: [] for label in ["copy", "merge", *builds]}
after, processor = {label: [] for label in builds}, {label: [] for label in builds}
shutil.rmtree(work, ignore_errors=True)
os.makedirs(work + "/run")
for name in names[:10]:
    os.makedirs(f"{work}/run/{name}")
    for file in os.listdir(f"{source}/{name}"):
        os.link(f"{source}/{name}/{file}", f"{work}/run/{name}/{file}")


def watch(label):
    thalweg, *options = builds[label].split(",")
    arguments = ["--windows", "sma:10", "--ends", "newest", "--once", "-o", f"{work}/{label}", "-q"]
    return until([thalweg, "watch", f"{work}/run", *arguments, *options], f"{work}/{label}")


for label in builds:
    watch(label)
warm(glob.glob(source + "/*"))
for i in range(10, len(names)):
    rows["copy"].append(timed(lambda: shutil.copytree(f"{source}/{names[i]}", f"{work}/run/{names[i]}")))
    window = [f"{work}/run/{name}" for name in names[i - 9 : i + 1]]
    for label in builds:
        warm(window)
        ready, more, seconds = watch(label)
        rows[label].append(ready)
        after[label].append(more)
        processor[label].append(seconds)
    thalweg = next(iter(builds.values())).split(",")[0]
    command = [thalweg, "merge", *window, "-o", work + "/scratch", "-q"]
    rows["merge"].append(timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)))
    digest = lambda folder: json.load(open(folder + "/thalweg.json"))["digest"]
    for label in builds:
        *earlier, made = sorted(path.rsplit("/", 1)[0] for path in merges(f"{work}/{label}"))
        for folder in earlier:
            shutil.rmtree(folder)
        assert digest(made) in (None, digest(work + "/scratch")), "the merges differ"
    shutil.rmtree(work + "/scratch")
shutil.rmtree(work)
copy = statistics.median(rows["copy"])
for label, seconds in rows.items():
    middle = statistics.median(seconds)
    more = f"; then {statistics.median(after[label]):.2f} s, processor {statistics.median(processor[label]):.2f} s in all" if label in after else ""
    print(f"{label}: {middle:.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), {middle / copy:.2f} x the copy{more}")
