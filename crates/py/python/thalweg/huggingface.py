"""Averages in the Trainer of transformers. Importing this imports transformers."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from thalweg._average import Average
from thalweg._hook import Hook

_LOG = logging.getLogger("thalweg")
_STATE_NAME = "thalweg-average"


class AverageCallback(TrainerCallback):
    """Averages the last ``count`` saves of a Trainer, and writes the average to ``folder`` as ``step-N``.

    A save is taken in whenever the Trainer saves a checkpoint, whatever it deletes before, or after every
    ``every_steps`` steps. ``write`` says when the average is written: at the ``"end"``, at every ``"save"``, or
    ``"never"``. ``folder`` is ``averages`` in the Trainer's output if left out. With ``keep_state`` each checkpoint holds
    the window, from which a resumed run continues: ``count`` copies of the model. ``options`` are those of
    ``thalweg.Average``.
    """

    def __init__(
        self,
        *,
        count: int,
        scheme: str = "sma",
        every_steps: int | None = None,
        folder: str | os.PathLike[str] | None = None,
        write: str = "end",
        keep_state: bool = True,
        **options: Any,
    ) -> None:
        self._hook = Hook(count, scheme, every_steps, write, options)
        self._folder = None if folder is None else Path(folder)
        self._keep_state = keep_state

    @property
    def average(self) -> Average | None:
        """The average; ``None`` before training begins, and on ranks that do not take part."""
        return self._hook.average

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._hook.begin(kwargs["model"], kwargs.get("optimizer"), state.is_world_process_zero)
        if state.global_step == 0 or self.average is None:
            return
        folder = _checkpoint(args, state)
        given = args.resume_from_checkpoint
        places = [Path(given)] if isinstance(given, str) and Path(given).is_dir() else []
        found = next((path for place in [*places, folder] if (path := self._state_path(place, args)).exists()), None)
        if found is None:
            _LOG.warning("`%s` has no state of an average: the window starts over", folder)
        else:
            self._hook.resume(torch.load(found, weights_only=True))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._hook.on_step(state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        is_written = self._hook.on_save(state.global_step)
        if self.average is not None and self._keep_state:
            path = self._state_path(_checkpoint(args, state), args)
            partial = path.with_name(path.name + ".tmp")
            torch.save(self._hook.state(), partial)
            os.replace(partial, path)
        if is_written:
            self._write(args, kwargs)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._hook.on_end():
            self._write(args, kwargs)

    def _write(self, args: TrainingArguments, given: dict[str, Any]) -> None:
        def side_files(scratch: Path) -> None:
            model = given["model"]
            for owner in (
                getattr(model, "config", None),
                getattr(model, "generation_config", None),
                given.get("processing_class"),
            ):
                if owner is not None and hasattr(owner, "save_pretrained"):
                    owner.save_pretrained(scratch)

        self._hook.write(self._folder or Path(args.output_dir or ".") / "averages", side_files)

    def _state_path(self, checkpoint: Path, args: TrainingArguments) -> Path:
        # Where all ranks hold the same, the first one's state is the state.
        from thalweg import _capture

        assert self.average is not None
        is_sharded = _capture.sharded_like(self.average._model) is not None
        return checkpoint / (f"{_STATE_NAME}-{args.process_index}.pt" if is_sharded else f"{_STATE_NAME}.pt")


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
