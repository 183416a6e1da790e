"""Averages in the Trainer of Lightning. Importing this imports lightning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from thalweg._average import Average
from thalweg._hook import Hook


class AverageCallback(Callback):
    """Averages the last ``count`` saves of a Trainer, and writes the average to ``folder`` as ``step-N``.

    A save is taken in whenever a whole checkpoint is saved (``save_weights_only=False``), or after every ``every_steps``
    steps. The window is part of the checkpoint: ``count`` copies of the model. ``write`` says when the average is
    written: at the ``"end"``, at every ``"save"``, or ``"never"``. ``folder`` is ``averages`` in the Trainer's root if left
    out. ``options`` are those of ``thalweg.Average``.
    """

    def __init__(
        self,
        *,
        count: int,
        scheme: str = "sma",
        every_steps: int | None = None,
        folder: str | os.PathLike[str] | None = None,
        write: str = "end",
        **options: Any,
    ) -> None:
        self._hook = Hook(count, scheme, every_steps, write, options)
        self._folder = None if folder is None else Path(folder)
        self._last_step = 0

    @property
    def average(self) -> Average | None:
        """The average; ``None`` before training begins, and on ranks that do not take part."""
        return self._hook.average

    @property
    def state_key(self) -> str:
        """The name of the state in checkpoints."""
        return "thalweg.AverageCallback"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._hook.begin(pl_module, trainer.optimizers, trainer.is_global_zero)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._last_step != trainer.global_step:
            # With accumulated gradients, several batches are one step.
            self._last_step = trainer.global_step
            self._hook.on_step(trainer.global_step)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        is_written = self._hook.on_save(trainer.global_step)
        # Lightning asked for the state before this save was taken in.
        checkpoint.setdefault("callbacks", {})[self.state_key] = self._hook.state()
        if is_written:
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._hook.on_end():
            self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        return self._hook.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            self._hook.resume(state_dict)

    def _write(self, trainer: Trainer) -> None:
        self._hook.write(self._folder or Path(trainer.default_root_dir) / "averages")
