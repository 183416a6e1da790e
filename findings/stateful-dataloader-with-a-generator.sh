#!/usr/bin/env bash
# torchdata 0.11.0 (torch 2.15.0): a resumed `StatefulDataLoader` with a generator shuffles all later epochs differently.
#
# Expected: after `load_state_dict` the rest of the epoch and the epochs after it are those of the run that was not interrupted,
# above all if the order comes from a generator that the caller seeded.
# Observed: so it is without a generator, whatever the seed of the new process. With `generator=` and no workers the interrupted epoch
# is right, but each later epoch has another order, even if the state is that of the end of an epoch. With two workers it is right.
# The number of workers changes the order of the run itself, too. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchdata==0.11.0 torch==2.15.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

def make(seed, n_workers, own):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(7) if own else None
    return StatefulDataLoader(list(range(12)), batch_size=2, shuffle=True, num_workers=n_workers, generator=generator)

def epoch(batches):
    return [number for batch in batches for number in batch.tolist()]

resumed, first = {}, {}
for own in (False, True):
    for n_workers in (0, 2):
        loader = make(0, n_workers, own)
        whole = [epoch(loader) for _ in range(3)]
        interrupted = make(0, n_workers, own)
        batches = iter(interrupted)
        for _ in range(3):
            next(batches)
        state = interrupted.state_dict()
        again = make(0 if own else 99, n_workers, own)
        again.load_state_dict(state)
        seen = [epoch(again) for _ in range(3)]
        same = [whole[0][6:] == seen[0], whole[1] == seen[1], whole[2] == seen[2]]
        resumed[own, n_workers], first[own, n_workers] = same, whole[0]
        print(f"{'own' if own else 'no'} generator, {n_workers} workers: the same in the resumed epoch and in the two after it: {same}")
        if own and not n_workers:
            print("  the next epoch:", whole[1], "\n  when resumed:  ", seen[1])
assert all(resumed[False, 0] + resumed[False, 2]) and resumed[True, 0][0], resumed
if resumed[True, 0] != [True, False, False] or not all(resumed[True, 2]) or first[True, 0] == first[True, 2]:
    raise SystemExit("changed: epochs after a resume have another order now")
PYTHON
