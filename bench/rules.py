#!/usr/bin/env python3
"""Time rules for experts beside mergekit, warm, in turn, with peak memory.

    rules.py SET --thalweg target/release/thalweg [--mergekit BIN/mergekit-yaml] [--rounds 3] [--rules ties,dare_ties]

SET is what make_checkpoints.py wrote with `--n 5`: the first checkpoint is the base. Each rule is one mergekit recipe; thalweg
merges by the same file (mergekit's convention) and by `merge --rule` (the paper's). A linear rule (task arithmetic) is timed beside
the plain mean of as many models. Times are whole commands with the sync after them; outputs are removed before each.
"""
import argparse
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

DENSITY = 0.5


def recipe(rule, models):
    density = "" if rule == "task_arithmetic" else f", density: {DENSITY}"
    lines = [f"merge_method: {rule}", f"base_model: {models[0]}", "dtype: bfloat16", "models:"]
    return "\n".join(lines + [f"  - {{model: {model}, parameters: {{weight: 0.25{density}}}}}" for model in models[1:]]) + "\n"


def run(command, out):
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    began = time.perf_counter()
    with open(out.with_suffix(".log"), "w") as log:
        child = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    os.sync()
    seconds = time.perf_counter() - began
    if child.returncode or not out.exists():
        raise SystemExit(f"failed: {command}\n{out.with_suffix('.log').read_text()[-2000:]}")
    return seconds, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("set", type=Path)
    parser.add_argument("--thalweg", required=True)
    parser.add_argument("--mergekit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rules", default="ties,dare_ties")
    args = parser.parse_args()
    folder = args.set.resolve()
    models = sorted(folder.glob("ckpt-*"))
    work = folder.parent / f"{folder.name}-work"
    work.mkdir(exist_ok=True)
    experts = [word for model in models[1:] for word in ("-m", f"{model}:0.25")]
    sma = [word for model in models[1:] for word in ("-m", model)]
    commands = {"sma of 4": [args.thalweg, "merge", "-q", *sma]}
    for rule in ["task_arithmetic", *args.rules.split(",")]:
        path = work / f"{rule}.yml"
        path.write_text(recipe(rule, models))
        name = rule.replace("_", "-")
        density = [] if rule == "task_arithmetic" else ["--density", DENSITY]
        seed = ["--seed", 0] if rule.startswith("dare") else []
        commands[f"{name}, thalweg"] = [args.thalweg, "merge", "-q", "--rule", name, "--base", models[0], *experts, *density, *seed]
        if rule != "task_arithmetic":
            commands[f"{name}, thalweg, mergekit's convention"] = [args.thalweg, "merge", "-q", path]
            if args.mergekit:
                commands[f"{name}, mergekit"] = [args.mergekit, path, work / "out", "--no-write-model-card", "--random-seed", 0]
    for model in models:
        for file in model.glob("*.safetensors"):
            # In blocks: a child's peak counts what this process held when it was started.
            with open(file, "rb") as stream:
                while stream.read(1 << 20):
                    pass
    out, results = work / "out", {name: [] for name in commands}
    for _ in range(args.rounds):
        for name, command in commands.items():
            is_ours = command[0] == args.thalweg
            results[name].append(run([*command, "-o", out] if is_ours else command, out))
    shutil.rmtree(out, ignore_errors=True)
    print(f"{len(models) - 1} experts and a base in {folder.name}; medians of {args.rounds} rounds")
    medians = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in results.items()}
    for name, (seconds, mib, processor) in medians.items():
        peer = medians.get(f"{name.split(',')[0]}, mergekit")
        ratio = f", mergekit takes {peer[0] / seconds:.1f} times as long" if peer and "thalweg" in name else ""
        each = " ".join(f"{row[0]:.2f}" for row in results[name])
        print(f"{name}: {seconds:.2f} s ({each}), processor {processor:.2f} s, {mib:.0f} MiB{ratio}")


if __name__ == "__main__":
    main()
