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
