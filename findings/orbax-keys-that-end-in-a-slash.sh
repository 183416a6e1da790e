#!/usr/bin/env bash
# orbax-checkpoint 0.12.8: of two arrays whose keys differ in a slash at the end, one is lost.
#
# Expected: `{"d": x, "d/": y}` is saved whole, as `{"a/b": x, "a//b": y}` is, or refused.
# Observed: tensorstore drops the slash, so both have one path; both are restored as the same array, without a warning.
# The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import os
import numpy as np
import orbax.checkpoint as ocp

def restored(name, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(os.path.abspath(name), tree)
        checkpointer.wait_until_finished()
        return {key: float(value[0]) for key, value in checkpointer.restore(os.path.abspath(name)).items()}

whole = restored("within", {"a/b": np.array([1.0]), "a//b": np.array([2.0])})
print("a/b: 1, a//b: 2 ->", whole)
assert whole == {"a/b": 1.0, "a//b": 2.0}, whole
lost = restored("at-the-end", {"d": np.array([1.0]), "d/": np.array([2.0])})
print("d: 1, d/: 2 ->", lost)
if lost["d"] != lost["d/"]:
    raise SystemExit("both arrays are kept now")
PYTHON
