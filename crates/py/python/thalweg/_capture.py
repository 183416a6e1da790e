"""Copies parameters out of a model in training. Imported only when it is used, because it imports torch."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Mapping, NamedTuple, Sequence

import torch

from thalweg._errors import UsageError
from thalweg._load import dtype_name, is_plain, is_sharded, local_of, places_of, span_of, uncompiled
from thalweg._thalweg import _copy

if TYPE_CHECKING:
    from thalweg import Tensor

_ALIGNMENT = 64
_REGISTER = "register_step_pre_hook"
_RECORD_NAME = "thalweg-average.json"


def local_places(target: torch.nn.Module | Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The parts of a model's tensors that are on this rank."""
    return {name: local_of(value) for name, value in places_of(target).items()}


def kept_places(model: torch.nn.Module | Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """A model's tensors as its checkpoints have them.

    Without second names for the same memory, such as tied embeddings, and without what `torch.compile` adds to names.
    """
    found: dict[str, torch.Tensor] = {}
    seen = set()
    for name, tensor in places_of(model).items():
        local = local_of(tensor)
        key = (local.device, span_of(local), local.shape, local.dtype)
        if key[1] is None or key not in seen:
            seen.add(key)
            found[name] = tensor
    return _with_bare_names(found)


def _with_bare_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    bare = {uncompiled(name): tensor for name, tensor in tensors.items()}
    return bare if len(bare) == len(tensors) else dict(tensors)


def tensors_of(model: torch.nn.Module | Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What a save takes in: parameters and buffers, each once, and of sharded ones the part on this rank."""
    _check_whole(model)
    return {name: local_of(value) for name, value in kept_places(model).items()}


def _check_whole(model: torch.nn.Module | Mapping[str, Any]) -> None:
    """Raises where a framework keeps the parameters elsewhere than in the model's tensors."""
    if not isinstance(model, torch.nn.Module):
        return
    hint = "merge the checkpoints instead, or shard with FSDP2 (`fully_shard`)"
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise UsageError("the model is wrapped by FSDP1, which keeps flat pieces of its parameters", hint)
    if any(hasattr(parameter, "ds_status") for parameter in model.parameters()):
        raise UsageError("the model is partitioned by ZeRO-3, which keeps no parameters in it", hint)


def entries_of(tensors: Mapping[str, torch.Tensor]) -> list[tuple[str, str, list[int]]]:
    """Name, element type and dimensions of each."""
    entries = []
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise UsageError(f"`{name}` has no memory: it is on the meta device", "begin to average once it is filled")
        dtype = dtype_name(tensor.dtype)
        if dtype is None:
            raise UsageError(f"`{name}` has element type {tensor.dtype}, which cannot be kept")
        entries.append((name, dtype, list(tensor.shape)))
    return entries


def copy_now(place: torch.Tensor, value: torch.Tensor) -> None:
    """Copies the bits of a tensor, or of its part on this rank, to memory of the host."""
    with torch.no_grad():
        place.copy_(local_of(value))


class _Staged(NamedTuple):
    """A tensor on its way from a device: where the device puts it, and where it belongs."""

    staging: torch.Tensor
    place: torch.Tensor


class OptimizedParameters:
    """Parameters that only optimizers change, in their steps: between two steps they may be copied at any time."""

    def __init__(self, optimizers: Any, before_step: Callable[[], object]) -> None:
        """``before_step`` is called before each step of an optimizer, as long as its owner lives."""
        self._optimizers = _unwrapped(optimizers)
        call = weakref.WeakMethod(before_step)

        def hook(*_args: Any) -> None:
            found = call()
            if found is not None:
                found()

        for optimizer in self._optimizers:
            if not hasattr(optimizer, _REGISTER):
                raise UsageError(
                    f"{type(optimizer).__name__} has no hook before its steps",
                    "leave `optimizer` out: then tensors are copied at once",
                )
            optimizer.register_step_pre_hook(hook)

    def spans(self) -> set[Any]:
        """Where the parameters are."""
        groups = (group for optimizer in self._optimizers for group in optimizer.param_groups)
        return {_place_of(local_of(value)) for group in groups for value in group["params"]}


def hookable(optimizers: Any) -> Any:
    """What a trainer has for optimizers, if all of them call hooks; None otherwise."""
    found = _unwrapped(optimizers)
    return found if found and all(hasattr(one, _REGISTER) for one in found) else None


def _unwrapped(optimizers: Any) -> list[Any]:
    """One or several, without the wrappers of Accelerate and Lightning, which call what they wrap."""
    found = []
    for one in optimizers if isinstance(optimizers, (list, tuple)) else [optimizers]:
        while not hasattr(one, "_optimizer_step_pre_hooks") and hasattr(one, "optimizer"):
            one = one.optimizer
        found.append(one)
    return found


def _place_of(tensor: torch.Tensor) -> Any:
    return tensor.device, span_of(tensor)


class Capture:
    """Copies from a device through a pinned buffer, which is made once, without waiting for the device."""

    def __init__(self) -> None:
        self._buffer: torch.Tensor | None = None

    def start(
        self, values: Sequence[torch.Tensor], places: Sequence[torch.Tensor], optimized: OptimizedParameters | None
    ) -> Callable[[], None] | None:
        """Lets devices copy what they hold, and copies at once what may change while the next step computes.

        Returns what does the rest, to be called from another thread; None if nothing is left to do.
        """
        staged: list[_Staged] = []
        spans = optimized.spans() if optimized is not None else set()
        on_host = [(value, place) for value, place in zip(values, places) if not self._is_on_device(value)]
        later = [(value, place) for value, place in on_host if _place_of(value) in spans]
        with torch.no_grad():
            waiting = [(value, place) for value, place in zip(values, places) if self._is_on_device(value)]
            buffer = self._buffer_of(sum(_aligned(value.nbytes) for value, _ in waiting))
            offset = 0
            for value, place in waiting:
                raw = buffer[offset : offset + value.nbytes]
                offset += _aligned(value.nbytes)
                staged.append(_Staged(raw.view(value.dtype).view(value.shape), place))
                # In the order of the stream: the next step of the optimizer comes after it.
                staged[-1].staging.copy_(value, non_blocking=True)
            events = [self._event(device) for device in {value.device for value, _ in waiting}]
            _copy_on_host([(value, place) for value, place in on_host if _place_of(value) not in spans], None)
        if not staged and not later:
            return None

        def finish() -> None:
            with torch.no_grad():
                # One thread: the others train.
                _copy_on_host(later, 1)
                for event in events:
                    event.synchronize()
                for one in staged:
                    one.place.copy_(one.staging)

        return finish

    def _is_on_device(self, value: torch.Tensor) -> bool:
        return value.device.type == "cuda" and value.numel() > 0

    def _event(self, device: torch.device) -> Any:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        return event

    def _buffer_of(self, n_bytes: int) -> torch.Tensor:
        if self._buffer is None or self._buffer.nbytes < n_bytes:
            self._buffer = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=n_bytes > 0 and torch.cuda.is_available())
        return self._buffer


def _copy_on_host(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], threads: int | None) -> None:
    """Copies tensors to places, which are contiguous and of their element types."""
    plain = [is_plain(value) for value, _ in pairs]
    together = [pair for pair, one in zip(pairs, plain) if one]
    _copy([(value.data_ptr(), place.data_ptr(), value.nbytes) for value, place in together], threads)
    for (value, place), one in zip(pairs, plain):
        if not one:
            place.copy_(value)


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT


