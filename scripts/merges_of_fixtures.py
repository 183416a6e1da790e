"""Merges all checkpoints of each fixture folder and compares the result with its `expected/`, bit for bit.

    python3 scripts/merges_of_fixtures.py ../shared/fixtures [FOLDER ...]

Each folder is merged by sma, wma and ema of all its steps, in the format of its newest checkpoint and as safetensors. A merge in another
format is converted to safetensors to be read. Formats of which a folder has one checkpoint are converted and compared with its values.
Names FOLDERs of the table below, or all of them.
"""

import json
import os
import subprocess
import sys
import tempfile

PROGRAM = os.path.abspath(os.environ.get("THALWEG", "target/debug/thalweg"))
SCHEMES = {"sma": [], "wma": ["--scheme", "wma"], "ema": ["--scheme", "ema", "--alpha", "0.2"]}
# Folder: where the expected merges are, and options of `merge`.
MERGES = [
    ("dcp-2d", "expected/", []),
    ("dcp-fsdp2", "expected/", []),
    ("dcp-hf-sharded", "expected/", []),
    ("deepspeed-zero1", "expected/", []),
    ("deepspeed-zero1", "expected-lowp/", ["--params", "module"]),
    ("deepspeed-zero2", "expected/", []),
    ("deepspeed-zero3", "expected/", []),
    ("gguf", "../hf-safetensors-sharded/expected/", []),
    ("hf-safetensors-moe", "expected/", []),
    ("hf-safetensors-sharded", "expected/", []),
    ("megatron-legacy:mp_rank_00/model_optim_rng.pt", "expected/rank0-", []),
    ("megatron-legacy:mp_rank_01/model_optim_rng.pt", "expected/rank1-", []),
    ("megatron-torch_dist", "expected/", []),
    ("npz", "../pt-trainstate/expected/", []),
    ("orbax-ocdbt", "expected/", []),
    ("pt-trainstate", "expected/", []),
    ("pytorch-bin-sharded", "expected/", []),
]
# One checkpoint, and what it holds, widened to F32.
VALUES = [
    ("dcp-hf-consolidated/step-80", "dcp-hf-sharded/expected/step-80.f32.safetensors"),
    *((f"dcp-variants/{name}", "dcp-fsdp2/expected/step-80.f32.safetensors") for name in ("async", "file-per-item", "flat-keys", "threads-3")),
    ("deepspeed-universal/global_step80_universal", "deepspeed-zero1/expected/step-80.f32.safetensors"),
    *((f"orbax-variants/{name}/80", "orbax-variants/expected-bf16.safetensors") for name in ("zarr2-noocdbt", "zarr3-noocdbt", "zarr3-ocdbt")),
]


def read_tensors(path):
    """Name to (dtype, shape, bytes) of a safetensors file, or of all files of a folder."""
    paths = [path]
    if os.path.isdir(path):
        paths = [os.path.join(path, name) for name in sorted(os.listdir(path)) if name.endswith(".safetensors")]
    tensors = {}
    for part in paths:
        with open(part, "rb") as file:
            data = file.read()
        n_header = int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8 : 8 + n_header]).items():
            if name != "__metadata__":
                begin, end = (8 + n_header + offset for offset in entry["data_offsets"])
                tensors[name] = (entry["dtype"], entry["shape"], data[begin:end])
    return tensors


def thalweg(*words):
    """What a command that failed says; nothing if it succeeded."""
    result = subprocess.run([PROGRAM, *words], capture_output=True, text=True)
    return result.stderr.strip() if result.returncode else ""


def differences(found, wanted):
    if found.keys() != wanted.keys():
        only = [sorted(found.keys() - wanted.keys())[:3], sorted(wanted.keys() - found.keys())[:3]]
        return [f"names differ: only found {only[0]}, only expected {only[1]}"]
    return [f"tensor {name} differs" for name in wanted if found[name] != wanted[name]]


def renamed(tensors, path):
    names = {}
    if os.path.exists(path):
        with open(path) as file:
            names = json.load(file)
    return {names.get(name, name): tensor for name, tensor in tensors.items()}


def steps(folder, file):
    """The arguments that name all checkpoints: a run folder, or one file in each checkpoint."""
    checkpoints = [name for name in sorted(os.listdir(folder)) if any(letter.isdigit() for letter in name)]
    if file:
        return [os.path.join(folder, name, file) for name in checkpoints]
    return [folder, "--last", str(len(checkpoints))]


def check_merges(root, case):
    name, expected, options = case
    folder, _, file = name.partition(":")
    folder = os.path.join(root, folder)
    faults = []
    for scheme, words in SCHEMES.items():
        wanted = read_tensors(os.path.join(folder, f"{expected}{scheme}.safetensors"))
        with tempfile.TemporaryDirectory() as scratch:
            native, converted, plain = (os.path.join(scratch, part) for part in ("native", "converted", "plain"))
            merge = ["merge", *steps(folder, file), *words, *options]
            said = (
                thalweg(*merge, "-o", native)
                or thalweg("convert", native, *options, "--consolidate", "--format", "safetensors", "-o", converted)
                or thalweg(*merge, "--format", "safetensors", "-o", plain)
            )
            if said:
                faults.append(f"{scheme}: {said}")
                continue
            for out in (converted, plain):
                found = renamed(read_tensors(out), os.path.join(folder, "name_map.json"))
                faults += [f"{scheme}, {os.path.basename(out)}: {fault}" for fault in differences(found, wanted)]
    return faults


def check_values(root, case):
    source, expected = (os.path.join(root, path) for path in case)
    wanted = read_tensors(expected)
    dtype = {"F32": "f32", "BF16": "bf16"}[next(iter(wanted.values()))[0]]
    with tempfile.TemporaryDirectory() as scratch:
        out = os.path.join(scratch, "out")
        said = thalweg("convert", source, "--consolidate", "--format", "safetensors", "--dtype", dtype, "-o", out)
        return [said] if said else differences(read_tensors(out), wanted)


def main():
    root, *chosen = sys.argv[1:]
    n_wrong = 0
    for check, cases in ((check_merges, MERGES), (check_values, VALUES)):
        for case in cases:
            name = " ".join([case[0], *(case[2] if len(case) > 2 else [])])
            if chosen and case[0].split("/")[0].split(":")[0] not in chosen:
                continue
            faults = check(root, case)
            n_wrong += bool(faults)
            print(f"{name}: " + ("equal" if not faults else "; ".join(faults[:6])))
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
