#!/usr/bin/env python3
"""Trains tiny models with the real libraries, merges their checkpoints, and resumes training from the merge as the library does.

    cargo build && python scripts/resumed_runs.py target/debug/thalweg [CASE ...]

    torch                   a file of {model, optimizer, step, rng}                    torch.load
    bin                     sharded pytorch_model.bin                                  transformers.AutoModelForCausalLM.from_pretrained
    dcp                     FSDP2 on 2 ranks: model, optim, step                       dcp.load and set_state_dict on 1 and 2 ranks
    zero1 zero2 zero3       DeepSpeed on 2 ranks, bf16                                 engine.load_checkpoint
    universal               ds_to_universal of ZeRO 1                                  engine.load_checkpoint with load_universal, on 1 and 2 ranks
    megatron-f32            Megatron-Core torch_dist, 2 tensor ranks                   dist_checkpointing.load
    megatron-bf16           the same with masters
    megatron-full           2 data ranks, distributed optimizer, fully_reshardable
    megatron-dp             the same, dp_reshardable: the optimizer is left out        dist_checkpointing.load of the model, reload_model_params

For each case three checkpoints are merged in the default format, and resumed from. The script compares, bit for bit: the parameters, and the masters
if there are any, with averages that PyTorch makes in f64 from what training had in memory and rounds once; the optimizer's state and the step with
those resumed from the newest checkpoint; the losses before and after one training step, and the parameters after it, with those from a reference
merge, in which PyTorch rewrote the newest checkpoint. Then `convert` writes the merge in the other formats, and their libraries load them.

Everything runs on the CPU in gloo. Needs torch, transformers, deepspeed with ninja on the path and g++, and megatron-core. Exits with 0 if everything is equal.
"""
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile

import round_trip
import torch
import torch.distributed as dist
from round_trip import bits, free_port

STEPS = (2, 4, 6)
SIZES = {"vocab_size": 41, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


# ---------------------------------------------------------------- what all cases share
def rounded(x, dtype):
    """x, which is f64, rounded once to nearest even. PyTorch would go to bf16 through f32, and so round twice."""
    f = x.float()
    if dtype != torch.bfloat16:
        return f.to(dtype)
    f = torch.where(f.double().abs() > x.abs(), torch.nextafter(f, torch.zeros_like(f)), f)  # towards zero
    return (f.view(torch.int32) | (f.double() != x).int()).view(torch.float32).bfloat16()  # to odd: the last bit says that something was cut off


def average(tensors, dtype=None):
    return rounded(sum(t.double() for t in tensors) / len(tensors), dtype or tensors[0].dtype)


def averages(states, dtype=None):
    return {name: average([state[name] for state in states], dtype) for name in states[0]}


def flat(value, path=""):
    """The tensors and numbers in nested containers, by path."""
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: leaf for key, inner in items for name, leaf in flat(inner, f"{path}/{key}").items()}
    value = value.full_tensor() if hasattr(value, "full_tensor") else value
    return {path: value.detach().clone()} if torch.is_tensor(value) else {path: torch.tensor(float(value))} if isinstance(value, (int, float)) else {}


def make_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False, attn_implementation="eager"))


def batch(step, rank=0):
    return torch.randint(0, SIZES["vocab_size"], (4, 12), generator=torch.Generator().manual_seed(1000 * step + rank))


def loss_of(model, tokens):
    return model(input_ids=tokens, labels=tokens).loss


def copy_state(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def start_rank(rank, world, port, function, arguments, out):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), LOCAL_SIZE=str(world), CROSS_RANK="0", CROSS_SIZE="1",
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), DS_ACCELERATOR="cpu", HF_HUB_OFFLINE="1")
    dist.init_process_group("gloo", rank=rank, world_size=world)
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet if not os.environ.get("VERBOSE") else sys.stdout):
        result = function(rank, world, *arguments)
    if rank == 0:
        torch.save(result, out)
    dist.barrier()
    dist.destroy_process_group()


def in_group(function, world, *arguments):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "result")
        torch.multiprocessing.spawn(start_rank, args=(world, free_port(), function, arguments, out), nprocs=world)
        return torch.load(out, weights_only=False)


# ---------------------------------------------------------------- torch.save files
def train_torch(rank, world, folder):
    model, states = make_model(), {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(1, max(STEPS) + 1):
        optimizer.zero_grad()
        loss_of(model, batch(step)).backward()
        optimizer.step()
        if step in STEPS:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "rng": torch.get_rng_state()}, f"{folder}/step_{step}.pt")
            states[step] = {"params": copy_state(model)}
    return states


