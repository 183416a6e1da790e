"""Merges all checkpoints of each fixture folder and compares the result with its `expected/`, bit for bit.

    python3 scripts/merges_of_fixtures.py ../shared/fixtures/pt-trainstate ../shared/fixtures/pytorch-bin-sharded ...

A folder holds checkpoints and `expected/{sma,wma,ema}.safetensors`. Options of `merge` and another folder of expectations may follow
its name after colons: `deepspeed-zero1:--params=module:expected-lowp`, `npz:--format=safetensors:../pt-trainstate/expected`. A `name_map.json`
in the folder says what its tensors are called in the expectation.
"""

import json
import os
import subprocess
import sys
import tempfile

PROGRAM = os.path.abspath(os.environ.get("THALWEG", "target/debug/thalweg"))
SCHEMES = {"sma": [], "wma": ["--scheme", "wma"], "ema": ["--scheme", "ema", "--alpha", "0.2"]}


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


def check(argument):
    folder, *options = argument.split(":")
    expected = next((option for option in options if not option.startswith("-")), "expected")
    options = [option for option in options if option.startswith("-")]
    faults = []
    for scheme, words in SCHEMES.items():
        wanted = read_tensors(os.path.join(folder, expected, f"{scheme}.safetensors"))
        with tempfile.TemporaryDirectory() as scratch:
            out = os.path.join(scratch, "out")
            command = [PROGRAM, "merge", folder, "--last", str(count(folder, expected)), *words, *options, "-o", out, "--json"]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode != 0:
                faults.append(f"{scheme}: {result.stderr.strip()}")
                continue
            found = renamed(read_tensors(out), os.path.join(folder, "name_map.json"))
        if found.keys() != wanted.keys():
            only = [sorted(found.keys() - wanted.keys())[:3], sorted(wanted.keys() - found.keys())[:3]]
            faults.append(f"{scheme}: names differ: only found {only[0]}, only expected {only[1]}")
        faults.extend(f"{scheme}: tensor {name} differs" for name in found.keys() & wanted.keys() if found[name] != wanted[name])
    return faults


def renamed(tensors, path):
    names = {}
    if os.path.exists(path):
        with open(path) as file:
            names = json.load(file)
    return {names.get(name, name): tensor for name, tensor in tensors.items()}


def count(folder, expected):
    names = os.listdir(os.path.join(folder, expected))
    return sum(name.startswith("step-") for name in names) or 1


def main():
    n_wrong = 0
    for argument in sys.argv[1:]:
        faults = check(argument)
        n_wrong += bool(faults)
        print(f"{argument}: " + ("equal" if not faults else "; ".join(faults[:6])))
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
