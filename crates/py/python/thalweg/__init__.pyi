"""Merge checkpoints of one pre-training run: exactly rounded, in bounded memory, without writing them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, final

from thalweg._average import Average as Average
from thalweg._errors import (
    CheckpointError as CheckpointError,
    Error as Error,
    MergeError as MergeError,
    SchemeError as SchemeError,
    StorageError as StorageError,
    StudyError as StudyError,
    TrajectoryError as TrajectoryError,
    UsageError as UsageError,
)

from thalweg._pretrained import from_pretrained as from_pretrained

if TYPE_CHECKING:
    import numpy
    import torch

    from thalweg._load import LoadResult

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

__version__: str

_Path: TypeAlias = str | PathLike[str]
_Number: TypeAlias = int | float | str | Fraction
_Numbers: TypeAlias = Sequence[_Number] | numpy.ndarray[Any, Any]
_Dtype: TypeAlias = str | torch.dtype
_Count: TypeAlias = int | str
_Size: TypeAlias = int | str
_Progress: TypeAlias = Callable[[int, int, str], object] | bool
_Scores: TypeAlias = float | Mapping[str, Any] | Sequence[Mapping[str, Any]]
_Rename: TypeAlias = _Path | Mapping[str, str] | Sequence[tuple[str, str]]

@final
class Tensor:
    """A tensor in memory. `numpy()`, `torch()` and DLPack share its bytes and keep them alive."""

    @property
    def dtype(self) -> str:
        """Element type by its safetensors name, such as `BF16`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions, outermost first; `()` for a scalar."""

    @property
    def nbytes(self) -> int:
        """Number of bytes."""

    def tobytes(self) -> bytes:
        """A copy of the bytes, little-endian, row-major."""

    def numpy(self) -> numpy.ndarray[Any, Any]:
        """The tensor as a NumPy array over the same bytes. NumPy has no bfloat16."""

    def torch(self) -> torch.Tensor:
        """The tensor as a torch tensor over the same bytes."""

    def __dlpack_device__(self) -> tuple[int, int]:
        """The device of the bytes as DLPack numbers it: the CPU."""

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
        **_kwargs: Any,
    ) -> Any:
        """The tensor as a DLPack capsule, without a copy unless `copy=True`."""

@final
class TensorInfo:
    """Name, element type and shape of a tensor, without its bytes."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def dtype(self) -> str:
        """Element type by its safetensors name, such as `BF16`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions, outermost first; `()` for a scalar."""

    @property
    def nbytes(self) -> int:
        """Number of bytes."""

@final
class Checkpoint:
    """An open checkpoint: its headers have been read, its tensors are read on request."""

    @property
    def path(self) -> Path:
        """Its folder or file."""

    @property
    def format(self) -> str:
        """The name of its format."""

    def keys(self) -> list[str]:
        """The names of its tensors, sorted."""

    def info(self, name: str) -> TensorInfo:
        """Element type and shape of a tensor, without reading it."""

    def tensor(self, name: str) -> Tensor:
        """Reads a tensor."""

    def __getitem__(self, key: str, /) -> Tensor: ...
    def __contains__(self, key: str, /) -> bool: ...
    def __len__(self) -> int: ...

@final
class PlanSource:
    """A source of a plan with its coefficient."""

    @property
    def path(self) -> Path:
        """Its path."""

    @property
    def step(self) -> int | None:
        """Optimizer steps done, if known."""

    @property
    def tokens(self) -> int | None:
        """Training tokens consumed, if known."""

    @property
    def coefficient(self) -> Fraction:
        """What its parameters are multiplied by, exactly: a `fractions.Fraction`."""

    def __fspath__(self) -> str: ...

@final
class Plan:
    """A complete description of a merge, before it happens."""

    @staticmethod
    def from_json(text: str) -> Plan:
        """Reads a plan from the JSON that `to_json` or `thalweg plan` wrote."""

    @staticmethod
    def load(path: _Path) -> Plan:
        """Reads a plan file."""

    def save(self, path: _Path) -> None:
        """Writes the plan to a file, which only replaces a plan, with the sources as they are now: a merge of it
        refuses sources that changed since. `thalweg merge --plan FILE` executes it too."""

    def to_json(self) -> str:
        """The plan as JSON."""

    @property
    def scheme(self) -> str | None:
        """The scheme, as requested."""

    @property
    def out(self) -> Path | None:
        """The folder that `Merge.write` writes to if no other is named."""

    @property
    def side_files_from(self) -> Path | None:
        """The checkpoint or folder whose config and tokenizer are copied to the output."""

    @property
    def digest(self) -> str | None:
        """The digest of the plan: equal plans over equal sources give equal bytes."""

    @property
    def sources(self) -> list[PlanSource]:
        """The sources of the first output, oldest first."""

    @property
    def notes(self) -> list[str]:
        """Notes from making the plan."""

