#!/usr/bin/env bash
# transformers 5.24.0 with schedulefree 1.4.1 (torch 2.15.0): what `model.safetensors` holds depends on whether the run evaluates.
#
# Expected: with `optim="schedule_free_adamw"` Trainer saves the averaged weights, which are those to use; or the ones that it trains,
# but always the same of the two.
# Observed: Trainer switches the optimizer to its averaged weights to evaluate, and back before the next step. Where an evaluation
# precedes a save, the checkpoint holds the averaged weights; in the same run without evaluation it holds the training ones. Only
# `train_mode` in optimizer.pt tells which. An average over checkpoints of a run whose evaluations are rarer than its saves mixes both.
# The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 transformers==5.24.0 accelerate==1.15.0 schedulefree==1.4.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
rows = [torch.randint(0, 64, (8,), generator=torch.Generator().manual_seed(i)) for i in range(64)]
items = [{"input_ids": row, "labels": row} for row in rows]

def train(name, **options):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes))
    arguments = TrainingArguments(name, optim="schedule_free_adamw", learning_rate=0.05, lr_scheduler_type="constant", max_steps=6, save_steps=2,
                                  per_device_train_batch_size=4, report_to=[], use_cpu=True, disable_tqdm=True, seed=0, **options)
    Trainer(model, arguments, train_dataset=items, eval_dataset=items[:4]).train()
    weights = load_file(f"{name}/checkpoint-6/model.safetensors")
    saved = torch.load(f"{name}/checkpoint-6/optimizer.pt", weights_only=False)
    return weights, saved["state"], saved["param_groups"][0]["train_mode"]

never, never_state, never_mode = train("never")
often, often_state, often_mode = train("often", eval_strategy="steps", eval_steps=2)
same_run = all(torch.allclose(never_state[i]["z"], often_state[i]["z"], atol=1e-4) for i in never_state)
norm = lambda tensors: sum(t.square().sum() for t in tensors).sqrt().item()
distance = norm([never[name] - often[name] for name in never]) / norm(never.values())
print("the same training:", same_run, "; train_mode without and with evaluation:", never_mode, often_mode)
print(f"distance of the saved weights: {distance:.3f} of their norm")
assert same_run, "the two runs were not the same one"
if never_mode == often_mode or distance < 0.01:
    raise SystemExit("changed: both runs save the same kind of weights")
PYTHON