def resume_torch(rank, world, path):
    state, model = torch.load(path, weights_only=True), make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    found = {"params": copy_state(model), "optimizer": flat(optimizer.state_dict()), "step": state["step"]}
    return found | take_step(model, optimizer, batch(state["step"] + 1))


def take_step(model, optimizer, tokens):
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = loss_of(model, tokens)
        losses.append(loss.item())
        if len(losses) == 1:
            loss.backward()
            optimizer.step()
    return {"losses": losses, "after": flat(model.state_dict())}


def refer_torch(sources, out, states):
    state = torch.load(sources[-1], weights_only=True)
    state["model"].update(averages([torch.load(path, weights_only=True)["model"] for path in sources]))
    torch.save(state, out)


# ---------------------------------------------------------------- shards of .bin
def train_bin(rank, world, folder):
    from huggingface_hub import split_torch_state_dict_into_shards

    model, states = make_model(), {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(1, max(STEPS) + 1):
        optimizer.zero_grad()
        loss_of(model, batch(step)).backward()
        optimizer.step()
        if step in STEPS:
            half, place = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}, f"{folder}/checkpoint-{step}"
            # transformers 5 saves safetensors only; these are the files that version 4 wrote.
            split = split_torch_state_dict_into_shards(half, filename_pattern="pytorch_model{suffix}.bin", max_shard_size=6000)
            model.config.dtype = torch.bfloat16
            model.config.save_pretrained(place)
            for file, names in split.filename_to_tensors.items():
                torch.save({name: half[name] for name in names}, f"{place}/{file}")
            with open(f"{place}/pytorch_model.bin.index.json", "w") as file:
                json.dump({"metadata": split.metadata, "weight_map": split.tensor_to_filename}, file)
            states[step] = {"params": {name: tensor.clone() for name, tensor in half.items()}}
    return states


def resume_bin(rank, world, path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto", attn_implementation="eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return {"params": copy_state(model), "optimizer": {}, "step": 0} | take_step(model, optimizer, batch(1))


def refer_bin(sources, out, states):
    shutil.copytree(sources[-1], out)
    for name in os.listdir(out):
        if name.endswith(".bin"):
            torch.save(averages([torch.load(f"{source}/{name}", weights_only=True) for source in sources]), f"{out}/{name}")


# ---------------------------------------------------------------- distributed checkpoints of PyTorch
def fsdp(world):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, mesh = make_model(), init_device_mesh("cpu", (world,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def train_dcp(rank, world, folder):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_state_dict

    (model, optimizer), states = fsdp(world), {}
    for step in range(1, max(STEPS) + 1):
        optimizer.zero_grad()
        loss_of(model, batch(step, rank)).backward()
        optimizer.step()
        if step in STEPS:
            params, moments = get_state_dict(model, optimizer)
            dcp.save({"model": params, "optim": moments, "step": step, "rng": torch.get_rng_state()}, checkpoint_id=f"{folder}/step-{step}")
            states[step] = {"params": {k: v.clone() for k, v in get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)).items()}}
    return states


def resume_dcp(rank, world, path):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    model, optimizer = fsdp(world)
    params, moments = get_state_dict(model, optimizer)
    state = {"model": params, "optim": moments, "step": 0, "rng": torch.get_rng_state()}
    dcp.load(state, checkpoint_id=path)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"])
    torch.set_rng_state(state["rng"])
    params, moments = get_state_dict(model, optimizer)
    found = {"params": {name: tensor.full_tensor().clone() for name, tensor in params.items()}, "optimizer": flat(moments), "step": state["step"]}
    return found | take_step(model, optimizer, batch(state["step"] + 1, rank))


def refer_dcp(sources, out, states):
    """Rewrites each chunk of the parameters, and of their masters, in a copy of the newest checkpoint: a tensor saved again has the same length."""
    from torch.distributed.checkpoint import FileSystemReader

    shutil.copytree(sources[-1], out)
    places = [FileSystemReader(source).read_metadata().storage_data for source in sources]
    masters = {index.fqn for index in places[0] if index.fqn.startswith("optimizer.state.fp32_param.")}

    def read(source, place):
        with open(f"{source}/{place.relative_path}", "rb") as file:
            file.seek(place.offset)
            return torch.load(io.BytesIO(file.read(place.length)), weights_only=True)

    for index, place in places[-1].items():
        tensors = [read(source, by_index[index]) for source, by_index in zip(sources, places, strict=True)] if index.offset is not None else []
        if not tensors or not (index.fqn.startswith("model.") or not index.fqn.startswith(("optim", "step", "rng"))) and index.fqn not in masters:
            continue
        mean = average(tensors)
        if tensors[0].dtype == torch.bfloat16 and masters:
            mean = states["low"][index.fqn][tuple(slice(o, o + n) for o, n in zip(index.offset, mean.shape))].reshape(mean.shape)
        buffer = io.BytesIO()
        torch.save(mean, buffer)
        assert buffer.tell() == place.length, index
        with open(f"{out}/{place.relative_path}", "r+b") as file:
            file.seek(place.offset)
            file.write(buffer.getvalue())


# ---------------------------------------------------------------- DeepSpeed
def deepspeed_engine(stage, universal=False):
    import deepspeed

    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    model = make_model()
    groups = [[p for p in model.parameters() if (p.dim() > 1) == is_matrix] for is_matrix in (True, False)]
    optimizer = torch.optim.AdamW([{"params": groups[0], "weight_decay": 0.1}, {"params": groups[1], "weight_decay": 0.0}], lr=1e-2)
    config = {"train_micro_batch_size_per_gpu": 4, "bf16": {"enabled": True}, "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
              "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 100}, "communication_data_type": "fp32",
              "checkpoint": {"load_universal": universal}}
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]


