#!/usr/bin/env bash
# orbax-checkpoint 0.12.8: a key with a dot and a nested key are saved under one name, and one of the arrays is lost.
#
# Expected: {"a.b": ones, "a": {"b": zeros}} is saved with both arrays, or refused.
# Observed: saving succeeds without a warning, and both leaves are restored as the same array.
# The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import os
import numpy as np, orbax.checkpoint as ocp

saved = {"a.b": np.ones(2), "a": {"b": np.zeros(2)}}
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(os.path.abspath("saved"), saved)
    checkpointer.wait_until_finished()
    found = checkpointer.restore(os.path.abspath("saved"))
print("saved:", saved)
print("restored:", found)
if np.array_equal(found["a.b"], saved["a.b"]) and np.array_equal(found["a"]["b"], saved["a"]["b"]):
    raise SystemExit("both arrays are restored now")
PYTHON
