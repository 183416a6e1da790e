#!/usr/bin/env bash
# safetensors 0.8.0 (torch 2.15.0): a conjugated tensor is saved unconjugated, and a negated view with the wrong sign.
#
# Expected: the values that the tensor shows, or an error as for one that is not contiguous.
# Observed: `conj()` and `conj().imag` only set a mark on the same memory, and `save_file` writes the memory: 1 - 2j becomes 1 + 2j in
# the file, and -2 becomes 2. The file is valid, and `torch.save` of the same tensors is right. Complex parameters (state-space layers,
# rotary tables) stored as conjugates come back as their mirror images. `resolve_conj()` and `resolve_neg()` before saving avoid it.
# The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 safetensors==0.8.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import io
import torch
from safetensors.torch import load_file, save_file

z = torch.tensor([1 + 2j])
seen = {}
for name, tensor in {"z": z, "conj": z.conj(), "imag": z.conj().imag, "resolved": z.conj().resolve_conj()}.items():
    save_file({"x": tensor}, "x.safetensors")
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    seen[name] = tensor.item(), load_file("x.safetensors")["x"].item(), torch.load(file).item()
    print(f"{name}: the tensor {seen[name][0]}, from safetensors {seen[name][1]}, from torch.save {seen[name][2]}")
    assert seen[name][0] == seen[name][2], seen
assert seen["z"][1] == 1 + 2j and seen["resolved"][1] == 1 - 2j, seen
if not (seen["conj"][1] == 1 + 2j and seen["imag"][1] == 2):
    raise SystemExit("changed: conjugates and negated views are saved by value now")
PYTHON
