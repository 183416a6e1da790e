#!/usr/bin/env bash
# ml_dtypes 0.6.0 (NumPy 2.4.6): float64 -> bfloat16 rounds twice, through float32.
#
# Expected: one rounding to nearest even, as in NumPy's own float64 -> float16.
# Observed: a value just above the middle of two bfloat16 numbers is rounded to the middle first and then to the even
# neighbour: 1.00390625 + 2^-40 gives 1.0, although 1.0078125 is nearer. Averages that are summed in float64 and stored as
# bfloat16 are off by one ULP at such values. The script fails when one of these changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ml_dtypes==0.6.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import ml_dtypes, numpy as np
above = np.float64(1.00390625) + 2.0**-40            # the middle of 1.0 and 1.0078125, and a hair
below = np.float64(1.01171875) - 2.0**-40            # the middle of 1.0078125 and 1.015625, less a hair
half = (np.float64(1) + 2.0**-11 + 2.0**-40).astype(np.float16)
got = [float(v.astype(ml_dtypes.bfloat16)) for v in (above, below)]
print("bfloat16 of", above, "and", below, "is", got, "; float16 beside it rounds once:", float(half))
assert float(half) == 1 + 2.0**-10
assert got == [1.0, 1.015625], "the nearest are 1.0078125 and 1.0078125: float64 -> bfloat16 has changed"
PYTHON