def deepspeed_state(engine, what):
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if what == "masters":
        return {name: safe_get_full_fp32_param(p).detach().clone() for name, p in engine.module.named_parameters()}
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):  # ZeRO 1 and 2 link the moments to the parameters in the first step
        engine.optimizer._lazy_init_hp_params_optimizer_state()
    return {f"{name}/{key}": safe_get_full_optimizer_state(p, key).detach().clone() for name, p in engine.module.named_parameters() for key in ("exp_avg", "exp_avg_sq")}


def module_params(engine):
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        return {name: p.detach().clone() for name, p in engine.module.named_parameters()}


def train_deepspeed(rank, world, folder, stage):
    engine, states = deepspeed_engine(stage), {}
    for step in range(1, max(STEPS) + 1):
        engine.backward(loss_of(engine, batch(step, rank)))
        engine.step()
        if step in STEPS:
            engine.save_checkpoint(folder, tag=f"global_step{step}", client_state={"my_step": step})
            states[step] = {"masters": deepspeed_state(engine, "masters"), "params": module_params(engine)}
    return states


def resume_deepspeed(rank, world, path, stage, universal=False):
    engine = deepspeed_engine(stage, universal)
    loaded, client = engine.load_checkpoint(os.path.dirname(path), tag=os.path.basename(path))
    assert loaded and client["my_step"] == engine.global_steps
    found = {"params": module_params(engine), "masters": deepspeed_state(engine, "masters"), "optimizer": deepspeed_state(engine, "moments"), "step": engine.global_steps}
    tokens, losses = batch(engine.global_steps + 1, rank), []
    for _ in range(2):
        loss = loss_of(engine, tokens)
        losses.append(loss.item())
        if len(losses) == 1:
            engine.backward(loss)
            engine.step()
    return found | {"losses": losses, "after": deepspeed_state(engine, "masters")}


def refer_deepspeed(sources, out, states):
    shutil.copytree(sources[-1], out)
    for folder, _, names in os.walk(out):
        for name in names:
            path = os.path.join(folder, name)
            others = [path.replace(out, source, 1) for source in sources]
            if name.endswith("_optim_states.pt"):
                state, inputs = torch.load(path, weights_only=False), [torch.load(p, weights_only=False)["optimizer_state_dict"] for p in others]
                key = "fp32_flat_groups" if "fp32_flat_groups" in inputs[0] else "single_partition_of_fp32_groups"
                state["optimizer_state_dict"][key] = [average(parts) for parts in zip(*(i[key] for i in inputs))]
                torch.save(state, path)
            elif name.endswith("_model_states.pt"):
                state = torch.load(path, weights_only=False)
                state["module"].update({k: v for k, v in states["low"].items() if torch.is_tensor(state["module"].get(k)) and state["module"][k].numel() == v.numel()})
                torch.save(state, path)
            elif name == "fp32.pt":
                state, inputs = torch.load(path, weights_only=False), [torch.load(p, weights_only=False) for p in others]
                state["param"] = average([i["param"] for i in inputs])
                torch.save(state, path)


