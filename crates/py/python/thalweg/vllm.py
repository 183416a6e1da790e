"""Merges that were not written, for vLLM: the load format ``thalweg``.

vLLM finds ``register`` by the entry point ``vllm.general_plugins`` in each of its processes. Importing this imports
neither vLLM nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterator, Mapping

from thalweg._errors import UsageError
from thalweg._thalweg import Merge, Plan, merge, plan

if TYPE_CHECKING:
    import torch

LOAD_FORMAT = "thalweg"
# Keywords of `thalweg.merge`; the others are those of `thalweg.plan`.
_OF_MERGE = ("threads", "memory")


def register() -> None:
    """Registers the load format."""
    from vllm.model_executor.model_loader import register_model_loader  # type: ignore[import-not-found, unused-ignore]
    from vllm.model_executor.model_loader.base_loader import (  # type: ignore[import-not-found, unused-ignore]
        BaseModelLoader,
    )

    class UnwrittenMergeLoader(BaseModelLoader):  # type: ignore[misc, unused-ignore]
        """Loads the merge that ``model_loader_extra_config`` describes."""

        def download_model(self, model_config: Any) -> None:
            """There is nothing to download: sources are opened, and compared by their headers."""
            open_merge(self.load_config.model_loader_extra_config)

        def load_weights(self, model: torch.nn.Module, model_config: Any) -> None:
            """Gives the merged tensors to the model, which takes the parts of this rank."""
            model.load_weights(weights(self.load_config.model_loader_extra_config))  # type: ignore[operator]

    register_model_loader(LOAD_FORMAT)(UnwrittenMergeLoader)


def open_merge(config: Any) -> Merge:
    """The merge of ``model_loader_extra_config``: ``{"plan": FILE}``, or the arguments of ``thalweg.plan`` by name.

    ``threads`` and ``memory`` are those of ``thalweg.merge``.
    """
    if not isinstance(config, Mapping) or not config:
        raise UsageError(
            "the load format `thalweg` needs a plan",
            'write `model_loader_extra_config={"plan": "plan.json"}`, or the arguments of `thalweg.plan`, such as '
            '`{"run": "runs/my-run", "last": 10}`',
        )
    of_merge = {name: config[name] for name in _OF_MERGE if name in config}
    about = {name: value for name, value in config.items() if name not in _OF_MERGE}
    if "plan" in about and len(about) > 1:
        others = ", ".join(f"`{name}`" for name in about if name != "plan")
        raise UsageError(f"{others} beside `plan`: the plan says everything", "leave them out")
    found = Plan.load(about["plan"]) if "plan" in about else plan(**about)
    return merge(found, **of_merge)


def weights(config: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The merged tensors by their names, a window of memory at a time."""
    for name, tensor in open_merge(config):
        yield name, tensor.torch()
