"""Merges that were not written, for lm-evaluation-harness. Importing this imports lm_eval."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found, import-untyped, unused-ignore]
from transformers import AutoModelForCausalLM, AutoTokenizer

from thalweg._pretrained import from_pretrained

if TYPE_CHECKING:
    from thalweg import Plan


class UnwrittenMerge(HFLM):  # type: ignore[misc]
    """A model for ``lm_eval.simple_evaluate``: the merge of a plan, which is not written.

    ``options`` are those of ``HFLM``, such as ``batch_size``; ``softmax_dtype="float32"`` keeps the scores of near merges
    apart, where the model is in bfloat16. The tokenizer is that of the checkpoint whose tokenizer the
    merge would have, if no other is given. What was scored is in ``results["config"]``: harness results of a model
    object do not say it by themselves.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        auto_class: Any = AutoModelForCausalLM,
        tokenizer: Any = None,
        model_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        model = from_pretrained(plan, auto_class, **(model_options or {}))
        model.eval()
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(plan.side_files_from)
        self._plan = plan
        super().__init__(pretrained=model, tokenizer=tokenizer, **options)

    def get_model_info(self) -> dict[str, Any]:
        """What was scored, for the results."""
        sources = [
            {"path": str(source.path), "step": source.step, "coefficient": str(source.coefficient)}
            for source in self._plan.sources
        ]
        info = dict(super().get_model_info())
        info["thalweg"] = {"scheme": self._plan.scheme, "plan_digest": self._plan.digest, "sources": sources}
        return info
