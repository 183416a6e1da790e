"""A bar of tqdm that moves with ``progress=True``."""

from __future__ import annotations

from typing import Any, Callable


def bar() -> Callable[[int, int, str], None] | None:
    """A callback that moves a bar, or None where tqdm is not installed."""
    try:
        from tqdm.auto import tqdm  # type: ignore[import-untyped]
    except ImportError:
        return None
    return _Bar(tqdm)


class _Bar:
    def __init__(self, tqdm: Any) -> None:
        self._tqdm = tqdm
        self._bar: Any = None
        self._what = ""

    def __call__(self, done: int, total: int, what: str) -> None:
        if self._bar is None or what != self._what:
            self._close()
            self._bar = self._tqdm(total=total, desc=what, unit="B", unit_scale=True)
            self._what = what
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
