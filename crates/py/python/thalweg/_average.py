"""Averages that are kept while a model trains. Does not import torch until one is made.

The saves are in memory of the host, and the sum over them is the engine's own: the bits of merging the checkpoints that
were written at the same steps.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Mapping, Sequence

from thalweg._errors import UsageError
from thalweg._thalweg import _Saves

if TYPE_CHECKING:
    from os import PathLike

    import torch

    from thalweg import Tensor
    from thalweg._load import LoadResult
    from thalweg._thalweg import _Window

_STATE_VERSION = 1


class Average:
    """A window over the last ``count`` saves of a model in training: the bits of merging their checkpoints.

    ``model`` is a module, or a mapping of names to the tensors that training changes in place. ``scheme`` is a scheme of
    ``thalweg.plan``, such as ``"wma"`` or ``"ema:0.2"``; ``options`` are those of ``plan`` with the same names: ``alpha``,
    ``floor``, ``sigma_rel``, ``coefficients``, ``dtype``, ``non_float``, ``router`` and ``allow_non_finite``.

    ``optimizer``, one or several, is what trains the model. With it, parameters on the CPU are copied by another thread
    while the next step computes, and the optimizer's next step waits for the copy: only for training in which nothing
    else changes them. Without it they are copied at once.

    It holds ``count`` copies of the model in memory of the host. Parameters that are sharded (``DTensor``) are averaged
    shard by shard, on each rank its own.
    """

    def __init__(
        self,
        model: torch.nn.Module | Mapping[str, Any],
        *,
        count: int,
        scheme: str = "sma",
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        threads: int | None = None,
        memory: int | str | None = None,
        **options: Any,
    ) -> None:
        self._model = model
        self._count = count
        self._saves = _Saves(count, threads=threads, memory=memory, scheme=scheme, **options)
        self._capture: Any = None
        self._pending: threading.Thread | None = None
        self._failure: BaseException | None = None
        # A save that is taken in takes the place of the oldest: meanwhile nothing else may look.
        self._lock = threading.RLock()
        self._optimized: Any = None
        if optimizer is not None:
            from thalweg import _capture

            self._optimized = _capture.OptimizedParameters(optimizer, self._join)

    @property
    def count(self) -> int:
        """How many saves the average takes."""
        return self._count

    @property
    def scheme(self) -> str:
        """The scheme, with its parameter."""
        return self._saves.scheme

    @property
    def steps(self) -> list[int]:
        """The steps of the saves that are kept, oldest first."""
        with self._lock:
            self.wait()
            return self._saves.steps

    @property
    def is_full(self) -> bool:
        """Whether as many saves are kept as the average takes."""
        return len(self.steps) == self._count

    def update(self, step: int) -> None:
        """Takes in the parameters as they are after ``step``; the oldest save falls out.

        Tensors on a device are copied by the device, in the order of its stream, while the program continues; the next
        call waits for the copy. Those on the CPU are copied at once, or until the next step of the ``optimizer``.
        """
        with self._lock:
            self.wait()
            self._start(step)

    def _start(self, step: int) -> None:
        from thalweg import _capture

        tensors = _capture.tensors_of(self._model)
        names = list(tensors)
        places = self._saves.room(step, _capture.entries_of(tensors))
        views = [place.torch() for place in places]
        if self._capture is None:
            self._capture = _capture.Capture()
        finish = self._capture.start(list(tensors.values()), views, self._optimized)

        def keep() -> None:
            self._saves.keep(step, list(zip(names, places)))

        if finish is None:
            keep()
            return

        def work() -> None:
            try:
                finish()
                keep()
            except BaseException as error:
                self._failure = error

        # Not a daemon: a save is whole even if the program ends here.
        self._pending = threading.Thread(target=work, name="thalweg-average")
        self._pending.start()

    def wait(self) -> None:
        """Waits until the newest save is in memory of the host."""
        with self._lock:
            self._join()
            self._pending = None
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure

    def _join(self) -> None:
        # Without the lock, which a thread that reads the average may hold: a step of the optimizer waits here.
        pending = self._pending
        if pending is not None:
            pending.join()

    def clear(self) -> None:
        """Forgets all saves."""
        with self._lock:
            self.wait()
            self._saves.clear()

    def keys(self) -> list[str]:
        """The names of the averaged tensors, sorted."""
        return self._window().keys()

    def tensor(self, name: str) -> Tensor:
        """Averages one tensor; of a sharded one, this rank's shard."""
        return self._window().tensor(name)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self._window().tensors())

    def load_into(
        self, module_or_state_dict: torch.nn.Module | Mapping[str, Any] | None = None, strict: bool = True
    ) -> LoadResult:
        """Fills a model or state dict with the average; without one, the model in training itself."""
        from thalweg import _capture, _load

        target = self._model if module_or_state_dict is None else module_or_state_dict
        return _load.load_into(self._window(), _capture.local_places(target), strict)

    def write(self, out: str | PathLike[str], *, side_files_from: str | PathLike[str] | None = None) -> Path:
        """Writes the average as a checkpoint: a folder of safetensors that appears whole or not at all.

        ``thalweg-average.json`` in it says what was averaged. ``side_files_from`` names a checkpoint whose config and
        tokenizer travel. Only an average is replaced. If parameters are sharded, all ranks call it together, and each
        writes its own shards to a DCP checkpoint (``torch.distributed.checkpoint``).
        """
        from thalweg import _capture

        out = Path(out)
        window = self._window()
        sharded = _capture.sharded_like(self._model)
        if sharded is None:
            window.write(out, None if side_files_from is None else Path(side_files_from))
        elif side_files_from is not None:
            raise UsageError(
                "`side_files_from` has no effect on a sharded average, which is written as a DCP checkpoint",
                "leave it out",
            )
        else:
            self.load_into(sharded)
            _capture.write_sharded(sharded, out, Path(window.stage_path(out)), window.record())
        return out

    def state_dict(self) -> dict[str, Any]:
        """The saves as training state, sharing their memory: for ``torch.save``, or DCP, which stores shards as such.

        It always has as many places as the average takes saves, so that DCP can load it in place.
        """
        from thalweg import _capture

        with self._lock:
            self.wait()
            saves = self._saves.saves()
        return _capture.state_of(self._model, saves, self._count, _STATE_VERSION)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the saves of a state dict, instead of those that are here."""
        from thalweg import _capture

        saves = _capture.saves_of(state, _STATE_VERSION)
        with self._lock:
            self.wait()
            self._saves.clear()
            for step, tensors in saves[-self._count :]:
                places = self._saves.room(step, _capture.entries_of(tensors))
                for place, value in zip(places, tensors.values()):
                    _capture.copy_now(place.torch(), value)
                self._saves.keep(step, list(zip(tensors, places)))

    def _window(self) -> _Window:
        with self._lock:
            self.wait()
            return self._saves.window()

    def __repr__(self) -> str:
        return f"Average(count={self._count}, scheme={self.scheme!r}, steps={self.steps})"
