#!/usr/bin/env python3
"""Writes the first inputs of the targets whose inputs are folders or archives: tiny checkpoints, as `fixtures` has large ones.

    python3 fuzz/make_seeds.py

Needs no PyTorch: the classes and functions that a pickle names exist here only as names.
"""

import io
import json
import pickle
import sqlite3
import struct
import sys
import tempfile
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def named(full):
    """A class that pickles as this name."""
    module, name = full.rsplit(".", 1)
    parts = module.split(".")
    for n in range(1, len(parts) + 1):
        parent = ".".join(parts[:n])
        sys.modules.setdefault(parent, types.ModuleType(parent))
    made = type(name, (), {"__module__": module, "__qualname__": name})
    setattr(sys.modules[module], name, made)
    return made


REBUILD, PARAMETER = named("torch._utils._rebuild_tensor_v2"), named("torch._utils._rebuild_parameter")
FROM_TYPE, WRAPPER = named("torch._tensor._rebuild_from_type_v2"), named("torch._utils._rebuild_wrapper_subclass")
SIZE, DTYPE = named("torch.Size"), named("torch.float32")
STORAGES = {4: named("torch.FloatStorage"), 2: named("torch.BFloat16Storage"), 8: named("torch.LongStorage")}
D = "torch.distributed.checkpoint.metadata."
T = "torch.distributed.tensor."
DTENSOR = named("torch.distributed.tensor.DTensor")


class Call:
    """A call of a name, with a state."""

    def __init__(self, function, *args, state=None):
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.parts


class Storage:
    def __init__(self, key, n, width=4):
        self.id = ("storage", STORAGES[width], key, "cpu", n)


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.id if isinstance(value, Storage) else None


def dump(value, protocol=2):
    out = io.BytesIO()
    Pickler(out, protocol).dump(value)
    return out.getvalue()


class File:
    """A torch.save file: storages are added as tensors are made."""

    def __init__(self):
        self.records = {}

    def tensor(self, *shape, strides=None, storage=None, offset=0, values=None, width=4):
        n = 1
        default = []
        for size in reversed(shape):
            default.insert(0, n)
            n *= size
        if storage is None:
            storage = Storage(str(len(self.records)), n, width)
            code = {4: "f", 2: "h", 8: "q"}[width]
            values = values or [i + len(self.records) for i in range(n)]
            self.records["data/" + storage.id[2]] = struct.pack(f"<{n}{code}", *values)
        return Call(REBUILD, storage, offset, shape, tuple(strides or default), False, OrderedDict())

    def parts(self, name, value, **options):
        records = {"data.pkl": dump(value, **options), "byteorder": b"little", **self.records}
        return {f"{name}//{record}": content for record, content in records.items()}


def archive(records, root="a", large=False):
    """The bytes of an archive, and where its directory begins."""
    out, directory = b"", b""
    for name, content in records.items():
        name = f"{root}/{name}".encode()
        lengths = (0xFFFFFFFF,) * 2 if large else (len(content),) * 2
        extra = struct.pack("<HHQQQ", 1, 24, len(content), len(content), len(out)) if large else b""
        head = struct.pack("<HHHHHIIIHH", 0, 0, 0, 0, 0, 1, *lengths, len(name), 0)
        offset = 0xFFFFFFFF if large else len(out)
        fields = head[:-2] + struct.pack("<H", len(extra))
        directory += b"PK\1\2\0\0" + fields + struct.pack("<HHHII", 0, 0, 0, 0, offset) + name + extra
        out += b"PK\3\4" + head + name + content
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, len(records), len(records), len(directory), len(out), 0)
    return out + directory, end


def write(target, name, parts):
    content = b"\n".join(b"== " + path.encode() + b"\n" + content for path, content in parts.items())
    assert all(b"\n== " not in part for part in parts.values()), name
    write_bytes(target, name, content)


def write_bytes(target, name, content):
    assert len(content) <= 4096, (target, name, len(content))
    (CORPUS / target).mkdir(exist_ok=True)
    (CORPUS / target / name).write_bytes(content)


def header(tensors, **metadata):
    entries = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, shape in tensors.items():
        n = 4
        for size in shape:
            n *= size
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + n]}
        at += n
    return json.dumps(entries, separators=(",", ":")).encode()


def zip_directory():
    file = File()
    state = dump({"a": file.tensor(2, 3), "b": file.tensor(2)})
    records = {"data.pkl": state, "byteorder": b"little", **file.records, "version": b"3\n"}
    write_bytes("zip_directory", "small", archive(records)[0])
    write_bytes("zip_directory", "large", archive(records, large=True)[0])
    write_bytes("zip_directory", "old", archive({"data.pkl": b"\x80\2}.", "tensors/0": bytes(8)}, root="old-0")[0])
    write_bytes("zip_directory", "script", archive({"data.pkl": b"\x80\2}.", "code/x.py": b"pass"})[0])
    write_bytes("zip_directory", "empty", b"PK\3\4")


