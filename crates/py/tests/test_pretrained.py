"""Models of transformers that are filled with a merge: those that the written merge gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

import thalweg
from conftest import FORMATS, make_sources, raw

TOKENS = torch.arange(1, 65).reshape(2, 32)


def same_models(mine: Any, theirs: Any) -> None:
    assert type(mine) is type(theirs)
    expected = theirs.state_dict()
    assert mine.state_dict().keys() == expected.keys()
    for name, value in mine.state_dict().items():
        assert value.dtype is expected[name].dtype and raw(value) == raw(expected[name]), name
    # Buffers that are not saved too: rotary frequencies, for one.
    buffers = dict(theirs.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in mine.named_buffers())
    with torch.no_grad():
        assert torch.equal(mine(TOKENS).logits, theirs(TOKENS).logits)
    assert mine.config.to_dict() == {**theirs.config.to_dict(), "_name_or_path": mine.config._name_or_path}
    assert mine.generation_config.to_dict() == theirs.generation_config.to_dict()
    assert not mine.training and not any(value.is_meta for value in mine.state_dict().values())


@pytest.mark.parametrize("kind", ["safetensors", "experts"])
@pytest.mark.parametrize(
    "options,given", [({}, {}), ({"scheme": "wma", "dtype": "f32"}, {}), ({}, {"dtype": torch.float16})]
)
def test_the_model_is_that_of_the_written_merge(
    tmp_path: Path, kind: str, options: dict[str, Any], given: dict[str, Any]
) -> None:
    plan = thalweg.plan(sources=FORMATS[kind], **options)
    mine = thalweg.from_pretrained(plan, AutoModelForCausalLM, **given)
    thalweg.merge(plan, tmp_path / "merged")
    same_models(mine, AutoModelForCausalLM.from_pretrained(tmp_path / "merged", **given))


def test_the_class_may_be_the_models_own(tmp_path: Path) -> None:
    plan = thalweg.plan(sources=FORMATS["safetensors"])
    model = thalweg.from_pretrained(plan, LlamaForCausalLM, attn_implementation="eager")
    assert isinstance(model, LlamaForCausalLM) and model.config._attn_implementation == "eager"


def test_tied_embeddings_are_tied(tmp_path: Path) -> None:
    sources = []
    for i in range(2):
        torch.manual_seed(i)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=80, n_positions=32, n_embd=16, n_layer=1, n_head=2))
        model.save_pretrained(tmp_path / f"step-{i}")
        sources.append(tmp_path / f"step-{i}")
    plan = thalweg.plan(sources=sources)
    mine = thalweg.from_pretrained(plan, AutoModelForCausalLM)
    assert mine.lm_head.weight is mine.transformer.wte.weight
    thalweg.merge(plan, tmp_path / "merged")
    same_models(mine, AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))


def test_the_plan_says_whose_config_it_takes_and_a_missing_one_is_named(tmp_path: Path) -> None:
    sources = make_sources(tmp_path, [torch.float32])
    plan = thalweg.plan(sources=sources)
    assert plan.side_files_from == sources[-1]
    with pytest.raises(thalweg.UsageError, match="has no `config.json`") as error:
        thalweg.from_pretrained(plan, AutoModelForCausalLM)
    assert "`side_files_from`" in str(error.value.hint)
    copies = [shutil.copytree(source, tmp_path / "run" / source.name) for source in FORMATS["safetensors"]]
    (copies[-1] / "config.json").unlink()
    other = thalweg.plan(sources=copies, side_files_from=copies[0])
    assert other.side_files_from == copies[0]
    model = thalweg.from_pretrained(other, AutoModelForCausalLM)
    assert model.config.hidden_size == json.loads((copies[0] / "config.json").read_text())["hidden_size"]


def test_a_class_without_such_a_model_is_refused() -> None:
    from transformers import AutoModelForImageClassification

    with pytest.raises(thalweg.UsageError, match="has no model for LlamaConfig"):
        thalweg.from_pretrained(thalweg.plan(sources=FORMATS["safetensors"]), AutoModelForImageClassification)


def test_the_digest_of_a_plan_is_that_of_the_receipt(tmp_path: Path) -> None:
    plan = thalweg.plan(sources=FORMATS["safetensors"], scheme="wma")
    receipt = json.loads(thalweg.merge(plan).write(tmp_path / "out").to_json())
    assert plan.digest == receipt["plan_digest"]
