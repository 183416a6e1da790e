#!/usr/bin/env python3
"""From a new checkpoint to its window of ten, by `watch --once`: `ready.py SET WORK LABEL=THALWEG[,OPTION...]...`.

SET holds more than ten checkpoints. The first ten are linked into a run, and merged; then one after the other is copied
into it (which is timed, with the sync after it), and the watcher is run again (also timed so), everything in the page
cache. Prints seconds and the ratio to the copy. `merge` times the same window merged from scratch.
"""
import glob, json, os, shutil, statistics, subprocess, sys, time

source, work, builds = sys.argv[1], sys.argv[2], dict(argument.split("=", 1) for argument in sys.argv[3:])
names = sorted(os.path.basename(path.rstrip("/")) for path in glob.glob(source + "/*/"))


def timed(act):
    os.sync()
    started = time.monotonic()
    act()
    os.sync()
    return time.monotonic() - started


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def warm():
    for path in glob.glob(source + "/*/*.safetensors"):
        with open(path, "rb", buffering=0) as file:
            while file.read(8 << 20):
                pass


rows = {label: [] for label in ["copy", "merge", *builds]}
shutil.rmtree(work, ignore_errors=True)
os.makedirs(work + "/run")
for name in names[:10]:
    os.makedirs(f"{work}/run/{name}")
    for file in os.listdir(f"{source}/{name}"):
        os.link(f"{source}/{name}/{file}", f"{work}/run/{name}/{file}")


def watch(label):
    thalweg, *options = builds[label].split(",")
    run(thalweg, "watch", f"{work}/run", "--windows", "sma:10", "--ends", "newest", "--once", "-o", f"{work}/{label}", "-q", *options)


for label in builds:
    watch(label)
warm()
for i in range(10, len(names)):
    rows["copy"].append(timed(lambda: shutil.copytree(f"{source}/{names[i]}", f"{work}/run/{names[i]}")))
    for label in builds:
        rows[label].append(timed(lambda: watch(label)))
    window = [f"{work}/run/{name}" for name in names[i - 9 : i + 1]]
    thalweg = next(iter(builds.values())).split(",")[0]
    rows["merge"].append(timed(lambda: run(thalweg, "merge", *window, "-o", work + "/scratch", "-q")))
    digest = lambda folder: json.load(open(folder + "/thalweg.json"))["digest"]
    for label in builds:
        *earlier, made = sorted(glob.glob(f"{work}/{label}/step*"))
        for folder in earlier:
            shutil.rmtree(folder)
        assert digest(made) in (None, digest(work + "/scratch")), "the merges differ"
    shutil.rmtree(work + "/scratch")
shutil.rmtree(work)
copy = statistics.median(rows["copy"])
for label, seconds in rows.items():
    middle = statistics.median(seconds)
    print(f"{label}: {middle:.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), {middle / copy:.2f} x the copy")
