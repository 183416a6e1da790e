#!/usr/bin/env bash
# torchmetrics 1.9.0 (torch 2.15.0): the perplexity of float16 logits is infinite if one token is unlikely, and that of bfloat16 is 1 % off.
#
# Expected: as `cross_entropy` of the logits in float32: `log_softmax`, which neither overflows nor loses digits.
# Observed: `Perplexity` takes the softmax in the type of the logits, and then its logarithm. A token of 30 nats has the probability
# 0 in float16, so the perplexity of the whole text is infinite where 8600 is right; in float32 that happens above 103 nats. The
# probabilities of bfloat16 have eight bits: 7612 where 7547 is right, on random logits, and the error does not average out. Give it
# `logits.float()`. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.15.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import math
import torch
from torchmetrics.text import Perplexity

def perplexities(logits, targets):
    metric = Perplexity()
    metric.update(logits, targets)
    right = torch.nn.functional.cross_entropy(logits.double().flatten(0, 1), targets.flatten()).exp().item()
    return metric.compute().item(), right

torch.manual_seed(0)
unlikely = torch.zeros(1, 4, 8)
unlikely[0, 0, 0] = 30
random, targets = 2 * torch.randn(4, 512, 1000), torch.randint(1000, (4, 512))
seen = {}
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    one = perplexities(unlikely.to(dtype), torch.ones(1, 4, dtype=torch.long))
    many = perplexities(random.to(dtype), targets)
    seen[dtype] = one, many
    print(f"{dtype}: one token of 30 nats: {one[0]:.1f} (right: {one[1]:.1f}); random logits: {many[0]:.1f} (right: {many[1]:.1f})")
for one, many in (seen[torch.float32],):
    assert abs(one[0] / one[1] - 1) < 1e-4 and abs(many[0] / many[1] - 1) < 1e-4, seen
if not math.isinf(seen[torch.float16][0][0]) or abs(seen[torch.bfloat16][1][0] / seen[torch.bfloat16][1][1] - 1) < 5e-3:
    raise SystemExit("changed: the perplexity of half-precision logits is right now")
PYTHON
