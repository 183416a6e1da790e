"""Scores of Python as the text that other programs' results have."""

from __future__ import annotations

import json
from typing import Any, Mapping


def as_json(scores: Any, higher_is_better: bool | Mapping[str, bool] | None) -> str:
    """The results of lm-evaluation-harness as they are; numbers and dicts as a list of rows."""
    if isinstance(scores, Mapping) and isinstance(scores.get("results"), Mapping):
        return _dump(scores)
    if isinstance(scores, Mapping):
        rows = [_row(str(task), value) for task, value in scores.items()]
    elif isinstance(scores, (list, tuple)):
        rows = [dict(row) for row in scores]
    else:
        rows = [_row("score", scores)]
    for row in rows:
        said = higher_is_better.get(row.get("task", "")) if isinstance(higher_is_better, Mapping) else higher_is_better
        if said is not None:
            row.setdefault("higher_is_better", said)
    return _dump(rows)


def _row(task: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {"task": task, **value}
    return {"task": task, "value": float(value)}


def _dump(value: Any) -> str:
    # Results hold functions and arrays beside the numbers.
    return json.dumps(value, default=lambda other: float(other) if hasattr(other, "__float__") else str(other))