def torch_folder():
    file = File()
    shared = Storage("0", 6)
    first = file.tensor(2, 3)
    views = {
        "a": first,
        "a.t": file.tensor(3, 2, strides=(1, 3), storage=shared),
        "a.row": file.tensor(3, storage=shared, offset=3),
        "a.wide": file.tensor(4, 3, strides=(0, 1), storage=shared),
        "p": Call(PARAMETER, file.tensor(3, width=2), True, OrderedDict()),
    }
    write("torch_folder", "views", file.parts("pytorch_model.bin", views))
    file = File()
    state = {"epoch": 3, "model": {"module.a.w": file.tensor(2, 2), "module.a.b": file.tensor(2)}}
    state["optimizer"] = {"state": {0: {"step": file.tensor(1), "exp_avg": file.tensor(2, 2)}}}
    write("torch_folder", "state", file.parts("last.pt", state))
    file = File()
    state = {"pytorch-lightning_version": "2.0", "state_dict": OrderedDict(x=file.tensor(2)), "loops": {}}
    write("torch_folder", "lightning", file.parts("x.ckpt", state))
    shards, index = {}, {}
    for n in (1, 2):
        file, name = File(), f"pytorch_model-0000{n}-of-00002.bin"
        shards |= file.parts(name, {f"w{n}": file.tensor(2, 2)})
        index[f"w{n}"] = name
    index = json.dumps({"metadata": {"total_size": 32}, "weight_map": index}).encode()
    write("torch_folder", "index", {"pytorch_model.bin.index.json": index, **shards})
    write("torch_folder", "shards", shards)
    stream = [dump(0x1950A86A20F9469CFC6C), dump(1001), dump({"little_endian": True, "protocol_version": 1001})]
    file = File()
    stream += [dump({"a": file.tensor(2)}), dump(["0"]), struct.pack("<q", 2), file.records["data/0"]]
    write("torch_folder", "stream", {"model.pt": b"".join(stream)})


def metadata_of(tensors, places, planner=None, version=4):
    """The `.metadata` of tensors {name: (shape, [(offsets, sizes)])}, whose chunks are at places {(name, offsets): place}."""
    call = lambda name, **state: Call(NEW[name], state=state)
    properties = Call(NEW["TensorProperties"], state=(DTYPE, None, False, None, False))
    states = {}
    for name, (shape, chunks) in tensors.items():
        chunks = [call("ChunkStorageMetadata", offsets=Call(SIZE, o), sizes=Call(SIZE, s)) for o, s in chunks]
        states[name] = call("TensorStorageMetadata", properties=properties, size=Call(SIZE, shape), chunks=chunks)
    data = {}
    for (name, offsets), (file, offset, length) in places.items():
        index = call("MetadataIndex", fqn=name, offset=Call(SIZE, offsets), index=0)
        data[index] = call("_StorageInfo", relative_path=file, offset=offset, length=length, transform_descriptors=None)
    root = call("Metadata", state_dict_metadata=states, planner_data=planner, storage_data=data)
    return dump(root, version)


NAMES = ["Metadata", "TensorStorageMetadata", "ChunkStorageMetadata", "TensorProperties", "MetadataIndex"]
NEW = {name: named(D + name) for name in NAMES}
NEW["_StorageInfo"] = named("torch.distributed.checkpoint.filesystem._StorageInfo")


def chunk(name, *shape, **options):
    file = File()
    records = {"data.pkl": dump(file.tensor(*shape, **options)), **file.records}
    body, end = archive(records)
    parts = {f"{name}//{record}": content for record, content in records.items()}
    return parts, body + end


def dcp_parts(rows=(2, 1), key=""):
    parts, chunks, places, at = {}, [], {}, 0
    for rank, n_rows in enumerate(rows):
        more, built = chunk(f"__{rank}_0.distcp", n_rows, 2)
        parts |= more
        chunks.append(((at, 0), (n_rows, 2)))
        places[key + "w", (at, 0)] = (f"__{rank}_0.distcp", 0, len(built))
        at += n_rows
    return {key + "w": ((at, 2), chunks)}, places, parts