@final
class Receipt:
    """The record of a merge that happened: what `thalweg.json` in its folder says."""

    @property
    def path(self) -> Path:
        """The folder of the output."""

    @property
    def was_done(self) -> bool:
        """Whether the output was there already, from the same plan over unchanged sources."""

    @property
    def scheme(self) -> str:
        """The scheme, as requested."""

    @property
    def digest(self) -> str | None:
        """Digest of all merged tensors; `None` without digests."""

    @property
    def distance_to_newest(self) -> float | None:
        """Euclidean distance from the newest source; `None` if that was not read."""

    @property
    def max_abs_change(self) -> float | None:
        """Largest change of an element from the newest source; `None` if that was not read."""

    @property
    def seconds(self) -> float:
        """Wall time."""

    @property
    def bytes_read(self) -> int:
        """Bytes of tensors read from the sources."""

    @property
    def bytes_written(self) -> int:
        """Bytes of the output's files."""

    @property
    def peak_memory_bytes(self) -> int | None:
        """Largest resident memory of the process, if the system reports it."""

    def to_json(self) -> str:
        """The receipt as JSON."""

@final
class RunCheckpoint:
    """A checkpoint of a run. It can be given wherever a path can."""

    @property
    def path(self) -> Path:
        """Its path."""

    @property
    def step(self) -> int | None:
        """Optimizer steps done, if known."""

    @property
    def tokens(self) -> int | None:
        """Training tokens consumed, if known."""

    @property
    def phase(self) -> str | None:
        """The phase of the run, if known."""

    @property
    def fault(self) -> str | None:
        """Why it cannot be used; `None` if it can."""

    def __fspath__(self) -> str: ...

@final
class Run:
    """A run: its checkpoints by step, finished or not."""

    @property
    def path(self) -> Path:
        """Its folder."""

    @property
    def checkpoints(self) -> list[RunCheckpoint]:
        """Its checkpoints by step, those that cannot be used too."""

    @property
    def notes(self) -> list[str]:
        """Notes about the run."""

    def select(
        self,
        *,
        last: _Count | None = None,
        count: _Count | None = None,
        interval_steps: _Count | None = None,
        interval_tokens: _Count | None = None,
        duration_steps: _Count | None = None,
        duration_tokens: _Count | None = None,
        end_step: _Count | None = None,
        end_tokens: _Count | None = None,
        from_step: _Count | None = None,
        to_step: _Count | None = None,
        every: _Count | None = None,
        steps: Sequence[_Count] | None = None,
    ) -> list[RunCheckpoint]:
        """The window of the run that the options ask for, oldest first: those of a selection, such as `last=10`."""

    def __fspath__(self) -> str: ...
    def __len__(self) -> int: ...

@final
class FetchedRevision:
    """A revision that was fetched. It can be given wherever the path of a checkpoint can."""

    @property
    def name(self) -> str:
        """The name of the branch or tag."""

    @property
    def commit(self) -> str:
        """Its commit."""

    @property
    def step(self) -> int | None:
        """The step in its name, if there is one."""

    @property
    def tokens(self) -> int | None:
        """The tokens in its name, if they are there."""

    @property
    def path(self) -> Path:
        """Its folder in the local cache."""

    @property
    def files(self) -> list[str]:
        """The files that a merge of it reads."""

    @property
    def nbytes(self) -> int:
        """Bytes of its files."""

    @property
    def missing_bytes(self) -> int:
        """Bytes of them that were not in the cache before."""

    def __fspath__(self) -> str: ...

@final
class Fetched:
    """What was fetched. It can be given wherever a run can."""

    @property
    def repository(self) -> str:
        """The repository, as `ORG/NAME`."""

    @property
    def path(self) -> Path:
        """Its folder in the local cache: a run whose checkpoints are all cached revisions that have a step."""

    @property
    def revisions(self) -> list[FetchedRevision]:
        """The revisions that were asked for, oldest first where they have steps."""

    @property
    def nbytes(self) -> int:
        """Bytes of all distinct files."""

    @property
    def missing_bytes(self) -> int:
        """Bytes of them that were not in the cache before."""

    @property
    def fetched_bytes(self) -> int | None:
        """Bytes that were fetched; `None` after `dry_run=True`."""

    @property
    def next(self) -> str | None:
        """The command that merges these revisions, or shows the only one; `None` after `dry_run=True`."""

    def to_json(self) -> str:
        """The report as JSON, as `thalweg fetch --json` prints it."""

    def __fspath__(self) -> str: ...
    def __len__(self) -> int: ...

