"""What the callbacks of trainers have in common: when a save is taken in, and when the average is written."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Mapping

from thalweg._average import Average
from thalweg._errors import UsageError

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger("thalweg")
_WRITES = ("end", "save", "never")


class Hook:
    """An average whose model comes later, when training begins."""

    def __init__(self, count: int, scheme: str, every_steps: int | None, write: str, options: Mapping[str, Any]) -> None:
        if write not in _WRITES:
            raise UsageError(f"`write={write!r}` is not known", 'write `"end"`, `"save"` or `"never"`')
        if every_steps is not None and every_steps < 1:
            raise UsageError(f"`every_steps={every_steps}` is not a number of steps", "write `every_steps=100`, for example")
        # Options that do not fit are found now rather than when training has begun.
        Average({}, count=count, scheme=scheme, **options)
        self.average: Average | None = None
        self._make: Callable[..., Average] = partial(Average, count=count, scheme=scheme, **options)
        self._every_steps = every_steps
        self._write = write
        self._state: Mapping[str, Any] | None = None
        self._takes_part = True

    def begin(self, model: torch.nn.Module, optimizer: Any, is_first_rank: bool) -> None:
        """Training begins, by this optimizer or these, if any. Ranks that hold the same parameters as the first do not average them again."""
        from thalweg import _capture

        self._takes_part = is_first_rank or _capture.sharded_like(model) is not None
        if self._takes_part:
            self.average = self._make(model, optimizer=_capture.hookable(optimizer))
            if self._state is not None:
                self.average.load_state_dict(self._state)
        self._state = None

    def resume(self, state: Mapping[str, Any]) -> None:
        """Takes over the state of an earlier run, at once or when training begins."""
        if self.average is None:
            self._state = state
        else:
            self.average.load_state_dict(state)

    def state(self) -> dict[str, Any]:
        """The state to keep in a checkpoint, without empty places; empty on ranks that do not take part."""
        if self.average is None:
            return dict(self._state or {})
        state = self.average.state_dict()
        kept = {str(i) for i, step in enumerate(state["steps"].tolist()) if step >= 0}
        state["saves"] = {place: save for place, save in state["saves"].items() if place in kept}
        return state

    def on_step(self, step: int) -> None:
        """After a step of the optimizer."""
        if self._every_steps is not None and step % self._every_steps == 0:
            self._update(step)

    def on_save(self, step: int) -> bool:
        """At a save of a checkpoint. Returns whether the average is to be written."""
        if self._every_steps is None:
            self._update(step)
        return self._write == "save" and self._is_full()

    def on_end(self) -> bool:
        """At the end of training. Returns whether the average is to be written."""
        if self._write == "end" and self.average is not None and not self._is_full():
            n_saves, count = len(self.average.steps), self.average.count
            _LOG.warning("no average is written: it takes %d saves, and %d were made", count, n_saves)
        return self._write == "end" and self._is_full()

    def write(self, folder: Path, side_files: Callable[[Path], None] | None = None) -> Path:
        """Writes the average as `step-N` in `folder`, with the files that `side_files` puts into a folder."""
        import tempfile

        from thalweg import _capture

        average = self.average
        assert average is not None
        out = folder / f"step-{average.steps[-1]}"
        if side_files is None or _capture.sharded_like(average._model) is not None:
            return average.write(out)
        with tempfile.TemporaryDirectory() as scratch:
            side_files(Path(scratch))
            return average.write(out, side_files_from=scratch)

    def _update(self, step: int) -> None:
        # A step can be saved twice, as the best and as the last.
        if self.average is not None and step not in self.average.steps:
            self.average.update(step)

    def _is_full(self) -> bool:
        return self.average is not None and self.average.is_full
