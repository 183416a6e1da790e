#!/usr/bin/env python3
"""Loads an output of thalweg with the library that reads its format, and compares every tensor with the reference merge, bit for bit.

    python scripts/round_trip.py OUTPUT EXPECTED.safetensors [--prefix P] [--config CONFIG.json]

OUTPUT is a merged checkpoint, EXPECTED.safetensors the reference (a file of a fixture's `expected/`). The kind follows from the content:

    .metadata with metadata.json    Megatron torch_dist     megatron.core.dist_checkpointing.load
    .metadata                       DCP                     torch.distributed.checkpoint.load in a group of 1, then of 2 (gloo, sharded tensors)
    zero/                           DeepSpeed universal     torch.load of each parameter's fp32.pt
    config.json and weights         Hugging Face            transformers, and equal logits
    *.pt *.pth *.bin *.ckpt         torch                   torch.load with weights_only

Names in EXPECTED may lack a prefix that the output has (`model.`, `state_dict.model.`, `module.`). The script finds the prefix if exactly one
fits; otherwise give --prefix. With --config, a DCP output is also loaded into that transformers model and takes a training step, and the
losses before and after must equal those of the reference. Needs the libraries of the format: torch, safetensors, transformers,
megatron-core. Exits with 0 if everything is equal.
"""
import argparse
import json
import os
import shutil
import socket
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file

PREFIXES = ("", "model.", "state_dict.model.", "state_dict.", "module.", "model.model.")


def kind(path):
    names = os.listdir(path) if os.path.isdir(path) else []
    if ".metadata" in names:
        return "megatron" if "metadata.json" in names else "dcp"
    if "zero" in names:
        return "universal"
    if "config.json" in names:
        return "transformers"
    if os.path.isfile(path):
        return "torch"
    raise SystemExit(f"{path}: neither a checkpoint folder that this script knows nor a file")


def with_prefix(expected, there, prefix):
    """The reference under the output's names. If no prefix is given, exactly one must fit."""
    fitting = [p for p in PREFIXES if all(p + name in there for name in expected)] if prefix is None else [prefix]
    if len(fitting) != 1:
        missing = sorted(name for name in expected if name not in there)[:3]
        raise SystemExit(f"prefixes that fit: {fitting}; give --prefix. Not there without one: {missing}; there: {sorted(there)[:3]}")
    return {fitting[0] + name: tensor for name, tensor in expected.items()}


def faults_of(found, expected):
    faults = []
    for name, wanted in expected.items():
        tensor = found.get(name)
        if tensor is None:
            faults.append(f"{name} is missing")
        elif (tensor.dtype, tensor.shape) != (wanted.dtype, wanted.shape):
            faults.append(f"{name}: {tensor.dtype} {tuple(tensor.shape)}, expected {wanted.dtype} {tuple(wanted.shape)}")
        elif not torch.equal(bits(tensor), bits(wanted)):
            faults.append(f"{name}: {int((bits(tensor) != bits(wanted)).sum())} bytes differ")
    return faults


def bits(tensor):
    return tensor.detach().contiguous().flatten().view(torch.uint8) if tensor.numel() else torch.zeros(0, dtype=torch.uint8)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def join(rank, world, port):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)


def load_dcp(rank, world, port, path, expected, prefix, out):
    join(rank, world, port)
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor, Shard

    metadata = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    wanted = with_prefix(expected, metadata, prefix)
    # torch casts silently to the target's dtype, so compare the dtype in the metadata first.
    faults = [f"{name}: .metadata says {metadata[name].properties.dtype}" for name, t in wanted.items() if metadata[name].properties.dtype != t.dtype]
    mesh = init_device_mesh("cpu", (world,))
    state = {}
    for name, tensor in wanted.items():
        blank = torch.full_like(tensor, float("nan") if tensor.is_floating_point() else 0)
        state[name] = distribute_tensor(blank, mesh, [Shard(0)]) if world > 1 and tensor.dim() else blank
    dcp.load(state, checkpoint_id=path)
    found = {name: t.full_tensor() if hasattr(t, "full_tensor") else t for name, t in state.items()}
    faults += faults_of(found, wanted)
    if rank == 0:
        torch.save((faults, found if world == 1 else None, len(wanted)), out)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def load_megatron(rank, world, port, path, expected, prefix, out):
    torch.cuda.current_device = lambda: torch.device("cpu")  # megatron-core asks for it but puts nothing there
    join(rank, world, port)
    from megatron.core import dist_checkpointing

    # load_plain_tensors of megatron-core 0.16.1 does the same, but hands torch.empty the strides that newer versions of torch keep.
    metadata = torch.distributed.checkpoint.FileSystemReader(path).read_metadata().state_dict_metadata
    tensors = {name: torch.empty(t.size, dtype=t.properties.dtype, device="meta") for name, t in metadata.items() if hasattr(t, "size")}
    sharded = {name: dist_checkpointing.ShardedTensor.from_rank_offsets(name, t).without_data() for name, t in tensors.items()}
    found = dist_checkpointing.load(sharded, path, validate_access_integrity=False)
    wanted = with_prefix(expected, found, prefix)
    torch.save((faults_of(found, wanted), None, len(wanted)), out)
    torch.distributed.destroy_process_group()


