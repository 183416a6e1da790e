#!/usr/bin/env bash
# NumPy 2.4.6 with ml_dtypes 0.6.0: an array of float8_e5m2 is saved to a file that NumPy cannot read.
#
# Expected: as for bfloat16 and the other types of ml_dtypes, loading gives the raw bytes under a type without a name (|V1), which
# `view(ml_dtypes.float8_e5m2)` turns back.
# Observed: `numpy.save` and `savez` succeed, but `load` raises ValueError: of all types of ml_dtypes this one alone says that its kind
# is "f", so the header says `<f1`, which NumPy does not know. Other arrays of the same .npz are read. Save
# `array.view(numpy.uint8)`. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ml_dtypes==0.6.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import ml_dtypes, numpy as np
names = [name for name in dir(ml_dtypes) if name.startswith(("bfloat", "float", "int", "uint")) and isinstance(getattr(ml_dtypes, name), type)]
arrays = {name: np.ones(4, getattr(ml_dtypes, name)) for name in names}
np.savez("arrays.npz", float32=np.ones(4, np.float32), **arrays)
refused = {}
with np.load("arrays.npz") as archive:
    for name, array in arrays.items():
        try:
            found = archive[name].view(array.dtype)
        except ValueError as error:
            refused[name] = f"{error} (kind {array.dtype.kind})"
        else:
            assert np.array_equal(found.view(np.uint8), array.view(np.uint8))
    assert archive["float32"].tolist() == [1.0] * 4
print(f"{len(names) - len(refused)} types come back as raw bytes; refused:", refused)
if list(refused) != ["float8_e5m2"] or "<f1" not in refused["float8_e5m2"]:
    raise SystemExit("changed: other types are refused now")
PYTHON
