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
    Merge,
    Plan,
    PlanSource,
    Tensor,
    TensorInfo,
    TensorIterator,
    __version__,
    merge,
    open_checkpoint,
    plan,
)

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Error",
    "Merge",
    "MergeError",
    "Plan",
    "PlanSource",
    "SchemeError",
    "StorageError",
    "StudyError",
    "Tensor",
    "TensorInfo",
    "TensorIterator",
    "TrajectoryError",
    "UsageError",
    "__version__",
    "merge",
    "open_checkpoint",
    "plan",
]
