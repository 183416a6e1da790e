"""Merged tensors into torch: state dicts and models. Imported only when it is used, because it imports torch.

A parameter that is contiguous, in memory of the CPU and of the merged element type is written where it is. Any other
is filled from a staging buffer, which is pinned for devices.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Mapping, NamedTuple

import torch

from thalweg._errors import UsageError
from thalweg._thalweg import _copy, _take

if TYPE_CHECKING:
    from thalweg import Merge, Sweep, TensorInfo, Trial
    from thalweg._thalweg import _Window

# Tensors that go through a staging buffer together hold so many bytes, or are one.
_WINDOW_BYTES = 32 << 20
_ALIGNMENT = 64
# Memory that holds a trial costs about as much as reading so many checkpoints from memory: in small pages, and in large
# ones that the system has at hand.
_SOURCES_PER_HELD = {False: 5, True: 1}
# So many are held in any case.
_FEW_TRIALS = 3
# A disk or a network is waited for at least once for so many bytes; on a busy machine, being slow alone says little.
_BYTES_PER_WAIT = 4 << 20

_DTYPE_NAMES: dict[str, str] = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
    "C64": "complex64",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
}
# Those that this version of torch has.
_DTYPES: dict[str, torch.dtype] = {
    name: found for name, named in _DTYPE_NAMES.items() if isinstance(found := getattr(torch, named, None), torch.dtype)
}
_NAMES_OF_DTYPES = {dtype: name for name, dtype in _DTYPES.items()}


class LoadResult(NamedTuple):
    """What ``load_into(.., strict=False)`` left out."""

    missing_keys: list[str]
    """Names of the model that the merge does not have; they were left as they were."""
    unexpected_keys: list[str]
    """Names of the merge that the model does not have; they were not merged."""


def state_dict(merge: Merge) -> dict[str, torch.Tensor]:
    return {name: tensor.torch() for name, tensor in merge}


def load_into(merge: Merge | _Window, target: torch.nn.Module | Mapping[str, Any], strict: bool) -> LoadResult:
    wanted, missing, unexpected = _fit(merge, target, strict)
    direct, staged, tied = _sort(merge, wanted)
    with torch.no_grad():
        merge._fill([(name, tensor.data_ptr(), tensor.nbytes) for name, tensor in direct.items()])
        _bump_versions(direct)
        _fill_staged(merge, staged)
        _check_tied(merge, tied)
    return LoadResult(missing, unexpected)


def trials(sweep: Sweep, target: torch.nn.Module | Mapping[str, Any], strict: bool, hold_bytes: int) -> Iterator[Trial]:
    """Checks the model at once; merges as many trials together as may be held, and copies one after the other."""
    wanted, _, _ = _fit(sweep, target, strict)
    infos = {name: sweep.info(name) for name in wanted}
    return _trials_in_turn(sweep, target, wanted, infos, hold_bytes)


def _trials_in_turn(
    sweep: Sweep,
    target: torch.nn.Module | Mapping[str, Any],
    wanted: Mapping[str, torch.Tensor],
    infos: Mapping[str, TensorInfo],
    hold_bytes: int,
) -> Iterator[Trial]:
    """The first trial of a batch is merged to where it belongs, the others to memory that holds them until their turn."""
    plans = sweep.plans
    may_exchange = isinstance(target, torch.nn.Module)
    direct, staged, tied = _sort(sweep, wanted)
    elsewhere = {name: infos[name] for name in (*staged, *tied)}
    per_trial, of_first = (sum(info.nbytes for info in some.values()) for some in (infos, elsewhere))
    n_at_most = 1 + max(hold_bytes - of_first, 0) // max(per_trial, 1)
    held = [_held(elsewhere)]
    is_quick = False
    if min(n_at_most, len(plans)) > 1:
        held.append(_held(infos))
        is_quick = _take_memory(held[-1])
    # While sources come from memory: what n / b readings and b held trials cost together is least there.
    cheapest = round(math.sqrt(len(plans) * sweep._n_sources / _SOURCES_PER_HELD[is_quick]))
    n_together = min(n_at_most, max(_FEW_TRIALS, cheapest))
    first = 0
    while first < len(plans):
        batch = range(first, min(first + n_together, len(plans)))
        while len(held) < len(batch):
            held.append(_held(infos))
            is_quick = is_quick and _take_memory(held[-1])
        _check_unchanged(target, wanted, direct, infos)
        targets = [[(name, t.data_ptr(), t.nbytes) for name, t in state.items()] for state in held]
        targets[0] += [(name, tensor.data_ptr(), tensor.nbytes) for name, tensor in direct.items()]
        waits = _waits()
        is_slow = sweep._fill(list(zip(batch, targets)))
        if is_slow and _waits() - waits > per_trial * len(batch) // _BYTES_PER_WAIT:
            n_together = n_at_most
        for trial_idx, state in zip(batch, held):
            _check_unchanged(target, wanted, direct, infos)
            with torch.no_grad():
                _move_in(direct, state, may_exchange)
                _bump_versions(direct)
                for name, tensor in staged.items():
                    _put(tensor, state[name])
                _check_ties(wanted, tied, state)
            yield plans[trial_idx]
        first = batch.stop


def _check_unchanged(
    target: torch.nn.Module | Mapping[str, Any],
    wanted: Mapping[str, torch.Tensor],
    direct: Mapping[str, torch.Tensor],
    infos: Mapping[str, TensorInfo],
) -> None:
    """Raises if the model has other tensors since the last trial, or some that cannot be written where they are."""
    places = _paired(target, places_of(target), list(wanted))
    for name, tensor in wanted.items():
        info, there = infos[name], places.get(name)
        is_there = there is tensor or there is not None and span_of(there) == span_of(tensor)
        is_writable = name not in direct or _is_direct(tensor, info) and tensor.nbytes == info.nbytes
        if not (is_there and is_writable):
            raise UsageError(
                f"`{name}` was moved or replaced while trials were loaded into the model",
                "change the model before the first trial, or give the new one to `trials`",
            )


def _move_in(direct: Mapping[str, torch.Tensor], state: dict[str, torch.Tensor], may_exchange: bool) -> None:
    """Puts a held trial into the model: exchanges the memory of its tensors where it may, and copies the others."""
    there = {name: tensor for name, tensor in direct.items() if name in state}
    copied = []
    for name, tensor in there.items():
        if not (may_exchange and _exchange(tensor, state, name)):
            copied.append((state[name].data_ptr(), tensor.data_ptr(), tensor.nbytes))
    _copy(copied)


def _exchange(tensor: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> bool:
    """Gives a tensor of a model the memory of a held one, which gets its own for that, as `Module.to` replaces memory.

    False where somebody else might look at that memory: another tensor, an array of NumPy, another process.
    """
    held = state[name]
    if not (_is_alone(tensor) and tensor.is_inference() == held.is_inference() and tensor.shape == held.shape):
        return False
    own = tensor.data
    tensor.data = held
    state[name] = own
    return True


def _is_alone(tensor: torch.Tensor) -> bool:
    """Whether nothing else can see the memory of a tensor, which is all of its storage."""
    if _users_of(tensor) != _USERS_OF_ONE:
        return False
    storage = tensor.untyped_storage()
    return (
        # The memory of another library, such as an array that a tensor was made from, cannot be resized.
        storage.resizable()
        and storage.nbytes() == tensor.nbytes
        and not storage.is_shared()
        and not tensor.is_pinned()
    )


def _users_of(tensor: torch.Tensor) -> int | None:
    """How many references there are to its storage, which the caller's tensor keeps; None where torch does not tell."""
    count = getattr(torch._C, "_storage_Use_Count", None)
    return None if count is None else int(count(tensor.untyped_storage()._cdata))


