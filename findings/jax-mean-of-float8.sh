#!/usr/bin/env bash
# JAX 0.10.2: the mean of a hundred ones is 0.69 in float8_e4m3fn and 0.31 in float8_e5m2.
#
# Expected: 1, as with bfloat16 and float16: JAX sums those in float32 and rounds the result once.
# Observed: float8 is summed and divided in its own type, where the sum stops growing at a value that depends on the order of the
# additions. Above 464 elements the count itself is NaN in float8_e4m3fn, and so is the mean. Norms of FP8 weights stop growing too.
# `jnp.mean(x, dtype=jnp.float32)` is right. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import math
import jax.numpy as jnp

seen = {}
for dtype in (jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn, jnp.float8_e5m2):
    for n_elements in (100, 1000):
        ones = jnp.ones(n_elements, dtype)
        mean, wide, norm = float(ones.mean()), float(jnp.mean(ones, dtype=jnp.float32)), float(jnp.linalg.norm(ones))
        seen[dtype.__name__, n_elements] = mean
        print(f"{dtype.__name__}, {n_elements} ones: mean {mean}, with dtype=float32 {wide}, norm {norm}")
        assert abs(wide - 1) < 1e-6
assert all(seen[name, n_elements] == 1 for name in ("bfloat16", "float16") for n_elements in (100, 1000)), seen
if not (0.5 < seen["float8_e4m3fn", 100] < 0.9 and seen["float8_e5m2", 100] < 0.5 and math.isnan(seen["float8_e4m3fn", 1000])):
    raise SystemExit("changed: float8 is summed otherwise now")
PYTHON