def sharded_like(model: torch.nn.Module | Mapping[str, Any]) -> dict[str, torch.Tensor] | None:
    """Room for an average with the shards of the model; None if nothing is sharded."""
    places = kept_places(model)
    if not any(is_sharded(value) for value in places.values()):
        return None
    return {name: torch.empty_like(value.detach()) for name, value in places.items()}


def write_sharded(tensors: Mapping[str, torch.Tensor], out: Path, stage: Path, record: str) -> None:
    """Each rank writes its own shards, to a DCP checkpoint that appears whole or not at all. All ranks call it."""
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict_saver import save

    # Every rank looks before the first one changes anything, so that all of them refuse.
    for folder in (out, stage):
        _check_own(folder)
    dist.barrier()
    is_first = dist.get_rank() == 0
    if is_first:
        _remove_own(stage)
    dist.barrier()
    save({"model": dict(tensors)}, checkpoint_id=stage)
    if is_first:
        (stage / _RECORD_NAME).write_text(record)
        _remove_own(out)
        stage.rename(out)
    dist.barrier()


def _foreign(folder: Path) -> list[str]:
    entries = sorted(folder.iterdir()) if folder.exists() else []
    return [entry.name for entry in entries if entry.name not in (".metadata", _RECORD_NAME) and entry.suffix != ".distcp"]


