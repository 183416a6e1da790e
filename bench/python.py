#!/usr/bin/env python3
"""Times filling a model with a merge, beside the ways that people write it in torch. Warm cache, interleaved, medians.

    python3 bench/make_checkpoints.py --size 1b --dtype bf16 --n 4 --out SET
    python3 bench/python.py --rounds 5 SET/*

The model is a module in memory, made before the clock starts. Each measurement is a separate process:
`thalweg` fills it by `load_into`; `pretrained` runs `thalweg merge` (`--thalweg`) and `from_pretrained` of transformers; `torch` loads every state dict by safetensors, takes the mean in f32 and copies it in;
`stream` does the same tensor by tensor; `written` writes the merge and loads what was written. Memory is the growth of
the process's peak over the model, which was touched before. `thalweg` and `written` leave equal bytes; torch rounds twice.

    python3 bench/python.py --rounds 3 --ways trials,eight,eight-written --counts 3,4 --schemes sma,wma,ema:0.3,ema:0.5 RUN

Nine models of one run, eight merges (three and four checkpoints, four schemes) and the newest checkpoint, into one resident
model: `trials` by one sweep, `eight` by a merge in memory for each, `eight-written` by writing and loading each. With
`--cold` the sources are dropped from the page cache before each measurement.

    python3 bench/python.py --rounds 3 --small RUN

What is small: the time of `import thalweg` over a bare interpreter, and what `Average.update` of a window of three saves
costs on a CPU, for the model of the first checkpoint: at once, and with an optimizer, whose next step comes 50 ms later.
Medians, with the least and the most in parentheses.
"""
import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = ("thalweg", "torch", "stream", "written")
MANY = ("trials", "eight", "eight-written")


THALWEG = "thalweg"


def files(folder):
    return sorted(Path(folder).glob("*.safetensors"))


def first_of(run):
    return min(path for path in Path(run).iterdir() if path.is_dir())


def load(folder):
    from safetensors.torch import load_file

    tensors = {}
    for path in files(folder):
        tensors.update(load_file(path))
    return tensors


def make_model(folder):
    """A module with the tensors of a checkpoint, in memory that was touched."""
    import torch
    from safetensors import safe_open

    model = torch.nn.Module()
    for path in files(folder):
        with safe_open(path, "pt") as opened:
            for name in opened.keys():
                *parents, last = name.split(".")
                module = model
                for part in parents:
                    if part not in dict(module.named_children()):
                        module.add_module(part, torch.nn.Module())
                    module = getattr(module, part)
                module.register_parameter(last, torch.nn.Parameter(torch.ones_like(opened.get_tensor(name)), False))
    return model


def fill(way, model, sources, out):
    import torch

    if way == "torch":
        states = [load(source) for source in sources]
        for name, tensor in model.state_dict().items():
            tensor.copy_(torch.stack([state[name].float() for state in states]).mean(0))
    elif way == "stream":
        from safetensors import safe_open

        opened = [{n: o for path in files(s) for o in [safe_open(path, "pt")] for n in o.keys()} for s in sources]
        for name, tensor in model.state_dict().items():
            total = opened[0][name].get_tensor(name).float()
            for names in opened[1:]:
                total += names[name].get_tensor(name)
            tensor.copy_(total / len(sources))
    elif way == "pretrained":
        # Importing transformers is not part of it.
        from transformers import AutoModelForCausalLM

        started = time.perf_counter()
        subprocess.run([THALWEG, "merge", "-q", "-o", str(out), *map(str, sources)], check=True, stdout=subprocess.DEVNULL)
        loaded = AutoModelForCausalLM.from_pretrained(out)
        seconds = time.perf_counter() - started
        places = model.state_dict()
        for name, tensor in loaded.state_dict().items():
            places[name].copy_(tensor)
        return seconds
    else:
        import thalweg

        merge = thalweg.merge(thalweg.plan(sources=sources))
        if way == "thalweg":
            merge.load_into(model)
        else:
            merge.write(out)
            model.load_state_dict(load(out))


def fill_many(way, model, run, out, grid):
    import thalweg

    sweep = thalweg.sweep(run, grid.counts, schemes=grid.schemes)
    if way == "trials":
        for _ in sweep.trials(model):
            pass
        return
    for trial in sweep.plans:
        merge = thalweg.merge(trial.plan)
        if way == "eight":
            merge.load_into(model)
        else:
            merge.write(out / trial.name)
            model.load_state_dict(load(out / trial.name))
            shutil.rmtree(out / trial.name)


def spread(values, unit):
    digits = 1 if unit == "ms" else 2
    least, middle, most = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} {unit} ({least} to {most})"