def make_universal(folder, out):
    for step in STEPS:
        subprocess.run([sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--input_folder", f"{folder}/global_step{step}", "--output_folder",
                        f"{out}/global_step{step}_universal", "--inject_missing_state", "--num_extract_workers", "1", "--num_merge_workers", "1"],
                       check=True, capture_output=True, env=os.environ | {"DS_ACCELERATOR": "cpu"})


# ---------------------------------------------------------------- Megatron-Core
IN_BUFFERS = "dp_reshardable"  # the masters of the distributed optimizer, cut for its ranks


class OnCpu(torch.overrides.TorchFunctionMode):
    """Megatron-Core asks for CUDA tensors and streams in a few places; here they are tensors of the CPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = "cpu"
        if function is torch.Tensor.cuda:
            return args[0]
        result = function(*args, **kwargs)
        if function is torch.Tensor.type and isinstance(result, str):
            return result.replace("torch.", "torch.cuda.")
        return result


@contextlib.contextmanager
def megatron(tensor_parallel, half, is_distributed):
    """A model of Megatron-Core and its optimizer."""
    from megatron.core import parallel_state
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.tensor_parallel import random
    from megatron.core.transformer.transformer_config import TransformerConfig

    torch.cuda.current_device = lambda: torch.device("cpu")
    torch.cuda.synchronize = torch.cuda.empty_cache = lambda *a, **k: None
    random.CudaRNGStatesTracker.fork = lambda self, name="": contextlib.nullcontext()
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=tensor_parallel)
    dtypes = {"bf16": True, "params_dtype": torch.bfloat16} if half else {}
    config = TransformerConfig(num_layers=2, hidden_size=16, num_attention_heads=4, num_query_groups=2, ffn_hidden_size=24, use_cpu_initialization=True, normalization="RMSNorm",
                               gated_linear_unit=True, activation_func=torch.nn.functional.silu, add_bias_linear=False, hidden_dropout=0.0, attention_dropout=0.0,
                               bias_activation_fusion=False, masked_softmax_fusion=False, persist_layer_norm=False, gradient_accumulation_fusion=False,
                               tensor_model_parallel_size=tensor_parallel, **dtypes)
    torch.manual_seed(0)
    model = GPTModel(config, get_gpt_layer_local_spec(normalization="RMSNorm"), vocab_size=42, max_sequence_length=12, position_embedding_type="rope",
                     share_embeddings_and_output_weights=False)
    with OnCpu():
        model = DistributedDataParallel(config, DistributedDataParallelConfig(use_distributed_optimizer=is_distributed), model.bfloat16() if half else model)
        yield model, get_megatron_optimizer(OptimizerConfig(optimizer="adam", lr=1e-2, use_distributed_optimizer=is_distributed, **dtypes), [model])
    parallel_state.destroy_model_parallel()


def megatron_loss(model, step):
    from megatron.core import parallel_state

    tokens = batch(step, parallel_state.get_data_parallel_rank())
    n = tokens.shape[1]
    mask = torch.triu(torch.ones(1, 1, n, n, dtype=torch.bool), 1)
    return model(tokens, torch.arange(n)[None].expand(len(tokens), -1), mask, labels=torch.roll(tokens, -1, 1))[:, :-1].float().mean()


def megatron_step(model, optimizer, step):
    model.zero_grad_buffer()
    optimizer.zero_grad()
    loss = megatron_loss(model, step)
    loss.backward()
    model.finish_grad_sync()
    optimizer.step()
    return loss.item()


def local_masters(model, optimizer):
    """This rank's masters: (name, first element, tensor)."""
    names, found = {p: name for name, p in model.module.named_parameters()}, []
    for one in getattr(optimizer, "chained_optimizers", [optimizer]):
        if hasattr(one, "shard_fp32_from_float16_groups"):
            for halves, shards in zip(one.model_float16_groups, one.shard_fp32_from_float16_groups, strict=True):
                found += [(names[p], one._get_model_param_range_map(p)["param"].start, shard) for p, shard in zip(halves, shards, strict=True)]
        elif hasattr(one, "fp32_from_float16_groups"):
            # The optimizer puts its masters into the place of the parameters, in the same order.
            for halves, masters in zip(one.float16_groups, one.fp32_from_float16_groups, strict=True):
                found += [(names[p], 0, master) for p, master in zip(halves, masters, strict=True)]
    return found