_USERS_OF_ONE = _users_of(torch.empty(1)) or -1


def _waits() -> int:
    """How often this process has waited by itself so far, which reading from memory never does."""
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:
        return 0
    return getrusage(RUSAGE_SELF).ru_nvcsw


def _held(infos: Mapping[str, TensorInfo]) -> dict[str, torch.Tensor]:
    """Memory for tensors, each with its own, so that it can be exchanged."""
    with torch.inference_mode(False):
        return {name: torch.empty(info.shape, dtype=_dtype_of(info)) for name, info in infos.items()}


def _take_memory(state: Mapping[str, torch.Tensor]) -> bool:
    """Takes the memory of tensors now, in large pages if the system has them at hand, and says whether it has."""
    return _take([(tensor.data_ptr(), tensor.nbytes) for tensor in state.values()])


def _check_ties(
    wanted: Mapping[str, torch.Tensor], tied: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]
) -> None:
    """Names whose memory another name fills must have been merged to the same values."""
    for name in tied:
        value = _part_for(wanted[name], state[name]).to(device=wanted[name].device, dtype=wanted[name].dtype)
        if not torch.equal(_bits(value), _bits(local_of(wanted[name]))):
            raise UsageError(*_tied_differ(name))


def _tied_differ(name: str) -> tuple[str, str, str]:
    return (
        f"`{name}` shares its memory with another tensor of the model, and the merge has other values for it",
        "load into a model that does not tie them",
        "TiedDiffer",
    )


