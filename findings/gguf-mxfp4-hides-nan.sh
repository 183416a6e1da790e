#!/usr/bin/env bash
# gguf 0.19.0: quantizing a block with a NaN to MXFP4 gives a block of zeros.
#
# Expected: what the older types do: the block becomes NaN, so a model that diverged still shows it; or an error.
# Observed: `quantize` to Q8_0 and Q4_0 gives NaN for all 32 numbers of a block with a NaN. MXFP4 gives 32 zeros, also for the 31 finite
# numbers beside it, without an error (NumPy warns of a cast). So a broken tensor becomes a clean one that lacks some blocks, and no
# check of the file finds it. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gguf==0.19.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize

values = np.linspace(-1, 1, 64, dtype=np.float32)
values[5] = np.nan
seen = {}
for kind in (Kind.Q8_0, Kind.Q4_0, Kind.MXFP4):
    block = dequantize(quantize(values, kind), kind)[:32]
    seen[kind] = int(np.isnan(block).sum()), int((block == 0).sum())
    print(f"{kind.name} of a block with one NaN: {seen[kind][0]} NaN, {seen[kind][1]} zeros")
assert seen[Kind.Q8_0][0] == seen[Kind.Q4_0][0] == 32, seen
if seen[Kind.MXFP4] != (0, 32):
    raise SystemExit("changed: MXFP4 shows NaN now")
PYTHON
