#!/usr/bin/env bash
# Lightning 2.6.6 (torch 2.15.0): with EMAWeightAveraging the checkpoint's `state_dict` is the average, not the trained weights.
#
# Expected: `state_dict` holds the trained weights, and another key holds the average.
# Observed: the average is in `state_dict`, the trained weights are in `current_model_state`, and `averaging_state` holds
# only the counter. A tool that averages `state_dict` over steps therefore averages averages, and the distance of
# `state_dict` between steps shows a run that barely moves. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 lightning==2.6.6 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging, os, torch, warnings
warnings.filterwarnings("ignore"); logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
import lightning as L
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint

class Net(L.LightningModule):
    def __init__(self):
        super().__init__(); self.layer = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.layer.weight)
    def training_step(self, batch, i):
        return -self.layer.weight.sum()                      # each step of SGD with rate 1 adds 1
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)

trainer = L.Trainer(accelerator="cpu", max_steps=4, logger=False, enable_progress_bar=False, enable_model_summary=False,
                    callbacks=[EMAWeightAveraging(decay=0.5), ModelCheckpoint(dirpath=".", every_n_train_steps=4, save_top_k=-1)])
trainer.fit(Net(), torch.utils.data.DataLoader(torch.zeros(8, 1)))
file = [f for f in os.listdir(".") if f.endswith(".ckpt")][0]
saved = torch.load(file, weights_only=False)
average, trained = saved["state_dict"]["layer.weight"].item(), saved["current_model_state"]["layer.weight"].item()
print("trained weight after 4 steps: 4; state_dict:", average, "; current_model_state:", trained, "; averaging_state:", list(saved["averaging_state"]))
assert trained == 4.0 and average != 4.0 and 0 < average < 4
PYTHON