def in_group(function, world, path, expected, prefix):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "result")
        torch.multiprocessing.spawn(function, args=(world, free_port(), path, expected, prefix, out), nprocs=world)
        return torch.load(out, weights_only=True)


def check_step(config_path, found, expected):
    """Compares the losses before and after one training step from both states, with the same data."""
    from transformers import AutoConfig, AutoModelForCausalLM

    losses = []
    for state in (found, expected):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(os.path.dirname(os.path.abspath(config_path))))
        model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        tokens = torch.randint(0, model.config.vocab_size, (4, 16), generator=torch.Generator().manual_seed(1))
        pair = []
        for _ in range(2):
            loss = model(input_ids=tokens, labels=tokens).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pair.append(loss.item())
        losses.append(pair)
    print(f"  losses before and after a step: {losses[0]}, of the reference {losses[1]}")
    return [] if losses[0] == losses[1] and losses[0][1] < losses[0][0] else ["the losses of a training step differ, or do not fall"]


def check_transformers(path, expected):
    from transformers import AutoModelForCausalLM

    ours = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
    faults = faults_of(dict(ours.state_dict()), expected)
    # The same loader reads the reference, from a copy of the folder with the reference's tensors.
    with tempfile.TemporaryDirectory() as folder:
        for name in os.listdir(path):
            if name.endswith(".json") and "index" not in name:
                shutil.copy(os.path.join(path, name), folder)
        save_file(expected, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    tokens = torch.randint(0, ours.config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        if not torch.equal(ours(tokens).logits, theirs(tokens).logits):
            faults.append("logits differ")
    return faults, len(expected)


def check_torch(path, expected, prefix):
    state = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("model", "state_dict", "module", "net"):
        if isinstance(state.get(key), dict):
            state = state[key]
            break
    wanted = with_prefix(expected, state, prefix)
    return faults_of(state, wanted), len(wanted)


def check_universal(path, expected):
    found = {}
    for name, tensor in expected.items():
        value = torch.load(os.path.join(path, "zero", name, "fp32.pt"), map_location="cpu", weights_only=True)
        value = value["param"] if isinstance(value, dict) else value
        found[name] = value.reshape(tensor.shape) if value.numel() == tensor.numel() else value
    return faults_of(found, expected), len(expected)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("expected")
    parser.add_argument("--prefix")
    parser.add_argument("--config", help="config.json of a transformers model; for DCP outputs")
    arguments = parser.parse_args()
    path, expected = arguments.output, load_file(arguments.expected)
    what = kind(path)
    print(f"{path}: {what}")
    if what == "dcp":
        faults = []
        for world in (1, 2):
            wrong, found, n = in_group(load_dcp, world, path, expected, arguments.prefix)
            print(f"  torch.distributed.checkpoint.load in a group of {world}: {n} tensors, {len(wrong)} faults")
            faults += wrong
            if found is not None and arguments.config:
                plain = dict(zip(expected, (found[name] for name in with_prefix(expected, found, arguments.prefix)), strict=True))
                faults += check_step(arguments.config, plain, expected)
    elif what == "megatron":
        faults, _, n = in_group(load_megatron, 1, path, expected, arguments.prefix)
    elif what == "universal":
        faults, n = check_universal(path, expected)
    elif what == "transformers":
        faults, n = check_transformers(path, expected)
    else:
        faults, n = check_torch(path, expected, arguments.prefix)
    for fault in faults[:10]:
        print("  " + fault)
    print(f"{n} tensors: " + ("equal" if not faults else f"{len(faults)} faults"))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
