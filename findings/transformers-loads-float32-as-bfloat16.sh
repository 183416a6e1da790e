#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.15.0): weights saved in float32 are loaded in bfloat16, because the config says so.
#
# Expected: `from_pretrained` without `dtype` gives the type of the file, or float32 as in version 4.
# Observed: it gives the type in config.json, and `save_pretrained(state_dict=...)` writes the type of the model there, not that of the
# tensors. So an average in float32 of a bfloat16 model is written in float32 and rounded on loading, without a warning, and so is one
# whose config was copied from the run. Without that entry, a file of bfloat16 and one float32 tensor is loaded in float32.
# Pass `dtype=torch.float32`. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 safetensors==0.8.0 torch==2.15.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

model = LlamaForCausalLM(LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=16)).bfloat16()
average = {name: tensor.float() * 1.001 for name, tensor in model.state_dict().items()}
model.save_pretrained("average", state_dict=dict(average))
config = json.loads(Path("average/config.json").read_text())
in_file = {tensor.dtype for tensor in load_file("average/model.safetensors").values()}
loaded, given = AutoModelForCausalLM.from_pretrained("average"), AutoModelForCausalLM.from_pretrained("average", dtype=torch.float32)
exact = [torch.equal(one.lm_head.weight.float(), average["lm_head.weight"]) for one in (loaded, given)]
print(f"in the file {in_file}, in the config {config['dtype']}, loaded {loaded.dtype}, exact: {exact[0]}; with dtype=float32 exact: {exact[1]}")
del config["dtype"]
Path("average/config.json").write_text(json.dumps(config))
without = AutoModelForCausalLM.from_pretrained("average").dtype
save_file({name: tensor if name == "lm_head.weight" else tensor.bfloat16() for name, tensor in average.items()}, "average/model.safetensors", {"format": "pt"})
mixed = AutoModelForCausalLM.from_pretrained("average").dtype
print(f"without the entry {without}; one float32 tensor among bfloat16 {mixed}")
assert in_file == {torch.float32} and given.dtype == torch.float32 and exact[1] and without == torch.float32
if loaded.dtype != torch.bfloat16 or exact[0]:
    raise SystemExit("changed: the type of the file is kept now")
PYTHON
