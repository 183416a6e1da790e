#!/usr/bin/env bash
# safetensors 0.8.0: saving the same tensors and metadata gives a different file each time.
#
# Expected: equal input gives equal bytes (the tensors are sorted, after all).
# Observed: the keys of `__metadata__` are in random order, even within one process; two keys are enough. Digests of whole
# files therefore do not show whether two checkpoints are equal, and saving a copy changes its SHA-256. The data part
# is the same. The script fails when all saves agree.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import hashlib, json, numpy as np
from safetensors.numpy import save
metadata = {"format": "pt", "step": "40", "run": "a", "tokens": "1000", "DCP_VERSION": "1.0"}
files = [save({"w": np.arange(4, dtype=np.float32)}, metadata) for _ in range(40)]
digests = {hashlib.sha256(f).hexdigest() for f in files}
data = {f[8 + int.from_bytes(f[:8], "little"):] for f in files}
orders = [list(json.loads(f[8:8 + int.from_bytes(f[:8], "little")])["__metadata__"]) for f in files[:3]]
print(len(files), "saves,", len(digests), "digests,", len(data), "data part; first orders of the keys:", orders)
assert len(data) == 1 and len(digests) > 1
assert len({hashlib.sha256(save({"w": np.arange(4, dtype=np.float32)}, {"format": "pt"})).hexdigest() for _ in range(40)}) == 1
PYTHON
