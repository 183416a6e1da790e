# %% [markdown]
# # Which window of checkpoints makes the best merge?
#
# Every window of a run is merged into one resident model and scored by a function of our own. No merge is written but
# the best. Run it as a script, `python examples/python/score_windows.py RUN`, or cell by cell in an editor that knows
# `# %%`, such as VS Code or Jupyter with jupytext. It needs torch and transformers.

# %%
import sys

import torch
from transformers import AutoModelForCausalLM

import thalweg

run = sys.argv[1] if len(sys.argv) > 1 else "fixtures/hf-sharded"

# %% [markdown]
# The newest checkpoint is the model that all trials are loaded into, and what they are compared with.

# %%
newest = thalweg.open_run(run).checkpoints[-1]
model = AutoModelForCausalLM.from_pretrained(newest.path)
model.eval()

# %% [markdown]
# Our measure: the loss on fixed tokens. Put here whatever you trust: your own validation set, a benchmark, generations
# that a judge reads. It sees an ordinary model.


# %%
def evaluate(model):
    tokens = torch.arange(1, 65).reshape(2, 32)
    with torch.no_grad():
        return {"text/nll": float(model(tokens, labels=tokens).loss)}


# %% [markdown]
# Windows of two, three and four checkpoints, each averaged plainly and with more weight on newer ones. Sources are read
# once for several trials.

# %%
sweep = thalweg.sweep(run, [2, 3, 4], schemes=["sma", "wma", "ema:0.3"])
for trial in sweep.trials(model):
    trial.record(evaluate(model))

for trial in sorted(sweep.plans, key=lambda trial: trial.scores["text/nll"]):
    print(f"{trial.scores['text/nll']:.4f}  {trial.name}{'  (raw)' if trial.is_raw else ''}")

# %% [markdown]
# The study is the record, a table and a page, with the best merge beside them: `thalweg report scores` shows it.

# %%
study = sweep.write_study("scores", keep="best")
print(f"best: {study.best}; page: {study.page}")
