"""What other programs found: read, compared by item, put beside a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import pytest
from huggingface_hub import EvalResultEntry
from huggingface_hub._eval_results import parse_eval_result_entries

import thalweg

Program = Callable[..., dict[str, Any]]


def harness(correct: list[int]) -> dict[str, Any]:
    """As `lm_eval.simple_evaluate` returns it."""
    samples = [
        {"doc_id": i, "doc_hash": f"hash {i % 97}", "filter": "none", "metrics": ["acc"], "acc": float(value)}
        for i, value in enumerate(correct)
    ]
    return {
        "results": {"arc_easy": {"alias": "arc_easy", "acc,none": sum(correct) / len(correct), "acc_stderr,none": 0.02}},
        "configs": {"arc_easy": {"dataset_path": "allenai/ai2_arc", "process_results": harness}},
        "higher_is_better": {"arc_easy": {"acc": True}},
        "n-samples": {"arc_easy": {"original": len(correct), "effective": len(correct)}},
        "samples": {"arc_easy": samples},
    }


def write(folder: Path, results: dict[str, Any]) -> Path:
    """As lm-evaluation-harness writes it, with `--log_samples`."""
    inner, date = folder / "my__model", "2026-11-28T10-00-00.123456"
    inner.mkdir(parents=True)
    kept = {key: value for key, value in results.items() if key != "samples"}
    (inner / f"results_{date}.json").write_text(json.dumps(kept, default=str))
    for task, samples in results["samples"].items():
        lines = "".join(json.dumps(sample) + "\n" for sample in reversed(samples))
        (inner / f"samples_{task}_{date}.jsonl").write_text(lines)
    return folder


BASE = [i % 3 == 0 for i in range(97)]
BETTER = [value or i % 5 == 1 for i, value in enumerate(BASE)]


def test_objects_and_files_are_paired_by_item(tmp_path: Path, run_program: Program) -> None:
    base, better = harness([int(one) for one in BASE]), harness([int(one) for one in BETTER])
    [found] = thalweg.compare_results(base, better)
    folders = [write(tmp_path / "a", base), write(tmp_path / "b", better)]
    [from_files] = thalweg.compare_results(*folders)
    assert repr(found) == repr(from_files)
    assert found.paired and found.n == 97 and found.n_left_out == 0 and found.verdict == "better"
    assert found.gain == pytest.approx((sum(BETTER) - sum(BASE)) / 97)
    assert found.interval_95 is not None and found.interval_95[0] > 0
    document = run_program("eval", "--results", *folders)
    [row] = document["comparisons"]
    assert row["gain"] == found.gain and row["p_holm"] == found.p_holm and row["paired"] is True
    assert row["smallest_difference"] == found.smallest_difference
    [same] = thalweg.compare_results(base, base)
    assert (same.gain, same.verdict) == (0, "cannot be told apart")
    results = thalweg.read_results(base)
    assert results.items == {"arc_easy/acc": 97} and len(results) == 1
    assert (results.scores[0].n, results.scores[0].standard_error) == (97, 0.02)


def test_the_hub_reads_what_is_written_beside_a_model(tmp_path: Path, run_program: Program) -> None:
    yaml = pytest.importorskip("yaml")
    path = thalweg.read_results(harness([1, 0, 1, 1])).write_card(tmp_path)
    assert path == tmp_path / ".eval_results/thalweg.yaml"
    [entry] = parse_eval_result_entries(yaml.safe_load(path.read_text()))
    expected = EvalResultEntry(
        dataset_id="allenai/ai2_arc", task_id="arc_easy", value=0.75, notes="acc, standard error 0.0200, 4 items"
    )
    assert entry == expected
    written = path.read_text()
    path.unlink()
    run_program("eval", "--results", write(tmp_path / "r", harness([1, 0, 1, 1])), "--card", tmp_path)
    assert path.read_text() == written


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(thalweg.UsageError, match="has no results"):
        thalweg.read_results(tmp_path / "nothing")
    with pytest.raises(thalweg.UsageError, match="no usable score"):
        thalweg.read_results({"results": {"a": {"acc,none": float("nan")}}})
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(thalweg.StudyError, match="r.json"):
        thalweg.read_results(tmp_path / "r.json")
    with pytest.raises(thalweg.UsageError, match="no data set"):
        thalweg.read_results({"results": {"a": {"acc,none": 0.5}}}).write_card(tmp_path)
