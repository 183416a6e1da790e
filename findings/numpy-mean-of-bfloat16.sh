#!/usr/bin/env bash
# NumPy 2.4.6 with ml_dtypes 0.6.0: mean() of a bfloat16 array sums in bfloat16.
#
# Expected: it sums in float32, as NumPy does for float16.
# Observed: the mean of a thousand ones is 0.255859375, because the sum stays at 256 (256 + 1 rounds to 256). The mean of
# the checkpoints 1.0, 1.0078125, 1.0078125 is 1.0, not 1.0078125. There is no warning. `dtype=np.float32` fixes it;
# without it, averages of checkpoints in a NumPy script are wrong. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ml_dtypes==0.6.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import ml_dtypes, numpy as np
ones = np.ones(1000, ml_dtypes.bfloat16)
checkpoints = np.array([1.0, 1.0078125, 1.0078125], ml_dtypes.bfloat16)
print("mean of 1000 ones:", float(ones.mean()), "in float16:", float(np.ones(1000, np.float16).mean()),
      "with dtype=float32:", float(ones.mean(dtype=np.float32)))
print("mean of 1, 1.0078125, 1.0078125:", float(checkpoints.mean()))
assert float(np.ones(1000, np.float16).mean()) == 1.0 and float(ones.mean(dtype=np.float32)) == 1.0
assert float(ones.mean()) == 0.255859375 and float(checkpoints.mean()) == 1.0
PYTHON