@final
class TensorDiff:
    """How a tensor of two checkpoints differs."""

    @property
    def name(self) -> str:
        """Its name, safe to print."""

    @property
    def fault(self) -> str | None:
        """Why the two cannot be compared; `None` if they can."""

    @property
    def n_differing(self) -> int:
        """Elements whose bytes differ."""

    @property
    def distance(self) -> float:
        """Euclidean distance; NaN where either holds a NaN, or where only bytes were compared."""

    @property
    def cosine(self) -> float | None:
        """Cosine of the two as vectors; `None` when one is zero."""

    @property
    def max_abs(self) -> float:
        """Largest difference of an element; NaN like the distance."""

    @property
    def max_ulps(self) -> int:
        """Largest difference in ULPs; 0 for types that are not floating, or that differ."""

@final
class Diff:
    """How two checkpoints differ."""

    @property
    def equal(self) -> bool:
        """Whether both hold the same tensors with the same bytes."""

    @property
    def tensors(self) -> list[TensorDiff]:
        """All tensors of either, sorted by name."""

    @property
    def total(self) -> TensorDiff:
        """Over all tensors that could be compared."""

    def to_json(self) -> str:
        """The comparison as JSON, as `thalweg diff --json` prints it."""

@final
class Verification:
    """What a verification found."""

    @property
    def equal(self) -> bool:
        """Whether the output, and the sources if requested, match the receipt."""

    @property
    def output_equal(self) -> bool:
        """Whether the output matches the receipt."""

    @property
    def sources_equal(self) -> bool | None:
        """Whether the sources are those that were merged; `None` if not requested."""

    @property
    def compared_bytes(self) -> bool:
        """Whether bytes were compared; without digests only sizes and headers are."""

    @property
    def faults(self) -> list[tuple[str, str]]:
        """What is wrong with the output: files, tensors or facts with a fault each."""

    @property
    def sources(self) -> list[tuple[Path, str]]:
        """The sources with their state: `unchanged`, `missing`, `changed` or `unreadable`."""

    @property
    def strays(self) -> list[str]:
        """Files of tensors that the receipt does not list; other programs may load them."""

    def to_json(self) -> str:
        """The verification as JSON, as `thalweg verify --json` prints it."""

@final
class Geometry:
    """Distances and directions of n checkpoints, oldest first: of a whole model, a layer, or a class of tensors."""

    @property
    def norms(self) -> list[float]:
        """Euclidean norm of each checkpoint, n values."""

    @property
    def distances(self) -> list[list[float]]:
        """Distances between all pairs of checkpoints, n x n."""

    @property
    def displacements(self) -> list[float]:
        """Length of the displacement from each checkpoint to the next, n - 1 values."""

    @property
    def displacement_cosines(self) -> list[float | None]:
        """Cosine of each displacement with the next, n - 2 values; `None` where one is zero."""

    @property
    def plane(self) -> list[tuple[float, float]]:
        """Coordinates of the checkpoints on the first two principal components."""

    @property
    def component_shares(self) -> list[float]:
        """Share of the variance about the mean that each leading principal component explains."""

    @property
    def random_walk_shares(self) -> list[float]:
        """The same for a random walk of n steps in high dimension."""

    @property
    def white_noise_shares(self) -> list[float]:
        """The same for white noise about a fixed point."""

    @property
    def drift_per_interval(self) -> float:
        """Progress along the first component, from oldest to newest, per interval."""

    @property
    def averaging_lag(self) -> float:
        """Intervals by which the plain mean trails the newest checkpoint."""

    @property
    def mean_to_newest(self) -> float:
        """Distance of the plain mean to the newest checkpoint."""

@final
class TrajectoryGeometry:
    """The geometry of a trajectory, of the whole model and by groups of tensors."""

    @property
    def checkpoints(self) -> list[RunCheckpoint]:
        """The checkpoints, oldest first."""

    @property
    def answer(self) -> str:
        """The conclusions, in sentences."""

    @property
    def fault(self) -> str | None:
        """Which checkpoints cannot be measured, because they hold NaN or infinity; `None` if all can."""

    @property
    def whole(self) -> Geometry:
        """Of all parameters together."""

    @property
    def layers(self) -> dict[int, Geometry]:
        """By number of the layer."""

    @property
    def tensor_classes(self) -> dict[str, Geometry]:
        """By class of tensor, such as `mlp.up_proj.weight`."""

    def to_json(self) -> str:
        """The geometry as JSON, as `thalweg explain --json` prints it."""

    def write_study(self, folder: _Path, *, title: str | None = None) -> Study:
        """Writes it as a study with a page, as `thalweg explain -o` does."""

