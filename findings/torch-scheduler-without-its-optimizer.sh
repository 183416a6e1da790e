#!/usr/bin/env bash
# torch 2.15.0: a schedule that is restored without the optimizer's state continues at the wrong learning rate, or not, by its class.
#
# Expected: `scheduler.load_state_dict` alone puts a new optimizer at the learning rate of the saved step, since the state has the step
# and `_last_lr`.
# Observed: nothing is set on loading. LambdaLR is right from its next step on. LinearLR, CosineAnnealingLR, ExponentialLR
# and StepLR compute each rate from the one before, so they stay off by a factor to the end: here the rate is 1.82, 2, 32 or 10 times
# the right one, while the saved `_last_lr` is right. Who starts from merged weights with fresh moments but the old schedule gets
# this; saving and loading both is right. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import copy, torch
from torch.optim import lr_scheduler
kinds = {"LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 - step / 10), "LinearLR": lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, 10),
         "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10), "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.5),
         "StepLR": lambda o: lr_scheduler.StepLR(o, 3)}

def rates(kind, n_steps, scheduler_state=None, optimizer_state=None):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = kinds[kind](optimizer)
    if optimizer_state:
        optimizer.load_state_dict(optimizer_state)
    if scheduler_state:
        scheduler.load_state_dict(scheduler_state)
    seen = []
    for _ in range(n_steps):
        optimizer.step(); scheduler.step()
        seen.append(optimizer.param_groups[0]["lr"])
    return seen, copy.deepcopy(scheduler.state_dict()), copy.deepcopy(optimizer.state_dict())

factors = {}
for kind in kinds:
    whole = rates(kind, 8)[0]
    _, scheduler_state, optimizer_state = rates(kind, 5)
    both = rates(kind, 3, scheduler_state, optimizer_state)[0]
    assert all(abs(a - b) < 1e-12 for a, b in zip(whole[5:], both))
    alone = rates(kind, 3, scheduler_state)[0]
    factors[kind] = [round(a / b, 2) for a, b in zip(alone, whole[5:])]
print("rates after loading the schedule alone, over the right ones:", factors)
if factors != {"LambdaLR": [1.0] * 3, "LinearLR": [1.82] * 3, "CosineAnnealingLR": [2.0] * 3, "ExponentialLR": [32.0] * 3, "StepLR": [10.0] * 3}:
    raise SystemExit("changed: the rates are others now")
PYTHON