def gathered(items):
    """All ranks' tensors by name; those of one name are put together by their first element."""
    parts, found = [None] * dist.get_world_size(), {}
    dist.all_gather_object(parts, [(name, start, tensor.detach().clone().flatten()) for name, start, tensor in items])
    for name, start, tensor in (item for part in parts for item in part):
        found.setdefault(name, {})[start] = tensor
    return {name: torch.cat([tensor for _, tensor in sorted(starts.items())]) for name, starts in found.items()}


def megatron_found(model, optimizer):
    from megatron.core import parallel_state

    rank = parallel_state.get_tensor_model_parallel_rank()
    found = {"params": gathered([(f"{name}@{rank}", 0, p) for name, p in model.module.named_parameters()])}
    masters = gathered([(f"{name}@{rank}", start, master) for name, start, master in local_masters(model, optimizer)])
    return found | ({"masters": masters} if masters else {})


def megatron_moments(optimizer):
    states = [(f"{i}/{j}/{key}", dist.get_rank(), value.float()) for i, one in enumerate(getattr(optimizer, "chained_optimizers", [optimizer]))
              for j, state in enumerate(one.optimizer.state.values()) for key, value in state.items() if torch.is_tensor(value) and key not in ("master_param",)]
    return gathered(states)


def megatron_sharded(model, optimizer, sharding, is_loading, step=0):
    sharded = model.module.sharded_state_dict()
    kind = {"metadata": {"distrib_optim_sharding_type": sharding}} if sharding else {}
    return {"model": sharded, "optimizer": optimizer.sharded_state_dict(sharded, is_loading=is_loading, **kind), "iteration": step, "checkpoint_version": 3.0}


def save_megatron(state, path):
    from megatron.core import dist_checkpointing

    if dist.get_rank() == 0:
        os.makedirs(path)
    dist.barrier()
    dist_checkpointing.save(state, path, ("torch_dist", 1))


def load_megatron(model, optimizer, sharding, path):
    from megatron.core import dist_checkpointing

    if sharding == IN_BUFFERS:  # as with --no-load-optim
        model.module.load_state_dict(dist_checkpointing.load({"model": model.module.sharded_state_dict()}, path)["model"])
        optimizer.reload_model_params()
        return 0
    if sharding:  # torch's AdamW, unlike those of Transformer Engine and Apex, has no state before its first step, and has a step for each parameter
        megatron_step(model, optimizer, 0)
        for one in getattr(optimizer, "chained_optimizers", [optimizer]):
            get, put = one._get_main_param_and_optimizer_states, one._set_main_param_and_optimizer_states
            one._set_main_param_and_optimizer_states = lambda p, tensors, get=get, put=put: put(p, {"step": get(p)["step"]} | tensors)
    state = dist_checkpointing.load(megatron_sharded(model, optimizer, sharding, True), path)
    model.module.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["iteration"]


def train_megatron(rank, world, folder, tensor_parallel, half, sharding):
    states = {}
    with megatron(tensor_parallel, half, sharding is not None) as (model, optimizer):
        for step in range(1, max(STEPS) + 1):
            megatron_step(model, optimizer, step)
            if step in STEPS:
                save_megatron(megatron_sharded(model, optimizer, sharding, False, step), f"{folder}/iter_{step:07}")
                states[step] = megatron_found(model, optimizer)
    with open(f"{folder}/latest_checkpointed_iteration.txt", "w") as file:
        file.write(str(max(STEPS)))
    return states


def resume_megatron(rank, world, path, tensor_parallel, half, sharding):
    with megatron(tensor_parallel, half, sharding is not None) as (model, optimizer):
        step = load_megatron(model, optimizer, sharding, path)
        found = megatron_found(model, optimizer) | {"optimizer": megatron_moments(optimizer), "step": step}
        losses = [megatron_step(model, optimizer, step + 1), megatron_loss(model, step + 1).item()]
        return found | {"losses": losses, "after": {f"{kind}/{name}": tensor for kind, group in megatron_found(model, optimizer).items() for name, tensor in group.items()}}