@final
class Spike:
    """A spike of a loss."""

    @property
    def onset(self) -> int:
        """Its first step."""

    @property
    def peak(self) -> int:
        """The step of its highest loss."""

    @property
    def end(self) -> int | None:
        """The first step at which the loss is back; `None` if it did not recover."""

    @property
    def signal(self) -> str:
        """Where it was seen, such as `loss`."""

@final
class Recovery:
    """The spikes of a run, and what to resume from."""

    @property
    def spikes(self) -> list[Spike]:
        """The spikes, oldest first."""

    @property
    def spike(self) -> Spike | None:
        """The spike to recover from; `None` if the log has none."""

    @property
    def sources(self) -> list[RunCheckpoint]:
        """The checkpoints to resume from, oldest first: none, one to take as it is, or two or three to merge."""

    @property
    def plan(self) -> Plan | None:
        """The plan of the merge of `sources`; `None` for fewer than two."""

    @property
    def instructions(self) -> list[tuple[str, list[str]]]:
        """What to tell each trainer: its name, and one thing to do in each line."""

    @property
    def notes(self) -> list[str]:
        """Notes about the recovery."""

    @property
    def receipt(self) -> Receipt | None:
        """The receipt of the merge, if it was written."""

    def to_json(self) -> str:
        """The recovery as JSON, as `thalweg recover --json` prints it."""

@final
class Trial:
    """One merge of a sweep, or one raw checkpoint."""

    @property
    def name(self) -> str:
        """Unique name, such as `step0000080-n3-sma`."""

    @property
    def is_raw(self) -> bool:
        """Whether it is a raw checkpoint: a window of one."""

    @property
    def plan(self) -> Plan:
        """The plan that writes it."""

    @property
    def scores(self) -> dict[str, float]:
        """What was recorded, by task and measure; empty before."""

    def record(self, scores: _Scores, *, higher_is_better: bool | Mapping[str, bool] | None = None) -> None:
        """Records what the trial scored, instead of what was recorded for it before: a number, a dict of tasks, a list of
        rows, or the results of lm-evaluation-harness.

        `higher_is_better` says it for all tasks, or as a dict for each. Known measures, such as `acc` and `loss`, need
        none."""

@final
class Study:
    """A study that was written: what was found in a run, and the page that shows it."""

    @property
    def path(self) -> Path:
        """Its folder."""

    @property
    def page(self) -> Path:
        """The page."""

    @property
    def best(self) -> str | None:
        """The name of the merge that is best; `None` if none was chosen."""

    def to_json(self) -> str:
        """The record as JSON: what `study.json` holds."""

@final
class Sweep:
    """Many windows of one run, and the raw checkpoints beside them."""

    @property
    def plans(self) -> list[Trial]:
        """What it merges: raw checkpoints by step, then the merges in the order asked for."""

    @property
    def notes(self) -> list[str]:
        """Notes about the run and its windows."""

    def keys(self) -> list[str]:
        """The names of the merged tensors, sorted."""

    def info(self, name: str) -> TensorInfo:
        """Element type and shape of a merged tensor, without merging it."""

    def trials(
        self, module_or_state_dict: torch.nn.Module | Mapping[str, Any], *, strict: bool = True, hold: _Size | None = None
    ) -> Iterator[Trial]:
        """Fills a module or state dict with each trial in turn, and yields the trial when it is there.

        Trials that fit into `hold` together are merged in one reading of their sources."""

    def best(self, by: str | None = None) -> Trial:
        """The best merge by the recorded scores; `by` is a task or `task/measure`, the first one if left out."""

    def write_study(
        self, folder: _Path, *, by: str | None = None, keep: str = "best", title: str | None = None
    ) -> Study:
        """Writes the recorded scores as a study: `study.json`, `study.csv` and `report.html`, as `thalweg sweep` does.

        The trials that have scores are in it. `by` decides which merge is best, as for `best`; `keep` says which merges
        are written beside it: `"best"`, `"all"` or `"none"`."""

    @property
    def _n_sources(self) -> int: ...
    def _fill(self, trials: Sequence[tuple[int, Sequence[tuple[str, int, int]]]]) -> bool: ...
    def __len__(self) -> int: ...

