"""Runs of a hub: fetched into the local cache as by the command line, merged like a local run, stopped at once."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any, Callable

import pytest

import thalweg
from conftest import FORMATS, ROOT

Program = Callable[..., dict[str, Any]]
STEPS = [40, 60, 80]


def load_hub() -> Any:
    spec = importlib.util.spec_from_file_location("hub_server", ROOT / "scripts/hub_server.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A hub on the loopback with one run, and an empty cache."""
    for step in STEPS:
        shutil.copytree(FORMATS["safetensors"][0].parent / f"step-{step}", tmp_path / f"hub/org/small/step{step}")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    module = load_hub()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", module.start(tmp_path / "hub"))
    monkeypatch.setenv("THALWEG_RETRY_SECONDS", "0")
    return module


def bytes_of(plan: thalweg.Plan) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in thalweg.merge(plan)}


def test_a_run_is_fetched_and_merged_like_a_local_one(hub: Any, tmp_path: Path, run_program: Program) -> None:
    planned = thalweg.fetch("org/small", revisions="step*", last=2, dry_run=True)
    assert not (tmp_path / "cache").exists()
    assert (planned.fetched_bytes, planned.next) == (None, None) and planned.missing_bytes == planned.nbytes > 0
    assert json.loads(planned.to_json()) == run_program("fetch", "org/small", "--last", "2", "--dry-run")

    told: list[tuple[int, int, str]] = []
    fetched = thalweg.fetch("org/small", last=2, progress=lambda *row: told.append(row))
    assert fetched.fetched_bytes == fetched.nbytes and told[-1] == (fetched.nbytes, fetched.nbytes, "fetch")
    assert [(one.name, one.step) for one in fetched.revisions] == [("step60", 60), ("step80", 80)]
    assert fetched.next == "thalweg merge org/small --last 2 -o merged"
    assert len(fetched) == 2 and "2 revisions" in repr(fetched) and "step=60" in repr(fetched.revisions[0])

    local = [tmp_path / "hub/org/small/step60", tmp_path / "hub/org/small/step80"]
    expected = bytes_of(thalweg.plan(sources=local))
    for run in (fetched, fetched.path, "org/small"):
        assert bytes_of(thalweg.plan(run, last=2)) == expected
    assert bytes_of(thalweg.plan(sources=[*fetched.revisions])) == expected
    assert len(thalweg.open_run(fetched)) == 2

    assert thalweg.fetch("org/small", last=2).fetched_bytes == 0
    [other] = thalweg.fetch("org/small", revisions=["step40"]).revisions
    assert other.path.is_dir() and set(other.files) <= {path.name for path in other.path.iterdir()}


def test_what_cannot_be_fetched_is_said_with_keywords(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(thalweg.UsageError, match="which revisions of `org/small`") as unclear:
        thalweg.fetch("org/small")
    assert "`last=10`, or `revisions=\"step*\"`; `every=1`" in str(unclear.value.hint)
    with pytest.raises(thalweg.UsageError, match="no revision of `org/small` is called `x`"):
        thalweg.fetch("org/small", revisions=["x"])
    with pytest.raises(thalweg.UsageError, match="has no effect here"):
        thalweg.fetch("org/small", last=2, scheme="wma")  # type: ignore[call-arg]
    with pytest.raises(thalweg.StorageError) as unknown:
        thalweg.fetch("org/unknown", last=2)
    assert unknown.value.hint
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(thalweg.StorageError, match="HF_HUB_OFFLINE"):
        thalweg.fetch("org/small", last=2)


class Stop(Exception):
    pass


@pytest.mark.parametrize("stopped_by", ["callback", "Ctrl-C"])
def test_a_fetch_stops_while_the_hub_is_silent(
    hub: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stopped_by: str
) -> None:
    is_over = threading.Event()
    only_once = threading.Lock()

    def be_silent(handler: Any, path: Path, headers: Any) -> None:
        if stopped_by == "Ctrl-C" and only_once.acquire(blocking=False):
            os.kill(os.getpid(), signal.SIGINT)
        # Longer than any test: whether the fetch ends must not depend on an answer.
        is_over.wait(60)
        handler.close_connection = True

    def stop(done: int, total: int, what: str) -> None:
        if stopped_by == "callback":
            raise Stop

    answer = hub.Handler.file
    monkeypatch.setattr(hub.Handler, "file", be_silent)
    with pytest.raises(Stop if stopped_by == "callback" else KeyboardInterrupt):
        thalweg.fetch("org/small", last=1, progress=stop)
    assert not is_over.is_set()
    is_over.set()
    assert not (tmp_path / "cache/models--org--small/refs").exists()
    monkeypatch.setattr(hub.Handler, "file", answer)
    assert thalweg.fetch("org/small", last=1).revisions[0].path.is_dir()
