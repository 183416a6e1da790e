#!/usr/bin/env bash
# orbax-checkpoint 0.12.8 (JAX 0.10.2): a count of tokens that does not fit the target's type is restored as another number.
#
# Expected: a saved int64 that does not fit an int32 target is refused, as `np.int32(15 * 10**12)` and `jnp.int32(...)` are.
# Observed: 15 * 10**12 tokens come back as 1974202368, without a warning. The target need not say int32: without
# `jax_enable_x64`, `jnp.zeros((), jnp.int64)` is int32 (JAX warns of that where it is made), and so is the target made from it.
# Restoring without a target gives the right number. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import os, warnings
import jax, jax.numpy as jnp, numpy as np, orbax.checkpoint as ocp

tokens = 15 * 10**12
for make in (np.int32, jnp.int32):
    try:
        make(tokens)
    except OverflowError as error:
        print(make.__name__, "refuses:", error)
    else:
        raise AssertionError("it is cut elsewhere too")
with ocp.StandardCheckpointer() as checkpointer, warnings.catch_warnings(record=True) as told:
    path = os.path.abspath("saved")
    checkpointer.save(path, {"tokens": np.array(tokens)})
    checkpointer.wait_until_finished()
    plain = int(checkpointer.restore(path)["tokens"])
    target = jax.eval_shape(lambda: {"tokens": jnp.zeros((), jnp.int64)})
    told.clear()
    found = int(checkpointer.restore(path, target)["tokens"])
print("saved:", tokens, "without a target:", plain, "with one:", found, "warnings:", len(told))
assert plain == tokens
if found != tokens % 2**32 or told:
    raise SystemExit("changed: the number is kept, refused or warned of now")
PYTHON
