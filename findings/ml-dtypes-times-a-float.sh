#!/usr/bin/env bash
# ml_dtypes 0.6.0 (NumPy 2.4.6): bfloat16 times 0.5 is float32, times 2 is bfloat16, and with 0.0 in `np.where` it is float64.
#
# Expected: a number of Python does not change the type of an array, as for float16 (NEP 50) and in JAX and PyTorch.
# Observed: an integer keeps bfloat16, a float gives float32, and `np.where(mask, x, 0.0)` float64. So (a + b) / 2 is rounded to bfloat16
# twice, and 0.5 * a + 0.5 * b not at all: two ways to write one average give other values and other types, and files of twice the size.
# `x *= 0.5` stays bfloat16. The float8 types do the same. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ml_dtypes==0.6.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import ml_dtypes, numpy as np

seen, averages = {}, {}
for dtype in (np.float16, ml_dtypes.bfloat16):
    a, b = np.array([1.0], dtype), np.array([1 + 3 / 128], dtype)
    in_place = a.copy()
    in_place *= 0.5
    results = {"x * 2": a * 2, "x / 2": a / 2, "x * 0.5": a * 0.5, "x *= 0.5": in_place, "where(.., x, 0.0)": np.where(a > 0, a, 0.0), "where(.., x, 0)": np.where(a > 0, a, 0)}
    seen[a.dtype.name] = {name: result.dtype.name for name, result in results.items()}
    averages[a.dtype.name] = float(((a + b) / 2)[0]), float((0.5 * a + 0.5 * b)[0])
    print(a.dtype.name, seen[a.dtype.name], "(a + b) / 2 and 0.5 * a + 0.5 * b:", *averages[a.dtype.name])
assert set(seen["float16"].values()) == {"float16"} and averages["float16"][0] == averages["float16"][1], (seen, averages)
half = seen["bfloat16"]
assert half["x * 2"] == half["x / 2"] == half["x *= 0.5"] == half["where(.., x, 0)"] == "bfloat16", half
if half["x * 0.5"] != "float32" or half["where(.., x, 0.0)"] != "float64" or averages["bfloat16"][0] == averages["bfloat16"][1]:
    raise SystemExit("changed: a float of Python keeps bfloat16 now")
PYTHON
