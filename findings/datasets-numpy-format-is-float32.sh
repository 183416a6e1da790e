#!/usr/bin/env bash
# datasets 5.2.0: `with_format("numpy")` gives float32 arrays of a float64 column.
#
# Expected: the column's own type, as for a NumPy array taken from Arrow or pandas; only "torch" and "jax" have a float32 default.
# Observed: all floats become float32, and integers int64. A time of 2026 in seconds moves by up to 64 seconds, so steps logged each
# second have equal times, and sums of losses differ in the eighth digit. float16 is widened. The column's type still says float64.
# Give the type: `with_format("numpy", dtype=np.float64)` (which turns the integers into floats). The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 numpy==2.4.6
cd "$folder"
HF_DATASETS_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import datasets, numpy as np

times = [1.78e9 + second for second in range(4)]
data = datasets.Dataset.from_dict({"time": times, "tokens": [2**40 + 1] * 4})
numpy_format, pandas_format = data.with_format("numpy")[:], data.with_format("pandas")[:]
print("column types:", data.features["time"].dtype, data.features["tokens"].dtype)
print("numpy:", numpy_format["time"].dtype, numpy_format["time"].astype(float).tolist(), numpy_format["tokens"].dtype)
print("pandas:", pandas_format["time"].dtype, pandas_format["time"].tolist())
given = data.with_format("numpy", dtype=np.float64)[:]
print("numpy, dtype=float64:", given["time"].tolist(), given["tokens"].dtype)
assert data.features["time"].dtype == "float64" and data[:]["time"] == pandas_format["time"].tolist() == given["time"].tolist() == times
if numpy_format["time"].dtype != np.float32 or len(set(numpy_format["time"].tolist())) != 1:
    raise SystemExit("changed: float64 stays float64 now")
PYTHON