@final
class Score:
    """One score of a model."""

    @property
    def task(self) -> str:
        """The task and its metric, such as `piqa/acc_norm`."""

    @property
    def value(self) -> float:
        """The value."""

    @property
    def standard_error(self) -> float | None:
        """Its standard error, if it is known."""

    @property
    def n(self) -> int | None:
        """Number of items, if it is known."""

    @property
    def higher_is_better(self) -> bool:
        """Whether more is better."""

@final
class Results:
    """What another program found for one model."""

    @property
    def scores(self) -> list[Score]:
        """The scores."""

    @property
    def refused(self) -> list[tuple[str, str]]:
        """Scores that cannot be used, with the reason."""

    @property
    def notes(self) -> list[str]:
        """Notes about the items."""

    @property
    def items(self) -> dict[str, int]:
        """Number of items of each score whose items are known."""

    def write_card(self, model: _Path) -> Path:
        """Writes the scores to `.eval_results` in a model's folder, where the Hugging Face Hub reads them."""

    def __len__(self) -> int: ...

@final
class Comparison:
    """The gain of one model over another on one score."""

    @property
    def task(self) -> str:
        """The task and its metric, such as `piqa/acc_norm`."""

    @property
    def gain(self) -> float:
        """Positive is better, whatever the direction of the score."""

    @property
    def standard_error(self) -> float | None:
        """Standard error of the gain, if it is known."""

    @property
    def interval_95(self) -> tuple[float, float] | None:
        """95 % interval of the gain."""

    @property
    def smallest_difference(self) -> float | None:
        """The smallest true difference that such a comparison finds 80 % of the time."""

    @property
    def n(self) -> int | None:
        """Number of items that were compared, if it is known."""

    @property
    def paired(self) -> bool:
        """Whether the same items were compared; otherwise the two scores are taken as independent."""

    @property
    def n_left_out(self) -> int | None:
        """Number of items that only one of the two has; `None` where items are not paired."""

    @property
    def p_value(self) -> float | None:
        """Two-sided p-value."""

    @property
    def p_holm(self) -> float | None:
        """The same after Holm's adjustment for all scores of the comparison."""

    @property
    def verdict(self) -> str | None:
        """`better`, `worse` or `cannot be told apart`; `None` without an uncertainty."""

@final
class ForecastScore:
    """What one score would be after an anneal."""

    @property
    def task(self) -> str:
        """The task."""

    @property
    def measure(self) -> str:
        """What was measured."""

    @property
    def raw(self) -> float:
        """The score of the newest checkpoint."""

    @property
    def imitation(self) -> float:
        """The score of the merge that imitates the anneal."""

    @property
    def value(self) -> float:
        """The forecast."""

    @property
    def interval_80(self) -> tuple[float, float]:
        """80 % interval."""

    @property
    def interval_95(self) -> tuple[float, float]:
        """95 % interval."""

    @property
    def rests_on(self) -> str:
        """What the forecast is based on."""

@final
class ProposedWindow:
    """The window to merge."""

    @property
    def n_checkpoints(self) -> int:
        """Number of checkpoints."""

    @property
    def interval_steps(self) -> int:
        """Steps between neighbours."""

    @property
    def scheme(self) -> str:
        """The scheme."""

    @property
    def rests_on(self) -> str:
        """What it is based on."""

@final
class Forecast:
    """What an anneal that was never run would score."""

    @property
    def scores(self) -> list[ForecastScore]:
        """The scores that can be forecast."""

    @property
    def refused(self) -> list[tuple[str, str]]:
        """Scores that cannot, with the reason."""

    @property
    def reason(self) -> str | None:
        """Why nothing can be forecast; `None` if something can."""

    @property
    def window(self) -> ProposedWindow | None:
        """The window to merge; `None` if the scores do not support one."""

@final
class TensorIterator:
    """Merged tensors one after the other: `(name, tensor)`."""

    def __iter__(self) -> TensorIterator: ...
    def __next__(self) -> tuple[str, Tensor]: ...
    def __length_hint__(self) -> int: ...

