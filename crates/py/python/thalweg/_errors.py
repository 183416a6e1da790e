"""The exceptions of thalweg: one class for each part of the library that can fail."""

from __future__ import annotations

# As in `typing`, which takes as long to import as everything else here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Error(Exception):
    """Why a call failed.

    ``hint`` is a next step that works, where there is one. ``kind`` names the situation, such as ``NotAligned``.
    ``details`` are lines that follow the message. Facts of the situation are attributes, such as ``path``.
    """

    hint: str | None
    kind: str
    details: list[str]

    def __init__(
        self,
        message: str,
        hint: str | None = None,
        kind: str = "Usage",
        details: list[str] | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.hint = hint
        self.kind = kind
        self.details = details or []
        for name, value in (facts or {}).items():
            setattr(self, name, value)

    def __str__(self) -> str:
        lines = [super().__str__(), *(f"  {line}" for line in self.details)]
        if self.hint is not None:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__} of kind {self.__dict__.get('kind')!r} has no fact {name!r}")


class UsageError(Error):
    """A request that does not make sense as it was made."""


class MergeError(Error):
    """Sources that cannot be merged, or an output that cannot be written."""


class CheckpointError(Error):
    """A checkpoint that cannot be opened, read or written."""


class TrajectoryError(Error):
    """A run whose checkpoints or log cannot be read, or a window that it does not have."""


class SchemeError(Error):
    """Coefficients that cannot be computed or used."""


class StudyError(Error):
    """A sweep or forecast that cannot be carried out."""


class StorageError(Error):
    """A file or folder that cannot be read or written."""
