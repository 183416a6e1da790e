#!/usr/bin/env bash
# accelerate 1.15.0 (torch 2.15.0, torchdata 0.11.0): an epoch that is resumed in its middle continues in another order.
#
# Expected: `load_state` and `skip_first_batches`, as documented, or `use_stateful_dataloader=True`, give the batches that were left of
# the shuffled epoch.
# Observed: the order of an epoch is drawn from the random state at its start, but the saved state is that of the middle. The resumed
# epoch draws another order and skips as many batches of that one: some samples of the epoch are seen twice and others never, without a
# warning. The stateful loader does the same, though torchdata's own resumes rightly. `use_seedable_sampler=True`, which is not
# the default, is right. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet accelerate==1.15.0 torchdata==0.11.0 torch==2.15.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.utils.data import DataLoader

def make(**options):
    AcceleratorState._reset_state(True)
    set_seed(0)
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**options))
    model = torch.nn.Linear(1, 1)
    return accelerator, *accelerator.prepare(model, torch.optim.SGD(model.parameters()), DataLoader(list(range(12)), batch_size=2, shuffle=True))

def resume(name, **options):
    accelerator, _, _, loader = make(**options)
    epoch = []
    for number, batch in enumerate(loader):
        epoch += batch.tolist()
        if number == 2:
            accelerator.save_state(name)
    accelerator, _, _, loader = make(**options)
    accelerator.load_state(name)
    rest = loader if options.get("use_stateful_dataloader") else accelerator.skip_first_batches(loader, 3)
    resumed = [number for batch in rest for number in batch.tolist()]
    print(f"{name}: seen {epoch[:6]}, left {epoch[6:]}, resumed with {resumed}; twice: {sorted(set(epoch[:6]) & set(resumed))}")
    return epoch[6:], resumed

left, resumed = resume("seedable", use_seedable_sampler=True)
assert left == resumed, (left, resumed)
for name, options in {"default": {}, "stateful": {"use_stateful_dataloader": True}}.items():
    left, resumed = resume(name, **options)
    assert len(left) == len(resumed)
    if sorted(left) == sorted(resumed):
        raise SystemExit(f"changed: the epoch is resumed rightly now ({name})")
PYTHON
