#!/usr/bin/env bash
# torch 2.15.0 and ml_dtypes 0.6.0: out-of-range values become different float8 values, by library and by format.
#
# Expected: NaN for e4m3fn in both (it has no infinity).
# Observed: torch saturates float8_e4m3fn at 448 even for 1e6, but gives infinity for float8_e5m2; ml_dtypes gives NaN and
# infinity. If a sum of FP8 weights leaves the range, torch hides it and ml_dtypes gives NaN, so a check for non-finite
# values finds it only with ml_dtypes. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 ml_dtypes==0.6.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import math, ml_dtypes, numpy as np, torch
values = [448.0, 500.0, 1e6]
rows = {}
for name in ("float8_e4m3fn", "float8_e5m2"):
    rows[name] = (torch.tensor(values).to(getattr(torch, name)).float().tolist(),
                  np.array(values, np.float32).astype(getattr(ml_dtypes, name)).astype(np.float32).tolist())
    print(name, "torch", rows[name][0], "ml_dtypes", rows[name][1])
assert rows["float8_e4m3fn"][0] == [448.0, 448.0, 448.0]
assert rows["float8_e4m3fn"][1][0] == 448.0 and all(math.isnan(v) for v in rows["float8_e4m3fn"][1][1:])
assert rows["float8_e5m2"][0][2] == math.inf and rows["float8_e5m2"][1][2] == math.inf
PYTHON
