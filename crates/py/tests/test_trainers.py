"""The callbacks in real trainers: the average is the merge of the checkpoints that the trainer saved."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

import thalweg
import thalweg.huggingface
import thalweg.lightning
from conftest import raw, read_folder


def merged(sources: list[Path], **options: Any) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in thalweg.merge(thalweg.plan(sources=sources, **options))}


def written(folder: Path) -> dict[str, bytes]:
    return {name: raw(value) for name, value in read_folder(folder).items()}


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


class Tokens(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(0, 32, (12,), generator=torch.Generator().manual_seed(i))
        return {"input_ids": tokens, "labels": tokens}


def trainer(folder: Path, callbacks: list[TrainerCallback], **given: Any) -> Trainer:
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 10,
        "save_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        **given,
    }
    return Trainer(llama(), TrainingArguments(**arguments), train_dataset=Tokens(), callbacks=callbacks)


class Keep(TrainerCallback):
    """Copies each checkpoint at its save, before the Trainer deletes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        name = f"checkpoint-{state.global_step}"
        shutil.copytree(Path(args.output_dir) / name, self.folder / name)


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


@pytest.mark.parametrize("limit", [None, 1])
def test_the_average_of_a_trainer_is_the_merge_of_its_checkpoints(tmp_path: Path, limit: int | None) -> None:
    average = thalweg.huggingface.AverageCallback(count=3, scheme="wma", write="save")
    trainer(tmp_path / "run", [Keep(tmp_path / "kept"), average], save_total_limit=limit).train()
    for step in (6, 8, 10):
        sources = [tmp_path / f"kept/checkpoint-{one}" for one in (step - 4, step - 2, step)]
        assert written(tmp_path / f"run/averages/step-{step}") == merged(sources, scheme="wma"), step
    names = sorted(path.name for path in (tmp_path / "run/averages").iterdir())
    assert names == ["step-10", "step-6", "step-8"]
    model = LlamaForCausalLM.from_pretrained(tmp_path / "run/averages/step-10")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_trainer_that_was_stopped_continues_its_window(tmp_path: Path) -> None:
    run, kept = tmp_path / "run", tmp_path / "kept"
    first = thalweg.huggingface.AverageCallback(count=4)
    trainer(run, [Keep(kept), first, StopAt(6)], save_total_limit=1).train()
    assert not (run / "averages").exists() and sorted(path.name for path in kept.iterdir())[0] == "checkpoint-2"
    second = thalweg.huggingface.AverageCallback(count=4)
    trainer(run, [Keep(kept), second], save_total_limit=1).train(resume_from_checkpoint=True)
    assert second.average is not None and second.average.steps == [4, 6, 8, 10]
    sources = [kept / f"checkpoint-{step}" for step in (4, 6, 8, 10)]
    assert written(run / "averages/step-10") == merged(sources)


def test_a_window_over_steps_needs_no_checkpoints(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    every = thalweg.huggingface.AverageCallback(count=3, every_steps=2, folder=tmp_path / "every")
    too_long = thalweg.huggingface.AverageCallback(count=9, every_steps=2, folder=tmp_path / "none")
    kept = Keep(tmp_path / "kept")
    trainer(tmp_path / "run", [kept, every, too_long]).train()
    sources = [tmp_path / f"kept/checkpoint-{step}" for step in (6, 8, 10)]
    assert written(tmp_path / "every/step-10") == merged(sources)
    assert not (tmp_path / "none").exists()
    assert "it takes 9 saves, and 5 were made" in caplog.text


def test_a_resumed_run_without_a_state_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tmp_path / "run"
    trainer(run, [thalweg.huggingface.AverageCallback(count=2, keep_state=False), StopAt(4)]).train()
    callback = thalweg.huggingface.AverageCallback(count=2)
    trainer(run, [callback]).train(resume_from_checkpoint=True)
    assert "has no state of an average" in caplog.text
    assert callback.average is not None and callback.average.steps == [8, 10]


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = (self.net(batch) - 1).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.2)


def fit(folder: Path, callback: pl.Callback, steps: int, resume: Path | None = None, accumulate: int = 1) -> None:
    saves = ModelCheckpoint(folder / "saves", "{step}", every_n_train_steps=2, save_top_k=-1, save_last=True)
    data = torch.randn(160, 6, generator=torch.Generator().manual_seed(2))
    pl.Trainer(
        max_steps=steps,
        callbacks=[saves, callback],
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        accumulate_grad_batches=accumulate,
    ).fit(Net(), torch.utils.data.DataLoader(data, batch_size=4), ckpt_path=resume)  # type: ignore[arg-type]


def saves_of(folder: Path, steps: list[int]) -> list[Path]:
    return [folder / f"saves/step={step}.ckpt" for step in steps]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_average_of_lightning_is_the_merge_of_its_checkpoints(tmp_path: Path, accumulate: int) -> None:
    by_save = thalweg.lightning.AverageCallback(count=3, scheme="ema:0.4")
    fit(tmp_path, by_save, 10, accumulate=accumulate)
    assert written(tmp_path / "averages/step-10") == merged(saves_of(tmp_path, [6, 8, 10]), scheme="ema:0.4")
    by_step = thalweg.lightning.AverageCallback(count=2, every_steps=4, folder=tmp_path / "by-step", write="save")
    fit(tmp_path / "again", by_step, 10, accumulate=accumulate)
    assert by_step.average is not None and by_step.average.steps == [4, 8]
    assert written(tmp_path / "by-step/step-8") == merged(saves_of(tmp_path, [4, 8]))


def test_a_resumed_fit_continues_its_window(tmp_path: Path) -> None:
    fit(tmp_path, thalweg.lightning.AverageCallback(count=4), 4)
    callback = thalweg.lightning.AverageCallback(count=4)
    fit(tmp_path, callback, 10, resume=tmp_path / "saves/step=4.ckpt")
    assert callback.average is not None and callback.average.steps == [4, 6, 8, 10]
    assert written(tmp_path / "averages/step-10") == merged(saves_of(tmp_path, [4, 6, 8, 10]))


def test_options_are_checked_before_training() -> None:
    for make in (thalweg.huggingface.AverageCallback, thalweg.lightning.AverageCallback):
        with pytest.raises(thalweg.UsageError, match="there is no option `last`"):
            make(count=2, last=3)
        with pytest.raises(thalweg.UsageError, match="`write='always'` is not known"):
            make(count=2, write="always")
        with pytest.raises(thalweg.UsageError, match="`every_steps=0`"):
            make(count=2, every_steps=0)