def dcp_folder():
    tensors, places, parts = dcp_parts()
    write("dcp_folder", "two-ranks", {".metadata": metadata_of(tensors, places), **parts})
    tensors, places, parts = dcp_parts((1,), "model.")
    planner = {"model.w": ("model", "w")}
    inner = {f"model_and_optim/{name}": part for name, part in parts.items()}
    write("dcp_folder", "inner", {"model_and_optim/.metadata": metadata_of(tensors, places, planner), **inner})
    write("dcp_folder", "lightning", {".metadata": metadata_of(tensors, places), "meta.pt": b"", **parts})
    transposed = chunk("__0_0.distcp", 3, 2, strides=(1, 3))
    places = {("w", (0, 0)): ("__0_0.distcp", 0, len(transposed[1]))}
    metadata = metadata_of({"w": ((3, 2), [((0, 0), (3, 2))])}, places)
    write("dcp_folder", "transposed", {".metadata": metadata, **transposed[0]})
    one, two = chunk("x", 2)[1], chunk("x", 1)[1]
    places = {("w", (0,)): ("__0_0.distcp", 0, len(one)), ("w", (2,)): ("__0_0.distcp", len(one), len(two))}
    metadata = metadata_of({"w": ((3,), [((0,), (2,)), ((2,), (1,))])}, places)
    write("dcp_folder", "one-file", {".metadata": metadata, "__0_0.distcp": one + two})
    shards = {}
    for rank, (start, rows) in enumerate([(0, 2), (2, 1)], 1):
        info = json.dumps({"w": {"saved_offsets": [start, 0]}})
        head = header({"w": [rows, 2], f"only{rank}": [rank]}, DCP_SHARDING_INFO=info, format="pt")
        shards[f"shard-0000{rank}-model-00001-of-00001.safetensors//header"] = head
    write("dcp_folder", "safetensors", shards)


def megatron():
    backend = json.dumps({"sharded_backend": "torch_dist", "sharded_backend_version": 1}).encode()
    file = File()
    common = file.parts("common.pt", {"iteration": 20, "args": None})
    tensors, places, parts = dcp_parts()
    write("megatron", "dist", {"metadata.json": backend, ".metadata": metadata_of(tensors, places), **common, **parts})
    tensors, places, parts = dcp_parts((1,))
    moments, more, _ = dcp_parts((1,), "optimizer.state.exp_avg.")
    metadata = metadata_of(tensors | moments, places | more)
    write("megatron", "dist-optimizer", {"metadata.json": backend, ".metadata": metadata, **parts})
    args = lambda tensor, stages: Call(
        types.SimpleNamespace, state={"tensor_model_parallel_size": tensor, "pipeline_model_parallel_size": stages}
    )
    layer = {
        "embedding.word_embeddings.weight": (2, 2),
        "decoder.layers.0.self_attention.linear_proj.weight": (2, 1),
        "decoder.layers.0.input_layernorm.weight": (2,),
    }
    mlp = {"decoder.layers.0.mlp.linear_fc1.weight": (4, 2), "decoder.layers.0.mlp.linear_fc2.weight": (2, 2)}
    expert = {
        "decoder.layers.0.mlp.router.weight": (1, 2),
        "decoder.layers.0.mlp.experts.local_experts.0.linear_fc1.weight": (1, 2),
        "decoder.layers.0.mlp.experts.linear_fc2.weight0": (2, 1),
    }

    def rank(folder, tensors, tensor=1, stages=1, chunks=None):
        file = File()
        made = {name: file.tensor(*shape) for name, shape in tensors.items()}
        state = {"args": args(tensor, stages), "iteration": 20}
        state |= {"model": made} if chunks is None else {f"model{n}": made for n in range(chunks)}
        return file.parts(f"{folder}/model_optim_rng.pt", state)

    write("megatron", "one-rank", rank("mp_rank_00", layer | mlp))
    write("megatron", "tensor", rank("mp_rank_00", layer, 2) | rank("mp_rank_01", layer, 2))
    write("megatron", "gated", rank("mp_rank_00", mlp, 2) | rank("mp_rank_01", mlp, 2))
    stages = rank("mp_rank_00_000", layer, 1, 2) | rank("mp_rank_00_001", mlp, 1, 2)
    write("megatron", "pipeline", stages)
    write("megatron", "virtual", rank("mp_rank_00_000", mlp, 1, 2, 2) | rank("mp_rank_00_001", mlp, 1, 2, 2))
    experts = rank("mp_rank_00_000_000", expert) | rank("mp_rank_00_000_001", expert)
    write("megatron", "experts", experts)


