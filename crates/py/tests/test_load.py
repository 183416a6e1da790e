"""Filling models in place: every kind of parameter, what does not fit, tied parameters."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Callable

import pytest
import torch
from safetensors.torch import load_file, save_file

import thalweg
from conftest import FIXTURES, make_sources, raw, read_folder


class Model(torch.nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(20, 8, dtype=dtype)
        self.linear = torch.nn.Linear(8, 8, dtype=dtype)
        self.norm = torch.nn.BatchNorm1d(8, dtype=dtype)
        self.head = torch.nn.Linear(8, 20, bias=False, dtype=dtype)
        self.register_buffer("not_saved", torch.ones(3), persistent=False)


def save_models(folder: Path, n_models: int = 3, dtype: torch.dtype = torch.float32) -> list[Path]:
    paths = []
    for i in range(n_models):
        torch.manual_seed(i)
        path = folder / f"step-{i + 1}"
        path.mkdir()
        save_file(Model(dtype).state_dict(), path / "model.safetensors")
        paths.append(path)
    return paths


def merged(folder: Path, **options: object) -> tuple[thalweg.Merge, dict[str, torch.Tensor]]:
    merge = thalweg.merge(thalweg.plan(sources=save_models(folder), **options))  # type: ignore[arg-type]
    return merge, merge.state_dict()


def test_a_module_is_filled_where_its_parameters_are(tmp_path: Path) -> None:
    merge, expected = merged(tmp_path)
    model = Model()
    places = {name: value.data_ptr() for name, value in model.state_dict().items()}
    versions = {name: value._version for name, value in model.named_parameters()}
    assert merge.load_into(model) == ([], [])
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]) and value.data_ptr() == places[name], name
    assert all(value.requires_grad for value in model.parameters())
    assert all(value._version > versions[name] for name, value in model.named_parameters())
    assert torch.equal(model.get_buffer("not_saved"), torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_element_types_are_converted_as_torch_converts_them(tmp_path: Path, dtype: torch.dtype) -> None:
    merge, expected = merged(tmp_path)
    model = Model(dtype)
    merge.load_into(model)
    for name, value in model.state_dict().items():
        assert raw(value) == raw(expected[name].to(value.dtype)), name


def test_parameters_that_are_views_of_other_memory(tmp_path: Path) -> None:
    merge, expected = merged(tmp_path)
    reverse = {name: tuple(reversed(range(v.dim()))) for name, v in expected.items()}
    transposed = {name: torch.zeros(v.shape[::-1], dtype=v.dtype).permute(reverse[name]) for name, v in expected.items()}
    strided = {name: torch.zeros((*v.shape, 3), dtype=v.dtype)[..., 1] for name, v in expected.items()}
    flat = torch.zeros(sum(v.numel() for v in expected.values() if v.dtype is torch.float32))
    packed, end = dict(expected), 0
    for name, value in expected.items():
        if value.dtype is torch.float32:
            packed[name] = flat[end : end + value.numel()].view(value.shape)
            end += value.numel()
        else:
            packed[name] = torch.zeros_like(value)
    for target in (transposed, strided, packed):
        merge.load_into(target)
        assert all(torch.equal(target[name], expected[name]) for name in expected)


def test_more_than_a_staging_buffer_of_converted_tensors(tmp_path: Path) -> None:
    sources = make_sources(tmp_path, [torch.float32] * 6, rows=60_000, n_sources=2)
    merge = thalweg.merge(thalweg.plan(sources=sources))
    target = {name: t.to(torch.float64) * 0 for name, t in merge.state_dict().items()}
    merge.load_into(target)
    assert all(torch.equal(target[name], t.to(torch.float64)) for name, t in merge.state_dict().items())


def test_nothing_is_written_unless_everything_fits(tmp_path: Path) -> None:
    merge, _ = merged(tmp_path)
    model = Model()
    model.head = torch.nn.Linear(8, 21, bias=False)
    model.extra = torch.nn.Linear(2, 2)
    del model.norm
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(thalweg.UsageError, match="does not fit the model") as refused:
        merge.load_into(model)
    told = "\n".join(refused.value.details)
    assert "`extra.weight` is in the model, not in the merge" in told
    assert "`norm.weight` is in the merge, not in the model" in told
    assert "`head.weight` has shape [21, 8] in the model, [20, 8] in the merge" in told
    with pytest.raises(thalweg.UsageError, match="head.weight"):
        merge.load_into(model, strict=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_hint_of_strict_works(tmp_path: Path) -> None:
    merge, expected = merged(tmp_path)
    model = Model()
    model.extra = torch.nn.Linear(2, 2)
    del model.norm
    with pytest.raises(thalweg.UsageError) as refused:
        merge.load_into(model)
    assert refused.value.hint is not None and "strict=False" in refused.value.hint
    result = merge.load_into(model, strict=False)
    assert result.missing_keys == ["extra.weight", "extra.bias"]
    assert result.unexpected_keys == sorted(name for name in expected if name.startswith("norm."))
    assert torch.equal(model.linear.weight, expected["linear.weight"])


def test_meta_parameters_are_refused_and_the_hint_works(tmp_path: Path) -> None:
    merge, expected = merged(tmp_path)
    with torch.device("meta"):
        model = Model()
    with pytest.raises(thalweg.UsageError, match="does not fit") as refused:
        merge.load_into(model)
    assert refused.value.hint == 'make room first with `model.to_empty(device="cpu")`'
    model.to_empty(device="cpu")
    merge.load_into(model)
    assert torch.equal(model.head.weight, expected["head.weight"])


def test_tied_parameters_of_a_checkpoint_with_one_of_the_names(tmp_path: Path) -> None:
    model = Model()
    model.head.weight = model.embed.weight
    for i in range(2):
        (tmp_path / f"step-{i + 1}").mkdir()
        torch.nn.init.normal_(model.embed.weight)
        state = {name: value for name, value in model.state_dict().items() if name != "head.weight"}
        save_file(state, tmp_path / f"step-{i + 1}/model.safetensors")
    merge = thalweg.merge(thalweg.plan(tmp_path, last=2))
    assert merge.load_into(model) == ([], [])
    assert torch.equal(model.head.weight, merge.tensor("embed.weight").torch())


def test_tied_parameters_of_a_checkpoint_with_both_names(tmp_path: Path) -> None:
    merge, _ = merged(tmp_path)
    model = Model()
    model.head.weight = model.embed.weight
    with pytest.raises(thalweg.UsageError, match="shares its memory with another tensor") as refused:
        merge.load_into(model)
    assert refused.value.kind == "TiedDiffer"
    for path in sorted(tmp_path.glob("step-*")):
        state = read_folder(path)
        save_file({**state, "head.weight": state["embed.weight"].clone()}, path / "model.safetensors")
    same = thalweg.merge(thalweg.plan(sources=sorted(tmp_path.glob("step-*"))))
    assert same.load_into(model) == ([], [])


def test_what_is_not_a_model_is_refused(tmp_path: Path) -> None:
    merge, _ = merged(tmp_path)
    with pytest.raises(thalweg.UsageError, match="cannot be loaded into list"):
        merge.load_into([1, 2])  # type: ignore[arg-type]


def test_logits_are_those_of_the_written_merge(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig.from_pretrained(FIXTURES / "stories260K")
    sources = []
    for i in range(3):
        torch.manual_seed(i)
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
        model.save_pretrained(tmp_path / f"step-{i + 1}")
        sources.append(tmp_path / f"step-{i + 1}")
    merge = thalweg.merge(thalweg.plan(sources=sources, scheme="ema:0.3"))
    merge.write(tmp_path / "out")
    written = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    # Made as trained models are: a conversion by `to` would also round the angles of the positions.
    filled = transformers.AutoModelForCausalLM.from_pretrained(sources[0], dtype=torch.bfloat16)
    merge.load_into(filled)
    tokens = torch.arange(1, 65).view(2, 32)
    with torch.no_grad():
        expected, found = written(tokens).logits, filled(tokens).logits
    assert torch.equal(expected, found) and expected.abs().max() > 0


def compiled(model: torch.nn.Module) -> torch.nn.Module:
    wrapper = torch.compile(model, backend="eager")
    assert isinstance(wrapper, torch.nn.Module)
    return wrapper


@pytest.mark.parametrize(
    "wrap",
    [torch.nn.DataParallel, compiled, lambda model: compiled(torch.nn.DataParallel(compiled(model)))],
)
def test_wrappers_that_add_to_names_are_seen_through(tmp_path: Path, wrap: Callable[[Model], torch.nn.Module]) -> None:
    merge, expected = merged(tmp_path)
    model = Model()
    assert merge.load_into(wrap(model)) == ([], [])
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_checkpoints_of_a_compiled_model_fill_a_plain_one_and_trials_a_compiled_one(tmp_path: Path) -> None:
    for step in (10, 20):
        (tmp_path / f"step-{step}").mkdir()
        saved = {f"_orig_mod.{name}": value for name, value in Model().state_dict().items()}
        save_file(saved, tmp_path / f"step-{step}/model.safetensors")
    model = Model()
    assert thalweg.merge(thalweg.plan(tmp_path, last=1)).load_into(model) == ([], [])
    assert all(torch.equal(value, saved[f"_orig_mod.{name}"]) for name, value in model.state_dict().items())
    model.linear = compiled(model.linear)  # type: ignore[assignment]
    assert len(list(thalweg.sweep(tmp_path, [1, 2]).trials(model))) == 3


def test_a_state_dict_of_copies_is_refused_and_the_hint_works(tmp_path: Path) -> None:
    # FSDP1 does this. What is written to the copies would be lost.
    merge, expected = merged(tmp_path)
    model = Model()

    def copy_all(_module: object, state: dict[str, torch.Tensor], *_: object) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in state.items()}

    model._register_state_dict_hook(copy_all)  # type: ignore[no-untyped-call]
    for strict in (True, False):
        with pytest.raises(thalweg.UsageError, match="is a copy") as refused:
            merge.load_into(model, strict=strict)
        assert refused.value.hint is not None and "`model.load_state_dict(state)`" in refused.value.hint
    merge.load_into(state := model.state_dict())
    model.load_state_dict(state)
    assert all(torch.equal(value, expected[name]) for name, value in model.named_parameters())


def test_nothing_in_common_is_an_error_even_if_not_strict(tmp_path: Path) -> None:
    merge, _ = merged(tmp_path)
    with pytest.raises(thalweg.UsageError, match="does not fit") as refused:
        merge.load_into(torch.nn.ModuleDict({"other": Model()}), strict=False)
    assert refused.value.hint is not None and "such as `model.model`" in refused.value.hint


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (torch.zeros(20, 8, dtype=torch.int8), "is torch.int8 in the model, which cannot hold the F32 of the merge"),
        (torch.zeros(1, 8).expand(20, 8), "share memory"),
        (torch.zeros(20, 8).to_sparse(), "is not dense"),
        (torch.zeros(20, 8).numpy(), "is not a torch.Tensor in the state dict, but ndarray"),
    ],
)
def test_places_that_cannot_hold_the_merge_are_refused_before_anything_is_written(
    tmp_path: Path, place: object, told: str
) -> None:
    merge, _ = merged(tmp_path)
    state: dict[str, object] = {name: torch.zeros_like(value) for name, value in merge.state_dict().items()}
    state["head.weight"] = place
    with pytest.raises(thalweg.UsageError, match="in 1 place\\b") as refused:
        merge.load_into(state)
    assert told in "\n".join(refused.value.details)
    assert not any(value.any() for value in state.values() if isinstance(value, torch.Tensor) and value is not place)