@final
class Merge:
    """A merge that has not happened yet: iterate over it, load it into a model, or write it."""

    @property
    def plan(self) -> Plan:
        """The plan."""

    @property
    def notes(self) -> list[str]:
        """Notes about the sources."""

    def keys(self) -> list[str]:
        """The names of the merged tensors, sorted."""

    def info(self, name: str) -> TensorInfo:
        """Element type and shape of a merged tensor, without merging it."""

    def tensor(self, name: str) -> Tensor:
        """Merges one tensor."""

    def tensors(self, names: Sequence[str] | None = None) -> TensorIterator:
        """Merges the named tensors, or all, a window of memory at a time: an iterator of `(name, tensor)`."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All merged tensors as torch tensors by their names."""

    def load_into(
        self, module_or_state_dict: torch.nn.Module | Mapping[str, Any], strict: bool = True
    ) -> LoadResult:
        """Fills a `torch.nn.Module`, or a state dict of torch tensors, in place."""

    @property
    def receipt(self) -> Receipt | None:
        """The receipt of the newest `write`; `None` before it."""

    def write(self, out: _Path | None = None) -> Receipt:
        """Writes the merge as a checkpoint, exactly as `thalweg merge` does, and returns its receipt.

        Without `out`, the folder that the plan names."""

    def _fill(self, targets: Sequence[tuple[str, int, int]]) -> None: ...
    def __getitem__(self, key: str, /) -> Tensor: ...
    def __contains__(self, key: str, /) -> bool: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> TensorIterator: ...

def open_checkpoint(
    path: _Path, *, key: str | None = None, params: str | None = None, rename: _Rename | None = None
) -> Checkpoint:
    """Opens a checkpoint of any format: a folder, a file, or a name in the local Hugging Face cache.

    `key`, `params` and `rename` say how it is read, as for `plan`."""

def plan(
    run: _Path | None = None,
    *,
    sources: Iterable[_Path | tuple[_Path, _Number]] | None = None,
    out: _Path | None = None,
    key: str | None = None,
    params: str | None = None,
    rename: _Rename | None = None,
    last: _Count | None = None,
    count: _Count | None = None,
    interval_steps: _Count | None = None,
    interval_tokens: _Count | None = None,
    duration_steps: _Count | None = None,
    duration_tokens: _Count | None = None,
    end_step: _Count | None = None,
    end_tokens: _Count | None = None,
    from_step: _Count | None = None,
    to_step: _Count | None = None,
    every: _Count | None = None,
    steps: Sequence[_Count] | None = None,
    tokens_per_step: _Count | None = None,
    log: _Path | Sequence[_Path] | None = None,
    log_columns: str | Sequence[str] | Mapping[str, str] | None = None,
    log_every: _Count | None = None,
    stable: str | None = None,
    checkpoint_pattern: str | None = None,
    scheme: str | None = None,
    alpha: _Number | None = None,
    floor: _Number | None = None,
    sigma_rel: _Number | None = None,
    coefficients: _Numbers | None = None,
    from_averages: Sequence[str] | Mapping[_Number, _Path] | None = None,
    order: str | None = None,
    normalize: bool | None = None,
    allow_sum: bool | None = None,
    rule: str | None = None,
    base: _Path | None = None,
    density: _Number | _Numbers | None = None,
    lambda_: _Number | None = None,
    seed: _Count | None = None,
    gamma: _Number | None = None,
    epsilon: _Number | None = None,
    convention: str | None = None,
    divide: str | None = None,
    rescale: str | None = None,
    dtype: _Dtype | None = None,
    out_shard_size: _Size | None = None,
    drop: str | Sequence[str] | None = None,
    code: bool | None = None,
    digest: str | None = None,
    no_model_card: bool | None = None,
    to_huggingface: bool | None = None,
    hf_assets: _Path | None = None,
    format: str | None = None,
    optimizer: str | None = None,
    non_float: str | None = None,
    router: str | None = None,
    allow_config: str | Sequence[str] | None = None,
    take_newest: str | Sequence[str] | None = None,
    allow_non_finite: bool | None = None,
    side_files_from: _Path | None = None,
) -> Plan:
    """The plan of a merge. Reads names and headers only.

    Merges checkpoints of a run, `plan(run, last=10)`, or given ones, `plan(sources=[(path, "3/2"), (path, "-1/2")])`.
    The keywords are the options of `thalweg plan`; numbers may be text such as `"8B"`."""

def merge(
    plan: Plan,
    out: _Path | None = None,
    *,
    threads: int | None = None,
    memory: _Size | None = None,
    progress: _Progress | None = None,
    force: bool = False,
    discard_partial: bool = False,
    allow_changed: bool = False,
) -> Merge:
    """Opens a merge: the sources are opened and compared by their headers, nothing is merged yet.

    With `out`, the merge is also written there at once, as by `write`."""

