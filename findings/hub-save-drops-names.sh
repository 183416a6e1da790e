#!/usr/bin/env bash
# huggingface_hub 2.4.0 (torch 2.15.0, safetensors 0.8.0): `save_torch_state_dict` deletes names from the caller's dictionary, and drops
# a tensor that is a part of another one.
#
# Expected: saving leaves the dictionary as it is. Of tensors that share memory only equal ones (tied weights) are written once; parts of
# a larger one are written too, or refused, as `safetensors.torch.save_file` refuses them.
# Observed: after saving {"embed": w, "head": w} the dictionary holds "embed" alone, so a script that keeps an average in a
# dictionary continues with one name fewer after its first save. {"qkv": w, "q": w[:2]} is saved as "qkv" alone, without a warning, with a
# note in the metadata that says "q": "qkv", as if both were equal. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 huggingface_hub==2.4.0 safetensors==0.8.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import warnings
import torch
from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
w = torch.arange(8.0).reshape(4, 2)
parts = {"qkv": w, "q": w[:2]}
try:
    save_file(parts, "parts.safetensors")
except RuntimeError as error:
    print("save_file:", str(error).strip()[:120])
else:
    raise AssertionError("save_file takes parts")

def saved(state):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        save_torch_state_dict(state, ".")
    assert not told, [str(one.message) for one in told]
    with safe_open("model.safetensors", "pt") as file:
        return list(file.keys()), dict(file.metadata()), list(state)

tied, cut = saved({"embed": w, "head": w}), saved(parts)
print("names in the file, metadata, names left in the caller's dictionary, of embed, head:", *tied)
print("of qkv, q:", *cut)
if len(tied[2]) != 1 or cut != (["qkv"], {"q": "qkv", "format": "pt"}, ["qkv"]):
    raise SystemExit("changed: the dictionary is left as it is, or the part is saved, now")
PYTHON
