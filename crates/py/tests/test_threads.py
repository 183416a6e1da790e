"""Threads, callbacks, Ctrl-C, and memory over many merges."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch

import thalweg
from conftest import ROOT, make_sources, raw, read_folder
from test_tensors import _resident_bytes


def bytes_of(merge: thalweg.Merge) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in merge}


def test_two_merges_in_two_threads_and_one_merge_in_four(tmp_path: Path) -> None:
    sources = make_sources(tmp_path, [torch.float32] * 4, rows=20_000)
    plans = [thalweg.plan(sources=sources), thalweg.plan(sources=sources, scheme="wma")]
    expected = [bytes_of(thalweg.merge(plan)) for plan in plans]
    shared = [thalweg.merge(plan) for plan in plans]
    found: dict[int, dict[str, bytes]] = {}

    def work(i: int) -> None:
        found[i] = bytes_of(shared[i % 2])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert all(found[i] == expected[i % 2] for i in range(8))


def test_python_runs_during_a_merge(tmp_path: Path) -> None:
    sources = make_sources(tmp_path, [torch.float32] * 4, rows=200_000)
    merge = thalweg.merge(thalweg.plan(sources=sources), threads=1)
    target = {name: torch.empty_like(t) for name, t in merge.state_dict().items()}
    is_done = threading.Event()

    def load() -> None:
        merge.load_into(target)
        is_done.set()

    worker = threading.Thread(target=load)
    n_turns = 0
    worker.start()
    while not is_done.is_set():
        n_turns += 1
    worker.join()
    assert n_turns > 1000, "the GIL was held"


def test_one_iterator_in_two_threads_is_refused_not_torn(tmp_path: Path) -> None:
    sources = make_sources(tmp_path, [torch.float32] * 8, rows=100_000)
    merge = thalweg.merge(thalweg.plan(sources=sources))
    iterator = iter(merge)
    found: list[str] = []
    refused: list[RuntimeError] = []

    def take() -> None:
        while True:
            try:
                found.append(next(iterator)[0])
            except StopIteration:
                return
            except RuntimeError as error:
                refused.append(error)
                time.sleep(0.001)

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert sorted(found) == merge.keys()


def test_many_threads_at_once_as_in_a_free_threaded_python() -> None:
    words = [sys.executable, str(ROOT / "scripts/free_threaded.py")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count("ok  ") == 6, done.stdout + done.stderr


def test_progress_is_told_and_ends_whole(tmp_path: Path) -> None:
    sources = make_sources(tmp_path, [torch.float32] * 4, rows=200_000)
    told: list[tuple[int, int, str]] = []
    merge = thalweg.merge(thalweg.plan(sources=sources), progress=lambda *row: told.append(row))
    merge.write(tmp_path / "out")
    stages = [what for _, _, what in told]
    assert set(stages) <= {"resume", "copy", "merge", "sync", "verify"}
    assert all(0 <= done <= max(total, done) for done, total, _ in told)
    assert told, "the last report is always made"
    told.clear()
    merge.tensor("layers.0.weight")
    assert told[-1] == (3 * 200_000 * 48 * 4, 3 * 200_000 * 48 * 4, "merge")


def test_an_exception_in_a_callback_is_raised_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    sources = make_sources(tmp_path, [torch.float32] * 4, rows=400_000)

    class Stop(Exception):
        pass

    def stop(done: int, total: int, what: str) -> None:
        raise Stop(f"{what} {done}")

    plan = thalweg.plan(sources=sources)
    merge = thalweg.merge(plan, threads=1, progress=stop)
    with pytest.raises(Stop):
        merge.write(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(Stop):
        merge.state_dict()
    # The next merge resumes and has the same bytes.
    again = thalweg.merge(plan)
    again.write(tmp_path / "out")
    assert {name: raw(t) for name, t in read_folder(tmp_path / "out").items()} == bytes_of(again)
    assert not list(tmp_path.glob("*partial*"))


def test_a_wrong_callback_is_an_ordinary_error(tmp_path: Path) -> None:
    plan = thalweg.plan(sources=make_sources(tmp_path, [torch.float32]))
    with pytest.raises(TypeError):
        list(thalweg.merge(plan, progress=lambda: None))  # type: ignore[arg-type]


def test_a_bar_of_tqdm_moves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    plan = thalweg.plan(sources=make_sources(tmp_path, [torch.float32]))
    list(thalweg.merge(plan, progress=True))
    assert "merge: 100%" in capsys.readouterr().err
    list(thalweg.merge(plan, progress=False))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("act", ["merge.write(out)", "merge.state_dict()"])
def test_ctrl_c_stops_and_leaves_at_most_a_stage_that_resumes(tmp_path: Path, act: str) -> None:
    sources = make_sources(tmp_path / "run", [torch.float32] * 4, rows=400_000)
    script = textwrap.dedent(
        f"""
        import pathlib, sys, thalweg
        out = pathlib.Path({str(tmp_path / "out")!r})
        merge = thalweg.merge(thalweg.plan(sources={[str(path) for path in sources]!r}), threads=1, progress=lambda *_: print("at work", flush=True))
        try:
            while True:
                {act}
                if out.exists():
                    sys.exit("the merge was done before the signal")
        except KeyboardInterrupt:
            print("stopped", flush=True)
        """
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "at work\n"
    started = time.monotonic()
    os.kill(child.pid, signal.SIGINT)
    rest = child.stdout.read()
    assert child.wait(timeout=60) == 0 and rest.endswith("stopped\n"), rest
    assert time.monotonic() - started < 30
    assert not (tmp_path / "out").exists()
    plan = thalweg.plan(sources=sources)
    thalweg.merge(plan).write(tmp_path / "out")
    found = {name: raw(t) for name, t in read_folder(tmp_path / "out").items()}
    assert found == bytes_of(thalweg.merge(plan))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_a_thousand_merges_leak_nothing(tmp_path: Path) -> None:
    sources = make_sources(tmp_path, [torch.float32], rows=4096)
    plan = thalweg.plan(sources=sources)
    target = thalweg.merge(plan).state_dict()

    def once() -> None:
        merge = thalweg.merge(plan)
        merge.load_into(target)
        for _, tensor in merge:
            tensor.torch()

    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    for _ in range(100):
        once()
    gc.collect()
    before, files = _resident_bytes(), open_files()
    for _ in range(1000):
        once()
    gc.collect()
    # One leaked tensor of 786 kB each time would be 786 MB.
    assert _resident_bytes() - before < 24 << 20
    assert open_files() == files
