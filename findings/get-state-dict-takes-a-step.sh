#!/usr/bin/env bash
# torch 2.15.0: get_state_dict() before the first step changes the training that follows.
#
# Expected: asking for a state changes nothing, so a checkpoint at step 0 is free.
# Observed: for an optimizer without state it runs one step with zero gradients to create the state. AdamW is then at
# step 1 with zero moments, and SGD with dampening has a momentum buffer; the weights are unchanged. From then on the bias
# correction of AdamW is off by one: a run that saved its step 0 differs from one that did not, and so does a run resumed
# from it. SGD without dampening and Adagrad do not differ. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import copy, torch
from torch.distributed.checkpoint.state_dict import get_state_dict
torch.manual_seed(0)
first = torch.nn.Linear(4, 3)

def run(make, save_step_0):
    model = copy.deepcopy(first)
    optimizer = make(model.parameters())
    step = None
    if save_step_0:
        _, state = get_state_dict(model, optimizer)
        step = next(iter(state["state"].values())).get("step")
        step = None if step is None else step.item()          # a copy: the state keeps counting
        assert torch.equal(model.weight, first.weight)
    data = torch.Generator().manual_seed(1)
    for _ in range(3):
        loss = model(torch.randn(8, 4, generator=data)).square().mean()
        optimizer.zero_grad(); loss.backward(); optimizer.step()
    return model.weight.detach(), step

found = {}
for name, make in (("AdamW", lambda p: torch.optim.AdamW(p, lr=0.1)), ("SGD, dampening 0.5", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5)),
                   ("SGD", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)), ("Adagrad", lambda p: torch.optim.Adagrad(p, lr=0.1))):
    (plain, _), (saved, step) = run(make, False), run(make, True)
    found[name] = torch.equal(plain, saved)
    print(f"{name}: step in the saved state {step}; weights after 3 steps differ by {(plain - saved).abs().max().item():.4f}")
assert found == {"AdamW": False, "SGD, dampening 0.5": False, "SGD": True, "Adagrad": True}, found
PYTHON
