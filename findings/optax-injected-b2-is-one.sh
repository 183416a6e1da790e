#!/usr/bin/env bash
# optax 0.2.8 (JAX 0.10.2): AdamW with injected hyperparameters turns bfloat16 weights into NaN, because its b2 becomes 1.
#
# Expected: `inject_hyperparams(adamw)` puts the numbers in the state, so that they can be seen and changed, and trains as `adamw` does.
# Observed: the numbers are kept in the widest type of the parameters. In bfloat16 0.999 is 1, so the second moment stays 0, its bias
# correction is 0 too, and the first update is NaN. 0.9 becomes 0.8984. A learning rate that is a schedule stays in float32, so the
# one number that is usually logged looks right. A single float32 array among the parameters hides it, as does
# `hyperparam_dtype=jnp.float32`. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax, jax.numpy as jnp, numpy as np, optax

schedule = optax.linear_schedule(1e-3, 0.0, 1000)

def first(parameters, optimizer):
    state = optimizer.init(parameters)
    updates, state = optimizer.update(jax.tree.map(jnp.ones_like, parameters), state, parameters)
    numbers = getattr(state, "hyperparams", {})
    return {key: float(numbers[key]) for key in ("b1", "b2", "learning_rate") if key in numbers}, np.array([float(one[0]) for one in jax.tree.leaves(updates)])

half = {"w": jnp.ones(4, jnp.bfloat16)}
mixed = {"bias": jnp.ones(4, jnp.bfloat16), "w": jnp.ones(4, jnp.float32)}
single = jax.tree.map(lambda one: one.astype(jnp.float32), half)
plain = first(half, optax.adamw(schedule))
injected = {name: first(parameters, optax.inject_hyperparams(optax.adamw)(learning_rate=schedule)) for name, parameters in (("bfloat16", half), ("mixed", mixed), ("float32", single))}
avoided = first(half, optax.inject_hyperparams(optax.adamw, hyperparam_dtype=jnp.float32)(learning_rate=schedule))
print("adamw, bfloat16:", plain)
for name, seen in injected.items():
    print(f"injected, {name}:", seen)
print("injected with hyperparam_dtype, bfloat16:", avoided)
for numbers, updates in (plain, avoided, injected["mixed"], injected["float32"]):
    assert np.isfinite(updates).all(), updates
numbers, updates = injected["bfloat16"]
if numbers["b2"] != 1 or not np.isnan(updates).all():
    raise SystemExit(f"changed: b2 is {numbers['b2']} now, and the update {updates}")
PYTHON
