"""Scores of one's own function in a study: the choice, the record and the page are those of `thalweg sweep`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Callable

import pytest
import torch

import thalweg
from conftest import FORMATS, raw, read_folder
from test_sweep import empty_like

Program = Callable[..., dict[str, Any]]
RUN = FORMATS["safetensors"][0].parent


def score(state: dict[str, torch.Tensor]) -> float:
    """A number that every reader of the same bytes gets: the mean of one tensor's squares."""
    return float(state["lm_head.weight"].float().double().square().mean())


def scored(**options: Any) -> thalweg.Sweep:
    sweep = thalweg.sweep(RUN, [2, 3, 4], schemes=["sma", "wma"])
    state = empty_like(sweep)
    for trial in sweep.trials(state):
        trial.record({"size/loss": score(state)}, **options)
    return sweep


def test_the_study_is_that_of_the_program_with_a_command_that_scores_alike(
    tmp_path: Path, run_program: Program
) -> None:
    script = tmp_path / "score.py"
    script.write_text(
        "import json, sys, torch\nfrom pathlib import Path\nfrom safetensors.torch import load_file\n"
        "state = {}\nfor path in sorted(Path(sys.argv[1]).glob('*.safetensors')):\n    state.update(load_file(path))\n"
        "value = float(state['lm_head.weight'].float().double().square().mean())\n"
        "rows = [{'task': 'size/loss', 'value': value, 'higher_is_better': False}]\n"
        "Path(sys.argv[2]).write_text(json.dumps(rows))\n"
    )
    command = f"{sys.executable} {script} {{checkpoint}} {{out}}"
    options = ["--counts", "2,3,4", "--schemes", "sma,wma", "--eval-command", command, "--keep", "best"]
    run_program("sweep", RUN, *options, "-o", tmp_path / "theirs")
    sweep = scored()
    study = sweep.write_study(tmp_path / "mine")
    mine = json.loads(study.to_json())
    theirs = json.loads((tmp_path / "theirs/study.json").read_text())
    assert json.loads((tmp_path / "mine/study.json").read_text()) == mine
    for document in (mine, theirs):
        for row in [*document["raws"], *document["trials"]]:
            row.pop("path", None)
            for one in row["scores"]:
                one.pop("suite")
        document["choice"].pop("suite")
    assert mine["raws"] == theirs["raws"] and mine["trials"] == theirs["trials"]
    assert mine["choice"] == theirs["choice"] and mine["checkpoints"] == theirs["checkpoints"]
    assert study.best == mine["choice"]["trial"] == sweep.best().name
    assert sorted(path.name for path in study.path.iterdir()) == ["report.html", study.best, "study.csv", "study.json"]
    # The merge that was kept is the trial's, and the page reads like every page.
    kept = {name: raw(value) for name, value in read_folder(study.path / study.best).items()}
    assert kept == {name: tensor.tobytes() for name, tensor in thalweg.merge(sweep.best().plan)}
    assert study.best in study.page.read_text()
    assert run_program("report", study.path)["choice"]["trial"] == study.best


def test_the_direction_decides() -> None:
    lower, higher = scored(), scored(higher_is_better=True)
    values = {trial.name: trial.scores["size/loss"] for trial in lower.plans if not trial.is_raw}
    assert lower.best().name == min(values, key=lambda name: values[name])
    assert higher.best("size").name == max(values, key=lambda name: values[name])


@pytest.mark.parametrize("keep,n_written", [("none", 0), ("all", 3), ("best", 1)])
def test_trials_without_scores_are_not_in_the_study(tmp_path: Path, keep: str, n_written: int) -> None:
    sweep = thalweg.sweep(RUN, [2, 3, 4])
    for i, trial in enumerate(sweep.plans):
        if not trial.is_raw:
            trial.record({"acc": 0.1 * i}, higher_is_better=True)
    study = sweep.write_study(tmp_path / "study", keep=keep)
    record = json.loads(study.to_json())
    assert len(record["trials"]) == 3 and record["raws"] == []
    assert len([path for path in study.path.iterdir() if path.is_dir()]) == n_written


HARNESS = {
    "results": {"piqa": {"alias": "piqa", "acc,none": 0.7, "acc_stderr,none": 0.02, "f1,strict": float("nan")}},
    "higher_is_better": {"piqa": {"acc": True, "f1": True}},
    "n-samples": {"piqa": {"original": 100, "effective": 100}},
    "config": {"model": None, "device": torch.device("cpu"), "function": print},
}


@pytest.mark.parametrize(
    "given,expected",
    [
        (1.5, {"score/value": 1.5}),
        ({"loss": torch.tensor(2.0)}, {"loss/value": 2.0}),
        ({"arc/acc": 0.25, "text/bits_per_byte": 1}, {"arc/acc": 0.25, "text/bits_per_byte": 1.0}),
        ({"x": {"value": 3, "stderr": 0.1, "n": 9, "higher_is_better": False}}, {"x/value": 3.0}),
        ([{"task": "a/b", "value": 1, "higher_is_better": True}], {"a/b": 1.0}),
        (HARNESS, {"piqa/acc": 0.7}),
    ],
)
def test_scores_are_taken_in_every_form(given: Any, expected: dict[str, float], caplog: pytest.LogCaptureFixture) -> None:
    trial = thalweg.sweep(RUN, [2]).plans[-1]
    assert trial.scores == {}
    trial.record(given, higher_is_better=False)
    assert trial.scores == expected
    assert ("f1" in caplog.text) == (given is HARNESS)


def test_what_cannot_be_recorded_is_refused_and_the_hints_work(tmp_path: Path) -> None:
    sweep = thalweg.sweep(RUN, [2, 3])
    merges = [trial for trial in sweep.plans if not trial.is_raw]
    with pytest.raises(thalweg.UsageError, match="no merge of the sweep has scores"):
        sweep.best()
    with pytest.raises(thalweg.UsageError, match="no merge of the sweep has scores"):
        sweep.write_study(tmp_path / "study")
    assert not (tmp_path / "study").exists()
    refused: list[Any] = [{"mine": 1.0}, {"loss": float("nan")}, {}, []]
    for wrong in refused:
        with pytest.raises(thalweg.UsageError) as error:
            merges[0].record(wrong)
        assert "higher_is_better=False" in str(error.value.hint)
    with pytest.raises((TypeError, ValueError)):
        merges[0].record({"loss": "low"})
    merges[0].record({"mine": 1.0}, higher_is_better={"mine": False})
    merges[1].record({"mine": 0.5, "other": 2}, higher_is_better=False)
    assert sweep.best().name == merges[1].name
    with pytest.raises(thalweg.UsageError, match="there is no score `speed`") as error:
        sweep.best("speed")
    assert "mine/value" in str(error.value.hint)
    with pytest.raises(thalweg.UsageError, match="`keep=\"some\"`"):
        sweep.write_study(tmp_path / "study", keep="some")
