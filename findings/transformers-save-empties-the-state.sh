#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.15.0): `save_pretrained(state_dict=...)` empties the dictionary that it is given.
#
# Expected: the dictionary is written and stays as it is.
# Observed: each tensor is removed once it is written, so the dictionary has no entries left. A script that keeps an average in a
# dictionary and saves it this way has lost it. Its next save writes only the configs, without an error; in the folder of the save before,
# that one's weights stay and look like the new ones. Pass `dict(state)`. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 safetensors==0.8.0 torch==2.15.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from pathlib import Path
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

model = LlamaForCausalLM(LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=16))
average = {name: tensor.clone() for name, tensor in model.state_dict().items()}
seen = [len(average)]

def save(folder, state):
    model.save_pretrained(folder, state_dict=state)
    seen.append((len(average), sorted(path.name for path in Path(folder).glob("*.safetensors"))))

save("copied", dict(average))
save("saved", average)
n_in_file = len(load_file("saved/model.safetensors"))
save("elsewhere", average)
save("saved", average)
print("tensors in the dictionary:", seen[0], "; in the file:", n_in_file)
for name, (n_tensors, files) in zip(("from a copy", "first", "second, elsewhere", "third, in the folder of the first"), seen[1:]):
    print(f"after the save {name}: {n_tensors} tensors in the dictionary, files {files}")
assert seen[1] == (seen[0], ["model.safetensors"]) and n_in_file == seen[0], seen
if seen[2:] != [(0, ["model.safetensors"]), (0, []), (0, ["model.safetensors"])]:
    raise SystemExit("changed: the dictionary keeps its tensors now")
PYTHON
