#!/usr/bin/env bash
# optax 0.2.8 (JAX 0.10.2): the global norm of bfloat16 gradients stops growing, so they are clipped too little.
#
# Expected: a norm that is right to bfloat16's three digits, as that of one large array is (JAX sums bfloat16 in float32), and clipped
# gradients of norm 1.
# Observed: the squares of each array are summed in float32, but the arrays' sums are added up one by one in bfloat16, and
# 256 + 1 is 256 there. So 600 arrays of norm 1 have the norm 16 instead of 24.5, and after `clip_by_global_norm(1.0)` they have
# 1.53. The more arrays a model has, the less it is clipped, and the logged norm hides it. Gradients in float32 are right.
# The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax.numpy as jnp, numpy as np, optax

def norms(n_arrays, dtype):
    gradients = [jnp.full(64, 1 / 8, dtype)] * n_arrays  # each of norm 1
    clip = optax.clip_by_global_norm(1.0)
    clipped, _ = clip.update(gradients, clip.init(gradients))
    return float(optax.global_norm(gradients)), float(np.sqrt(sum(np.square(np.asarray(one, np.float64)).sum() for one in clipped)))

seen = {}
for n_arrays in (100, 600, 1000):
    for dtype in (jnp.float32, jnp.bfloat16):
        norm, after = seen[n_arrays, dtype] = norms(n_arrays, dtype)
        print(f"{n_arrays} arrays, {dtype.__name__}: norm {norm:.4g} (right: {n_arrays**0.5:.4g}), after clipping to 1: {after:.4g}")
    assert abs(seen[n_arrays, jnp.float32][1] - 1) < 1e-5, seen
together = float(optax.global_norm([jnp.full(64 * 600, 1 / 8, jnp.bfloat16)]))
print("one bfloat16 array of the elements of 600:", together)
assert together == 24.5, together
if not (seen[600, jnp.bfloat16][0] == seen[1000, jnp.bfloat16][0] == 16 and seen[600, jnp.bfloat16][1] > 1.5):
    raise SystemExit("changed: the norm of many bfloat16 arrays is another one now")
PYTHON
