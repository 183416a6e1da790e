"""Times merges and conversions of trainers' formats beside the safetensors merge of the same weights and beside their own libraries.

    python bench/formats.py --program target/release/thalweg --out FOLDER [--millions 280] [--rounds 3] [--cache cold] [--kind KIND ...]

Writes the sets of `format_sets.py` into FOLDER, then runs the works in turn, `rounds` times: first the merges, then conversions and the
merge by PyTorch (`dcp.load` of each source into CPU state dicts, an f32 sum, `dcp.save`), so that memory that the peers give back
does not slow the merges that are compared with each other. With `--kind`, only works whose sources are of these kinds.

Warm: the sources are read and locked in the page cache before each run, and thalweg computes no digests. Cold: the sources' pages are dropped
before each run, and digests are on, as by default. Times are wall time and the sync after it. Memory is the largest resident
set. Speed counts what a work reads and writes; by CPU time it shows the cost on a machine that is not quiet. Prints one JSON object with medians.

Needs torch, safetensors, megatron-core, and deepspeed with ninja on the path and g++.
"""
import argparse
import contextlib
import glob
import json
import mmap
import os
import shutil
import statistics
import sys
import tempfile
import time

import bench
import format_sets
from format_sets import KINDS, N, source

MERGE_BY_PYTORCH = """
import sys, torch, torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader
out, *sources = sys.argv[1:]
total, names = None, FileSystemReader(sources[0]).read_metadata().state_dict_metadata
for path in sources:
    state = {name: torch.empty(meta.size, dtype=meta.properties.dtype) for name, meta in names.items()}
    dcp.load(state, checkpoint_id=path)
    if total is None:
        total = {name: tensor.float() for name, tensor in state.items()}
    else:
        for name, tensor in state.items():
            total[name] += tensor
dcp.save({name: (tensor / len(sources)).to(torch.bfloat16) for name, tensor in total.items()}, checkpoint_id=out)
"""
DCP_TO_ONE_FILE = """
import sys, torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from safetensors.torch import save_file
source, out = sys.argv[1:]
dcp_to_torch_save(source, out + ".pt")
save_file({k: v.contiguous() for k, v in torch.load(out + ".pt", mmap=True)["model"].items()}, out)
"""
# DeepSpeed's own script, as it is copied beside each checkpoint, with one file of safetensors.
ZERO_TO_ONE_FILE = """
import sys
from deepspeed.utils.zero_to_fp32 import convert_zero_checkpoint_to_fp32_state_dict
source, tag, out = sys.argv[1:]
convert_zero_checkpoint_to_fp32_state_dict(source, out, max_shard_size="1000GB", safe_serialization=True, tag=tag)
"""


class Work:
    """One command: the kind of its sources, its sources, and the work whose speed its speed is compared with."""

    def __init__(self, name, kind, sources, command, reference=None):
        self.name, self.kind, self.command, self.reference = name, kind, command, reference
        self.files = [file for path in sources for file in ([path] if os.path.isfile(path) else
                      [f for f in glob.glob(f"{path}/**", recursive=True, include_hidden=True) if os.path.isfile(f)])]


def works(program, out, into, is_cold):
    """All works, the merges first."""
    digests = [] if is_cold else ["--digest", "none"]
    steps = {kind: [source(out, kind, k) for k in range(N)] for kind in KINDS}

    def merge(name, kind, reference, *more):
        return Work(f"merge {name}", kind, steps[kind], [program, "merge", "-q", *steps[kind], *more, *digests, "-o", into], reference and f"merge {reference}")

    def convert(kind):
        return Work(f"convert {kind}", kind, steps[kind][:1], [program, "convert", "-q", steps[kind][0], *digests, "--consolidate", "-o", into])

    python = [sys.executable, "-c"]
    return [
        *(merge(kind, kind, "safetensors") for kind in ("safetensors", "torch", "dcp", "megatron-dist")),
        merge("safetensors-f32", "safetensors-f32", "safetensors-f32"),
        merge("zero1 to safetensors", "zero1", "safetensors-f32", "--format", "safetensors"),
        merge("zero1", "zero1", "safetensors-f32"),
        merge("dcp beside PyTorch", "dcp", None),
        Work("PyTorch: merge dcp", "dcp", steps["dcp"], [*python, MERGE_BY_PYTORCH, into, *steps["dcp"]]),
        convert("dcp"),
        Work("PyTorch: dcp_to_torch_save and save_file", "dcp", steps["dcp"][:1], [*python, DCP_TO_ONE_FILE, steps["dcp"][0], into]),
        convert("zero3"),
        Work("DeepSpeed: zero_to_fp32", "zero3", steps["zero3"][:1], [*python, ZERO_TO_ONE_FILE, os.path.join(out, "zero3"), "global_step1", into]),
    ]


