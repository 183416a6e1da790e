#!/usr/bin/env bash
# PEFT 0.21.2 (torch 2.15.0, transformers 5.24.0): the half-and-half average of two equal LoRA adapters is not that adapter.
#
# Expected: add_weighted_adapter(["a", "b"], [0.5, 0.5]) of two equal adapters reproduces their weight change for every
# combination_type.
# Observed: "linear", "magnitude_prune" and "dare_linear" give twice the change and "ties" gives half of it; "cat" and
# "svd" reproduce it. The factors A and B are each averaged with the square roots of the weights, and their product has
# cross terms. The script fails when one of these changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 transformers==5.24.0 peft==0.21.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
torch.manual_seed(0)
config = lambda: LoraConfig(r=2, lora_alpha=4, target_modules=["0"], init_lora_weights=False)
model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(8, 8, bias=False)), config(), adapter_name="a")
model.add_adapter("b", config())
layer = model.base_model.model[0]
for part in (layer.lora_A, layer.lora_B):
    part["b"].weight.data.copy_(part["a"].weight.data)
one = layer.get_delta_weight("a")
seen = {}
for kind in ("linear", "magnitude_prune", "dare_linear", "ties", "cat", "svd"):
    model.add_weighted_adapter(["a", "b"], [0.5, 0.5], kind, combination_type=kind, density=None if kind in ("linear", "cat", "svd") else 1.0)
    delta = layer.get_delta_weight(kind)
    seen[kind] = round((delta / one).mean().item(), 4)
    assert torch.allclose(delta, seen[kind] * one, atol=1e-4)
print("change of the average over the change of each:", seen)
assert seen == {"linear": 2.0, "magnitude_prune": 2.0, "dare_linear": 2.0, "ties": 0.5, "cat": 1.0, "svd": 1.0}, seen
PYTHON