def refer_megatron(rank, world, path, out, params, masters, tensor_parallel, half, sharding):
    """Loads the newest checkpoint, puts the averages into the parameters and masters in memory, and saves it again."""
    from megatron.core import parallel_state

    with megatron(tensor_parallel, half, sharding is not None) as (model, optimizer):
        step, part = load_megatron(model, optimizer, sharding, path), parallel_state.get_tensor_model_parallel_rank()
        with torch.no_grad():
            for name, p in model.module.named_parameters():
                p.copy_(params[f"{name}@{part}"].view(p.shape))
            for name, start, master in local_masters(model, optimizer):
                master.copy_(masters[f"{name}@{part}"][start : start + master.numel()].view(master.shape))
        save_megatron({"model": model.module.sharded_state_dict()} if sharding == IN_BUFFERS else megatron_sharded(model, optimizer, sharding, False, step), out)


# ---------------------------------------------------------------- cases
class Case:
    """How to train, resume and make the reference. Further arguments of the functions come after the path."""

    def __init__(self, train, resume, worlds=(1,), train_world=1, arguments=(), format="torch", names="step-{}", others=(), refer=None, resume_arguments=None, prepare=None):
        self.train, self.resume, self.worlds, self.train_world, self.arguments = train, resume, worlds, train_world, arguments
        self.format, self.names, self.others, self.refer, self.prepare = format, names, others, refer, prepare
        self.resume_arguments = arguments if resume_arguments is None else resume_arguments


def zero(stage):
    return Case(train_deepspeed, resume_deepspeed, (2,), 2, (stage,), "deepspeed-zero", "global_step{}", ("torch",), refer_deepspeed)


def torch_dist(tensor_parallel, half, sharding):
    return Case(train_megatron, resume_megatron, (2,), 2, (tensor_parallel, half, sharding), "megatron-dist", "iter_{:07}", ("torch",))


CASES = {
    "torch": Case(train_torch, resume_torch, names="step_{}.pt", refer=refer_torch, others=("dcp", "torch", "megatron-dist")),
    "bin": Case(train_bin, resume_bin, names="checkpoint-{}", refer=refer_bin, others=("dcp", "torch")),
    "dcp": Case(train_dcp, resume_dcp, (1, 2), 2, (), "dcp", "step-{}", ("torch", "dcp", "megatron-dist"), refer_dcp),
    "zero1": zero(1),
    "zero2": zero(2),
    "zero3": zero(3),
    "universal": Case(train_deepspeed, resume_deepspeed, (1, 2), 2, (1,), "deepspeed-universal", "global_step{}_universal", ("torch",), refer_deepspeed, (1, True), make_universal),
    "megatron-f32": torch_dist(2, False, None),
    "megatron-bf16": torch_dist(2, True, None),
    "megatron-full": torch_dist(1, True, "fully_reshardable"),
    "megatron-dp": torch_dist(1, True, IN_BUFFERS),
}


def unequal(what, found, expected):
    """Names of the tensors that are not equal bit for bit."""
    wrong = [name for name in expected if name not in found or found[name].dtype != expected[name].dtype or not torch.equal(bits(found[name]), bits(expected[name]))]
    wrong += [name for name in found if name not in expected]
    return [f"{what}: {len(wrong)} of {len(expected)} differ, such as {wrong[0]}"] if wrong else []


def resume_each(rank, world, resume, paths, arguments):
    return [resume(rank, world, path, *arguments) for path in paths]


def check_resumed(case, world, paths, expected):
    """Resumes from the merge, from the reference, and from the newest checkpoint."""
    merged, reference, newest = in_group(resume_each, world, case.resume, paths, case.resume_arguments)
    faults = unequal("parameters", merged["params"], expected["params"])
    if "masters" in expected:
        faults += unequal("masters", merged["masters"], expected["masters"])
    faults += unequal("optimizer", merged["optimizer"], newest["optimizer"])
    faults += [f"step {merged['step']}, not {newest['step']}"] if merged["step"] != newest["step"] else []
    faults += [f"losses {merged['losses']}, of the reference {reference['losses']}"] if merged["losses"] != reference["losses"] else []
    faults += unequal("parameters after the step", merged["after"], reference["after"])
    faults += ["the merge is the newest checkpoint"] if merged["losses"] == newest["losses"] else []
    said = f"{len(merged['params'])} parameters, {len(merged.get('masters', ()))} masters, {len(merged['optimizer'])} of the optimizer, step {merged['step']}, losses {merged['losses'][0]:.6f} {merged['losses'][1]:.6f}"
    return faults, f"{said} (newest: {newest['losses'][0]:.6f} {newest['losses'][1]:.6f})"


