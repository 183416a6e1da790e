"""A real run of lm-evaluation-harness over a merge that was not written. Skipped where lm-eval is not installed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from conftest import FORMATS, ROOT


@pytest.mark.parametrize("scheme", ["sma", "ema:0.3"])
def test_every_item_is_that_of_the_written_merge(scheme: str) -> None:
    pytest.importorskip("lm_eval")
    run = FORMATS["safetensors"][0].parent
    words = [sys.executable, str(ROOT / "scripts/lm_eval_unwritten.py"), "--scheme", scheme, str(run)]
    environment = {**os.environ, "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 of 50 items differ" in done.stdout and '"plan_digest"' in done.stdout
