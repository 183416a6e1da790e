#!/usr/bin/env bash
# torch 2.15.0: `torch.optim.Adam` that loads the state of AdamW is AdamW from then on, and not the other way round.
#
# Expected: a state holds moments and numbers such as the learning rate; which update is made is a matter of the class.
# Observed: AdamW is Adam with `decoupled_weight_decay` in its parameter groups, and that comes with the state. An Adam with an L2 penalty
# that resumes from AdamW's moments decays the weights as AdamW does, though its class says Adam. AdamW that loads Adam's state stays
# AdamW. `fused=True` of the new optimizer is lost too, as are all its other options. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch

def make(kind, **options):
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(64))
    return parameter, getattr(torch.optim, kind)([parameter], lr=0.1, weight_decay=0.1, **options)

def step(parameter, optimizer, scale):
    parameter.grad = torch.linspace(-scale, scale, 64)
    optimizer.step()
    return parameter.detach().clone()

def second_step(kind, state_of=None, **options):
    parameter, optimizer = make(state_of or kind)
    first = step(parameter, optimizer, 1.0)
    if state_of:
        state = optimizer.state_dict()
        parameter, optimizer = make(kind, **options)
        optimizer.load_state_dict(state)
        parameter.data.copy_(first)
    flags = {key: optimizer.param_groups[0][key] for key in ("decoupled_weight_decay", "fused")}
    return step(parameter, optimizer, 2.0), type(optimizer).__name__, flags

adam, adamw = second_step("Adam")[0], second_step("AdamW")[0]
adam_from_adamw, name, flags = second_step("Adam", state_of="AdamW", fused=True)
adamw_from_adam = second_step("AdamW", state_of="Adam")
print(f"{name} with AdamW's state: {flags}; its step is that of AdamW: {torch.equal(adam_from_adamw, adamw)}")
print(f"{adamw_from_adam[1]} with Adam's state: {adamw_from_adam[2]}")
assert not torch.equal(adam, adamw) and adamw_from_adam[2]["decoupled_weight_decay"]
if name != "Adam" or flags != {"decoupled_weight_decay": True, "fused": None} or not torch.equal(adam_from_adamw, adamw):
    raise SystemExit("changed: Adam stays Adam now")
PYTHON