def check_converted(thalweg, merged, folder, format):
    """Writes the tensors of the merge in another format, and compares what the library reads with what `convert` writes as safetensors."""
    expected, out = {}, f"{folder}/as-{format}"
    for name, into in (("safetensors", f"{folder}/as-safetensors"), (format, out)):
        if not os.path.exists(into):
            subprocess.run([thalweg, "convert", "-q", merged, "-o", into, "--format", name], check=True, stdout=subprocess.DEVNULL)
    for name in os.listdir(f"{folder}/as-safetensors"):
        if name.endswith(".safetensors"):
            expected.update(round_trip.load_file(f"{folder}/as-safetensors/{name}"))
    if format == "torch":
        found = {}
        for name in os.listdir(out):
            if name.endswith((".bin", ".pt")):
                state = torch.load(f"{out}/{name}", weights_only=True)
                found.update(state.get("model", state))
        return round_trip.faults_of(found, expected), len(found)
    faults = []
    for world in (1, 2) if format == "dcp" else (1,):
        loader = round_trip.load_dcp if format == "dcp" else round_trip.load_megatron
        faults += round_trip.in_group(loader, world, out, expected, None)[0]
    return faults, len(expected)


def check_case(name, thalweg, folder):
    case = CASES[name]
    run, merged, reference = (os.path.join(folder, part) for part in ("run", "merged", "reference"))
    os.makedirs(run)
    states = in_group(case.train, case.train_world, run, *case.arguments)
    if case.prepare:
        trained, run = run, os.path.join(folder, "prepared")
        case.prepare(trained, run)
    sources = [os.path.join(run, case.names.format(step)) for step in STEPS]
    if not os.path.isdir(sources[0]):
        merged, reference = f"{merged}/{os.path.basename(sources[-1])}", f"{reference}.pt"
    out = os.path.dirname(merged) if merged.endswith(".pt") else merged
    subprocess.run([thalweg, "merge", "-q", *sources, "-o", out], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([thalweg, "verify", "-q", out, "--inputs"], check=True, stdout=subprocess.DEVNULL)
    with open(f"{out}/thalweg.json") as file:
        plan = json.load(file)["plan"]
    faults = [f"the output is {plan.get('format', 'safetensors')}"] if plan.get("format") != case.format else []
    expected = {kind: averages([states[step][kind] for step in STEPS]) for kind in states[STEPS[0]]}
    if IN_BUFFERS in case.arguments:  # the optimizer is left out, and starts from the model's weights
        expected["masters"] = {key: tensor.float().flatten() for key, tensor in expected["params"].items()}
    elif "masters" in expected:  # the module's weights are the masters, rounded
        expected["params"] = {key: rounded(tensor.double(), torch.bfloat16).view(expected["params"][key].shape) if expected["params"][key].dtype == torch.bfloat16 else expected["params"][key]
                              for key, tensor in averages([states[step]["masters"] for step in STEPS]).items()}
    if case.refer:
        case.refer(sources, reference, {"low": expected["params"]})
    else:
        in_group(refer_megatron, case.train_world, sources[-1], reference, expected["params"], expected.get("masters"), *case.arguments)
    for world in case.worlds:
        found, said = check_resumed(case, world, (merged, reference, sources[-1]), expected)
        print(f"{name} on {world}: {said}: " + ("equal" if not found else f"{len(found)} faults"), *found, sep="\n    ", flush=True)
        faults += found
    for format in case.others:
        found, n = check_converted(thalweg, out, folder, format)
        print(f"{name}, converted to {format}: {n} tensors: " + ("equal" if not found else f"{len(found)} faults"), *found[:3], sep="\n    ", flush=True)
        faults += found
    return faults


def main():
    if len(sys.argv) < 2 or not set(sys.argv[2:]) <= set(CASES):
        raise SystemExit(__doc__)
    faults = []
    for name in sys.argv[2:] or CASES:
        with tempfile.TemporaryDirectory() as folder:
            try:
                faults += check_case(name, os.path.abspath(sys.argv[1]), os.environ.get("KEEP", folder) + (f"/{name}" if os.environ.get("KEEP") else ""))
            except (subprocess.CalledProcessError, torch.multiprocessing.ProcessRaisedException) as error:
                faults.append(name)
                print(f"{name}: {error}", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
