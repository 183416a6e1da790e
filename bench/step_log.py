"""Times `recover` and `inspect` of several builds in turn on a step log of a million lines, and measures their memory.

    python3 bench/step_log.py FOLDER BINARY [BINARY ...]

Makes the log and a run of ten small checkpoints in FOLDER, unless the log exists. Run it from the root of the repository. Prints medians of
three rounds; a first round is not counted.
"""

import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import time

LINES = 1_000_000
ROUNDS = 3
EXAMPLE = "examples/runs/hybridstories/step_02000.safetensors"


def make(folder):
    run, log = os.path.join(folder, "run"), os.path.join(folder, "million.jsonl")
    if not os.path.exists(log):
        os.makedirs(run, exist_ok=True)
        for step in range(LINES // 10, LINES + 1, LINES // 10):
            shutil.copy(EXAMPLE, os.path.join(run, f"step_{step}.safetensors"))
        noise = random.Random(1)
        with open(log, "w") as out:
            for step in range(1, LINES + 1):
                spike = 3 if 700_000 <= step < 700_200 else 0
                loss = 2.5 + 4 * math.exp(-step / 80_000) + 0.02 * noise.gauss(0, 1) + spike
                norm = math.exp(0.2 * noise.gauss(0, 1))
                row = {"step": step, "loss": round(loss, 6), "grad_norm": round(norm, 6), "learning_rate": 3e-4}
                out.write(json.dumps(row | {"tokens": 4_194_304 * step}) + "\n")
    return run, log


def measure(command):
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"{' '.join(command)} failed")
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main():
    run, log = make(sys.argv[1])
    jobs = [(binary, word) for word in ("recover", "inspect") for binary in sys.argv[2:]]
    results = {job: [] for job in jobs}
    for round_ in range(ROUNDS + 1):
        for binary, word in jobs:
            result = measure([binary, word, run, "--log", log])
            if round_ > 0:
                results[binary, word].append(result)
    for (binary, word), rows in results.items():
        wall, cpu, memory = (statistics.median(column) for column in zip(*rows))
        print(f"{word:8} {wall:6.2f} s wall {cpu:6.2f} s CPU {memory:5.0f} MB  {binary}")


main()
