#!/usr/bin/env python3
"""Loads what the example `write_formats` wrote with the libraries that read each format, and compares every tensor with the safetensors file beside it, bit for bit.

    cargo build -p thalweg-checkpoint --example write_formats
    python scripts/written_formats.py target/debug/examples/write_formats

Writes made-up tensors, the fixtures of distributed checkpoints, and a tiny Llama of transformers, whole and in shards, and loads:

    torch            torch.load, with and without mmap and weights_only; `python -m zipfile -t`
    dcp              torch.distributed.checkpoint.load in groups of 1 and 2 (gloo, sharded tensors), dcp_to_torch_save, and each object
    megatron-dist    megatron.core.dist_checkpointing: load, load_common_state_dict, and each object
    torch            transformers.AutoModelForCausalLM.from_pretrained, with equal logits

Needs torch, safetensors, transformers and megatron-core. Exits with 0 if everything is equal.
"""
import io
import itertools
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile

import torch
from round_trip import check_transformers, faults_of, in_group, load_dcp, load_megatron
from safetensors.torch import load_file
from torch.utils.serialization import config as serialization

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures")
GLOO_TYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8, torch.uint8}


def write(example, folder, *arguments):
    subprocess.run([example, folder, *map(str, arguments)], check=True)
    expected = {}
    for name in os.listdir(os.path.join(folder, "safetensors")):
        if name.endswith(".safetensors"):
            expected.update(load_file(os.path.join(folder, "safetensors", name)))
    return expected


def check_torch(folder, expected):
    paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(".bin")]
    faults = [f"{path}: record {bad}" for path in paths if (bad := zipfile.ZipFile(path).testzip())]
    for mmap, weights_only, offsets in itertools.product((False, True), (False, True), (False, True)):
        serialization.load.calculate_storage_offsets = offsets
        found = {}
        for path in paths:
            found.update(torch.load(path, mmap=mmap, weights_only=weights_only))
        faults += faults_of(found, expected) + ([] if found.keys() == expected.keys() else ["other names"])
    return faults, f"{len(paths)} files"


def objects_of(folder):
    """The objects of a distributed checkpoint, as bytes, by name."""
    metadata = torch.distributed.checkpoint.FileSystemReader(folder).read_metadata()
    found = {}
    for index, place in metadata.storage_data.items():
        if index.offset is None:
            with open(os.path.join(folder, place.relative_path), "rb") as file:
                file.seek(place.offset)
                found[index.fqn] = file.read(place.length)
            torch.load(io.BytesIO(found[index.fqn]), weights_only=False)
    return found, metadata


def check_objects(folder, source):
    found, metadata = objects_of(folder)
    if source is None:
        return [] if not found else ["objects from nowhere"], "no objects"
    wanted, of_source = objects_of(source)
    faults = [] if found == wanted else [f"objects differ: {sorted(found)[:3]}, expected {sorted(wanted)[:3]}"]
    paths = of_source.planner_data or {}
    faults += [f"{name}: another path" for name in metadata.planner_data or {} if name in paths and metadata.planner_data[name] != paths[name]]
    return faults, f"{len(found)} objects"


def check_dcp(folder, expected, source):
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    faults, said = check_objects(folder, source)
    for world in (1, 2):
        # gloo cannot scatter the others; a group of one loads them.
        wanted = {name: tensor for name, tensor in expected.items() if world == 1 or tensor.dtype in GLOO_TYPES}
        faults += in_group(load_dcp, world, folder, wanted, None)[0]
    with tempfile.TemporaryDirectory() as scratch:
        whole = os.path.join(scratch, "whole.pt")
        dcp_to_torch_save(folder, whole)
        found = torch.load(whole, weights_only=False)
    with open(os.path.join(folder, ".metadata"), "rb") as file:
        key = [path[:-1] for name, path in pickle.load(file).planner_data.items() if path[-1] in expected][0]
    for part in key:
        found = found[part]
    return faults + faults_of(found, expected), said


def check_megatron(folder, expected, source):
    from megatron.core.dist_checkpointing import load_common_state_dict

    faults, said = check_objects(folder, source)
    faults += in_group(load_megatron, 1, folder, expected, None)[0]
    common = load_common_state_dict(folder)
    if source and common.keys() != load_common_state_dict(source).keys():
        faults.append("common.pt differs")
    return faults, f"{said}, common values {sorted(map(str, common))[:3]}"


def save_llama(folder):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False)).to(torch.bfloat16).save_pretrained(folder)


def check_llama(folder, llama, expected):
    with open(os.path.join(llama, "config.json"), "rb") as file:
        config = file.read()
    with open(os.path.join(folder, "config.json"), "wb") as file:
        file.write(config)
    faults, n = check_transformers(folder, expected)
    return faults, f"{n} tensors in transformers"


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    faults = []

    def report(what, found):
        faults.extend(found[0])
        print(f"{what}: {found[1]}: " + ("equal" if not found[0] else f"{len(found[0])} faults: {found[0][:3]}"), flush=True)

    dcp, megatron = (os.path.join(FIXTURES, name) for name in ("dcp-fsdp2/step-60", "megatron-torch_dist/iter_0000060"))
    with tempfile.TemporaryDirectory() as scratch:
        llama = os.path.join(scratch, "llama")
        save_llama(llama)
        sources = {"made up": None, "dcp": dcp, "megatron": megatron, "llama": llama}
        for (name, source), max_shard_bytes in itertools.product(sources.items(), (2**60, 5000)):
            if source is None and max_shard_bytes == 5000:
                continue
            folder = os.path.join(scratch, f"{name}-{max_shard_bytes}")
            arguments = (source, max_shard_bytes) if source else ()
            expected = write(sys.argv[1], folder, *arguments)
            what = f"{name}, shards of {max_shard_bytes}"
            report(f"{what}, torch", check_torch(os.path.join(folder, "torch"), expected))
            if name != "megatron":
                report(f"{what}, dcp", check_dcp(os.path.join(folder, "dcp"), expected, source if name == "dcp" else None))
            if name != "dcp":
                report(f"{what}, megatron-dist", check_megatron(os.path.join(folder, "megatron-dist"), expected, source if name == "megatron" else None))
            if name == "llama":
                report(f"{what}, transformers", check_llama(os.path.join(folder, "torch"), llama, expected))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