def deepspeed():
    shapes = OrderedDict(a=Call(SIZE, (3, 2)), b=Call(SIZE, (2,)))
    tail = "mp_rank_00_optim_states.pt"
    address = named("deepspeed.utils.tensor_fragment.fragment_address")

    def model(name, file, **more):
        state = {"module": OrderedDict(a=file.tensor(3, 2, width=2), b=file.tensor(2, width=2), buffer=file.tensor(2))}
        state |= {"param_shapes": [shapes], "buffer_names": ["buffer"], "shared_params": {"c": "a"}, "dp_world_size": 2}
        return file.parts(name, state | more)

    def optimizer(name, key, sizes, slices=None, step=20.0):
        file = File()
        groups = [file.tensor(n) for n in sizes]
        base = {"state": {0: {"step": file.tensor(values=[step])}}}
        state = {key: groups, "base_optimizer_state": base, "zero_stage": 1}
        if slices:
            parts = {name: Call(address, state={"start": s, "numel": n}) for name, (s, n) in slices.items()}
            state["param_slice_mappings"] = [parts]
        return file.parts(name, {"optimizer_state_dict": state})

    key = "single_partition_of_fp32_groups"
    ranks = [optimizer(f"zero_pp_rank_{n}_{tail}", key, [4]) for n in (0, 1)]
    write("deepspeed", "zero1", model("mp_rank_00_model_states.pt", File(), frozen_param_fragments=None) | ranks[0] | ranks[1])
    cuts = [{"a": (0, 4)}, {"a": (0, 2), "b": (2, 2)}]
    ranks = [optimizer(f"bf16_zero_pp_rank_{n}_{tail}", key, [4], cuts[n]) for n in (0, 1)]
    write("deepspeed", "zero2-addresses", model("mp_rank_00_model_states.pt", File()) | ranks[0] | ranks[1])
    parts = {}
    for n in (0, 1):
        file = File()
        state = {"param_shapes": [shapes], "dp_world_size": 2, "module": {}}
        parts |= file.parts(f"zero_pp_rank_{n}_mp_rank_00_model_states.pt", state)
        parts |= optimizer(f"zero_pp_rank_{n}_{tail}", "fp32_flat_groups", [3, 1])
    write("deepspeed", "zero3", parts)
    inner = {f"global_step20/{name}": part for name, part in model("mp_rank_00_model_states.pt", File()).items()}
    write("deepspeed", "latest", {"latest": b"global_step20", **inner})
    file = File()
    frozen = {"f": file.tensor(2)}
    alone = model("mp_rank_00_model_states.pt", file, frozen_param_fragments=frozen, dp_world_size=1)
    write("deepspeed", "frozen", alone | optimizer(f"zero_pp_rank_0_{tail}", key, [8]))
    parts = {}
    for name, shape, is_flat in (("a", (3, 2), False), ("b", (2,), True)):
        file = File()
        tensor = file.tensor(*shape)
        parts |= file.parts(f"zero/{name}/fp32.pt", tensor if is_flat else {"param": tensor, "cat_dim": 0})
    write("deepspeed", "universal", model("mp_rank_00_model_states.pt", File()) | parts)
    file = File()
    flat = file.parts("zero/a/fp32.pt", file.tensor(6)) | {name: p for name, p in parts.items() if "/b/" in name}
    write("deepspeed", "universal-flat", model("mp_rank_00_model_states.pt", File()) | flat)
    write("deepspeed", "refused-rank", model("mp_rank_01_model_states.pt", File()))
    # A pipeline of two stages, without and with masters.
    layers, stages = {}, {}
    for layer, weight in (("00", "e"), ("02", "a")):
        file = File()
        layers |= file.parts(f"layer_{layer}-model_00-model_states.pt", {weight: file.tensor(3, 2, width=2)})
    for rank in range(2):
        names = ["tied_modules.embed.e"] + ["2.a"] * rank
        named_shapes = OrderedDict((name, Call(SIZE, (3, 2))) for name in names)
        state = {"module": None, "param_shapes": [named_shapes], "dp_world_size": 1, "mp_world_size": 2}
        stages |= File().parts(f"mp_rank_0{rank}_model_states.pt", state | {"shared_params": {}, "global_steps": 20})
        stages |= optimizer(f"zero_pp_rank_0_mp_rank_0{rank}_optim_states.pt", key, [6 * len(names)])
    write("deepspeed", "pipeline", {name: part for name, part in (layers | stages).items() if "optim_states" not in name})
    write("deepspeed", "pipeline-zero1", layers | stages)
    of_ranks = [model(f"mp_rank_0{n}_model_states.pt", File(), mp_world_size=2, shared_params={}) for n in (0, 1)]
    write("deepspeed", "tensor", of_ranks[0] | of_ranks[1])
    file = File()
    one = file.parts("layer_0_expert_0_mp_rank_00_model_states.pt", {"moe.experts.0.w": file.tensor(2, width=2)})
    write("deepspeed", "experts", model("mp_rank_00_model_states.pt", File(), num_experts=[1]) | one)


