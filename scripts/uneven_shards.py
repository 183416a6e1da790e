#!/usr/bin/env python3
"""Merges checkpoints with the uneven shards of Megatron-FSDP (`--ckpt-format fsdp_dtensor`) and loads the merges with PyTorch, bit for bit.

    python scripts/uneven_shards.py target/debug/thalweg

Megatron-FSDP itself needs GPUs, so this writes what Megatron-LM's `save_checkpoint` hands to `torch.distributed.checkpoint.save`: parameters and moments as DTensors that three
ranks hold unevenly, one of them nothing, described by Megatron's own `preprocess_state_dict_for_uneven_dtensor`. Needs torch and megatron-fsdp (0.6.1; its imports need megatron-core).
Exits with 0 if everything is equal.
"""
import argparse
import os
import subprocess
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

SHAPES = {"embedding.weight": (6, 4), "bias": (5,), "linear_fc1.weight_w": (3, 2)}
# Rows that each rank holds.
ROWS = {6: (0, 5, 1), 5: (2, 0, 3), 3: (3, 0, 0)}
STEPS, PORT = (100, 200), 29561


def full(seed, name):
    generator = torch.Generator().manual_seed(1000 * seed + list(SHAPES).index(name))
    return torch.randn(SHAPES[name], generator=generator)


def save(rank, out):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(PORT), "RANK": str(rank), "WORLD_SIZE": "3"}
    dist.init_process_group("gloo")
    from megatron_fsdp.uneven_dtensor import preprocess_state_dict_for_uneven_dtensor

    mesh = init_device_mesh("cpu", (3,), mesh_dim_names=("dp",))

    def shard(whole):
        rows = ROWS[whole.shape[0]]
        start = sum(rows[:rank])
        local = whole[start : start + rows[rank]].contiguous()
        return DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride())

    for step in STEPS:
        moments = lambda name: {"exp_avg": shard(full(step + 1, name)), "exp_avg_sq": shard(full(step + 2, name).abs()), "step": torch.tensor(float(step))}
        state = {
            "model": {f"module.{name}": shard(full(step, name)) for name in SHAPES},
            "optimizer": {"state": {f"module.{name}": moments(name) for name in SHAPES}, "param_to_group_meta": {f"module.{name}": {"lr": 0.1} for name in SHAPES}},
            "args": argparse.Namespace(ckpt_format="fsdp_dtensor"),
            "iteration": step,
            "rng_state": {"(0, 0)": [{"random_rng_state": (1, 2)}]},
        }
        preprocess_state_dict_for_uneven_dtensor(state)
        dcp.save(state, storage_writer=dcp.FileSystemWriter(os.path.join(out, f"iter_{step:07d}")))
    dist.destroy_process_group()


def check(folder, averages):
    mean = lambda seed, name: ((full(STEPS[0] + seed, name).double() + full(STEPS[1] + seed, name).double()) / 2).float()
    faults = []
    for name in SHAPES:
        key = f"module.{name}"
        empty = lambda: torch.zeros(SHAPES[name])
        state = {"model": {key: empty()}, "optimizer": {"state": {key: {"exp_avg": empty()}}}}
        dcp.load(state, storage_reader=dcp.FileSystemReader(folder))
        moment = mean(1, name) if averages else full(STEPS[1] + 1, name)
        found = state["model"][key], state["optimizer"]["state"][key]["exp_avg"]
        faults += [f"{folder}: {name}" for a, b in zip(found, (mean(0, name), moment)) if not torch.equal(a, b)]
    return faults


def main():
    thalweg = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        run = os.path.join(folder, "run")
        mp.spawn(save, (run,), nprocs=3)
        faults = []
        for out, options in (("newest", []), ("average", ["--optimizer", "average"])):
            out = os.path.join(folder, out)
            subprocess.run([thalweg, "merge", "-q", run, "--last", "2", "-o", out, *options], check=True)
            faults += check(out, bool(options))
    print("\n".join(faults) or "equal: parameters, and moments kept and averaged")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