def open_run(
    path: _Path,
    *,
    key: str | None = None,
    params: str | None = None,
    rename: _Rename | None = None,
    tokens_per_step: _Count | None = None,
    log: _Path | Sequence[_Path] | None = None,
    log_columns: str | Sequence[str] | Mapping[str, str] | None = None,
    log_every: _Count | None = None,
    stable: str | None = None,
    checkpoint_pattern: str | None = None,
) -> Run:
    """Opens a run: a folder of checkpoints, with its log if there is one. The keywords say what is known about it."""

def forecast(
    run: _Path | Run,
    evaluate: Callable[[Merge], _Scores],
    *,
    anneal: str = "linear",
    anneal_steps: _Count | None = None,
    anneal_tokens: _Count | None = None,
    anneal_floor: float = 0.0,
    end_step: _Count | None = None,
    higher_is_better: bool | Mapping[str, bool] | None = None,
    threads: int | None = None,
    memory: _Size | None = None,
    tokens_per_step: _Count | None = None,
    log: _Path | Sequence[_Path] | None = None,
    log_columns: str | Sequence[str] | Mapping[str, str] | None = None,
    log_every: _Count | None = None,
    stable: str | None = None,
    checkpoint_pattern: str | None = None,
) -> Forecast:
    """Forecasts what an anneal would score, from the scores of four merges of a run.

    `evaluate` is called with each merge, which it may load into a model, and returns its scores as for
    `Trial.record`. `anneal`, `anneal_steps`, `anneal_tokens`, `anneal_floor` and `end_step` are the options of
    `thalweg forecast`; the other keywords are those of `open_run`."""

def select(
    run: _Path | Run,
    *,
    last: _Count | None = None,
    count: _Count | None = None,
    interval_steps: _Count | None = None,
    interval_tokens: _Count | None = None,
    duration_steps: _Count | None = None,
    duration_tokens: _Count | None = None,
    end_step: _Count | None = None,
    end_tokens: _Count | None = None,
    from_step: _Count | None = None,
    to_step: _Count | None = None,
    every: _Count | None = None,
    steps: Sequence[_Count] | None = None,
    tokens_per_step: _Count | None = None,
    log: _Path | Sequence[_Path] | None = None,
    log_columns: str | Sequence[str] | Mapping[str, str] | None = None,
    log_every: _Count | None = None,
    stable: str | None = None,
    checkpoint_pattern: str | None = None,
) -> list[RunCheckpoint]:
    """The checkpoints that a merge with the same options would take, oldest first: `select(run, last=10)`."""

def explain(
    run: _Path | Run | Fetched | None = None,
    *,
    sources: Sequence[_Path] | None = None,
    key: str | None = None,
    params: str | None = None,
    rename: _Rename | None = None,
    threads: int | None = None,
    memory: _Size | None = None,
    progress: _Progress | None = None,
    last: _Count | None = None,
    count: _Count | None = None,
    interval_steps: _Count | None = None,
    interval_tokens: _Count | None = None,
    duration_steps: _Count | None = None,
    duration_tokens: _Count | None = None,
    end_step: _Count | None = None,
    end_tokens: _Count | None = None,
    from_step: _Count | None = None,
    to_step: _Count | None = None,
    every: _Count | None = None,
    steps: Sequence[_Count] | None = None,
    tokens_per_step: _Count | None = None,
    log: _Path | Sequence[_Path] | None = None,
    log_columns: str | Sequence[str] | Mapping[str, str] | None = None,
    log_every: _Count | None = None,
    stable: str | None = None,
    checkpoint_pattern: str | None = None,
) -> TrajectoryGeometry:
    """The geometry of checkpoints of a run, `explain(run, last=10)`, or of given ones, `explain(sources=[a, b, c])`.

    Distances, directions and principal components, from inner products alone: each checkpoint is read once. The other
    keywords are those of `select`, and of `plan` for how checkpoints are read."""

def recover(
    run: _Path | Run,
    out: _Path | None = None,
    *,
    scheme: str = "sma",
    moments: str = "newest",
    data: str = "skip",
    key: str | None = None,
    params: str | None = None,
    rename: _Rename | None = None,
    threads: int | None = None,
    memory: _Size | None = None,
    progress: _Progress | None = None,
    force: bool = False,
    discard_partial: bool = False,
    tokens_per_step: _Count | None = None,
    log: _Path | Sequence[_Path] | None = None,
    log_columns: str | Sequence[str] | Mapping[str, str] | None = None,
    log_every: _Count | None = None,
    stable: str | None = None,
    checkpoint_pattern: str | None = None,
    dtype: _Dtype | None = None,
    out_shard_size: _Size | None = None,
    drop: str | Sequence[str] | None = None,
    code: bool | None = None,
    digest: str | None = None,
    no_model_card: bool | None = None,
    to_huggingface: bool | None = None,
    hf_assets: _Path | None = None,
    format: str | None = None,
    optimizer: str | None = None,
    non_float: str | None = None,
    router: str | None = None,
    allow_config: str | Sequence[str] | None = None,
    take_newest: str | Sequence[str] | None = None,
    allow_non_finite: bool | None = None,
    side_files_from: _Path | None = None,
) -> Recovery:
    """The loss spikes of a run, and what to resume from: up to three checkpoints before the spike, and how.

    With `out`, their merge is written there, with the policy of the restart beside it. `moments` are `"newest"`,
    `"reset"` or `"average"`; `data`, the batches up to the end of the spike, are `"skip"` or `"replay"`. The other
    keywords are those of `open_run`, of `plan` about the output, and of `merge`."""