def places_of(target: torch.nn.Module | Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a model or a state dict, sharing its memory."""
    state = target.state_dict(keep_vars=True) if isinstance(target, torch.nn.Module) else target
    if not isinstance(state, Mapping):
        raise UsageError(
            f"a merge cannot be loaded into {type(target).__name__}", "give a `torch.nn.Module` or a state dict"
        )
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def is_sharded(value: Any) -> bool:
    """Whether this is a `DTensor`, of which each rank has a part."""
    return hasattr(value, "to_local") and hasattr(value, "device_mesh")


def local_of(value: Any) -> torch.Tensor:
    """The part of a tensor that is on this rank, sharing its memory."""
    local = value.to_local() if is_sharded(value) else value
    assert isinstance(local, torch.Tensor)
    return local.detach()


def _part_for(target: torch.Tensor, merged: torch.Tensor) -> torch.Tensor:
    """What of a merged tensor belongs to this rank's part of `target`. Nothing is sent between ranks."""
    if not is_sharded(target):
        return merged
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(target, DTensor)
    return distribute_tensor(merged, target.device_mesh, target.placements, src_data_rank=None).to_local()


def _put(target: torch.Tensor, merged: torch.Tensor, non_blocking: bool = False) -> None:
    """Copies a merged tensor to where it belongs."""
    local = local_of(target) if is_sharded(target) else target
    local.copy_(_part_for(target, merged), non_blocking=non_blocking)


def span_of(tensor: torch.Tensor) -> tuple[int, int] | None:
    """The addresses of a tensor's elements, from the first to behind the last; None if it has no memory."""
    if is_sharded(tensor):
        tensor = local_of(tensor)
    if tensor.is_meta or tensor.layout is not torch.strided or tensor.numel() == 0:
        return None
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.element_size()


def _missing(places: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> list[str]:
    """Names that no merged tensor fills, not even under another name for the same memory (tied embeddings)."""
    filled = {(tensor.device, span_of(tensor), tensor.shape) for tensor in wanted.values() if span_of(tensor)}
    ids = {id(tensor) for tensor in wanted.values()}
    lacking = (name for name, tensor in places.items() if id(tensor) not in ids)
    return [name for name in lacking if (places[name].device, span_of(places[name]), places[name].shape) not in filled]


def _fit(
    merge: Merge | Sweep | _Window, target: torch.nn.Module | Mapping[str, Any], strict: bool
) -> tuple[dict[str, torch.Tensor], list[str], list[str]]:
    """What to fill, by the merge's names, and the names that only the model and only the merge have.

    Raises before anything is written if the model does not fit.
    """
    places, merged = places_of(target), merge.keys()
    wanted = _paired(target, places, merged)
    copies = _copies(target, wanted)
    missing = _missing(places, wanted)
    unexpected = [name for name in merged if name not in wanted]
    misfits = [_misfit(name, tensor, merge.info(name)) for name, tensor in wanted.items()]
    lines = [one for one in misfits if one is not None]
    if strict or len(copies) == len(wanted):
        lines += [_Misfit(f"`{name}` of the state dict is a copy, unseen by the model", _COPY_HINT) for name in copies]
    if strict or (merged and not wanted):
        hint = _STRICT_HINT if wanted else _STRANGER_HINT
        lines += [_Misfit(f"`{name}` is in the model, not in the merge", hint) for name in missing]
        lines += [_Misfit(_lacking(name, target), hint) for name in unexpected]
    if lines:
        # Leaving names out mends nothing else.
        hint = min(lines, key=lambda one: one.hint == _STRICT_HINT).hint
        where = "1 place" if len(lines) == 1 else f"{len(lines)} places"
        details = [one.line for one in lines]
        raise UsageError(f"the merge does not fit the model in {where}", hint, "NotFitting", details)
    for name in copies:
        del wanted[name]
    return wanted, missing + copies, unexpected


class _Misfit(NamedTuple):
    line: str
    hint: str


_STRICT_HINT = "load what both have with `strict=False`"
_STRANGER_HINT = "give the module that the checkpoints were saved from, such as `model.model`"
_COPY_HINT = "fill the state dict, `load_into(state := model.state_dict())`, then call `model.load_state_dict(state)`"


def _paired(
    target: torch.nn.Module | Mapping[str, Any], places: Mapping[str, torch.Tensor], merged: list[str]
) -> dict[str, torch.Tensor]:
    """Tensors of a model by the merge's names, which may differ by what wrappers for training add to them."""
    inner = getattr(target, "_orig_mod", target)
    is_parallel = isinstance(inner, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel))
    prefix = "module." if is_parallel else ""
    bare = {uncompiled(name).removeprefix(prefix): tensor for name, tensor in places.items()}
    found = {name: places.get(name, bare.get(uncompiled(name))) for name in merged}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def uncompiled(name: str) -> str:
    """A name without what `torch.compile` adds to it."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _copies(target: torch.nn.Module | Mapping[str, Any], wanted: Mapping[str, torch.Tensor]) -> list[str]:
    """Names under which a model's state dict holds new memory: what is written there never reaches the model."""
    if not isinstance(target, torch.nn.Module):
        return []
    own = [*target.parameters(), *target.buffers()]
    ids, storages = {id(tensor) for tensor in own}, {_storage_of(tensor) for tensor in own} - {None}
    return [name for name, tensor in wanted.items() if id(tensor) not in ids and _storage_of(tensor) not in storages]


def _storage_of(tensor: torch.Tensor) -> tuple[torch.device, int] | None:
    if span_of(tensor) is None:
        return None
    return tensor.device, local_of(tensor).untyped_storage().data_ptr()


def _lacking(name: str, target: torch.nn.Module | Mapping[str, Any]) -> str:
    if isinstance(target, Mapping) and name in target:
        return f"`{name}` is not a torch.Tensor in the state dict, but {type(target[name]).__name__}"
    return f"`{name}` is in the merge, not in the model"


def _misfit(name: str, tensor: torch.Tensor, info: TensorInfo) -> _Misfit | None:
    """Why a tensor cannot hold the merged one of its name."""
    merged = _DTYPES.get(info.dtype)
    if tensor.is_meta:
        return _Misfit(
            f"`{name}` has no memory: it is on the meta device", 'make room first with `model.to_empty(device="cpu")`'
        )
    if tuple(tensor.shape) != info.shape:
        return _Misfit(
            f"`{name}` has shape {list(tensor.shape)} in the model, {list(info.shape)} in the merge",
            "build the model from the config of the sources",
        )
    if tensor.is_quantized or merged is not None and not torch.can_cast(merged, tensor.dtype):
        return _Misfit(
            f"`{name}` is {tensor.dtype} in the model, which cannot hold the {info.dtype} of the merge",
            "load into a model that is not quantised, and quantise that",
        )
    if tensor.layout is not torch.strided:
        told = f"`{name}` is not dense in the model: its layout is {tensor.layout}"
        return _Misfit(told, "make it dense with `to_dense()`")
    span = span_of(tensor)
    if span is not None and span[1] - span[0] < local_of(tensor).nbytes:
        told = f"elements of `{name}` share memory in the model, as after `expand`"
        return _Misfit(told, "give each its own with `clone()`")
    return None


def _sort(
    merge: Merge | Sweep | _Window, wanted: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Tensors that are written where they are, those that are staged, and those that others already fill."""
    direct: dict[str, torch.Tensor] = {}
    staged: dict[str, torch.Tensor] = {}
    tied: dict[str, torch.Tensor] = {}
    spans = {name: span_of(tensor) for name, tensor in wanted.items()}
    ends: dict[torch.device, int] = {}
    # By address, so that overlaps are neighbours.
    for name in sorted(wanted, key=lambda name: (spans[name] or (0, 0), name)):
        tensor, span = wanted[name], spans[name]
        if span is not None:
            if span[0] < ends.get(tensor.device, 0):
                tied[name] = tensor
                continue
            ends[tensor.device] = span[1]
        (direct if _is_direct(tensor, merge.info(name)) else staged)[name] = tensor
    return direct, staged, tied


def _is_direct(tensor: torch.Tensor, info: TensorInfo) -> bool:
    return is_plain(tensor) and tensor.dtype is _DTYPES.get(info.dtype)


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether its elements are in memory of the CPU, one after the other, so that others may read and write them."""
    return (
        tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and not tensor.is_conj()
        and not tensor.is_neg()
    )


def one_float_dtype(tensors: Iterable[torch.Tensor]) -> torch.dtype | None:
    """The element type of the floating tensors; None if there are several."""
    found = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    return found.pop() if len(found) == 1 else None


def dtype_name(dtype: torch.dtype) -> str | None:
    """The safetensors name of an element type."""
    return _NAMES_OF_DTYPES.get(dtype)


def _bump_versions(direct: Mapping[str, torch.Tensor]) -> None:
    """Tells autograd that the tensors changed, as an operation in place would."""
    increment = getattr(torch.autograd.graph, "increment_version", None)
    for tensor in direct.values():
        if increment is not None and not tensor.is_inference():
            increment(tensor)


def _windows(merge: Merge | _Window, names: Mapping[str, torch.Tensor]) -> Iterator[list[tuple[str, int, int]]]:
    """Names with offset and bytes, so many at a time as a staging buffer takes."""
    window: list[tuple[str, int, int]] = []
    end = 0
    for name in names:
        n_bytes = merge.info(name).nbytes
        if window and end + n_bytes > _WINDOW_BYTES:
            yield window
            window, end = [], 0
        window.append((name, end, n_bytes))
        end += -(-n_bytes // _ALIGNMENT) * _ALIGNMENT
    if window:
        yield window


def _fill_staged(merge: Merge | _Window, staged: Mapping[str, torch.Tensor]) -> None:
    """Fills tensors through two buffers in turn: while a device copies from one, the next is merged into the other."""
    is_pinned = torch.cuda.is_available() and any(tensor.device.type == "cuda" for tensor in staged.values())
    buffers: list[tuple[torch.Tensor, list[torch.device]]] = []
    for window in _windows(merge, staged):
        n_bytes = max(window[-1][1] + window[-1][2], 1)
        buffer = _take_buffer(buffers, n_bytes, is_pinned)
        base = buffer.data_ptr()
        merge._fill([(name, base + offset, size) for name, offset, size in window])
        for name, offset, size in window:
            merged = _view(buffer[offset : offset + size], merge.info(name))
            _put(staged[name], merged, non_blocking=is_pinned)
        devices = sorted({staged[name].device for name, _, _ in window if staged[name].device.type == "cuda"}, key=str)
        buffers.append((buffer, devices))
    for _, devices in buffers:
        _wait(devices)


def _take_buffer(
    buffers: list[tuple[torch.Tensor, list[torch.device]]], n_bytes: int, is_pinned: bool
) -> torch.Tensor:
    """The buffer of the window before the last, once the device has read it, if it is large enough."""
    if len(buffers) >= (2 if is_pinned else 1):
        buffer, devices = buffers.pop(0)
        _wait(devices)
        if buffer.nbytes >= n_bytes:
            return buffer
    return torch.empty(max(n_bytes, _WINDOW_BYTES), dtype=torch.uint8, pin_memory=is_pinned)


def _wait(devices: list[torch.device]) -> None:
    for device in devices:
        torch.cuda.current_stream(device).synchronize()


def _dtype_of(info: TensorInfo) -> torch.dtype:
    dtype = _DTYPES.get(info.dtype)
    if dtype is None:
        raise UsageError(f"this version of torch has no element type for {info.dtype}")
    return dtype


def _view(raw: torch.Tensor, info: TensorInfo) -> torch.Tensor:
    return raw.view(_dtype_of(info)).view(info.shape)


def _check_tied(merge: Merge | _Window, tied: Mapping[str, torch.Tensor]) -> None:
    """As `_check_ties`, for one merge: only these tensors are merged, one after the other."""
    for name, merged in merge.tensors(list(tied)):
        _check_ties(tied, {name: tied[name]}, {name: merged.torch()})


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)
