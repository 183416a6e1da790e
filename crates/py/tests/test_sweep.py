"""Many merges in one resident model: the bytes of separate merges, sources read once, memory bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import numpy
import pytest
import torch

import thalweg
from conftest import FORMATS, make_sources, raw

Program = Callable[..., dict[str, Any]]
RUN = FORMATS["safetensors"][0].parent


def empty_like(sweep: thalweg.Sweep) -> dict[str, torch.Tensor]:
    first = thalweg.merge(sweep.plans[0].plan)
    return {name: torch.zeros_like(tensor) for name, tensor in first.state_dict().items()}


@pytest.mark.parametrize("hold", [None, 1, "120kB", "1GB"])
def test_each_trial_has_the_bytes_of_its_own_merge(hold: str | int | None) -> None:
    sweep = thalweg.sweep(RUN, [2, 3, 4], schemes=["sma", "wma"], dtype="f32")
    model = empty_like(sweep)
    seen = []
    for trial in sweep.trials(model, hold=hold):
        expected = {name: tensor.tobytes() for name, tensor in thalweg.merge(trial.plan)}
        assert {name: raw(tensor) for name, tensor in model.items()} == expected, trial
        seen.append(trial.name)
    assert seen == [trial.name for trial in sweep.plans] and len(seen) == len(sweep) == 7
    assert [trial.is_raw for trial in sweep.plans] == [True] + [False] * 6


def test_trials_fill_parameters_of_every_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from thalweg import _load

    # As on a slow disk, so that the second batch is larger than the first.
    waits = iter(range(0, 10**9, 10**6))
    monkeypatch.setattr(_load, "_waits", lambda: next(waits))
    make_sources(tmp_path, [torch.float32, torch.bfloat16], n_sources=4)
    sweep = thalweg.sweep(tmp_path, [2, 3, 4], schemes=["sma", "wma", "ema:0.3"], non_float="newest")
    model = empty_like(sweep)
    # Of another element type, not contiguous, and twice under one name's memory.
    model["layers.0.weight"] = torch.zeros(48, 64, dtype=torch.float64).t()
    model["layers.1.weight"] = torch.zeros(64, 48, dtype=torch.float32)
    version = model["scale"]._version
    for i, trial in enumerate(sweep.trials(model)):
        expected = thalweg.merge(trial.plan).state_dict()
        for name, tensor in model.items():
            assert torch.equal(tensor, expected[name].to(tensor.dtype)), (trial, name)
        assert model["scale"]._version > version + i, "autograd is told"
    shared = torch.zeros(64, 48)
    with pytest.raises(thalweg.UsageError, match="shares its memory"):
        list(sweep.trials({**model, "layers.0.weight": shared, "layers.1.weight": shared}))


class Model(torch.nn.Module):
    """Parameters that may be given other memory, and one whose memory others look at."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(48, 64, bias=False) for _ in range(3))
        for layer in self.layers:
            del layer.weight
        self.scale = torch.nn.Parameter(torch.zeros_like(tensors["scale"]))
        for name in ("empty", "positions", "mask"):
            self.register_buffer(name, torch.zeros_like(tensors[name]))
        for i, layer in enumerate(self.layers):
            layer.weight = torch.nn.Parameter(torch.zeros_like(tensors[f"layers.{i}.weight"]))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_memory_is_exchanged_only_where_nothing_else_looks_at_it(tmp_path: Path, mode: Callable[[], Any]) -> None:
    make_sources(tmp_path, [torch.float32] * 3, n_sources=4)
    sweep = thalweg.sweep(tmp_path, [2, 3, 4], schemes=["sma", "wma"])
    model = Model(empty_like(sweep))
    alias = model.get_parameter("layers.1.weight").detach()
    array = model.get_buffer("positions").numpy()
    owned = numpy.zeros((), numpy.float32)
    model.scale.data = torch.from_numpy(owned)
    third = model.get_parameter("layers.2.weight")
    third.data = torch.zeros(2 * 64 * 48)[: 64 * 48].view(64, 48)
    half = third.detach()
    places: dict[str, set[int]] = {}
    with mode():
        for trial in sweep.trials(model, hold="1GB"):
            expected = thalweg.merge(trial.plan).state_dict()
            for name, tensor in model.state_dict().items():
                assert torch.equal(tensor, expected[name]), (trial, name)
                places.setdefault(name, set()).add(tensor.data_ptr())
            assert torch.equal(alias, expected["layers.1.weight"]) and torch.equal(half, expected["layers.2.weight"])
            assert array.tolist() == expected["positions"].tolist() and float(owned) == float(expected["scale"])
    watched = ("layers.1.weight", "layers.2.weight", "positions", "scale")
    assert all(len(places[name]) == 1 for name in watched), places
    # Where it can be found out that nothing looks, nothing is copied.
    assert (len(places["layers.0.weight"]) > 1) == hasattr(torch._C, "_storage_Use_Count")


