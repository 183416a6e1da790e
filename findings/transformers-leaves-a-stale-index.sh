#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.15.0): a model saved in one file over one saved in parts leaves the index of the parts.
#
# Expected: `save_pretrained` replaces what it wrote there before: it deletes the old parts, and so their index.
# Observed: the parts are deleted, but `model.safetensors.index.json` stays, and names files that are gone. transformers takes the
# single file first and does not notice. A reader that looks for the index first fails. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 safetensors==0.8.0 torch==2.15.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

model = LlamaForCausalLM(LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=16))
folder, index = Path("model"), Path("model/model.safetensors.index.json")
model.save_pretrained(folder, max_shard_size="1KB")
in_parts = sorted(path.name for path in folder.glob("*.safetensors"))
assert in_parts == sorted(set(json.loads(index.read_text())["weight_map"].values())) and len(in_parts) > 1, in_parts
model.save_pretrained(folder)
in_one = sorted(path.name for path in folder.glob("*.safetensors"))
named = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else None
print(f"in parts: {in_parts}; in one file: {in_one}; the index then names: {named}")
assert in_one == ["model.safetensors"], in_one
LlamaForCausalLM.from_pretrained(folder)
if named != in_parts:
    raise SystemExit("changed: the index is deleted or replaced now")
PYTHON