def _check_own(folder: Path) -> None:
    """Raises unless a folder is free, or an average that was written by ranks."""
    foreign = _foreign(folder)
    if foreign:
        raise UsageError(f"`{folder}` holds `{foreign[0]}`, which is not part of an average", "choose another output")
    is_average = not (folder / ".metadata").exists() or (folder / _RECORD_NAME).exists()
    if folder.suffix != ".thalweg-partial" and not is_average:
        raise UsageError(f"`{folder}` is a checkpoint that is not an average", "choose another output")


def _remove_own(folder: Path) -> None:
    if folder.exists():
        for entry in folder.iterdir():
            entry.unlink()
        folder.rmdir()


def state_of(
    model: torch.nn.Module | Mapping[str, Any],
    saves: Sequence[tuple[int, Sequence[tuple[str, Tensor]]]],
    count: int,
    version: int,
) -> dict[str, Any]:
    """Saves as a state dict: places 0 to count - 1, oldest first; -1 is the step of an empty place."""
    places = kept_places(model)
    steps = torch.full((count,), -1, dtype=torch.int64)
    kept: dict[str, dict[str, torch.Tensor]] = {}
    for i in range(count):
        if i < len(saves):
            steps[i] = saves[i][0]
            local = {name: tensor.torch() for name, tensor in saves[i][1]}
        else:
            local = {name: torch.zeros_like(local_of(value), device="cpu") for name, value in places.items()}
        kept[str(i)] = {name: _like(value, places.get(name)) for name, value in local.items()}
    return {"version": version, "steps": steps, "saves": kept}


def _like(local: torch.Tensor, model_tensor: torch.Tensor | None) -> torch.Tensor:
    """A part in memory of the host, as a sharded tensor if it is one in the model."""
    if model_tensor is None or not is_sharded(model_tensor):
        return local
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

    assert isinstance(model_tensor, DTensor)
    mesh = model_tensor.device_mesh
    if mesh.device_type != "cpu":
        mesh = DeviceMesh("cpu", mesh.mesh, mesh_dim_names=mesh.mesh_dim_names)
    return DTensor.from_local(
        local,
        mesh,
        model_tensor.placements,
        run_check=False,
        shape=model_tensor.shape,
        stride=model_tensor.stride(),
    )


def saves_of(state: Mapping[str, Any], version: int) -> list[tuple[int, dict[str, torch.Tensor]]]:
    """The saves of a state dict, oldest first."""
    hint = "give what `Average.state_dict` returned"
    if state.get("version") != version:
        raise UsageError(f"the state of an average has version {version}, not {state.get('version')!r}", hint)
    steps, kept = state.get("steps"), state.get("saves")
    if not isinstance(steps, torch.Tensor) or not isinstance(kept, Mapping):
        raise UsageError("this is not the state of an average", hint)
    saves = []
    for i, step in enumerate(steps.tolist()):
        if step >= 0:
            tensors = kept.get(str(i))
            if not isinstance(tensors, Mapping):
                raise UsageError(f"the state of an average has no save of step {step}", hint)
            local = {name: local_of(value) for name, value in tensors.items()}
            saves.append((int(step), _with_bare_names(local)))
    return saves
