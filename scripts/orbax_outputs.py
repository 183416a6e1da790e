#!/usr/bin/env python3
"""Restores outputs in the format orbax with Orbax and tensorstore, in every way that a program may, and compares every array with the same merge as safetensors, bit for bit.

    THALWEG=target/debug/thalweg python scripts/orbax_outputs.py

Merges the fixtures. Needs orbax-checkpoint, jax, tensorstore and ml_dtypes. Exits with 0 if everything is equal.
"""
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"
import subprocess
import sys
import tempfile
import warnings

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from merges_of_fixtures import read_tensors

PROGRAM = os.path.abspath(os.environ.get("THALWEG", "target/debug/thalweg"))
FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures")
DTYPES = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32, "F64": np.float64, "I32": np.int32, "I64": np.int64, "U8": np.uint8}
# What is merged, and the folder of the arrays in the output.
RUNS = [("manager", "default"), ("maxtext", "items")]
STEPS = ["variants/zarr2-plain", "variants/zarr3-plain", "variants/zarr3-ocdbt", "variants/zarr2-small-chunks", "variants/zarr3-small-chunks"]
OTHERS = ["hf-sharded/step-80", "torch/trainstate/step-80.pt", "npz/step-80.npz", "megatron-torch_dist/iter_0000080"]


def thalweg(*words):
    result = subprocess.run([PROGRAM, *words], capture_output=True, text=True)
    assert result.returncode == 0, f"{words}: {result.stderr}"


def flat(tree):
    """Arrays by their paths, joined by dots."""
    return {name: np.asarray(leaf) for name, leaf in leaves_of(tree).items()}


def leaves_of(tree, **options):
    name = lambda key: str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", None))))
    return {".".join(map(name, path)): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree, **options)[0]}


def faults(found, expected):
    """How restored arrays differ from those of a safetensors folder."""
    found, wrong = leaves_of(found), []
    if found.keys() != expected.keys():
        return [f"names: {sorted(found.keys() ^ expected.keys())[:4]}"]
    for name, (dtype, shape, data) in expected.items():
        # Orbax restores scalars as numbers of Python.
        array = np.asarray(found[name], DTYPES[dtype] if isinstance(found[name], (int, float)) else None)
        if array.dtype != DTYPES.get(dtype, array.dtype) or list(array.shape) != shape or array.tobytes() != data:
            wrong.append(f"{name} {array.dtype} {array.shape}")
    return wrong


def abstract(tree):
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2), ("x",))

    def one(leaf):
        cut = jax.sharding.PartitionSpec("x") if leaf.ndim and leaf.shape[0] % 2 == 0 else jax.sharding.PartitionSpec()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=jax.sharding.NamedSharding(mesh, cut))

    return jax.tree.map(lambda leaf: one(np.asarray(leaf)), tree)


def restored(folder):
    """What each way to restore the arrays of a folder gives, by its name."""
    with ocp.StandardCheckpointer() as checkpointer:
        plain = checkpointer.restore(folder)
        yield "StandardCheckpointer", plain
        yield "StandardCheckpointer, sharded", checkpointer.restore(folder, abstract(plain))
    with ocp.PyTreeCheckpointer() as checkpointer:
        yield "PyTreeCheckpointer", checkpointer.restore(folder)
        args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), plain)
        yield "PyTreeCheckpointer, NumPy", checkpointer.restore(folder, restore_args=args)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(folder)
        tree = getattr(getattr(tree, "item_metadata", tree), "tree", getattr(tree, "item_metadata", tree))
        leaves = leaves_of(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))
        shapes = {name: tuple(leaf.shape) for name, leaf in leaves.items() if hasattr(leaf, "shape")}
        arrays = flat(plain)
        assert shapes == {name: arrays[name].shape for name in shapes}, "the metadata has other shapes"