@contextlib.contextmanager
def locked(files):
    """Holds the pages of files in the cache: some machines' kernels drop idle pages within seconds."""
    held = []
    for path in files:
        with open(path, "rb", buffering=0) as file:
            n_bytes, buffer = os.path.getsize(path), bytearray(8 << 20)
            while file.readinto(buffer):
                pass
            if n_bytes:
                place = bench.libc.mmap(None, n_bytes, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
                if bench.libc.mlock(place, n_bytes):
                    print("mlock failed (raise RLIMIT_MEMLOCK): cache state not guaranteed", file=sys.stderr)
                held.append((place, n_bytes))
    yield
    for place, n_bytes in held:
        bench.libc.munmap(place, n_bytes)


def bytes_of(into):
    """What a merge or conversion by thalweg read and wrote, by its receipt; none for others."""
    with contextlib.suppress(OSError), open(os.path.join(into, "thalweg.json")) as file:
        receipt = json.load(file)
        return receipt["bytes_read"] + receipt["bytes_written"]


def run(work, into, scratch, is_cold, quiet_wait):
    os.sync()
    if is_cold:
        bench.drop(work.files)
    end = time.monotonic() + quiet_wait
    while time.monotonic() < end:
        before = bench.busy()[0]
        time.sleep(2)
        if bench.busy()[0] - before < 0.5:
            break
    with contextlib.nullcontext() if is_cold else locked(work.files), open(os.path.join(scratch, "log"), "w+b") as log:
        found = bench.run(work.command, log)
        if found["rc"]:
            log.seek(0)
            sys.exit(f"{work.name}: {log.read().decode()[-800:]}")
    found = {"seconds": found["wall"] + found["sync"], "cpu": found["user"] + found["sys"], "mib": found["rss"], "bytes": bytes_of(into), "others": found["other"] + found["niced"]}
    for name in os.listdir(scratch):
        path = os.path.join(scratch, name)
        shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--out", required=True, help="the sets and outputs")
    parser.add_argument("--millions", type=int, default=280)
    parser.add_argument("--rounds", type=int, default=3, help="after one that is not counted")
    parser.add_argument("--cache", choices=["warm", "cold"], default="warm")
    parser.add_argument("--only", choices=["merges", "peers"], help="only the first or the second of the two parts")
    parser.add_argument("--kind", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--quiet-wait", type=float, default=0, help="before each run wait up to so many seconds for two with under 0.25 CPUs busy")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    scratch = tempfile.mkdtemp(dir=args.out)
    into, is_cold = os.path.join(scratch, "out"), args.cache == "cold"
    for kind in args.kind:
        format_sets.make(kind, args.out, args.millions)
    chosen = [work for work in works(args.program, args.out, into, is_cold) if work.kind in args.kind]
    found = {work.name: [] for work in chosen}
    parts = {"merges": [work for work in chosen if work.reference], "peers": [work for work in chosen if not work.reference]}
    chosen = parts.get(args.only, chosen)
    for block in [parts[args.only]] if args.only else parts.values():
        for number in range(args.rounds + 1):
            for work in block:
                found[work.name].append(run(work, into, scratch, is_cold, args.quiet_wait))
                print(number, work.name, found[work.name][-1], file=sys.stderr, flush=True)
    shutil.rmtree(scratch)
    print(json.dumps({"millions": args.millions, "rounds": args.rounds, "cache": args.cache, "works": table(chosen, found)}, indent=1))


def table(chosen, found):
    """Medians of the counted rounds, and the median of the speeds relative to the reference of the same round."""
    rows = {}
    for work in chosen:
        runs, reference = found[work.name][1:], found.get(work.reference, [])[1:]
        median = lambda key: round(statistics.median(run[key] for run in runs), 3)
        rows[work.name] = {"seconds": median("seconds"), "cpu": median("cpu"), "each": [round(run["seconds"], 2) for run in runs], "mib": round(median("mib")), "others": median("others")}
        if runs[0]["bytes"]:
            rows[work.name]["gb"] = round(runs[0]["bytes"] / 1e9, 2)
        if reference:
            speed = lambda unit: statistics.median((a["bytes"] / a[unit]) / (b["bytes"] / b[unit]) for a, b in zip(runs, reference, strict=True))
            rows[work.name]["times_the_speed_of"] = {work.reference: round(speed("seconds"), 3), "by CPU time": round(speed("cpu"), 3)}
    return rows


if __name__ == "__main__":
    main()
