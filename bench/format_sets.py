"""Writes one set of checkpoints in several formats, each by the library that the format belongs to; used by `formats.py`.

A Llama-like model of about so many million parameters, in four checkpoints that differ a little:

    safetensors         one file for each checkpoint, bf16          safetensors
    torch               one .pt for each checkpoint, bf16           torch.save
    dcp                 sharded over 2 ranks, bf16                  torch.distributed.checkpoint
    megatron-dist       sharded over 2 ranks, bf16                  megatron.core.dist_checkpointing (torch_dist)
    zero1               bf16 with f32 masters and moments, 2 ranks  DeepSpeed's engine, ZeRO stage 1
    safetensors-f32     the masters of zero1                        deepspeed.utils.zero_to_fp32
    zero3               the same on 2 ranks, one checkpoint         DeepSpeed's engine, ZeRO stage 3
"""
import os
import shutil
import socket

N = 4
KINDS = ("safetensors", "torch", "dcp", "megatron-dist", "zero1", "safetensors-f32", "zero3")


def shapes(millions):
    """Names and shapes of about so many million parameters."""
    hidden, vocab = 1024, 32_000
    layer = 4 * hidden * hidden + 3 * hidden * 2816 + 2 * hidden
    n_layers = max(1, round((millions * 1e6 - 2 * vocab * hidden) / layer))
    out = {"model.embed_tokens.weight": (vocab, hidden), "lm_head.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for i in range(n_layers):
        start = f"model.layers.{i}."
        for name in "qkvo":
            out[f"{start}self_attn.{name}_proj.weight"] = (hidden, hidden)
        out[f"{start}mlp.gate_proj.weight"] = out[f"{start}mlp.up_proj.weight"] = (2816, hidden)
        out[f"{start}mlp.down_proj.weight"] = (hidden, 2816)
        out[f"{start}input_layernorm.weight"] = out[f"{start}post_attention_layernorm.weight"] = (hidden,)
    return out


def tensors(millions, k):
    """Names and f32 tensors of checkpoint k, one after another: only one is in memory at a time."""
    import torch
    for i, (name, shape) in enumerate(shapes(millions).items()):
        base = torch.randn(shape, generator=torch.Generator().manual_seed(i)) * 0.02
        yield name, base + torch.randn(shape, generator=torch.Generator().manual_seed(1000 * (k + 1) + i)) * 1e-3


def state(millions, k):
    import torch
    return {name: tensor.to(torch.bfloat16) for name, tensor in tensors(millions, k)}


def source(out, kind, k):
    """The path of checkpoint k of a kind, both counted from 0."""
    name = {"torch": "step-{}.pt", "megatron-dist": "iter_{:07}", "zero1": "global_step{}", "zero3": "global_step{}"}.get(kind, "step-{}")
    return os.path.join(out, kind, name.format(k + 1))


def save_rank(rank, kind, out, millions, port):
    """One of two ranks, which hold halves of all tensors."""
    import torch
    import torch.distributed as dist
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_SIZE="2",
                      CROSS_RANK="0", CROSS_SIZE="1", DS_ACCELERATOR="cpu")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    {"dcp": save_dcp, "megatron-dist": save_megatron, "zero1": save_deepspeed, "zero3": save_deepspeed}[kind](rank, kind, out, millions)
    dist.barrier()
    dist.destroy_process_group()


def half(tensor, rank):
    return tensor.chunk(2)[rank].clone()


def save_dcp(rank, kind, out, millions):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard
    import torch
    mesh = init_device_mesh("cpu", (2,))
    for k in range(N):
        held = {name: DTensor.from_local(half(tensor.to(torch.bfloat16), rank), mesh, [Shard(0)]) for name, tensor in tensors(millions, k)}
        dcp.save({"model": held}, checkpoint_id=source(out, kind, k))


def save_megatron(rank, kind, out, millions):
    import torch
    import torch.distributed as dist
    torch.cuda.current_device = lambda: torch.device("cpu")  # asked for, but nothing is put there
    torch.cuda.synchronize = lambda *a, **k: None
    from megatron.core import dist_checkpointing, parallel_state
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)
    for k in range(N):
        held = {name: dist_checkpointing.ShardedTensor.from_rank_offsets(name, half(tensor.to(torch.bfloat16), rank), (0, rank, 2))
                for name, tensor in tensors(millions, k)}
        path = source(out, kind, k)
        if rank == 0:
            os.makedirs(path)
        dist.barrier()
        dist_checkpointing.save(held | {"iteration": k + 1, "checkpoint_version": 3.0}, path, ("torch_dist", 1))


def save_deepspeed(rank, kind, out, millions):
    """Engines with the masters set to the tensors. ZeRO-1 has moments too, of a step without gradients."""
    import deepspeed
    import torch
    from deepspeed.utils import safe_set_full_fp32_param
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    model = torch.nn.Module()
    for name, tensor in tensors(millions, 0):
        *path, last = name.split(".")
        module = model
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]
        module.register_parameter(last, torch.nn.Parameter(tensor.to(torch.bfloat16)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    stage = int(kind[-1])
    config = {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
              "zero_optimization": {"stage": stage}}
    engine = deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]
    parameters = dict(engine.module.named_parameters())
    if stage == 1:
        engine.backward(sum((parameter * 0).sum() for parameter in parameters.values()))
        engine.step()
    for k in range(N if stage == 1 else 1):
        with torch.no_grad():
            for name, tensor in tensors(millions, k):
                safe_set_full_fp32_param(parameters[name], tensor)
                if stage == 1:
                    parameters[name].copy_(tensor)
        engine.save_checkpoint(os.path.join(out, kind), tag=f"global_step{k + 1}", client_state={"step": k + 1})


def make(kind, out, millions):
    """Writes the set of one kind, unless it exists."""
    done = os.path.join(out, kind, "complete")
    if os.path.exists(done):
        return
    shutil.rmtree(os.path.join(out, kind), ignore_errors=True)
    os.makedirs(os.path.join(out, kind))
    import torch
    if kind == "safetensors":
        from safetensors.torch import save_file
        for k in range(N):
            os.makedirs(source(out, kind, k))
            save_file(state(millions, k), os.path.join(source(out, kind, k), "model.safetensors"))
    elif kind == "torch":
        for k in range(N):
            torch.save({"model": state(millions, k), "step": k + 1}, source(out, kind, k))
    elif kind == "safetensors-f32":
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
        from safetensors.torch import save_file
        make("zero1", out, millions)
        for k in range(N):
            os.makedirs(source(out, kind, k))
            held = get_fp32_state_dict_from_zero_checkpoint(os.path.join(out, "zero1"), tag=f"global_step{k + 1}")
            save_file({name: tensor.contiguous() for name, tensor in held.items()}, os.path.join(source(out, kind, k), "model.safetensors"))
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torch.multiprocessing.spawn(save_rank, args=(kind, out, millions, port), nprocs=2)
    open(done, "w").close()