def nanotron():
    end = {"checkpoint_metadata.json": b"{}"}
    none = "None,None,None"
    cut = lambda pairs, whole: {"version": "1.4", "local_global_slices_pairs": pairs, "unsharded_shape": whole}
    norm = {"model/model/norm/model_weight.safetensors//header": header({"data": [2]})}
    write("nanotron", "one-rank", end | norm)

    def rank(n, of, shape, pairs, whole):
        path = f"model/model/mlp/model_weight_pp-rank-0-of-1_tp-rank-{n}-of-{of}.safetensors//header"
        return {path: header({"data": shape}, **cut(pairs, whole))}

    rows = [rank(n, 2, [2, 3], f"0,2,None|{none}#{2 * n},{2 * n + 2},None|{none}", "(4, 3)") for n in (0, 1)]
    write("nanotron", "rows", end | norm | rows[0] | rows[1])
    columns = [rank(n, 2, [2, 1], f"{none}|{none}#{none}|{n},{n + 1},None", "(np.int64(2), 2)") for n in (0, 1)]
    write("nanotron", "columns", end | columns[0] | columns[1])
    pairs = ";".join(f"{n},{n + 1},1#{2 * n},{2 * n + 1},1" for n in (0, 1))
    other = ";".join(f"{n},{n + 1},1#{2 * n + 1},{2 * n + 2},1" for n in (0, 1))
    write("nanotron", "slices", end | rank(0, 2, [2], pairs, "(4,)") | rank(1, 2, [2], other, "(4,)"))
    inside = f"{none}|1,2,None#{none}|0,1,None"
    write("nanotron", "inside", end | rank(0, 1, [4, 3], inside, "(4, 1)"))
    experts = "model/model/w/model_weight_pp-rank-0-of-1_tp-rank-0-of-1_exp-rank-0-of-2.safetensors//header"
    write("nanotron", "experts", end | {experts: header({"data": [1]})})


def torch_checkpointing():
    rows = lambda dim=0, kind="Shard": {"type": kind, "dim": dim, "split_factor": 2}

    def group(shape, mesh, ranks, *placements):
        data = {"global_shape": list(shape), "dtype": "torch.float32", "placements": list(placements)}
        data["mesh_spec"] = {"mesh_shape": mesh, "mesh_data": ranks}
        return {"sharding_metadata": {"type": "DTensorShardingMetadata", "data": data}, "ranks": ranks}

    def nested(tensors, layouts=None):
        paths = {json.dumps([name]): groups for name, groups in tensors.items()}
        item = {"nested_path_to_metadata": paths, "rank_to_layout_info": layouts or {}}
        return dump({"version": "2.0", "metadata": {"model": item}}, 4)

    def plain(name, tensors):
        file = File()
        return file.parts(name, {"model": OrderedDict((key, file.tensor(*shape)) for key, shape in tensors.items())}["model"])

    two = [group((3, 2), (2,), (0, 1), rows())]
    same = [group((2,), (2,), (0, 1), {"type": "Replicate"})]
    ranks = [plain(f"model_{n}.pt", {"w": (2 - n, 2), "b": (2,)}) for n in (0, 1)]
    write("torch_checkpointing", "rows", {"metadata.pkl": nested({"w": two, "b": same})} | ranks[0] | ranks[1])
    rows_of = ranks
    four = [group((5,), (2, 2), (0, 1, 2, 3), rows(0, "_StridedShard"), rows())]
    sizes = [2, 1, 1, 1]
    ranks = {}
    for n, size in enumerate(sizes):
        ranks[f"model_{n}.safetensors//header"] = header({"w": [size]})
    write("torch_checkpointing", "strided", {"metadata.pkl": nested({"w": four})} | ranks)
    layouts = {0: {"file_path": "x/0.st", "serialization_format": {"type": "SafetensorsSerialization"}}, 1: None}
    one = [group((2,), (1,), (0,), rows())]
    file = {"x/0.st": struct.pack("<Q", len(header({"w": [2]}))) + header({"w": [2]}) + bytes(8)}
    write("torch_checkpointing", "layout", {"metadata.pkl": nested({"w": one}, layouts)} | file)
    flat = {"version": "1.0", "metadata": {json.dumps(["model", "w"]): two, json.dumps(["model", "b"]): same}}
    write("torch_checkpointing", "flat", {"metadata.pkl": dump(flat, 4)} | rows_of[0] | rows_of[1])
    write("torch_checkpointing", "no-metadata", plain("model_0.pt", {"w": (2, 2)}))
    write("torch_checkpointing", "no-metadata-header", {"model_0.safetensors//header": header({"w": [2, 2]})})
    parts = {}
    spec_of = lambda name, **state: Call(SPEC[name], state=state)
    for n in (0, 1):
        file = File()
        local = file.tensor(2 - n, 2)
        mesh = spec_of("DeviceMesh", mesh=file.tensor(2, width=8, values=[0, 1]))
        spec = spec_of("DTensorSpec", mesh=mesh, placements=(spec_of("Shard", dim=0),))
        whole = Call(FROM_TYPE, WRAPPER, DTENSOR, (DTENSOR, (3, 2), (2, 1)), {"_local_tensor": local, "_spec": spec})
        parts |= file.parts(f"model_{n}.pt", {"w": whole})
    write("torch_checkpointing", "distributed", parts)


