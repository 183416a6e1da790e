#!/usr/bin/env bash
# orbax-checkpoint 0.12.8: the shape of a target is compared if it is a JAX array, and ignored if it is a NumPy array.
#
# Expected: `restore(path, target)` raises for a leaf whose shape differs from the saved one, whatever the leaf is.
# Observed: with a `jax.ShapeDtypeStruct` of another shape it raises ValueError. With a NumPy array of another shape the saved array is
# returned in the saved shape, without a warning, though converted to the target's type. A state on the host (an average, a table of
# counts) of another vocabulary or width is thus restored into the wrong model. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import os
import jax, jax.numpy as jnp, numpy as np, orbax.checkpoint as ocp

with ocp.StandardCheckpointer() as checkpointer:
    path = os.path.abspath("saved")
    checkpointer.save(path, {"w": jnp.arange(6.0).reshape(2, 3)})
    checkpointer.wait_until_finished()
    try:
        checkpointer.restore(path, {"w": jax.ShapeDtypeStruct((7,), jnp.float32)})
    except ValueError as error:
        print("target of JAX:", str(error)[:90])
    else:
        raise AssertionError("a target of JAX may have any shape")
    try:
        found = checkpointer.restore(path, {"w": np.zeros((7,), np.float64)})["w"]
    except ValueError as error:
        raise SystemExit(f"changed: a target of NumPy is compared now: {error}")
print("target of NumPy, shape (7,), float64: restored", found.shape, found.dtype)
if (found.shape, found.dtype) != ((2, 3), np.float64):
    raise SystemExit("changed: another shape or type is restored")
PYTHON
