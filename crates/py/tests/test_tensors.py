"""Tensors in memory: DLPack, NumPy, torch, and how long their bytes live."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import thalweg
from conftest import FORMATS, raw

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
    "C64": torch.complex64,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
}
NOT_IN_NUMPY = {"BF16", "F8_E5M2", "F8_E4M3", "F8_E8M0"}


@pytest.fixture(scope="module")
def every_dtype(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every bit pattern of a byte, in every element type."""
    path = tmp_path_factory.mktemp("dtypes") / "model.safetensors"
    pattern = torch.arange(256, dtype=torch.uint8)
    tensors = {}
    for name, dtype in DTYPES.items():
        if dtype is torch.bool:
            tensors[name] = (pattern % 2).view(dtype)
        else:
            tensors[name] = pattern.view(dtype).reshape(2, -1).clone()
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("name", DTYPES)
def test_every_element_type_reaches_torch_bit_by_bit(every_dtype: Path, name: str) -> None:
    tensor = thalweg.open_checkpoint(every_dtype).tensor(name)
    found, expected = tensor.torch(), load_file(every_dtype)[name]
    assert (found.dtype, found.shape) == (DTYPES[name], expected.shape)
    assert raw(found) == raw(expected) == tensor.tobytes()
    assert (tensor.dtype, tensor.shape, tensor.nbytes) == (name, tuple(expected.shape), expected.nbytes)


@pytest.mark.parametrize("name", sorted(set(DTYPES) - NOT_IN_NUMPY))
def test_numpy_sees_the_same_bytes_without_a_copy(every_dtype: Path, name: str) -> None:
    tensor = thalweg.open_checkpoint(every_dtype).tensor(name)
    array = tensor.numpy()
    assert array.tobytes() == tensor.tobytes() and array.shape == tensor.shape
    assert array.ctypes.data == tensor.torch().data_ptr()
    assert array.flags.writeable


@pytest.mark.parametrize("name", sorted(NOT_IN_NUMPY))
def test_numpy_refuses_what_it_does_not_have_with_a_next_step(every_dtype: Path, name: str) -> None:
    with pytest.raises(thalweg.UsageError, match=f"NumPy has no element type for {name}") as refused:
        thalweg.open_checkpoint(every_dtype).tensor(name).numpy()
    assert refused.value.hint is not None and "torch()" in refused.value.hint


def test_memory_is_aligned_and_lives_as_long_as_a_view_of_it() -> None:
    checkpoint = thalweg.open_checkpoint(FORMATS["safetensors"][0])
    views, copies = [], []
    for name in checkpoint.keys():
        tensor = checkpoint.tensor(name)
        view = tensor.torch()
        assert view.data_ptr() % 64 == 0
        copies.append(view.clone())
        views.append(view)
        del tensor, view
    gc.collect()
    # Memory that was given back would be taken again by these.
    noise = [torch.full((1 << 16,), 7.0) for _ in range(64)]
    assert all(torch.equal(view, copy) for view, copy in zip(views, copies, strict=True))
    del noise


def test_a_capsule_that_is_not_taken_gives_its_memory_back(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1 << 20)}, tmp_path / "model.safetensors")
    tensor = thalweg.open_checkpoint(tmp_path / "model.safetensors").tensor("a")
    before = _resident_bytes()
    for _ in range(200):
        tensor.__dlpack__(copy=True)
        tensor.__dlpack__(max_version=(1, 0), copy=True)
    assert _resident_bytes() - before < 32 << 20, "400 copies of 4 MiB were made"


def test_the_protocol_is_followed(every_dtype: Path) -> None:
    tensor = thalweg.open_checkpoint(every_dtype).tensor("F32")
    assert tensor.__dlpack_device__() == (1, 0)
    assert '"dltensor"' in repr(tensor.__dlpack__())
    assert '"dltensor"' in repr(tensor.__dlpack__(stream=None))
    assert '"dltensor"' in repr(tensor.__dlpack__(max_version=(0, 8)))
    assert '"dltensor_versioned"' in repr(tensor.__dlpack__(max_version=(1, 0)))
    assert '"dltensor_versioned"' in repr(tensor.__dlpack__(max_version=(2, 3), later="ignored"))
    shared = tensor.torch()
    copied = np.from_dlpack(tensor, copy=True)
    assert copied.ctypes.data != shared.data_ptr() and copied.tobytes() == tensor.tobytes()
    with pytest.raises(BufferError, match="memory of the CPU"):
        tensor.__dlpack__(dl_device=(2, 0))


def test_writes_through_a_view_are_seen_by_the_others(every_dtype: Path) -> None:
    tensor = thalweg.open_checkpoint(every_dtype).tensor("F32")
    tensor.torch()[0, 0] = 42.0
    assert tensor.numpy()[0, 0] == 42.0


def test_jax_reads_bfloat16(every_dtype: Path) -> None:
    jax = pytest.importorskip("jax")
    tensor = thalweg.open_checkpoint(every_dtype).tensor("BF16")
    found = jax.dlpack.from_dlpack(tensor)
    assert str(found.dtype) == "bfloat16"
    assert np.asarray(found).view(np.uint16).tobytes() == tensor.tobytes()


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")
