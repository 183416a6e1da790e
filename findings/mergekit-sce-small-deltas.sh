#!/usr/bin/env bash
# mergekit 0.1.5 (torch 2.15.0): `sce` weighs experts equally where their changes are as small as those of fine-tuning.
#
# Expected: experts count in proportion to the squares of their changes (Wan et al. 2024), whatever the unit: of two changes of the
# same direction, one twice the other, the merged one is (1 * 1 + 4 * 2) / 5 = 1.8 times the smaller one.
# Observed: so it is with changes of 1e-2. With changes of 1e-4 the result is 1.5 times: mean squares that add up to less than 1e-6
# are taken as zero, and zero means equal weights. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mergekit==0.1.5 torch==2.15.0 transformers==5.24.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup

base = torch.zeros(8, 8)
seen = {}
for size in (1e-2, 1e-4):
    group = TensorGroup.from_tensors([base, base + size, base + 2 * size], base_index=0, name="w")
    merged = registry.get("sce").merge_group(group, int8_mask=False, select_topk=1.0)
    seen[size] = round((merged / size).mean().item(), 4)
print("merged change over the smaller one, by size:", seen)
assert seen == {1e-2: 1.8, 1e-4: 1.5}, seen
PYTHON