def of_manager(run, step):
    """What a manager of a run gives, without and with a target."""
    with ocp.CheckpointManager(run) as manager:
        assert manager.latest_step() == step, manager.all_steps()
        plain = manager.restore(step, args=ocp.args.StandardRestore())
        yield "CheckpointManager", plain
        yield "CheckpointManager, sharded", manager.restore(step, args=ocp.args.StandardRestore(abstract(plain)))


def of_version_1(folder):
    """What the interface of version 1 gives, in releases that have it."""
    try:
        from orbax.checkpoint import v1
    except ImportError:
        return
    yield "v1.load_pytree", (v1.load_pytree if hasattr(v1, "load_pytree") else v1.load)(folder)


def is_restored(folder):
    """Whether this version restores what another version saved: older ones do not know the shardings of newer ones."""
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.restore(os.path.realpath(folder))
    except ValueError as error:
        print(f"{folder} is not restored itself: {error}")
        return False
    return True


def report(name, ways, expected):
    n_wrong, n_ways = 0, 0
    for way, tree in ways:
        wrong = faults(tree, expected)
        n_wrong += bool(wrong)
        n_ways += 1
        if wrong:
            print(f"{name}, {way}: {'; '.join(wrong[:4])}")
    print(f"{name}: {len(expected)} arrays, restored in {n_ways} ways, {n_wrong} wrong")
    return n_wrong


def main():
    warnings.simplefilter("ignore")
    print(f"orbax-checkpoint {ocp.__version__}, JAX {jax.__version__}, tensorstore {getattr(ts, '__version__', '')}")
    n_wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        at = lambda *parts: os.path.join(scratch, *parts)

        def values(source, out, *words):
            thalweg("convert", source, "--key", ".", "--format", "safetensors", "-o", at(out), *words)
            return read_tensors(at(out))

        for run, item in RUNS:
            source = os.path.join(FIXTURES, "orbax", run)
            if not is_restored(os.path.join(source, "20", item)):
                continue
            thalweg("merge", source, "--last", "2", "-o", at(run, "40"))
            expected = values(at(run, "40"), f"{run}-whole")
            n_wrong += report(run, restored(at(run, "40", item)), expected)
            if item == "default":
                n_wrong += report(f"{run}, by its manager", of_manager(at(run), 40), expected)
            thalweg("merge", source, "--last", "2", "--optimizer", "drop", "-o", at(f"{run}-weights"))
            n_wrong += report(f"{run}, weights", restored(at(f"{run}-weights", item)), values(at(f"{run}-weights"), f"{run}-w"))
        for step in STEPS:
            out = step.replace("/", "-")
            if not is_restored(os.path.join(FIXTURES, "orbax", step)):
                continue
            thalweg("merge", "-m", os.path.join(FIXTURES, "orbax", step), "-o", at(out))
            n_wrong += report(step, restored(at(out)), values(at(out), f"{out}-values"))
        for number, other in enumerate(OTHERS):
            source, out = os.path.join(FIXTURES, other), at(f"other-{number}")
            thalweg("convert", source, "--format", "orbax", "-o", out)
            thalweg("convert", source, "--format", "safetensors", "-o", f"{out}-values")
            # One key for each name.
            expected = read_tensors(f"{out}-values")
            n_wrong += report(other, restored(out), expected)
            n_wrong += report(f"{other}, version 1", of_version_1(out), expected)
        # levanter opens its arrays by tensorstore.
        thalweg("merge", os.path.join(FIXTURES, "orbax/levanter"), "--last", "2", "-o", at("levanter"))
        spec = lambda name: {"driver": "zarr", "kvstore": {"driver": "file", "path": at("levanter", *name.split("."))}}
        expected = values(at("levanter"), "levanter-values")
        arrays = {name: ts.open(spec(name), open=True).result().read().result() for name in expected}
        n_wrong += report("levanter", [("tensorstore", arrays)], expected)
    return n_wrong > 0


if __name__ == "__main__":
    sys.exit(main())