SPEC = {
    "DTensorSpec": named(T + "_dtensor_spec.DTensorSpec"),
    "DeviceMesh": named("torch.distributed.device_mesh.DeviceMesh"),
    "Shard": named(T + "placement_types.Shard"),
}



def shared(leaf, depth, width=2):
    """A dictionary in which each level names the one below it `width` times."""
    for _ in range(depth):
        leaf = {chr(97 + n): leaf for n in range(width)}
    return leaf


def hostile():
    """Small files that stand for more than any file holds."""
    file = File()
    write("torch_folder", "hostile-shared-tensors", file.parts("x.pt", shared({"w": file.tensor(1)}, 20)))
    file = File()
    long = {"n" * 1500: {f"{n}": {"a" * 300: file.tensor(1)} for n in range(1)}}
    write("torch_folder", "hostile-long-names", file.parts("x.pt", {"k": shared(long, 9), "b": file.tensor(1)}))
    file = File()
    write("torch_checkpointing", "hostile-shared-tensors", file.parts("model_0.pt", shared({"w": file.tensor(1)}, 20)))
    ranks = list(range(200))
    placements = [{"type": "Shard", "dim": 0}]
    mesh = {"mesh_shape": [200], "mesh_data": ranks}
    data = {"global_shape": [200], "dtype": "torch.float32", "placements": placements, "mesh_spec": mesh}
    groups = [{"sharding_metadata": {"type": "DTensorShardingMetadata", "data": data}, "ranks": ranks}] * 300
    item = {"nested_path_to_metadata": {json.dumps([f"{n}"]): groups for n in range(40)}}
    metadata = dump({"version": "2.0", "metadata": {"model": item}}, 4)
    write("torch_checkpointing", "hostile-shared-ranks", {"metadata.pkl": metadata})
    file = File()
    shapes = OrderedDict((f"{n}", Call(SIZE, (1,))) for n in range(100))
    state = {"module": {}, "param_shapes": [shapes] * 800, "dp_world_size": 1}
    model = file.parts("mp_rank_00_model_states.pt", state)
    name = lambda rank: f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
    optimizer = File().parts(name(0), {"optimizer_state_dict": {"single_partition_of_fp32_groups": []}})
    write("deepspeed", "hostile-shared-groups", model | optimizer)
    model = File().parts("mp_rank_00_model_states.pt", {"param_shapes": [], "dp_world_size": 1 << 40})
    optimizer = File().parts(name((1 << 32) - 2), {"optimizer_state_dict": {}})
    write("deepspeed", "hostile-rank-number", model | optimizer)
    write("deepspeed", "hostile-last-rank-number", model | File().parts(name((1 << 32) - 1), {}))
    write("megatron", "hostile-rank-number", File().parts("mp_rank_65535/model_optim_rng.pt", {"model": {}}))
    file = File()
    chunk = shared({"w": file.tensor(1)}, 8)
    chunks = {f"model{n}": chunk for n in range(100)}
    write("megatron", "hostile-shared-chunks", file.parts("mp_rank_00/model_optim_rng.pt", chunks))
    huge = {"data": {"dtype": "F32", "shape": [0, 1 << 63, 4], "data_offsets": [0, 0]}}
    cut = {"local_global_slices_pairs": "0,0,1|0,1,1|0,1,1#0,0,1|0,1,1|0,1,1", "unsharded_shape": "(0, 1, 1)"}
    head = json.dumps({"__metadata__": cut} | huge).encode()
    write("nanotron", "hostile-no-elements", {"checkpoint_metadata.json": b"{}", "model/model_w.safetensors//header": head})


# Arrays of NumPy, GGUF files, and folders of Orbax and levanter.


