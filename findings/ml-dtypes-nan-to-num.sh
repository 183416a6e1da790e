#!/usr/bin/env bash
# ml_dtypes 0.6.0 (NumPy 2.4.6): `nan_to_num` and `nanmean` leave the NaN of a bfloat16 array where it is.
#
# Expected: what they do for float16: zero instead of NaN, and the mean of the others.
# Observed: `nan_to_num` returns the array unchanged, and `nanmean` gives NaN, without a warning, although `np.isnan` finds the NaN
# and `nanmax` ignores it. Both functions first ask whether the type is inexact, and the types of ml_dtypes are not: NumPy takes them
# for raw bytes (kind "V"). A script that cleans a checkpoint in this way cleans nothing. `np.where(np.isnan(x), 0, x)` works.
# The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ml_dtypes==0.6.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import ml_dtypes, numpy as np

seen = {}
for dtype in (np.float16, ml_dtypes.bfloat16):
    array = np.array([3, np.nan, 1], np.float32).astype(dtype)
    cleaned, mean, largest = np.nan_to_num(array), np.nanmean(array), np.nanmax(array)
    seen[array.dtype.name] = int(np.isnan(array).sum()), cleaned.tolist(), float(mean), float(largest)
    print(array.dtype.name, "NaNs:", seen[array.dtype.name][0], "nan_to_num:", cleaned, "nanmean:", mean, "nanmax:", largest)
assert seen["float16"] == (1, [3, 0, 1], 2, 3), seen
count, cleaned, mean, largest = seen["bfloat16"]
assert count == 1 and largest == 3, seen
if not (np.isnan(cleaned[1]) and np.isnan(mean)):
    raise SystemExit("changed: NaN of bfloat16 is seen now")
PYTHON
