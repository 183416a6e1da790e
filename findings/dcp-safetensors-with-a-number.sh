#!/usr/bin/env bash
# torch 2.15.0 (safetensors 0.8.0): a number in the state makes the safetensors file of `torch.distributed.checkpoint` unreadable.
#
# Expected: `HuggingFaceStorageWriter` saves {"weight": tensor, "step": 3} without the number, or refuses it: the format has only tensors.
# Observed: saving succeeds. The pickle of the number is put in the same file, before the tensors, so no reader of safetensors opens it
# ("header too large"), torch's own `HuggingFaceStorageReader` included: the weights are lost with the number. The index names both.
# The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 safetensors==0.8.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path
import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import load_file

def save_and_load(name, state):
    writer = dcp.HuggingFaceStorageWriter(path=name)
    dcp.save(state, storage_writer=writer, no_dist=True)
    [file] = Path(name).glob("*.safetensors")
    named = sorted(json.loads((Path(name) / "model.safetensors.index.json").read_text())["weight_map"])
    try:
        by_safetensors = load_file(file)["weight"].tolist()
    except SafetensorError as error:
        by_safetensors = str(error)
    target = {"weight": torch.zeros(3)}
    try:
        dcp.load(target, storage_reader=dcp.HuggingFaceStorageReader(name), no_dist=True)
        by_torch = target["weight"].tolist()
    except BaseException as error:
        by_torch = type(error).__name__
    print(f"{name}: the index names {named}; safetensors reads {by_safetensors}; torch reads {by_torch}; the file begins {file.read_bytes()[:12]}")
    return by_safetensors, by_torch

weight = torch.arange(3.0)
assert save_and_load("tensor", {"weight": weight}) == ([0, 1, 2], [0, 1, 2])
assert save_and_load("both-tensors", {"weight": weight, "step": torch.tensor(3)}) == ([0, 1, 2], [0, 1, 2])
by_safetensors, by_torch = save_and_load("number", {"weight": weight, "step": 3})
if "header" not in by_safetensors or by_torch == [0, 1, 2]:
    raise SystemExit("changed: the file with a number can be read now")
PYTHON
