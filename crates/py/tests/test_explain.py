"""The geometry of a run and recovery from its spikes: what the command line says, as objects."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from safetensors.torch import save_file

import thalweg
from conftest import FORMATS, raw, read_folder

Program = Callable[..., dict[str, Any]]
RUN = FORMATS["safetensors"][0].parent


def test_a_geometry_is_that_of_the_command_line(tmp_path: Path, run_program: Program) -> None:
    told: list[str] = []
    found = thalweg.explain(RUN, last=4, progress=lambda done, total, what: told.append(what))
    assert json.loads(found.to_json()) == run_program("explain", RUN, "--last", "4")
    assert told[-1] == "geometry" and found.fault is None
    assert [one.step for one in found.checkpoints] == [20, 40, 60, 80]
    tensors = [read_folder(path) for path in FORMATS["safetensors"]]
    flat = torch.stack([torch.cat([one[name].double().flatten() for name in sorted(one)]) for one in tensors])
    # Inner products are promised to about 1e-6 of the norms.
    assert found.whole.norms == pytest.approx(flat.norm(dim=1).tolist(), rel=1e-5)
    assert found.whole.displacements == pytest.approx((flat[1:] - flat[:-1]).norm(dim=1).tolist(), rel=1e-5)
    assert found.whole.mean_to_newest == pytest.approx(float((flat.mean(0) - flat[-1]).norm()), rel=1e-5)
    assert found.whole.averaging_lag == 1.5 and len(found.whole.plane) == 4
    assert set(found.layers) == {0, 1} and "mlp.up_proj.weight" in found.tensor_classes
    assert "mean cosine" in found.answer and "4 checkpoints" in repr(found)

    given = thalweg.explain(sources=FORMATS["safetensors"])
    assert given.whole.norms == found.whole.norms
    study = found.write_study(tmp_path / "page")
    assert study.page.is_file() and json.loads(study.to_json())["title"] == f"Geometry of {RUN}"


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    with pytest.raises(thalweg.UsageError, match="at least two checkpoints"):
        thalweg.explain(RUN, last=1)
    with pytest.raises(thalweg.UsageError, match="has no effect here"):
        thalweg.explain(RUN, last=2, scheme="wma")  # type: ignore[call-arg]
    for step, value in ((1, 1.0), (2, float("nan")), (3, 2.0)):
        (tmp_path / f"step-{step}").mkdir()
        save_file({"a": torch.full((4,), value)}, tmp_path / f"step-{step}/model.safetensors")
    found = thalweg.explain(tmp_path, last=3)
    assert found.fault is not None and "`step 2` holds NaN" in found.fault
    with pytest.raises(thalweg.UsageError, match="cannot be drawn"):
        found.write_study(tmp_path / "page")


@pytest.fixture
def spiky(tmp_path: Path) -> Path:
    """A run whose loss is lifted for good at step 71."""
    for source in FORMATS["safetensors"]:
        shutil.copytree(source, tmp_path / "run" / source.name)
    losses = [{"step": i, "loss": 3.0 + 0.01 * (i * 7 % 5) + (1.0 if i > 70 else 0.0)} for i in range(1, 101)]
    (tmp_path / "run/log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in losses))
    return tmp_path / "run"


def test_a_recovery_is_that_of_the_command_line(spiky: Path, tmp_path: Path, run_program: Program) -> None:
    found = thalweg.recover(spiky)
    assert json.loads(found.to_json()) == run_program("recover", spiky)
    assert [(spike.onset, spike.end) for spike in found.spikes] == [(71, None)]
    assert found.spike is not None and "onset=71" in repr(found.spike) and "step 71" in repr(found)
    assert [one.step for one in found.sources] == [20, 40, 60]
    assert found.receipt is None and found.plan is not None and found.plan.scheme == "sma"
    assert any("trainer.train" in line for _, lines in found.instructions for line in lines)

    # The merge can be loaded without being written.
    merged = thalweg.merge(found.plan).state_dict()
    written = thalweg.recover(spiky, tmp_path / "restart", moments="reset")
    assert written.receipt is not None and (tmp_path / "restart/thalweg-start.json").is_file()
    assert {n: raw(t) for n, t in read_folder(tmp_path / "restart").items()} == {n: raw(t) for n, t in merged.items()}


def test_a_run_without_a_spike_or_a_log(spiky: Path) -> None:
    quiet = "".join(json.dumps({"step": i, "loss": 3.0 + 0.01 * (i * 7 % 5)}) + "\n" for i in range(1, 101))
    (spiky / "log.jsonl").write_text(quiet)
    found = thalweg.recover(spiky)
    assert (found.spikes, found.spike, found.sources, found.plan) == ([], None, [], None)
    assert repr(found) == "Recovery(no spike)"
    (spiky / "log.jsonl").unlink()
    with pytest.raises(thalweg.UsageError, match="has no step log") as error:
        thalweg.recover(spiky)
    assert str(error.value.hint).startswith("name it with `log`")
    with pytest.raises(thalweg.UsageError, match="`moments=\"old\"` is not known"):
        thalweg.recover(spiky, moments="old")
