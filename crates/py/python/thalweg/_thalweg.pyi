"""What the Python parts of the package use of the compiled part, beside what `thalweg` exports."""

from pathlib import Path
from typing import Any, final

from thalweg import (
    Checkpoint as Checkpoint,
    Comparison as Comparison,
    Diff as Diff,
    Fetched as Fetched,
    FetchedRevision as FetchedRevision,
    Forecast as Forecast,
    ForecastScore as ForecastScore,
    Geometry as Geometry,
    Merge as Merge,
    Plan as Plan,
    PlanSource as PlanSource,
    ProposedWindow as ProposedWindow,
    Receipt as Receipt,
    Recovery as Recovery,
    Results as Results,
    Run as Run,
    RunCheckpoint as RunCheckpoint,
    Score as Score,
    Spike as Spike,
    Study as Study,
    Sweep as Sweep,
    Tensor as Tensor,
    TensorDiff as TensorDiff,
    TensorInfo as TensorInfo,
    TensorIterator as TensorIterator,
    TrajectoryGeometry as TrajectoryGeometry,
    Trial as Trial,
    Verification as Verification,
    __version__ as __version__,
    compare_results as compare_results,
    diff as diff,
    explain as explain,
    fetch as fetch,
    forecast as forecast,
    merge as merge,
    open_checkpoint as open_checkpoint,
    open_run as open_run,
    plan as plan,
    read_results as read_results,
    recover as recover,
    select as select,
    sweep as sweep,
    verify as verify,
)

def _copy(copies: list[tuple[int, int, int]], threads: int | None = None) -> None: ...
def _take(places: list[tuple[int, int]]) -> bool: ...
@final
class _Window:
    @property
    def steps(self) -> list[int]: ...
    @property
    def coefficients(self) -> list[str]: ...
    def keys(self) -> list[str]: ...
    def info(self, name: str) -> TensorInfo: ...
    def tensor(self, name: str) -> Tensor: ...
    def tensors(self, names: list[str] | None = None) -> TensorIterator: ...
    def _fill(self, targets: list[tuple[str, int, int]]) -> None: ...
    def record(self) -> str: ...
    def stage_path(self, out: Path) -> str: ...
    def write(self, out: Path, side_files_from: Path | None) -> None: ...

@final
class _Saves:
    def __init__(
        self, count: int, *, threads: int | None = None, memory: int | str | None = None, **options: Any
    ) -> None: ...
    @property
    def scheme(self) -> str: ...
    @property
    def steps(self) -> list[int]: ...
    def room(self, step: int, entries: list[tuple[str, str, list[int]]]) -> list[Tensor]: ...
    def keep(self, step: int, tensors: list[tuple[str, Tensor]]) -> None: ...
    def clear(self) -> None: ...
    def saves(self) -> list[tuple[int, list[tuple[str, Tensor]]]]: ...
    def window(self) -> _Window: ...