def processor_seconds():
    """Of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def import_times(rounds):
    """Milliseconds of `import thalweg`, each over those of a bare interpreter beside it."""

    def interpreter(code):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return 1000 * (time.perf_counter() - started)

    interpreter("import thalweg")
    return [interpreter("import thalweg") - interpreter("") for _ in range(rounds)]


def update_times(folder, is_optimized, rounds):
    """Milliseconds of each `Average.update`, and of the wait before the next step of the optimizer."""
    import torch

    import thalweg

    model = make_model(folder)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    average = thalweg.Average(model, count=3, optimizer=optimizer if is_optimized else None)
    found = []
    for step in range(1, 5 + rounds):
        started = time.perf_counter()
        average.update(step)
        updated = time.perf_counter()
        # The device computes the next step, and the optimizer is called after it: here it waits for the copy.
        time.sleep(0.05)
        before = time.perf_counter()
        average._join()
        found.append((1000 * (updated - started), 1000 * (time.perf_counter() - before)))
    n_params = sum(tensor.numel() for tensor in model.parameters())
    # The memory of every place is touched before the clock starts.
    return found[4:], n_params


def small(run, rounds):
    print(f"import thalweg {spread(import_times(rounds), 'ms')}")
    for is_optimized in (False, True):
        times, n_params = update_times(first_of(run), is_optimized, rounds)
        updates, waits = zip(*times)
        way = "with an optimizer" if is_optimized else "at once"
        print(f"Average.update {way}, {n_params / 1e6:.0f}M parameters: {spread(updates, 'ms')}, ", end="")
        print(f"then {spread(waits, 'ms')} before the next step")
        for every in (1, 10, 100):
            shares = [100 * (update + wait) / (50 * every) for update, wait in times]
            print(f"  at a save every {every} steps of 50 ms: {spread(shares, '%')} of the training")


def drop_cache(sources):
    os.sync()
    for path in (path for source in sources for path in Path(source).rglob("*.safetensors")):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(way, sources, grid):
    is_many = way in MANY
    model = make_model(first_of(sources[0]) if is_many else sources[0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory(dir=Path(sources[0]).parent.parent) as folder:
        if grid.cold:
            drop_cache(sources)
        started, own, cpu = time.perf_counter(), None, processor_seconds()
        if is_many:
            fill_many(way, model, sources[0], Path(folder), grid)
        else:
            own = fill(way, model, sources, Path(folder) / "out")
        seconds, cpu = own or time.perf_counter() - started, processor_seconds() - cpu
        shutil.rmtree(Path(folder) / "out", ignore_errors=True)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    import torch

    digest = hashlib.blake2b()
    for _, tensor in sorted(model.state_dict().items()):
        digest.update(tensor.view(-1).view(torch.uint8).numpy())
    print(json.dumps({"seconds": seconds, "cpu": cpu, "mib": grown / 1024, "digest": digest.hexdigest()}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--way")
    parser.add_argument("--thalweg", default="thalweg", help="the program, for the way `pretrained`")
    parser.add_argument("--counts", type=lambda text: [int(one) for one in text.split(",")], default=[3, 4])
    parser.add_argument("--schemes", type=lambda text: text.split(","), default=["sma", "wma", "ema:0.3", "ema:0.5"])
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("sources", nargs="+")
    args = parser.parse_args()
    global THALWEG
    THALWEG = args.thalweg
    if args.way:
        measure(args.way, args.sources, args)
        return
    if args.small:
        small(args.sources[0], args.rounds)
        return
    for path in (path for source in args.sources for path in Path(source).rglob("*.safetensors")):
        path.read_bytes()
    rows = {way: [] for way in args.ways.split(",")}
    for _ in range(args.rounds):
        for way in rows:
            grid = ["--counts", ",".join(map(str, args.counts)), "--schemes", ",".join(args.schemes)]
            more = ["--thalweg", args.thalweg, *(["--cold"] if args.cold else [])]
            words = [sys.executable, __file__, "--way", way, *grid, *more, *args.sources]
            rows[way].append(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))
    first = next(iter(rows.values()))
    for way, found in rows.items():
        # Those of one round ran one after the other.
        ratios = [row["seconds"] / base["seconds"] for row, base in zip(found, first)]
        cpu = statistics.median(row["cpu"] for row in found)
        mib = max(row["mib"] for row in found)
        digests = {row["digest"][:12] for row in found}
        print(f"{way:13} {spread([row['seconds'] for row in found], 's')}, {cpu:.2f} s of processor time, ", end="")
        print(f"{spread(ratios, 'x')}, {mib:.0f} MiB over the model, {digests}")


if __name__ == "__main__":
    main()