def npy(descr, shape, data, order=False, version=1):
    text = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}"
    length = "<H" if version == 1 else "<I"
    text = text.ljust(-(-(len(text) + 11) // 64) * 64 - 11) + "\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack(length, len(text)) + text.encode() + data


def zip_of(name, method, **members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for member, content in members.items():
            archive.writestr(zipfile.ZipInfo(f"{member}.npy"), content, method)
    write_bytes("npz_file", name, out.getvalue())


def gguf_of(name, values, tensors, data):
    text = lambda word: struct.pack("<Q", len(word)) + word.encode()
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    for key, kind, value in values:
        head += text(key) + struct.pack("<I", kind) + (text(value) if kind == 8 else value)
    for key, dims, kind, offset in tensors:
        head += text(key) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", n) for n in dims) + struct.pack("<IQ", kind, offset)
    write_bytes("gguf_file", name, head + bytes(-len(head) % 32) + data)


def varints(*numbers):
    out = b""
    for number in numbers:
        while number >= 0x80:
            out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
        out += bytes([number])
    return out


def table(path, n_base=0):
    return varints(1, len(path), n_base) + path.encode()


def manifest(path, n_base, length, height=0):
    body = bytes(16) + varints(0, 1024, 1 << 20) + b"\x04" + varints(0) + table(path, n_base)
    return body + varints(1, 1) + bytes([height]) + varints(0, 0, length, 1, 1, 1) + bytes(8) + varints(0)


def leaf(files, *entries):
    """Values are bytes, or (length, offset) in the first file."""
    keys = [key.encode() for key, _ in entries]
    inline = [value if isinstance(value, bytes) else b"" for _, value in entries]
    places = [value for _, value in entries if not isinstance(value, bytes)]
    lengths = [len(value) if isinstance(value, bytes) else value[0] for _, value in entries]
    kinds = bytes(0 if isinstance(value, bytes) else 1 for _, value in entries)
    body = b"\0" + files + varints(len(keys)) + varints(*[0] * (len(keys) - 1)) + varints(*map(len, keys)) + b"".join(keys)
    return body + varints(*lengths) + kinds + varints(*[0 for _ in places]) + varints(*[offset for _, offset in places]) + b"".join(inline)


def zarr2(shape, chunks, dtype="<f4", compressor=None):
    return json.dumps({"zarr_format": 2, "shape": shape, "chunks": chunks, "dtype": dtype, "compressor": compressor, "fill_value": None, "filters": None, "order": "C", "dimension_separator": "."}).encode()


def zarr3(shape, chunks, *codecs):
    grid = {"name": "regular", "configuration": {"chunk_shape": chunks}}
    return json.dumps({"zarr_format": 3, "node_type": "array", "shape": shape, "data_type": "float32", "chunk_grid": grid, "chunk_key_encoding": {"name": "default"}, "fill_value": 0, "codecs": list(codecs)}).encode()


LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
F4 = struct.pack("<6f", 1, 2, 3, 4, 5, 6)
# A frame of one block that is not packed.
FRAME = b"\x28\xb5\x2f\xfd\x20\x18" + struct.pack("<I", 24 << 3 | 1)[:3] + F4


def store(name, height, node, **files):
    folder = {"_METADATA": b"{}", "manifest.ocdbt//manifest": manifest("d", 0, 18 + len(node), height), "d//node": node, **files}
    write("orbax_folder", name, folder)


def arrays():
    write_bytes("npz_file", "array", npy("<f4", "(2, 3)", F4))
    write_bytes("npz_file", "fortran", npy("<V2", "(3, 4)", F4, order=True, version=2))
    write_bytes("npz_file", "object", npy("|O", "(1,)", b"\x80\x04N."))
    zip_of("stored", zipfile.ZIP_STORED, a=npy("<f4", "(2, 3)", F4), b=npy("<i8", "()", bytes(8)))
    zip_of("deflated", zipfile.ZIP_DEFLATED, a=npy("<f4", "(2, 3)", F4))
    gguf_of("tensors", [], [("w", (3, 2), 0, 0), ("v", (4,), 30, 32)], F4 + bytes(8 + 8))
    array = struct.pack("<IQ", 8, 1) + struct.pack("<Q", 1) + b"x" + b""
    gguf_of("values", [("general.name", 8, "a"), ("general.alignment", 4, struct.pack("<I", 32)), ("t", 9, array)], [("w", (6,), 0, 0)], F4)
    gguf_of("quantised", [], [("w", (256,), 12, 0)], bytes(144))
    spec = {"w/.zarray": zarr2([2, 3], [2, 3]), "w/0.0": F4}
    write("orbax_folder", "plain", {"_METADATA": b"{}", **spec})
    tree = {"tree_metadata": {"x": {"key_metadata": [{"key": "w", "key_type": 2}], "value_metadata": {"value_type": "jax.Array", "skip_deserialize": False}}}}
    write("orbax_folder", "tree", {"default/_METADATA": json.dumps(tree).encode(), **{f"default/{name}": value for name, value in spec.items()}})
    packed = {"m/w/.zarray": zarr2([4, 3], [2, 3], compressor={"id": "zstd"}), "m/w/0.0": FRAME}
    write("orbax_folder", "packed", {"_METADATA": b"{}", **packed})
    write("orbax_folder", "levanter", {"metadata.json": b"{}", "model/w/.zarray": zarr2([3, 3], [2, 3]), "model/w/0.0": F4, "model/w/1.0": F4})
    shard = {"name": "sharding_indexed", "configuration": {"chunk_shape": [1, 3], "codecs": [LITTLE], "index_codecs": [LITTLE]}}
    index = struct.pack("<4Q", 0, 12, (1 << 64) - 1, (1 << 64) - 1)
    write("orbax_folder", "shard", {"_METADATA": b"{}", "w/zarr.json": zarr3([2, 3], [2, 3], shard), "w/c/0/0": F4 + index})
    store("store", 0, leaf(varints(0), ("w/.zarray", zarr2([2, 3], [2, 3])), ("w/0.0", F4)))
    store("store-files", 0, leaf(table("p/e", 2), ("w/.zarray", zarr2([2, 3], [2, 3], compressor={"id": "zstd"})), ("w/0.0", (len(FRAME), 2))), **{"p/e": b"xx" + FRAME})


def database(name, tables, rows, log=()):
    """An SQLite file in pages of 512 bytes, and the write-ahead log of the rows that come later."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.db"
        opened = sqlite3.connect(path)
        opened.execute("PRAGMA page_size = 512")
        opened.execute(f"PRAGMA journal_mode = {'WAL' if log else 'DELETE'}")
        opened.executescript(tables)
        for statement, values in rows:
            opened.executemany(statement, values)
        opened.commit()
        wal = path.with_name("x.db-wal")
        if log:
            opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            for statement, values in log:
                opened.executemany(statement, values)
            opened.commit()
        content = bytearray(path.read_bytes())
        # The version of the library that wrote it.
        content[96:100] = struct.pack(">I", 3_045_000)
        if log:
            frames = bytearray(wal.read_bytes())
            # Random at each start of a log; the target makes the checksums right.
            frames[16:24] = b"saltsalt"
            content += b"\n== log\n" + frames
        opened.close()
    write_bytes("tracker_database", name, bytes(content))


def tracker_database():
    trackio = "CREATE TABLE metrics (id INTEGER PRIMARY KEY, run_id TEXT, run_name TEXT, step INTEGER, metrics TEXT)"
    insert = "INSERT INTO metrics (run_id, run_name, step, metrics) VALUES (?, ?, ?, ?)"
    row = lambda step, more="": ("a", "run", step, f'{{"loss": {3 - step / 16}, "lr": 0.001{more}}}')
    database("trackio", trackio, [(insert, [row(step) for step in range(1, 4)])])
    database("tree", trackio, [(insert, [row(step) for step in range(1, 30)])])
    database("long-row", trackio, [(insert, [row(1), row(2, ', "note": "' + "x" * 1200 + '"')])])
    database("two-runs", trackio, [(insert, [row(1), ("b", "other", 1, '{"loss": 2}')])])
    database("log", trackio, [(insert, [row(1)])], [(insert, [row(2), row(3)])])
    mlflow = """CREATE TABLE runs (run_uuid VARCHAR(32) NOT NULL, name VARCHAR(250), lifecycle_stage VARCHAR(20), PRIMARY KEY (run_uuid));
        CREATE TABLE metrics (key VARCHAR(250) NOT NULL, value FLOAT NOT NULL, timestamp BIGINT, run_uuid VARCHAR(32), step BIGINT, is_nan BOOLEAN);"""
    runs = ("INSERT INTO runs VALUES (?, ?, ?)", [("a", "run", "active"), ("b", "gone", "deleted")])
    metric = "INSERT INTO metrics VALUES (?, ?, 0, 'a', ?, ?)"
    metrics = [(key, value, step, 0) for step in (1, 2) for key, value in (("loss", 2.5), ("lr", 1e-3))]
    database("mlflow", mlflow, [runs, (metric, metrics + [("loss", 0, 3, 1)])])


for seeds in (zip_directory, torch_folder, dcp_folder, megatron, deepspeed, nanotron, torch_checkpointing, hostile, arrays, tracker_database):
    seeds()
