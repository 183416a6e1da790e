"""Merge checkpoints of one pre-training run: exactly rounded, in bounded memory, without writing them."""

from thalweg._errors import (
    CheckpointError,
    Error,
    MergeError,
    SchemeError,
    StorageError,
    StudyError,
    TrajectoryError,
    UsageError,
)
from thalweg._thalweg import (
    Checkpoint,
    Comparison,
    Diff,
    Fetched,
    FetchedRevision,
    Forecast,
    ForecastScore,
    Geometry,
    Merge,
    Plan,
    PlanSource,
    ProposedWindow,
    Receipt,
    Recovery,
    Results,
    Run,
    RunCheckpoint,
    Score,
    Spike,
    Study,
    Sweep,
    Tensor,
    TensorDiff,
    TensorInfo,
    TensorIterator,
    TrajectoryGeometry,
    Trial,
    Verification,
    __version__,
    compare_results,
    diff,
    explain,
    fetch,
    forecast,
    merge,
    open_checkpoint,
    open_run,
    plan,
    read_results,
    recover,
    select,
    sweep,
    verify,
)

__all__ = [
    "Average",
    "Checkpoint",
    "CheckpointError",
    "Comparison",
    "Diff",
    "Error",
    "Fetched",
    "FetchedRevision",
    "Forecast",
    "ForecastScore",
    "Geometry",
    "Merge",
    "MergeError",
    "Plan",
    "PlanSource",
    "ProposedWindow",
    "Receipt",
    "Recovery",
    "Results",
    "Run",
    "RunCheckpoint",
    "SchemeError",
    "Score",
    "Spike",
    "StorageError",
    "Study",
    "StudyError",
    "Sweep",
    "Tensor",
    "TensorDiff",
    "TensorInfo",
    "TensorIterator",
    "TrajectoryError",
    "TrajectoryGeometry",
    "Trial",
    "UsageError",
    "Verification",
    "__version__",
    "compare_results",
    "diff",
    "explain",
    "fetch",
    "forecast",
    "from_pretrained",
    "merge",
    "open_checkpoint",
    "open_run",
    "plan",
    "read_results",
    "recover",
    "select",
    "sweep",
    "verify",
]

# Written in Python, and imported when they are used: what they import takes longer than all the rest.
_LATER = {"Average": "thalweg._average", "from_pretrained": "thalweg._pretrained"}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'thalweg' has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
