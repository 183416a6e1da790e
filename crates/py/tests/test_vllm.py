"""The load format for vLLM, against the interface that it builds on, and in vLLM itself where that is installed."""

from __future__ import annotations

import subprocess
import sys
from abc import ABC, abstractmethod
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Callable, Iterator

import pytest
import torch

import thalweg
from conftest import FORMATS, ROOT, raw
from thalweg import vllm

RUN = FORMATS["safetensors"][0].parent


class BaseModelLoader(ABC):
    """As in vLLM 0.32 and 0.33."""

    def __init__(self, load_config: Any) -> None:
        self.load_config = load_config

    @abstractmethod
    def download_model(self, model_config: Any) -> None: ...

    @abstractmethod
    def load_weights(self, model: torch.nn.Module, model_config: Any) -> None: ...


@pytest.fixture
def loaders(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[BaseModelLoader]]:
    """The loaders that are registered with a vLLM that has only the interface."""
    known: dict[str, type[BaseModelLoader]] = {}

    def register_model_loader(load_format: str) -> Callable[[type[BaseModelLoader]], type[BaseModelLoader]]:
        def keep(loader: type[BaseModelLoader]) -> type[BaseModelLoader]:
            if not issubclass(loader, BaseModelLoader):
                raise ValueError("The model loader must be a subclass of `BaseModelLoader`.")
            known[load_format] = loader
            return loader

        return keep

    interface: dict[str, dict[str, Any]] = {
        "vllm": {},
        "vllm.model_executor": {},
        "vllm.model_executor.model_loader": {"register_model_loader": register_model_loader},
        "vllm.model_executor.model_loader.base_loader": {"BaseModelLoader": BaseModelLoader},
    }
    for name, members in interface.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    vllm.register()
    return known


class Model(torch.nn.Module):
    """Takes weights as models of vLLM do."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[str, bytes] = {}

    def load_weights(self, weights: Iterator[tuple[str, torch.Tensor]]) -> set[str]:
        for name, tensor in weights:
            self.taken[name] = raw(tensor)
        return set(self.taken)


def test_vllm_finds_the_plugin_and_loads_the_merge(loaders: dict[str, type[BaseModelLoader]], tmp_path: Path) -> None:
    plugins = [one for one in entry_points(group="vllm.general_plugins") if one.name == "thalweg"]
    assert plugins and plugins[0].value == "thalweg.vllm:register"
    # vLLM looks the format up in lower case.
    assert list(loaders) == [vllm.LOAD_FORMAT.lower()]
    plan = thalweg.plan(RUN, last=3, scheme="wma")
    plan.save(tmp_path / "plan.json")
    expected = {name: tensor.tobytes() for name, tensor in thalweg.merge(plan)}
    configs: list[dict[str, Any]] = [
        {"plan": str(tmp_path / "plan.json"), "threads": 1},
        {"run": str(RUN), "last": 3, "scheme": "wma", "memory": "64MB"},
    ]
    for config in configs:
        loader = loaders["thalweg"](SimpleNamespace(model_loader_extra_config=config))
        loader.download_model(None)
        model = Model()
        loader.load_weights(model, None)
        assert model.taken == expected


def test_a_config_without_a_plan_is_refused_with_one_that_works(loaders: dict[str, type[BaseModelLoader]]) -> None:
    refused: list[Any] = [None, {}, "plan.json"]
    for config in refused:
        with pytest.raises(thalweg.UsageError, match="needs a plan") as error:
            loaders["thalweg"](SimpleNamespace(model_loader_extra_config=config)).download_model(None)
        assert "model_loader_extra_config" in str(error.value.hint)
    with pytest.raises(thalweg.UsageError, match="`last` beside `plan`"):
        vllm.open_merge({"plan": "plan.json", "last": 3})


def test_vllm_itself_answers_as_over_the_written_merge(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    words = [sys.executable, str(ROOT / "scripts/vllm_unwritten.py"), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("0 of 4 answers differ") == 2
