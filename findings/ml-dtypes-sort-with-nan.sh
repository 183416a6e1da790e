#!/usr/bin/env bash
# ml_dtypes 0.6.0 (NumPy 2.4.6): one NaN leaves a bfloat16 array unsorted, and its median is a number, the wrong one.
#
# Expected: as for NumPy's own floats: NaN goes to the end, and the median of values with a NaN is NaN.
# Observed: `np.sort` of [3, NaN, 1, 2, 0] gives [3, NaN, 0, 1, 2], because every comparison with NaN is false, and the median is 0. Of
# 1, 2 and NaN, as from three checkpoints, the median is 1, 2 or NaN, by their order. Trimmed means, quantiles and `np.unique` sort
# too. The float8 types do the same. Widening to float32 first is right. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ml_dtypes==0.6.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import itertools
import ml_dtypes, numpy as np

values = [3, np.nan, 1, 2, 0]
seen = {}
for dtype in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
    array = np.array(values, np.float32).astype(dtype)
    medians = [float(np.median(np.array(order, np.float32).astype(dtype))) for order in itertools.permutations((1, 2, np.nan))]
    seen[array.dtype.name] = np.sort(array).tolist(), float(np.median(array)), medians
    print(array.dtype.name, "sorted:", seen[array.dtype.name][0], "median:", seen[array.dtype.name][1], "medians of 1, 2, NaN in each order:", medians)

same = lambda a, b: np.array_equal(np.array(a), np.array(b), equal_nan=True)
ordered, median, medians = seen["float16"]
assert same(ordered, [0, 1, 2, 3, np.nan]) and np.isnan(median) and np.isnan(medians).all(), seen["float16"]
for name in ("bfloat16", "float8_e4m3fn"):
    ordered, median, medians = seen[name]
    if not same(ordered, [3, np.nan, 0, 1, 2]) or median != 0 or set(map(str, medians)) != {"1.0", "2.0", "nan"}:
        raise SystemExit(f"changed: {name} with NaN is sorted now")
PYTHON