def fetch(
    repository: str,
    *,
    revisions: str | Sequence[str] | None = None,
    checkpoint_pattern: str | None = None,
    code: bool = False,
    dry_run: bool = False,
    progress: _Progress | None = None,
    last: _Count | None = None,
    count: _Count | None = None,
    interval_steps: _Count | None = None,
    interval_tokens: _Count | None = None,
    duration_steps: _Count | None = None,
    duration_tokens: _Count | None = None,
    end_step: _Count | None = None,
    end_tokens: _Count | None = None,
    from_step: _Count | None = None,
    to_step: _Count | None = None,
    every: _Count | None = None,
    steps: Sequence[_Count] | None = None,
) -> Fetched:
    """Fetches revisions of a repository of the Hugging Face Hub into the local cache, as `thalweg fetch` does.

    `revisions` are names of branches and tags, in which `*` matches anything; the other keywords choose among them by
    step, as for `select`. Only what a merge reads is fetched; `code` adds Python files. `dry_run` fetches nothing and
    says what would be fetched. An interrupted fetch resumes with the next call."""

def read_results(source: _Path | Mapping[str, Any]) -> Results:
    """Reads what another program found: a file, a folder, or what `lm_eval.simple_evaluate` returned."""

def compare_results(
    baseline: _Path | Mapping[str, Any] | Results, other: _Path | Mapping[str, Any] | Results
) -> list[Comparison]:
    """Compares results with those of a baseline, item by item where both say what each item scored."""

def diff(
    a: _Path,
    b: _Path,
    *,
    key: str | None = None,
    params: str | None = None,
    rename: _Rename | None = None,
    threads: int | None = None,
    memory: _Size | None = None,
    progress: _Progress | None = None,
) -> Diff:
    """Compares two checkpoints tensor by tensor; each byte of either is read once."""

def verify(
    path: _Path, *, inputs: bool = False, threads: int | None = None, progress: _Progress | None = None
) -> Verification:
    """Rereads an output and compares it with its receipt; with `inputs`, also the sources."""

def sweep(
    run: _Path | Run,
    counts: int | Sequence[int],
    *,
    schemes: str | Sequence[str] | None = None,
    ends: Sequence[str | int] | None = None,
    interval_steps: Sequence[_Count] | None = None,
    interval_tokens: Sequence[_Count] | None = None,
    raws: str | None = None,
    key: str | None = None,
    params: str | None = None,
    rename: _Rename | None = None,
    threads: int | None = None,
    memory: _Size | None = None,
    progress: _Progress | None = None,
    tokens_per_step: _Count | None = None,
    log: _Path | Sequence[_Path] | None = None,
    log_columns: str | Sequence[str] | Mapping[str, str] | None = None,
    log_every: _Count | None = None,
    stable: str | None = None,
    checkpoint_pattern: str | None = None,
    dtype: _Dtype | None = None,
    out_shard_size: _Size | None = None,
    drop: str | Sequence[str] | None = None,
    code: bool | None = None,
    digest: str | None = None,
    no_model_card: bool | None = None,
    to_huggingface: bool | None = None,
    hf_assets: _Path | None = None,
    format: str | None = None,
    optimizer: str | None = None,
    non_float: str | None = None,
    router: str | None = None,
    allow_config: str | Sequence[str] | None = None,
    take_newest: str | Sequence[str] | None = None,
    allow_non_finite: bool | None = None,
    side_files_from: _Path | None = None,
) -> Sweep:
    """The merges of a grid of windows and schemes of one run, for scoring each in one resident model.

    `counts`, `schemes`, `ends`, `interval_steps`, `interval_tokens` and `raws` are the options of `thalweg sweep`; the
    other keywords are those of `plan` about the run and the output."""