def set_strided(model: Model) -> None:
    model.get_parameter("layers.0.weight").data = torch.zeros(48, 64).t()


def set_other_dtype(model: Model) -> None:
    model.half()


def set_other_parameter(model: Model) -> None:
    model.layers[0].weight = torch.nn.Parameter(torch.zeros(64, 48))


def set_less(model: Model) -> None:
    model.get_parameter("layers.0.weight").data = torch.zeros(2, 48)


@pytest.mark.parametrize("change", [set_strided, set_other_dtype, set_other_parameter, set_less])
@pytest.mark.parametrize("hold", [1, "1GB"])
def test_a_model_that_is_replaced_between_trials_is_refused(
    change: Callable[[Model], None], hold: int | str, tmp_path: Path
) -> None:
    # Halves and bf16 have the same size: without a look at the type, the bits of one would be those of the other.
    make_sources(tmp_path, [torch.bfloat16 if change is set_other_dtype else torch.float32] * 3)
    sweep = thalweg.sweep(tmp_path, [1, 2, 3])
    model = Model(empty_like(sweep))
    n_loaded = 0
    with pytest.raises(thalweg.UsageError, match="`[a-z0-9.]*` was moved or replaced"):
        for _ in sweep.trials(model, hold=hold):
            n_loaded += 1
            change(model)
    assert n_loaded == 1


def test_the_windows_are_those_of_the_command_line(tmp_path: Path, run_program: Program) -> None:
    options = ["--counts", "1,2", "--ends", "steps", "--interval-steps", "20", "--schemes", "sma,ema:0.2"]
    document = run_program("sweep", RUN, *options, "-o", tmp_path / "sweep", "--dry-run")
    sweep = thalweg.sweep(RUN, [1, 2], ends=["steps"], interval_steps=["20"], schemes=["sma", "ema:0.2"])
    mine = [json.loads(trial.plan.to_json())["outputs"][0] for trial in sweep.plans if not trial.is_raw]
    theirs = document["outputs"]
    assert len(mine) == len(theirs) > 4
    for ours, other in zip(mine, theirs, strict=True):
        assert Path(ours.pop("path")).name == Path(other["path"]).name
        assert {key: other[key] for key in ours} == ours


def test_sources_are_read_once_for_trials_that_are_held_together(tmp_path: Path) -> None:
    make_sources(tmp_path, [torch.float32], n_sources=3)
    told: list[int] = []
    sweep = thalweg.sweep(tmp_path, [2, 3], progress=lambda done, total, what: told.append(total))
    per_source = sum(sweep.info(name).nbytes for name in sweep.keys())
    for hold, n_bytes in (("1GB", 3 * per_source), (1, (1 + 2 + 3) * per_source)):
        told.clear()
        list(sweep.trials(empty_like(sweep), hold=hold))
        # One report of the total for each reading at least; repeated reports say the same.
        totals = [total for i, total in enumerate(told) if i == 0 or told[i - 1] != total]
        assert sum(totals) == n_bytes, hold


def test_the_model_is_checked_before_the_first_trial(tmp_path: Path) -> None:
    sweep = thalweg.sweep(RUN, [2])
    model = empty_like(sweep)
    del model["lm_head.weight"]
    with pytest.raises(thalweg.UsageError, match="does not fit the model"):
        sweep.trials(model)
    assert len(list(sweep.trials(model, strict=False))) == len(sweep)


def test_options_of_one_window_are_refused() -> None:
    for options in ({"last": 3}, {"scheme": "wma"}):
        with pytest.raises(thalweg.UsageError, match="has no effect on a sweep"):
            thalweg.sweep(RUN, [2], **options)
    with pytest.raises(thalweg.UsageError, match="raws"):
        thalweg.sweep(RUN, [2], raws="all")
    with pytest.raises(thalweg.UsageError, match="`interval_steps`: `x`"):
        thalweg.sweep(RUN, [2], interval_steps=["x"])
