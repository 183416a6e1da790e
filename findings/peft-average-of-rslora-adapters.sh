#!/usr/bin/env bash
# PEFT 0.21.2 (torch 2.15.0, transformers 5.24.0): any average of rank-stabilised LoRA adapters is too large, by the root of the rank.
#
# Expected: `add_weighted_adapter` with "cat" or "svd" reproduces the weighted sum of the weight changes, as it does for LoRA.
# Observed: with `use_rslora=True` the change is 2 times too large with "svd" at rank 4, and 2.83 times with "cat", whose rank is
# 8. The new adapter gets `lora_alpha` = rank, which means a scale of one, but keeps `use_rslora`, which makes it the root of the rank.
# The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 transformers==5.24.0 peft==0.21.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model

def ratios(use_rslora):
    torch.manual_seed(0)
    config = lambda: LoraConfig(r=4, lora_alpha=8, target_modules=["0"], init_lora_weights=False, use_rslora=use_rslora)
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(8, 8, bias=False)), config(), adapter_name="a")
    model.add_adapter("b", config())
    layer = model.base_model.model[0]
    wanted = 0.5 * layer.get_delta_weight("a") + 0.5 * layer.get_delta_weight("b")
    found = {}
    for kind in ("cat", "svd"):
        model.add_weighted_adapter(["a", "b"], [0.5, 0.5], kind, combination_type=kind, svd_rank=8 if kind == "svd" else None)
        change = layer.get_delta_weight(kind)
        found[kind] = round(((change * wanted).sum() / wanted.square().sum()).item(), 3)
        assert torch.allclose(change, found[kind] * wanted, atol=1e-2)
    return found

lora, rslora = ratios(False), ratios(True)
print("change of the average over the average of the changes: LoRA", lora, "rsLoRA", rslora)
assert lora == {"cat": 1.0, "svd": 1.0}, lora
if rslora != {"cat": 2.828, "svd": 2.828}:
    raise SystemExit("changed: averages of rsLoRA adapters have another scale")
PYTHON
