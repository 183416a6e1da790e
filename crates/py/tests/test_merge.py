"""Equal bytes by every way: iterator, one tensor, state dict, filled model, written merge, the command line."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import thalweg
from conftest import FORMATS, make_sources, raw, read_folder

Program = Callable[..., dict[str, Any]]


def check_all_ways(plan: thalweg.Plan, written_by_program: Path, folder: Path) -> None:
    merge = thalweg.merge(plan)
    expected = {name: raw(tensor) for name, tensor in read_folder(written_by_program).items()}
    assert sorted(expected) == merge.keys()
    assert {name: tensor.tobytes() for name, tensor in merge} == expected
    assert {name: raw(tensor) for name, tensor in merge.state_dict().items()} == expected
    some = merge.keys()[0]
    assert merge.tensor(some).tobytes() == merge[some].tobytes() == expected[some]
    target = {name: torch.full_like(tensor, 1) for name, tensor in merge.state_dict().items()}
    assert merge.load_into(target) == ([], [])
    assert {name: raw(tensor) for name, tensor in target.items()} == expected
    receipt = json.loads(merge.write(folder / "written").to_json())
    assert {name: raw(tensor) for name, tensor in read_folder(folder / "written").items()} == expected
    assert receipt["plan"]["scheme"] == plan.scheme


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", ["same", "f32", "bf16", "f16"])
def test_fixtures_of_every_format(kind: str, dtype: str, tmp_path: Path, run_program: Program) -> None:
    sources = FORMATS[kind]
    out = tmp_path / "program"
    run_program("merge", *sources, "-o", out, "--scheme", "wma", "--dtype", dtype, "--format", "safetensors")
    plan = thalweg.plan(sources=sources, scheme="wma", dtype=dtype, format="safetensors")
    check_all_ways(plan, out, tmp_path)


@pytest.mark.parametrize(
    "dtypes",
    [
        [torch.float32],
        [torch.bfloat16],
        [torch.float16],
        [torch.float64],
        [torch.bfloat16, torch.float32, torch.float16, torch.bfloat16],
    ],
    ids=["f32", "bf16", "f16", "f64", "mixed"],
)
def test_element_types(dtypes: list[torch.dtype], tmp_path: Path, run_program: Program) -> None:
    sources = make_sources(tmp_path, dtypes)
    out = tmp_path / "program"
    words = [word for path, c in zip(sources, ("3/2", "-1", "0.5"), strict=True) for word in ("-m", f"{path}:{c}")]
    run_program("merge", *words, "-o", out)
    plan = thalweg.plan(sources=[(sources[0], "3/2"), (sources[1], -1), (sources[2], Fraction(1, 2))])
    assert [source.coefficient for source in plan.sources] == [Fraction(3, 2), Fraction(-1), Fraction(1, 2)]
    check_all_ways(plan, out, tmp_path)


def test_the_mean_is_rounded_once(tmp_path: Path) -> None:
    sources = make_sources(tmp_path, [torch.bfloat16], n_sources=4)
    merged = thalweg.merge(thalweg.plan(sources=sources)).tensor("layers.0.weight").torch()
    # Four bf16 numbers of this size and their sum are exact in float64; torch rounds to nearest even once.
    stack = torch.stack([read_folder(path)["layers.0.weight"].double() for path in sources])
    assert torch.equal(merged, stack.mean(0).to(torch.bfloat16))


def test_windows_and_names_may_be_chosen(tmp_path: Path) -> None:
    # Larger than a window, so that the iterator takes several.
    sources = make_sources(tmp_path, [torch.float32] * 5, rows=60_000, n_sources=2)
    merge = thalweg.merge(thalweg.plan(sources=sources))
    expected = {name: tensor.tobytes() for name, tensor in merge}
    assert list(expected) == merge.keys() and len(merge) == len(expected)
    names = ["layers.3.weight", "scale", "layers.3.weight", "layers.0.weight"]
    assert [(name, tensor.tobytes()) for name, tensor in merge.tensors(names)] == [(n, expected[n]) for n in names]
    assert dict(merge.tensors([])) == {}
    assert "scale" in merge and "missing" not in merge
    with pytest.raises(KeyError, match="did you mean `scale`"):
        merge.tensor("scales")
    with pytest.raises(KeyError):
        merge.tensors(["layers.9.weights"])


def test_a_plan_of_a_run_is_that_of_the_command_line(tmp_path: Path, run_program: Program) -> None:
    run = FORMATS["safetensors"][0].parent
    document = run_program("plan", run, "--last", "3", "--scheme", "ema:0.2", "--merged", tmp_path / "out")
    plan = thalweg.plan(run, last=3, scheme="ema:0.2", out=tmp_path / "out")
    mine = json.loads(plan.to_json())["outputs"][0]
    theirs = document["outputs"][0]
    assert {key: theirs[key] for key in mine} == mine
    assert plan.out == tmp_path / "out"
    again = thalweg.Plan.from_json(plan.to_json())
    assert again.to_json() == plan.to_json() and repr(again) == repr(plan)
    assert "ema" in repr(plan) and "steps 40 to 80" in repr(plan)


def test_a_saved_plan_holds_its_sources_to_what_they_were(tmp_path: Path, run_program: Program) -> None:
    sources = make_sources(tmp_path, [torch.float32])
    thalweg.plan(sources=sources, out=tmp_path / "out").save(tmp_path / "plan.json")
    loaded = thalweg.Plan.load(tmp_path / "plan.json")
    expected = {name: tensor.tobytes() for name, tensor in thalweg.merge(loaded)}
    run_program("merge", "--plan", tmp_path / "plan.json")
    assert {name: raw(tensor) for name, tensor in read_folder(tmp_path / "out").items()} == expected
    save_file({**read_folder(sources[0]), "new": torch.zeros(1)}, sources[0] / "model.safetensors")
    with pytest.raises(thalweg.MergeError, match="changed since the plan was made") as refused:
        thalweg.merge(loaded)
    assert refused.value.kind == "SourcesChanged" and len(refused.value.changes) == 1
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(thalweg.StorageError):
        loaded.save(tmp_path / "note.txt")
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_a_merge_with_out_is_written_at_once(tmp_path: Path) -> None:
    plan = thalweg.plan(sources=make_sources(tmp_path, [torch.float32]))
    merge = thalweg.merge(plan, tmp_path / "out")
    assert {name: raw(t) for name, t in read_folder(tmp_path / "out").items()} == {n: t.tobytes() for n, t in merge}


def test_values_of_options_may_be_numbers_text_lists_or_dicts(tmp_path: Path) -> None:
    run = FORMATS["safetensors"][0].parent
    by_numbers = thalweg.plan(run, steps=[40, 80], coefficients=["1/4", Fraction(3, 4)], scheme="custom")
    by_text = thalweg.plan(run, steps=("40", "80"), coefficients=("0.25", "0.75"), scheme="custom")
    assert by_numbers.to_json() == by_text.to_json()
    assert [source.coefficient for source in by_numbers.sources] == [Fraction(1, 4), Fraction(3, 4)]
    sequences = thalweg.plan(run, steps=range(40, 81, 40), coefficients=np.array([0.25, 0.75]), scheme="custom")
    assert sequences.to_json() == by_text.to_json()
    with_dtype = thalweg.plan(run, last=np.int64(2), dtype=torch.float32)
    assert with_dtype.to_json() == thalweg.plan(run, last=2, dtype="f32").to_json()
    renamed = thalweg.plan(run, last=2, rename={"lm_head.weight": "output.weight"})
    assert "output.weight" in thalweg.merge(renamed)
    rules = tmp_path / "rules.txt"
    rules.write_text("lm_head.weight -> output.weight\n")
    assert thalweg.merge(thalweg.plan(run, last=2, rename=rules)).keys() == thalweg.merge(renamed).keys()
    dropped = thalweg.plan(run, last=2, drop="lm_head.*", take_newest=["model.norm.weight"])
    assert "lm_head.weight" not in thalweg.merge(dropped)
