#!/usr/bin/env bash
# torch 2.15.0: a full state dict of an FSDP2 model keeps changing with the training on one rank, and does not on two.
#
# Expected: `full_tensor()` and `get_model_state_dict(full_state_dict=True)` gather the shards into new tensors, so they are
# snapshots.
# Observed: on a mesh of one rank there is nothing to gather, and both return the parameter's own memory, also with
# `cpu_offload=True` if the parameter is on the CPU. The next optimizer step changes the "snapshot", so
# states that are kept from several steps are all the newest one. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
cd "$folder"
cat > main.py <<'PYTHON'
import os, torch, torch.distributed as dist, torch.multiprocessing as mp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

def run(rank, world):
    dist.init_process_group("gloo", init_method=f"file://{os.getcwd()}/store{world}", rank=rank, world_size=world)
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4, bias=False)
    fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = lambda **options: get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, **options)).get("weight")
    kept = {"full_tensor": model.weight.full_tensor(), "full_state_dict": state(), "with cpu_offload": state(cpu_offload=True)}
    before = {name: tensor.clone() for name, tensor in kept.items() if tensor is not None}
    model(torch.ones(1, 4)).sum().backward(); optimizer.step()
    if rank == 0:
        same = {name: torch.equal(kept[name], tensor) for name, tensor in before.items()}
        print(f"ranks: {world}, unchanged by a step: {same}", flush=True)
        assert len(same) == 3 and set(same.values()) == {world > 1}, same
    dist.destroy_process_group()

if __name__ == "__main__":
    for world in (1, 2):
        mp.spawn(run, args=(world,), nprocs=world)
PYTHON
"$folder/venv/bin/python" main.py
