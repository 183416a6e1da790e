#!/usr/bin/env bash
# DeepSpeed 0.19.8 (torch 2.15.0): `ds_to_universal` refuses a pipeline whose second layer is a function.
#
# Expected: the folder that `save_checkpoint` wrote is converted.
# Observed: "seems a bogus DeepSpeed checkpoint folder: Cannot find layer_01* files in there". Only layers with weights have files, and the
# second layer of every GPT-NeoX model is a function. The script fails when this changes.
# It runs on the CPU and needs g++ (DeepSpeed builds a helper for gloo).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
DS_BUILD_OPS=0 "$folder/venv/bin/pip" install --quiet setuptools wheel ninja torch==2.15.0 deepspeed==0.19.8 numpy==2.4.6
cd "$folder"
export PATH="$folder/venv/bin:$PATH" DS_ACCELERATOR=cpu RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 LOCAL_SIZE=1 CROSS_RANK=0 CROSS_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=0
cat > main.py <<'PYTHON'
import os, subprocess, sys, torch, torch.distributed as dist
dist.init_process_group("gloo", init_method=f"file://{os.getcwd()}/store", rank=0, world_size=1)
import deepspeed
deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
from deepspeed.pipe import LayerSpec, PipelineModule
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

def convert(second, name):
    torch.manual_seed(0)
    layers = [LayerSpec(torch.nn.Linear, 8, 8), second, LayerSpec(torch.nn.Linear, 8, 8)]
    net = PipelineModule(layers, topology=PipeModelDataParallelTopology(num_pp=1, num_mp=1, num_dp=1), loss_fn=torch.nn.functional.mse_loss)
    engine, *_ = deepspeed.initialize(model=net, optimizer=torch.optim.AdamW(net.parameters(), lr=0.01), config={
        "train_micro_batch_size_per_gpu": 4, "bf16": {"enabled": True}, "zero_optimization": {"stage": 1}, "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False})
    batch = torch.ones(4, 8).bfloat16()
    engine.train_batch(iter([(batch, batch)] * 4))
    engine.save_checkpoint(name, tag="global_step1")
    print(sorted(file for file in os.listdir(f"{name}/global_step1") if file.startswith("layer")))
    done = subprocess.run([sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--input_folder", f"{name}/global_step1", "--output_folder",
                           f"{name}/universal", "--inject_missing_state", "--num_extract_workers", "1", "--num_merge_workers", "1"], capture_output=True, text=True)
    return done.stderr

assert "bogus DeepSpeed checkpoint folder: Cannot find layer_01*" not in convert(LayerSpec(torch.nn.Linear, 8, 8), "modules")
fault = convert(lambda x: x, "function")
print(fault.strip().splitlines()[-1])
assert "bogus DeepSpeed checkpoint folder: Cannot find layer_01*" in fault
PYTHON
"$folder/venv/bin/python" main.py
