#!/usr/bin/env bash
# orbax-checkpoint 0.12.8: a changed byte in the elements of an array is restored without an error.
#
# Expected: a sum in the store, or in the frames of zstd, tells that bytes of a chunk changed.
# Observed: chunks have no sums. Each of 100 changed bytes gives other values, silently.
# The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import glob, os
import numpy as np, orbax.checkpoint as ocp

weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
with ocp.PyTreeCheckpointer() as checkpointer:
    checkpointer.save(os.path.abspath("saved"), {"w": weights})
    path = max((one for one in glob.glob("saved/**/d/*", recursive=True)), key=os.path.getsize)
    with open(path, "rb") as file:
        whole = file.read()
    n_silent = 0
    for number in range(100):
        changed = bytearray(whole)
        changed[200 + number * (len(whole) - 400) // 100] ^= 0x10
        with open(path, "wb") as file:
            file.write(changed)
        try:
            found = checkpointer.restore(os.path.abspath("saved"))["w"]
        except Exception:
            continue
        n_silent += not np.array_equal(found, weights)
print(f"{n_silent} of 100 changed bytes gave other values without an error")
if n_silent == 0:
    raise SystemExit("changed bytes are noticed now")
PYTHON
