#!/usr/bin/env bash
# safetensors 0.8.0, NumPy side: float8 arrays can be written but not read.
#
# Expected: load_file() returns the ml_dtypes array that save_file() took, as it does for bfloat16.
# Observed: saving ml_dtypes.float8_e4m3fn works and the header says F8_E4M3, but loading the same file raises
# AttributeError (module 'numpy' has no attribute 'float8_e4m3fn'). load_file reads all tensors, so it fails even if only
# another one is wanted; safe_open(...).get_tensor of the others works. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6 ml_dtypes==0.6.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import json, ml_dtypes, numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file, load_file
save_file({"a": np.ones(2, ml_dtypes.bfloat16)}, "a.safetensors")
assert load_file("a.safetensors")["a"].dtype == ml_dtypes.bfloat16
save_file({"f": np.ones(2, ml_dtypes.float8_e4m3fn), "w": np.arange(3, dtype=np.float32)}, "b.safetensors")
raw = open("b.safetensors", "rb").read()
print("written as", json.loads(raw[8:8 + int.from_bytes(raw[:8], "little")])["f"]["dtype"])
try:
    load_file("b.safetensors")
except AttributeError as error:
    print("load_file:", error)
else:
    raise SystemExit("load_file reads float8 now")
with safe_open("b.safetensors", framework="numpy") as f:
    assert f.get_tensor("w").tolist() == [0, 1, 2]
PYTHON
