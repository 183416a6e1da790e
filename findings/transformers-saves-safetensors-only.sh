#!/usr/bin/env bash
# transformers 5.24.0: `save_pretrained(safe_serialization=False)` writes safetensors.
#
# Expected: `pytorch_model.bin`, as in version 4, or an error that says that the option is gone.
# Observed: the option is accepted without a warning and has no effect; the folder holds `model.safetensors` and no `.bin`.
# `from_pretrained` still loads `.bin` files. Jobs that look for `pytorch_model.bin` after an upgrade find an older one, or none.
# The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 transformers==5.24.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import os, warnings, torch
from transformers import LlamaConfig, LlamaForCausalLM
sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
model = LlamaForCausalLM(LlamaConfig(**sizes))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    model.save_pretrained("saved", safe_serialization=False)
print("files:", sorted(os.listdir("saved")), "; warnings about it:", [str(w.message) for w in told if "serialization" in str(w.message)])
assert "model.safetensors" in os.listdir("saved") and not any(name.endswith(".bin") for name in os.listdir("saved"))
assert not any("serialization" in str(w.message) for w in told)
os.mkdir("bin")
torch.save(model.state_dict(), "bin/pytorch_model.bin")
model.config.save_pretrained("bin")
loaded = LlamaForCausalLM.from_pretrained("bin")
assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
print("from_pretrained loads pytorch_model.bin")
PYTHON
