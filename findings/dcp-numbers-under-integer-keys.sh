#!/usr/bin/env bash
# torch 2.15.0: `torch.distributed.checkpoint` restores tensors under integer keys, but puts numbers beside them, under strings.
#
# Expected: {"seen": {0: 100, 1: 250}} is restored into a state of the same keys, as `torch.load` gives it.
# Observed: the keys are turned into strings to name the entries. A tensor is copied into the one that is there, so it is right. Any
# other value is set by its name: the loaded state is {0: 0, 1: 0, "0": 100, "1": 250}, without a warning. Counts per data source or
# per rank thus start over, and so does the step of an optimizer that counts it in a Python number. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.distributed.checkpoint as dcp

class Counting(torch.optim.Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})

    def step(self):
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            state["step"] = state.get("step", 0) + 1
            state["tensor_step"] = torch.tensor(float(state["step"]))

def trained(n_steps):
    optimizer = Counting([torch.nn.Parameter(torch.zeros(2))])
    for _ in range(n_steps):
        optimizer.step()
    return optimizer.state_dict()

state = {"seen": {0: 100, 1: 250}, "optimizer": trained(7)}
dcp.save(state, checkpoint_id="saved", no_dist=True)
loaded = {"seen": {0: 0, 1: 0}, "optimizer": trained(1)}
dcp.load(loaded, checkpoint_id="saved", no_dist=True)
print("seen:", loaded["seen"])
print("state of the optimizer:", loaded["optimizer"]["state"])
assert loaded["optimizer"]["state"][0]["tensor_step"].item() == 7, loaded
if loaded["seen"] != {0: 0, 1: 0, "0": 100, "1": 250} or loaded["optimizer"]["state"][0]["step"] != 1:
    raise SystemExit("changed: values under integer keys are restored in place now")
PYTHON
