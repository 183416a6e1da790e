#!/usr/bin/env bash
# safetensors 0.8.0, NumPy side: save_file() of a transposed array stores its memory, not its values.
#
# Expected: the values, or an error as in safetensors.torch ("non contiguous tensor").
# Observed: shape (3, 2) is silently written with the bytes of (2, 3). The file is valid, and every value but the first and
# the last is wrong. The same happens to arrays in Fortran order, which checkpoints of JAX or .npz files can hold. The
# documentation asks for contiguous arrays, but nothing checks. `np.ascontiguousarray` fixes it. The script fails when this
# changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from safetensors.numpy import save_file, load_file
weight = np.arange(6, dtype=np.float32).reshape(2, 3)
for name, array in (("transposed", weight.T), ("Fortran order", np.asfortranarray(weight))):
    save_file({"w": array}, "w.safetensors")
    back = load_file("w.safetensors")["w"]
    print(name, "saved", array.tolist(), "loaded", back.tolist())
    assert back.shape == array.shape and not np.array_equal(back, array)
    assert back.ravel().tolist() == array.ravel(order="K").tolist()
save_file({"w": np.ascontiguousarray(weight.T)}, "w.safetensors")
assert np.array_equal(load_file("w.safetensors")["w"], weight.T)
PYTHON
