"""The recipes of docs/python.md run as they are written, in order."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import FORMATS, ROOT


def test_the_recipes_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jax")
    for source in FORMATS["safetensors"]:
        shutil.copytree(source, tmp_path / "runs/base" / source.name)
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs/python.md"
    text = page.read_text()
    snippets = list(re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S))
    assert len(snippets) >= 5
    names: dict[str, Any] = {}
    for snippet in snippets:
        # Blank lines before it, so that a traceback has the line of the page.
        lines = "\n" * text.count("\n", 0, snippet.start(1))
        exec(compile(lines + snippet.group(1), str(page), "exec"), names)


def test_the_example_of_a_scored_sweep_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = FORMATS["safetensors"][0].parent
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["score_windows.py", str(run)])
    path = ROOT / "examples/python/score_windows.py"
    exec(compile(path.read_text(), str(path), "exec"), {})
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 11 and sum("(raw)" in line for line in told) == 1
    assert (tmp_path / "scores/report.html").is_file() and told[-1].startswith("best: ")
