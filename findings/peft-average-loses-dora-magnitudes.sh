#!/usr/bin/env bash
# PEFT 0.21.2 (torch 2.15.0, transformers 5.24.0): averages of DoRA adapters forget their trained magnitudes.
#
# Expected: the half-and-half average of two equal DoRA adapters by "cat" or "svd", which is right for LoRA, is that adapter; or it
# is refused, because magnitudes are not in the low-rank factors.
# Observed: it succeeds without a warning. The low-rank change is right, but the magnitudes of the new adapter are initialised afresh:
# those of both adapters, here three times the norms of the base weights, are dropped. So are the biases of `lora_bias=True`.
# The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 transformers==5.24.0 peft==0.21.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import warnings
import torch
from peft import LoraConfig, get_peft_model

def average(**options):
    torch.manual_seed(0)
    config = lambda: LoraConfig(r=4, lora_alpha=8, target_modules=["0"], init_lora_weights=False, **options)
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(8, 8)), config(), adapter_name="a")
    model.add_adapter("b", config())
    layer = model.base_model.model[0]
    for name in ("a", "b"):
        layer.lora_A[name].weight.data.copy_(layer.lora_A["a"].weight.data)
        layer.lora_B[name].weight.data.copy_(layer.lora_B["a"].weight.data)
        if "use_dora" in options:
            layer.lora_magnitude_vector[name].weight.data.copy_(3 * torch.linalg.vector_norm(layer.weight, dim=1))
        if "lora_bias" in options:
            layer.lora_B[name].bias.data.fill_(1.0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.add_weighted_adapter(["a", "b"], [0.5, 0.5], "mean", combination_type="cat")
    assert not told, [str(one.message) for one in told]
    assert torch.allclose(layer.get_delta_weight("mean"), layer.get_delta_weight("a"), atol=1e-5)
    model.eval()
    outputs = []
    for name in ("a", "mean"):
        model.set_adapter(name)
        outputs.append(model(torch.ones(1, 8)))
    same = torch.allclose(*outputs, atol=1e-4)
    if "use_dora" in options:
        ratio = layer.lora_magnitude_vector["mean"].weight / layer.lora_magnitude_vector["a"].weight
        return same, f"magnitudes over those of each: {ratio.min().item():.2f} to {ratio.max().item():.2f}"
    return same, f"biases: {layer.lora_B['mean'].bias.abs().max().item():.2f}, of each 1.00" if "lora_bias" in options else ""

seen = {"LoRA": average(), "DoRA": average(use_dora=True), "lora_bias": average(lora_bias=True)}
for kind, (same, note) in seen.items():
    print(f"{kind}: the average of two equal adapters gives their output: {same}", note)
assert seen["LoRA"][0]
if seen["DoRA"][0] or seen["lora_bias"][0]:
    raise SystemExit("changed: magnitudes or biases are averaged now")
PYTHON
