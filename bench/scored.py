#!/usr/bin/env python3
"""SMA and WMA of 10 at all ends of a run, handed to an evaluator that does next to nothing: `scored.py RUN OUT ROUNDS LABEL=THALWEG...`.

A sweep scored on one line of text, nothing written but its record. The run's checkpoints must be of a model with a
tokenizer. Builds in turn, everything in the page cache; prints seconds, processor time and the bytes that each read.
"""
import glob, json, os, re, shutil, statistics, subprocess, sys, time

run, out, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
builds = dict(argument.split("=", 1) for argument in sys.argv[4:])
steps = sorted(int(re.sub(r".*?([0-9]+)/$", r"\1", path)) for path in glob.glob(run + "/*/"))
work = out + "-suite"
os.makedirs(work, exist_ok=True)
with open(work + "/notes.txt", "w") as file:
    file.write("One day a cat met a dog.\n")
with open(work + "/suite.toml", "w") as file:
    file.write('kind = "thalweg-suite"\nversion = 1\nrole = "selection"\ncontext_length = 64\n'
               'start = "<s>"\n[[task]]\nname = "notes"\nkind = "text"\nfile = "notes.txt"\n')
arguments = ["sweep", run, "--counts", "10", "--schemes", "sma,wma", "--ends", ",".join(map(str, steps[9:])),
             "--suite", work + "/suite.toml", "--keep", "none", "-o", out, "-q"]
for path in glob.glob(run + "/*/*.safetensors"):
    with open(path, "rb", buffering=0) as file:
        while file.read(8 << 20):
            pass
rows, scores = {label: [] for label in builds}, {}
for _ in range(rounds):
    for label, thalweg in builds.items():
        shutil.rmtree(out, ignore_errors=True)
        started = time.monotonic()
        child = subprocess.Popen([thalweg, *arguments], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            sys.exit(f"{label} failed")
        rows[label].append((time.monotonic() - started, usage.ru_utime, usage.ru_stime, usage.ru_maxrss / 1024))
        study = json.load(open(out + "/study.json"))
        read = study["cost"]["bytes_read"]
        scores[label] = [row["params_digest"] for row in study["trials"] if "params_digest" in row]
shutil.rmtree(out)
shutil.rmtree(work)
first = statistics.median(row[0] for row in next(iter(rows.values())))
for label, found in rows.items():
    wall, user, system, mib = (statistics.median(row[i] for row in found) for i in range(4))
    print(f"{label}: {wall:.2f} s ({wall / first:.2f} x), user {user:.2f}, system {system:.2f}, {mib:.0f} MiB, "
          f"last read {read / 1e9:.2f} GB")
assert len({tuple(one) for one in scores.values()}) <= 1, "the models differ"
