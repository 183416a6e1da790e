#!/usr/bin/env bash
# onnx 1.23.2: saving over a model with external data keeps the old weights in the file, and saving empties the model.
#
# Expected: `save_model(..., save_as_external_data=True)` writes the same files each time, and leaves the model in memory as it was.
# Observed: the weights are appended to the data file that is there, so it grows by all of them with each save, though the model points
# at the last part only. And the model in memory has lost its weights: they are now a reference to that file, so a second save
# to another folder raises FileNotFoundError. The script fails when one of these changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import os
import numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper

def model():
    weight = numpy_helper.from_array(np.arange(1000, dtype=np.float32), "weight")
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1000])
    return helper.make_model(helper.make_graph([helper.make_node("Identity", ["weight"], ["output"])], "graph", [], [output], [weight]))

def save(one, folder):
    os.makedirs(folder, exist_ok=True)
    onnx.save_model(one, f"{folder}/model.onnx", save_as_external_data=True, location="model.data", size_threshold=0)
    return os.path.getsize(f"{folder}/model.data")

sizes = [save(model(), "a") for _ in range(3)]
loaded = numpy_helper.to_array(onnx.load("a/model.onnx").graph.initializer[0])
assert np.array_equal(loaded, np.arange(1000)), loaded
kept = model()
save(kept, "b")
n_bytes = len(kept.graph.initializer[0].raw_data)
try:
    second = save(kept, "c")
except FileNotFoundError as error:
    second = type(error).__name__
print("sizes of the data file after each save:", sizes)
print("bytes of weights in memory after saving:", n_bytes, "; a second save elsewhere:", second)
if sizes != [4000, 8000, 12000] or n_bytes != 0 or second != "FileNotFoundError":
    raise SystemExit("changed: the file is replaced, or the model keeps its weights now")
PYTHON
