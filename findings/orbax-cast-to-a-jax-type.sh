#!/usr/bin/env bash
# orbax-checkpoint 0.12.8: arrays cannot be saved in another type that is given as jnp.float32 or jnp.bfloat16.
#
# Expected: `dtype` of SaveArgs takes what JAX takes as a type, such as jnp.bfloat16.
# Observed: saving raises AttributeError (type object 'float32' has no attribute 'itemsize'); only jnp.dtype(...) works.
# The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import os
import jax, jax.numpy as jnp, orbax.checkpoint as ocp

def save(name, dtype):
    tree = {"w": jnp.arange(4.0)}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        args = ocp.args.PyTreeSave(tree, save_args=jax.tree.map(lambda _: ocp.SaveArgs(dtype=dtype), tree))
        checkpointer.save(os.path.abspath(name), args=args)

save("named", jnp.dtype(jnp.bfloat16))
print("jnp.dtype(jnp.bfloat16): saved")
for dtype in (jnp.float32, jnp.bfloat16):
    try:
        save(f"typed-{dtype.__name__}", dtype)
    except AttributeError as error:
        print(f"jnp.{dtype.__name__}:", error)
    else:
        raise SystemExit(f"SaveArgs takes jnp.{dtype.__name__} now")
PYTHON
