#!/usr/bin/env bash
# torch 2.15.0: an optimizer with named parameters loads a state by position, and then states the wrong names.
#
# Expected: names in the optimizer and in the state are matched, or a different order is refused.
# Observed: names are not compared (the documentation says so). Where the order differs and the shapes do not, weights get each other's
# moments, and the saved names replace the optimizer's own `param_names`, which no longer name its parameters. Each later state has
# moments under the wrong name, so a tool that reads them by name reads those of another weight. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch

def make(order):
    model = torch.nn.ParameterDict({name: torch.nn.Parameter(torch.zeros(2)) for name in ("key", "query")})
    return model, torch.optim.AdamW([(name, model[name]) for name in order])

def by_name(state):
    [group] = state["param_groups"]
    return {name: state["state"][number]["exp_avg"][0].item() for name, number in zip(group["param_names"], group["params"])}

def step(model, optimizer):
    for name, gradient in (("key", 1.0), ("query", -5.0)):
        model[name].grad = torch.full((2,), gradient)
    optimizer.step()

model, optimizer = make(("key", "query"))
step(model, optimizer)
state = optimizer.state_dict()
saved = by_name(state)
model, optimizer = make(("query", "key"))
before = optimizer.param_groups[0]["param_names"]
optimizer.load_state_dict(state)
after = optimizer.param_groups[0]["param_names"]
for _ in range(20):
    step(model, optimizer)
later = by_name(optimizer.state_dict())
print("names before and after loading:", before, after)
print("first moments by name: saved", saved, "and after 20 more steps", later)
assert before == ["query", "key"] and saved["key"] > 0 > saved["query"], saved
if after != ["key", "query"] or not later["key"] < 0 < later["query"]:
    raise SystemExit("changed: names are kept or matched now")
PYTHON
