"""Errors: one class for each family, facts as attributes, hints that work when they are typed into Python."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from safetensors.torch import save_file

import thalweg
from conftest import FORMATS, make_sources, read_folder

RUN = FORMATS["safetensors"][0].parent


def keywords_of(hint: str | None) -> list[dict[str, Any]]:
    """What a hint proposes in back-ticks, as keywords."""
    assert hint is not None
    assert "--" not in hint, hint
    return [eval(f"dict({text})") for text in re.findall(r"`([a-z_]+=[^`]*)`", hint)]


def test_a_selection_is_asked_for_and_each_proposal_is_accepted() -> None:
    with pytest.raises(thalweg.UsageError, match="which checkpoints of the run") as refused:
        thalweg.plan(RUN)
    proposals = keywords_of(refused.value.hint)
    assert proposals == [{"last": 10}, {"count": 10, "interval_tokens": "8B"}, {"every": 1}]
    assert len(thalweg.plan(RUN, **proposals[2]).sources) == 4


def test_options_that_contradict_each_other_are_named_as_keywords() -> None:
    with pytest.raises(thalweg.UsageError, match="^last and every both choose checkpoints"):
        thalweg.plan(RUN, last=2, every=1)
    with pytest.raises(thalweg.UsageError, match="^from_step or to_step and "):
        thalweg.plan(RUN, from_step=40, interval_steps=20)


def test_what_is_given_in_place_of_a_plan_a_run_or_sources_is_named_with_what_to_write() -> None:
    untyped: Any = thalweg
    plan = thalweg.plan(RUN, every=1)
    make_one = "make one first: `thalweg.merge(thalweg.plan(RUN, last=10))`"
    calls: list[tuple[Callable[[], object], str, str]] = [
        (lambda: untyped.merge(str(RUN)), "`merge` takes a plan, not `str`", make_one),
        (lambda: untyped.merge(RUN), "Path`", make_one),
        (lambda: untyped.merge(thalweg.open_run(RUN)), "not `Run`", make_one),
        (lambda: untyped.merge([RUN, RUN]), "not `list`", "thalweg.plan(sources=[...])"),
        (lambda: untyped.merge(thalweg.merge(plan)), "not `Merge`", "call `write(OUT)`"),
        (lambda: untyped.plan([RUN, RUN]), "a run is one folder, not `list`", "`sources=[...]`"),
        (lambda: untyped.explain([RUN]), "a run is one folder, not `list`", "`sources=[...]`"),
        (lambda: untyped.sweep(plan, [2]), "a run is one folder, not `Plan`", "`thalweg.merge(plan)`"),
        (lambda: untyped.open_run(3), "a run is one folder, not `int`", "give its path"),
        (lambda: untyped.plan(sources=str(RUN)), "`sources` is a list of checkpoints, not `str`", "[(PATH, 2)"),
        (lambda: untyped.plan(sources=RUN), "`sources` is a list of checkpoints, not `", "[PATH, PATH]"),
        (lambda: untyped.plan(sources={RUN: 1}), "`sources` is a list of checkpoints, not `dict`", "[(PATH, 2)"),
        (lambda: untyped.plan(sources=[RUN, 3]), "`sources[1]` is a path, or a path and its", "[PATH, PATH]"),
        (lambda: untyped.plan(sources=[(3, 1)]), "`sources[0][0]` is a path, not `int`", "[PATH, PATH]"),
        (lambda: untyped.plan(sources=[(RUN, 1, 2)]), "`sources[0]` is a path, or a path and its", "[PATH, PATH]"),
        (lambda: untyped.explain(sources=[(RUN, 1), (RUN, 1)]), "has a coefficient", "[PATH, PATH]"),
    ]
    for call, told, hint in calls:
        with pytest.raises(thalweg.UsageError) as refused:
            call()
        assert told in str(refused.value) and hint in (refused.value.hint or ""), refused.value
    assert len(thalweg.plan(sources=iter(FORMATS["safetensors"])).sources) == len(FORMATS["safetensors"])
    sweeps = [thalweg.sweep(RUN, 2, schemes="sma"), thalweg.sweep(RUN, [2], schemes=["sma"])]
    assert [trial.name for trial in sweeps[0].plans] == [trial.name for trial in sweeps[1].plans]


def test_what_is_wrong_with_a_value_is_said_and_not_hidden() -> None:
    untyped: Any = thalweg
    with pytest.raises(OverflowError, match="negative"):
        untyped.sweep(RUN, -1)
    for counts in (True, [2, True]):
        with pytest.raises(TypeError, match="`bool` is given"):
            untyped.sweep(RUN, counts)
    for text in ("2", ["2"]):
        with pytest.raises(TypeError, match="'str' object cannot be interpreted as an integer"):
            untyped.sweep(RUN, text)

    class Broken:
        def __fspath__(self) -> str:
            raise RuntimeError("no path today")

    for sources in ([RUN, Broken()], [(Broken(), 1)]):
        with pytest.raises(RuntimeError, match="no path today"):
            untyped.plan(sources=sources)


def test_an_unknown_keyword_is_refused_with_the_nearest() -> None:
    with pytest.raises(thalweg.UsageError, match="there is no option `lasts`") as refused:
        thalweg.plan(RUN, lasts=3)  # type: ignore[call-arg]
    assert refused.value.hint == "did you mean `last`?"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"last": "x"}, "`last`: `x`"),
        ({"last": [1, 2]}, "`last` takes one value"),
        ({"dtype": "f8", "last": 2}, "`dtype`"),
        ({"normalize": 3, "last": 2}, "`normalize`: `3` is not true or false"),
        ({"params": "all", "last": 2}, "params"),
    ],
)
def test_values_that_do_not_parse_are_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(thalweg.UsageError) as refused:
        thalweg.plan(RUN, **options)
    assert told in str(refused.value)


def test_coefficients_are_given_to_all_or_to_none() -> None:
    sources = FORMATS["safetensors"]
    with pytest.raises(thalweg.UsageError, match="1 of 2 checkpoints has a coefficient") as refused:
        thalweg.plan(sources=[(sources[0], 1), sources[1]])
    assert refused.value.hint == "give one to all of them (`sources=[(CKPT, COEF), ...]`), or to none"
    with pytest.raises(thalweg.UsageError, match="the coefficient `half`"):
        thalweg.plan(sources=[(sources[0], "half")])
    with pytest.raises(thalweg.SchemeError):
        thalweg.plan(sources=[(sources[0], 1), (sources[1], 1)])
    assert thalweg.plan(sources=[(sources[0], 1), (sources[1], 1)], normalize=True).sources[0].coefficient * 2 == 1


def test_a_value_that_is_not_finite_has_its_place_and_the_hints_work(tmp_path: Path) -> None:
    sources = make_sources(tmp_path, [torch.float32])
    tensors = read_folder(sources[1])
    tensors["layers.0.weight"][3, 4] = float("nan")
    save_file(tensors, sources[1] / "model.safetensors")
    merge = thalweg.merge(thalweg.plan(sources=sources))
    with pytest.raises(thalweg.MergeError) as refused:
        list(merge)
    error = refused.value
    assert (error.kind, error.tensor, error.element) == ("NonFinite", "layers.0.weight", 3 * 48 + 4)
    assert error.path == sources[1]
    proposals = keywords_of(error.hint)
    assert proposals == [{"take_newest": "layers.0.weight"}, {"allow_non_finite": True}]
    for proposal in proposals:
        list(thalweg.merge(thalweg.plan(sources=sources, **proposal)))
    # The merge is not spoilt by the tensor that failed.
    assert merge.tensor("layers.0.weight" if False else "scale").shape == ()


def test_what_failed_has_its_path_and_its_numbers(tmp_path: Path) -> None:
    with pytest.raises(thalweg.TrajectoryError) as few:
        thalweg.plan(RUN, last=9)
    assert (few.value.kind, few.value.wanted, few.value.found) == ("TooFew", 9, 4)
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0notjson!")
    with pytest.raises(thalweg.CheckpointError) as broken:
        thalweg.open_checkpoint(tmp_path)
    assert broken.value.path == tmp_path / "model.safetensors"
    with pytest.raises(thalweg.Error) as missing:
        thalweg.open_run(tmp_path / "nowhere")
    assert missing.value.path == tmp_path / "nowhere"


def test_integers_that_differ_are_named_and_both_hints_work(tmp_path: Path) -> None:
    sources = make_sources(tmp_path, [torch.float32])
    tensors = read_folder(sources[0])
    tensors["positions"] += 1
    save_file(tensors, sources[0] / "model.safetensors")
    with pytest.raises(thalweg.MergeError) as refused:
        list(thalweg.merge(thalweg.plan(sources=sources)))
    assert (refused.value.kind, refused.value.tensor) == ("NonFloatDiffers", "positions")
    for proposal in keywords_of(refused.value.hint):
        newest = thalweg.merge(thalweg.plan(sources=sources, **proposal)).tensor("positions").numpy()
        assert newest.tolist() == list(range(7))


def test_sources_that_differ_are_listed(tmp_path: Path) -> None:
    sources = make_sources(tmp_path, [torch.float32])
    tensors = read_folder(sources[2])
    tensors["more"] = torch.zeros(2)
    tensors["layers.0.weight"] = torch.zeros(2, 2)
    save_file(tensors, sources[2] / "model.safetensors")
    with pytest.raises(thalweg.MergeError) as refused:
        thalweg.merge(thalweg.plan(sources=sources))
    assert refused.value.kind == "NotAligned"
    assert len(refused.value.differences) == 2


def test_too_little_memory_names_what_works(tmp_path: Path) -> None:
    plan = thalweg.plan(sources=make_sources(tmp_path, [torch.float32]))
    with pytest.raises(thalweg.MergeError) as refused:
        list(thalweg.merge(plan, memory=1000))
    assert refused.value.kind == "MemoryTooSmall" and refused.value.limit_bytes == 1000
    [proposal] = keywords_of(refused.value.hint)
    assert len(list(thalweg.merge(plan, **proposal))) == 5
    for wrong in (0, "0", "many"):
        with pytest.raises(thalweg.UsageError, match="is not a size"):
            thalweg.merge(plan, memory=wrong)
    with pytest.raises(thalweg.UsageError, match="`threads` must be at least 1"):
        thalweg.merge(plan, threads=0)


def test_an_output_is_replaced_only_by_force(tmp_path: Path) -> None:
    first = thalweg.plan(sources=make_sources(tmp_path, [torch.float32]))
    other = thalweg.plan(sources=[source.path for source in first.sources][1:])
    thalweg.merge(first).write(tmp_path / "out")
    with pytest.raises(thalweg.MergeError) as refused:
        thalweg.merge(other).write(tmp_path / "out")
    assert (refused.value.kind, refused.value.path) == ("OutputExists", tmp_path / "out")
    [proposal] = keywords_of(refused.value.hint)
    thalweg.merge(other, **proposal).write(tmp_path / "out")


def test_an_output_named_like_a_file_is_refused_and_the_hint_works(tmp_path: Path) -> None:
    merge = thalweg.merge(thalweg.plan(sources=make_sources(tmp_path, [torch.float32])))
    with pytest.raises(thalweg.UsageError) as refused:
        merge.write(tmp_path / "merged.safetensors")
    [proposal] = keywords_of(refused.value.hint)
    assert proposal == {"out": str(tmp_path / "merged")}
    merge.write(**proposal)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(thalweg.TrajectoryError, match="nothing-here"):
        thalweg.open_checkpoint(tmp_path / "nothing-here")
    with pytest.raises(thalweg.TrajectoryError):
        thalweg.plan(tmp_path / "nothing-here", last=1)
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(thalweg.CheckpointError):
        thalweg.open_checkpoint(tmp_path / "broken.safetensors")
    with pytest.raises(TypeError):
        thalweg.open_checkpoint(3)  # type: ignore[arg-type]


def test_every_class_is_an_error_and_says_what_it_lacks() -> None:
    for name in thalweg.__all__:
        value = getattr(thalweg, name)
        if isinstance(value, type) and issubclass(value, Exception):
            assert issubclass(value, thalweg.Error)
    with pytest.raises(AttributeError, match="has no fact 'tensor'"):
        thalweg.Error("x").tensor
    error = thalweg.Error("what", "a hint", "Kind", ["one", "two"])
    assert str(error) == "what\n  one\n  two\nhint: a hint"
