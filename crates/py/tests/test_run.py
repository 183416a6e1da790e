"""Runs, windows, comparisons and verifications: the same answers as those of the command line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from safetensors.torch import save_file

import thalweg
from conftest import FORMATS, make_sources, read_folder

Program = Callable[..., dict[str, Any]]
RUN = FORMATS["safetensors"][0].parent


def test_a_run_has_the_checkpoints_of_the_command_line(run_program: Program) -> None:
    run, document = thalweg.open_run(RUN, tokens_per_step="1K"), run_program("inspect", RUN, "--tokens-per-step", "1K")
    assert run.path == RUN and len(run) == len(document["checkpoints"])
    for mine, theirs in zip(run.checkpoints, document["checkpoints"], strict=True):
        found = (str(mine.path), mine.step, mine.tokens, mine.phase, mine.fault)
        assert found == tuple(theirs[key] for key in ("path", "step", "tokens", "phase", "reason"))
        assert Path(mine) == mine.path
    assert "checkpoints" in repr(run) and "step=20" in repr(run.checkpoints)


@pytest.mark.parametrize(
    "options",
    [{"last": 3}, {"every": 2}, {"steps": [20, 80]}, {"from_step": 40}, {"last": 2, "end_step": 60}],
)
def test_a_selection_is_that_of_a_plan(options: dict[str, Any]) -> None:
    expected = [(source.path, source.step) for source in thalweg.plan(RUN, **options).sources]
    for chosen in (thalweg.select(RUN, **options), thalweg.open_run(RUN).select(**options)):
        assert [(one.path, one.step) for one in chosen] == expected
        assert [source.path for source in thalweg.plan(sources=chosen).sources] == [path for path, _ in expected]


def test_options_without_an_effect_are_refused() -> None:
    for act in (
        lambda: thalweg.open_run(RUN, scheme="wma"),  # type: ignore[call-arg]
        lambda: thalweg.open_run(RUN, last=2),  # type: ignore[call-arg]
        lambda: thalweg.open_run(RUN).select(last=2, dtype="f32"),  # type: ignore[call-arg]
        lambda: thalweg.select(RUN, last=2, alpha=1),  # type: ignore[call-arg]
    ):
        with pytest.raises(thalweg.UsageError, match="has no effect here"):
            act()
    with pytest.raises(thalweg.UsageError, match="which checkpoints"):
        thalweg.select(RUN)


def test_a_diff_is_that_of_the_command_line(tmp_path: Path, program: Path) -> None:
    import subprocess

    a, b = FORMATS["safetensors"][:2]
    mine = thalweg.diff(a, b)
    done = subprocess.run([program, "diff", a, b, "--json"], capture_output=True, text=True, check=False)
    assert json.loads(mine.to_json()) == json.loads(done.stdout)
    assert not mine.equal and mine.total.distance > 0 and "distance=" in repr(mine)
    stacked = [(read_folder(a)[t.name].double() - read_folder(b)[t.name].double()).norm() for t in mine.tensors]
    assert mine.total.distance == pytest.approx(float(torch.stack(stacked).norm()), rel=1e-12)
    same = thalweg.diff(a, a)
    assert same.equal and same.total.n_differing == 0 and same.total.cosine == pytest.approx(1)
    save_file({"other": torch.zeros(2)}, tmp_path / "model.safetensors")
    faults = [tensor.fault for tensor in thalweg.diff(a, tmp_path).tensors]
    assert all(fault is not None for fault in faults)


def test_a_receipt_and_its_verification(tmp_path: Path, run_program: Program) -> None:
    sources = make_sources(tmp_path / "run", [torch.float32])
    merge = thalweg.merge(thalweg.plan(sources=sources))
    assert merge.receipt is None
    receipt = merge.write(tmp_path / "out")
    assert merge.receipt is not None and merge.receipt.to_json() == receipt.to_json()
    document = json.loads(receipt.to_json())
    assert json.loads((tmp_path / "out/thalweg.json").read_text()) == document
    assert (receipt.path, receipt.scheme, receipt.was_done) == (tmp_path / "out", "sma", False)
    for name in ("digest", "seconds", "bytes_read", "bytes_written", "peak_memory_bytes"):
        assert getattr(receipt, name) == document[name], name
    newest, merged = read_folder(sources[-1]), read_folder(tmp_path / "out")
    far = [(merged[name].double() - newest[name].double()).norm() for name in merged if newest[name].is_floating_point()]
    # The sum of squares of f32 differences is promised to 1e-5.
    assert receipt.distance_to_newest == pytest.approx(float(torch.stack(far).norm()), rel=5e-6)
    assert merge.write(tmp_path / "out").was_done

    found = thalweg.verify(tmp_path / "out", inputs=True)
    assert json.loads(found.to_json()) == run_program("verify", tmp_path / "out", "--inputs")
    assert found.equal and found.output_equal and found.sources_equal and found.compared_bytes
    assert found.sources == [(path, "unchanged") for path in sources] and found.faults == []
    assert thalweg.verify(tmp_path / "out").sources_equal is None

    shutil.rmtree(sources[0])
    with open(next((tmp_path / "out").glob("*.safetensors")), "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    found = thalweg.verify(tmp_path / "out", inputs=True)
    assert not found.equal and not found.output_equal and found.sources_equal is False
    assert found.sources[0] == (sources[0], "missing")
    # The last byte belongs to one tensor.
    [(name, fault)] = found.faults
    assert any(tensor in name for tensor in merge.keys()) and fault
    with pytest.raises(thalweg.Error):
        thalweg.verify(sources[1])


def test_a_receipt_differs_from_the_command_lines_only_in_time_and_memory(
    tmp_path: Path, run_program: Program
) -> None:
    sources = make_sources(tmp_path, [torch.bfloat16])
    mine = json.loads(thalweg.merge(thalweg.plan(sources=sources)).write(tmp_path / "mine").to_json())
    run_program("merge", *sources, "-o", tmp_path / "theirs")
    theirs = json.loads((tmp_path / "theirs/thalweg.json").read_text())
    for receipt in (mine, theirs):
        for key in ("seconds", "finished_unix_seconds", "peak_memory_bytes", "receipt_digest"):
            receipt.pop(key)
        receipt["plan"].pop("path")
    assert mine == theirs
