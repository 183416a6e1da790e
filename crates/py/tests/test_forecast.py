"""Forecasts by one's own function: which merges it is asked for, and what comes of their scores."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import thalweg
from conftest import FORMATS


def make_run(folder: Path) -> Path:
    """Twenty checkpoints on a noisy line, in the stable phase of a run."""
    generator = torch.Generator().manual_seed(5)
    for i in range(1, 21):
        path = folder / f"step-{100 * i}"
        path.mkdir(parents=True)
        weight = torch.full((64,), 1.0 / i) + 0.1 * torch.randn(64, generator=generator)
        save_file({"weight": weight}, path / "model.safetensors")
    return folder


def bits(merge: thalweg.Merge) -> dict[str, float]:
    weight = merge.tensor("weight").torch()
    return {"text/bits_per_byte": 1.0 + float((weight**2).mean())}


def test_four_merges_are_asked_for_once(tmp_path: Path, program: Path) -> None:
    asked: list[str] = []

    def evaluate(merge: thalweg.Merge) -> dict[str, float]:
        asked.append("+".join(str(source.step) for source in merge.plan.sources))
        return bits(merge)

    run = make_run(tmp_path / "run")
    found = thalweg.forecast(run, evaluate, anneal_steps=800, stable="0..2000")
    assert len(asked) == len(set(asked)) == 4 and "2000" in asked, asked
    assert found.reason is None, found
    [score] = found.scores
    assert (score.task, score.measure) == ("text", "bits_per_byte")
    low, high = score.interval_95
    assert low < score.value < high and score.raw > score.imitation
    # The command line says the same of the same scores.
    script = tmp_path / "score.py"
    script.write_text(
        "import json, sys\nfrom safetensors.torch import load_file\n"
        "weight = load_file(sys.argv[1] + '/model.safetensors')['weight']\n"
        "row = {'task': 'text/bits_per_byte', 'value': 1.0 + float((weight ** 2).mean())}\n"
        "json.dump([row], open(sys.argv[2], 'w'))\n"
    )
    import json
    import sys

    words: list[Any] = [program, "forecast", run, "--anneal-steps", "800", "--stable", "0..2000", "--json"]
    command = f"{sys.executable} {script} {{checkpoint}} {{out}}"
    done = subprocess.run([*words, "--eval-command", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [row] = json.loads(done.stdout)["forecasts"]
    assert (row["value"], tuple(row["interval_95"])) == (score.value, score.interval_95)


def test_why_there_is_no_forecast(tmp_path: Path) -> None:
    def never(merge: thalweg.Merge) -> float:
        raise AssertionError("nothing is asked for")

    found = thalweg.forecast(FORMATS["safetensors"][0].parent, never)
    assert found.scores == [] and found.reason is not None and found.window is None
    with pytest.raises(thalweg.UsageError, match="is not known"):
        thalweg.forecast(FORMATS["safetensors"][0].parent, never, anneal="steep")

    class Stop(Exception):
        pass

    def stop(merge: thalweg.Merge) -> float:
        raise Stop

    with pytest.raises(Stop):
        thalweg.forecast(make_run(tmp_path / "run"), stop, anneal_steps=800, stable="0..2000")
