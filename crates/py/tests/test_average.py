"""Averages kept while training: the bytes of merging the checkpoints that were saved at the same steps."""

from __future__ import annotations

import copy
import io
import json
import threading
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from safetensors.torch import save_file

import thalweg
from conftest import raw, read_folder
from thalweg import _capture

Program = Callable[..., dict[str, Any]]


class Model(torch.nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.embed = torch.nn.Embedding(20, 9, dtype=dtype)
        self.linear = torch.nn.Linear(9, 9, dtype=dtype)
        self.head = torch.nn.Linear(9, 20, bias=False, dtype=dtype)
        self.register_buffer("scale", torch.ones(3, dtype=dtype))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.tanh(self.linear(self.embed(tokens))))
        return out


def train(model: torch.nn.Module, steps: range, on_step: Callable[[int], None]) -> None:
    """Real steps of a real optimizer, a pure function of the model and the steps."""
    for step in steps:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        tokens = torch.randint(0, 20, (4, 6), generator=torch.Generator().manual_seed(step))
        loss = torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1).float(), tokens.roll(1, 1).flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        on_step(step)


def save(model: torch.nn.Module, folder: Path, step: int) -> Path:
    path = folder / f"step-{step}"
    path.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path / "model.safetensors")
    return path


def train_and_save(model: torch.nn.Module, average: thalweg.Average, steps: range, folder: Path) -> list[Path]:
    paths: list[Path] = []

    def on_step(step: int) -> None:
        paths.append(save(model, folder, step))
        average.update(step)

    train(model, steps, on_step)
    return paths


def offline(paths: list[Path], **options: Any) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in thalweg.merge(thalweg.plan(sources=paths, **options))}


def online(average: thalweg.Average) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in average}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("scheme", ["sma", "wma", "ema:0.3", "decay:cosine"])
def test_at_every_save_the_average_has_the_bytes_of_the_merge(
    tmp_path: Path, dtype: torch.dtype, scheme: str
) -> None:
    model = Model(dtype)
    average = thalweg.Average(model, count=3, scheme=scheme)
    paths: list[Path] = []

    def on_step(step: int) -> None:
        # Uneven intervals: some schemes follow the steps.
        if step in (2, 4, 5, 9, 10, 12):
            paths.append(save(model, tmp_path, step))
            average.update(step)
            assert average.is_full == (len(paths) >= 3)
            if average.is_full:
                window = [int(path.name[5:]) for path in paths[-3:]]
                assert average.steps == window
                assert online(average) == offline(paths[-3:], scheme=scheme), step

    train(model, range(1, 13), on_step)
    assert len(paths) == 6


@pytest.mark.parametrize("options", [{"dtype": "f32"}, {"dtype": "f16"}, {"scheme": "ema", "alpha": "1/7"}])
def test_options_mean_what_they_mean_in_a_plan(tmp_path: Path, options: dict[str, Any]) -> None:
    model = Model(torch.bfloat16)
    average = thalweg.Average(model, count=4, **options)
    paths = train_and_save(model, average, range(1, 5), tmp_path)
    assert online(average) == offline(paths, **options)
    assert average.tensor("head.weight").dtype == {"f32": "F32", "f16": "F16"}.get(options.get("dtype", ""), "BF16")


def test_with_the_optimizer_the_saves_are_the_same(tmp_path: Path) -> None:
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    average = thalweg.Average(model, count=3, optimizer=optimizer)
    paths = []
    for step in range(1, 6):
        tokens = torch.randint(0, 20, (4, 6), generator=torch.Generator().manual_seed(step))
        loss: Any = torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(1, 1).flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        paths.append(save(model, tmp_path, step))
        average.update(step)
    assert average.steps == [3, 4, 5]
    assert online(average) == offline(paths[-3:])


def test_the_optimizer_waits_for_the_copy_and_buffers_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    average = thalweg.Average(model, count=1, optimizer=[optimizer])
    may_copy, order = threading.Event(), []
    start = _capture.Capture.start

    def held(*given: Any) -> Callable[[], None]:
        finish = start(*given)
        assert finish is not None

        def later() -> None:
            assert may_copy.wait(10)
            finish()
            order.append("copied")

        return later

    monkeypatch.setattr(_capture.Capture, "start", held)
    expected = {name: raw(value.clone()) for name, value in model.state_dict().items()}
    average.update(1)
    assert not order, "the program continues"
    model.get_buffer("scale").add_(1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.register_step_pre_hook(lambda *_: order.append("step"))
    threading.Timer(0.05, may_copy.set).start()
    optimizer.step()
    assert order == ["copied", "step"]
    assert online(average) == expected
    # What is refused is refused at once, and costs no save.
    with pytest.raises(thalweg.UsageError, match="does not come after"):
        average.update(1)
    assert online(average) == expected
    with pytest.raises(thalweg.UsageError, match="no hook"):
        thalweg.Average(model, count=1, optimizer=object())  # type: ignore[arg-type]
    # The optimizer outlives the average.
    del average
    optimizer.step()


def test_a_written_average_is_a_checkpoint(tmp_path: Path, run_program: Program) -> None:
    model = Model()
    average = thalweg.Average(model, count=2, scheme="wma")
    paths = train_and_save(model, average, range(1, 4), tmp_path)
    (paths[-1] / "config.json").write_text('{"model_type": "llama", "dtype": "float32"}')
    (paths[-1] / "optimizer.pt").write_bytes(b"state")
    assert average.write(tmp_path / "averages/step-3", side_files_from=paths[-1]) == tmp_path / "averages/step-3"
    found = {name: raw(value) for name, value in read_folder(tmp_path / "averages/step-3").items()}
    assert found == offline(paths[1:], scheme="wma")
    names = sorted(path.name for path in (tmp_path / "averages/step-3").iterdir())
    assert names == ["config.json", "model.safetensors", "thalweg-average.json"]
    record = json.loads((tmp_path / "averages/step-3/thalweg-average.json").read_text())
    assert record["scheme"] == "wma" and record["divisor"] == "3" and record["step"] == 3
    assert record["sources"] == [{"step": 2, "numerator": "1"}, {"step": 3, "numerator": "2"}]
    # It is opened like any other, by the program too.
    thalweg.merge(thalweg.plan(sources=paths[1:], scheme="wma"), tmp_path / "merged")
    assert thalweg.diff(tmp_path / "averages/step-3", tmp_path / "merged").equal
    assert run_program("diff", tmp_path / "averages/step-3", tmp_path / "merged")["equal"] is True
    # Written again, it replaces itself, and nothing else is replaced.
    train(model, range(4, 5), average.update)
    average.write(tmp_path / "averages/step-3")
    assert not thalweg.diff(tmp_path / "averages/step-3", tmp_path / "merged").equal
    with pytest.raises(thalweg.Error):
        average.write(paths[0])
    assert sorted(path.name for path in paths[0].iterdir()) == ["model.safetensors"]


def test_the_config_of_an_average_in_f32_says_so(tmp_path: Path) -> None:
    model = Model(torch.bfloat16)
    average = thalweg.Average(model, count=1, dtype="f32")
    train(model, range(1, 2), average.update)
    source = save(model, tmp_path, 1)
    (source / "config.json").write_text('{"dtype": "bfloat16"}')
    average.write(tmp_path / "average", side_files_from=source)
    assert json.loads((tmp_path / "average/config.json").read_text()) == {"dtype": "float32"}


@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_resumed_run_has_the_average_of_one_that_was_not_stopped(at: int) -> None:
    whole, cut = Model(), Model()
    expected = thalweg.Average(whole, count=4, scheme="wma")
    train(whole, range(1, 9), expected.update)
    before = thalweg.Average(cut, count=4, scheme="wma")
    train(cut, range(1, at + 1), before.update)
    file = io.BytesIO()
    torch.save({"model": cut.state_dict(), "average": before.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    again = Model()
    again.load_state_dict(state["model"])
    after = thalweg.Average(again, count=4, scheme="wma")
    after.load_state_dict(state["average"])
    assert after.steps == before.steps
    train(again, range(at + 1, 9), after.update)
    assert after.steps == [5, 6, 7, 8]
    assert online(after) == online(expected)


def test_dcp_stores_an_average_and_loads_it_in_place(tmp_path: Path) -> None:
    from torch.distributed.checkpoint.state_dict_loader import load
    from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

    model = Model()
    before = thalweg.Average(model, count=3)
    train(model, range(1, 3), before.update)
    save_distributed({"average": before}, checkpoint_id=tmp_path / "state", no_dist=True)
    after = thalweg.Average(model, count=3)
    load({"average": after}, checkpoint_id=tmp_path / "state", no_dist=True)
    assert after.steps == [1, 2]
    for one in (before, after):
        one.update(3)
    assert online(after) == online(before)


def test_the_state_of_a_longer_window_gives_its_last_saves() -> None:
    model = Model()
    longer, shorter = thalweg.Average(model, count=5), thalweg.Average(model, count=2)
    for step in range(1, 6):
        train(model, range(step, step + 1), longer.update)
        shorter.update(step)
    other = thalweg.Average(model, count=2)
    other.load_state_dict(longer.state_dict())
    assert other.steps == [4, 5] and online(other) == online(shorter)


def test_a_state_that_was_taken_does_not_change_with_the_next_saves() -> None:
    model = Model()
    average = thalweg.Average(model, count=2)
    train(model, range(1, 3), average.update)
    state = average.state_dict()
    expected = copy.deepcopy(state)
    train(model, range(3, 8), average.update)
    assert torch.equal(state["steps"], expected["steps"])
    for i in ("0", "1"):
        for name, value in state["saves"][i].items():
            assert torch.equal(value, expected["saves"][i][name]), (i, name)


def test_memory_is_that_of_the_saves_that_are_kept() -> None:
    model = torch.nn.Linear(64, 64)
    average = thalweg.Average(model, count=3)
    seen = set()
    for step in range(1, 40):
        average.update(step)
        seen |= {t.torch().data_ptr() for _, save in average._saves.saves() for name, t in save if name == "weight"}
    assert len(seen) == 3


def test_the_average_is_loaded_into_a_model(tmp_path: Path) -> None:
    model, other = Model(), Model()
    average = thalweg.Average(model, count=2)
    train(model, range(1, 3), average.update)
    assert average.load_into(other) == ([], [])
    assert {name: raw(value) for name, value in other.state_dict().items()} == online(average)
    expected = online(average)
    average.load_into()
    assert {name: raw(value) for name, value in model.state_dict().items()} == expected


def test_tied_parameters_are_saved_once_and_loaded_twice() -> None:
    model = Model()
    model.head.weight = model.embed.weight
    average = thalweg.Average(model, count=2)
    train(model, range(1, 3), average.update)
    assert "head.weight" not in average.keys() and "embed.weight" in average.keys()
    expected = online(average)
    average.load_into()
    assert raw(model.head.weight) == expected["embed.weight"] == raw(model.embed.weight)


def test_a_compiled_model_is_kept_by_the_names_of_its_checkpoints(tmp_path: Path) -> None:
    model = Model()
    compiled: Any = torch.compile(model)
    average = thalweg.Average(compiled, count=2)
    average.update(1)
    average.update(2)
    assert average.keys() == sorted(model.state_dict())
    average.write(tmp_path / "out")
    assert set(read_folder(tmp_path / "out")) == set(model.state_dict())
    for target in (None, compiled, model):
        assert not average.load_into(target).missing_keys
    # A state from before, with the names of the compiled model.
    state = average.state_dict()
    state["saves"] = {
        place: {f"_orig_mod.{name}": value for name, value in tensors.items()}
        for place, tensors in state["saves"].items()
    }
    average.load_state_dict(state)
    average.update(3)
    assert average.keys() == sorted(model.state_dict())


def test_counters_of_batches_are_the_newest_if_so_asked() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    refused, taken = thalweg.Average(model, count=2), thalweg.Average(model, count=2, non_float="newest")
    for step in (1, 2):
        model(torch.randn(8, 4))
        refused.update(step)
        taken.update(step)
    with pytest.raises(thalweg.MergeError, match="num_batches_tracked"):
        online(refused)
    assert int(taken.tensor("1.num_batches_tracked").torch()) == 2


def test_a_mapping_of_tensors_and_views_that_are_not_contiguous() -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    average = thalweg.Average({"a": whole.t(), "b": whole[:, ::2], "none": torch.zeros(0, 3)}, count=2)
    average.update(1)
    whole += 1
    average.update(2)
    assert torch.equal(average.tensor("a").torch(), whole.t() - 0.5)
    assert torch.equal(average.tensor("b").torch(), whole[:, ::2] - 0.5)
    assert average.tensor("none").shape == (0, 3)


def test_what_is_refused_and_the_hints_work() -> None:
    model = Model()
    for options in ({"last": 3}, {"format": "dcp"}, {"weights": 1}):
        with pytest.raises(thalweg.UsageError, match="there is no option") as error:
            thalweg.Average(model, count=2, **options)
        assert "`scheme`" in str(error.value.hint)
    with pytest.raises(thalweg.UsageError):
        thalweg.Average(model, count=0)
    with pytest.raises(thalweg.UsageError, match="the limit is 65536"):
        thalweg.Average(model, count=10**12)
    with pytest.raises(thalweg.SchemeError):
        thalweg.Average(model, count=2, scheme="median")
    average = thalweg.Average(model, count=2)
    average.update(10)
    with pytest.raises(thalweg.UsageError, match="takes 2 saves, but only 1"):
        online(average)
    for step in (10, 9):
        with pytest.raises(thalweg.UsageError, match=f"step {step} does not come after step 10") as error:
            average.update(step)
        assert "`clear`" in str(error.value.hint)
    average.clear()
    average.update(9)
    assert average.steps == [9]
    with pytest.raises(thalweg.UsageError, match="not the state of an average|version"):
        average.load_state_dict({"steps": 3})
    assert average.steps == [9]


def test_a_model_that_changed_its_tensors_is_refused_until_cleared() -> None:
    model = Model()
    average = thalweg.Average(model, count=2)
    average.update(1)
    model.half()
    with pytest.raises(thalweg.UsageError, match="was F32 .* at step 1 but is F16"):
        average.update(2)
    assert average.steps == [1]
    average.clear()
    average.update(2)
    assert average.steps == [2]


def test_models_without_parameters_of_their_own_are_refused() -> None:
    partitioned = Model()
    partitioned.linear.bias.ds_status = "NOT_AVAILABLE"  # type: ignore[attr-defined]

    class FullyShardedDataParallel(torch.nn.Module):
        pass

    for model, word in ((partitioned, "ZeRO-3"), (torch.nn.Sequential(FullyShardedDataParallel()), "FSDP1")):
        with pytest.raises(thalweg.UsageError, match=word):
            thalweg.Average(model, count=2).update(1)


def test_a_nan_is_named_with_its_tensor_and_step() -> None:
    model = Model()
    average = thalweg.Average(model, count=2)
    average.update(1)
    with torch.no_grad():
        model.linear.bias[3] = float("nan")
    average.update(2)
    with pytest.raises(thalweg.MergeError, match="linear.bias") as error:
        online(average)
    assert "step 2" in str(error.value)


class _SlowDevice(_capture.Capture):
    """Copies as from a device whose copies end when they are told to: there is no device in the tests."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end: list[threading.Event] = []

    def _is_on_device(self, value: torch.Tensor) -> bool:
        return value.dtype.is_floating_point and value.numel() > 0

    def _event(self, device: torch.device) -> Any:
        may_end = threading.Event()
        self.may_end.append(may_end)

        class Event:
            def synchronize(self) -> None:
                assert may_end.wait(60)

        return Event()


def test_a_step_does_not_wait_for_the_device() -> None:
    model, plain = Model(), Model()
    average, expected = thalweg.Average(model, count=2), thalweg.Average(plain, count=2)
    device = average._capture = _SlowDevice()
    train(plain, range(1, 4), expected.update)

    def on_step(step: int) -> None:
        # The copy of the step before ends only now, a whole step after it began.
        for may_end in device.may_end:
            may_end.set()
        average.update(step)
        assert step not in average._saves.steps

    train(model, range(1, 4), on_step)
    device.may_end[-1].set()
    assert average.steps == [2, 3] and len(device.may_end) == 3
    assert online(average) == online(expected)


def test_a_copy_that_fails_is_raised_at_the_next_call() -> None:
    model = Model()
    average = thalweg.Average(model, count=1)

    class Broken(_SlowDevice):
        def _event(self, device: torch.device) -> Any:
            class Event:
                def synchronize(self) -> None:
                    raise RuntimeError("the device is gone")

            return Event()

    average._capture = Broken()
    average.update(1)
    with pytest.raises(RuntimeError, match="the device is gone"):
        average.wait()
    assert average.steps == []


def test_averages_are_read_in_threads_while_saves_are_taken_in() -> None:
    """Each reading is of one window, whole, and nothing waits forever."""
    values = {"a": torch.zeros(4000), "b": torch.zeros(4000, dtype=torch.bfloat16)}
    average = thalweg.Average(values, count=3)

    def save(step: int) -> None:
        for value in values.values():
            value.fill_(float(step))
        average.update(step)

    for step in (1, 2, 3):
        save(step)
    found: list[float] = []
    faults: list[object] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                means = [tensor.torch().double() for _, tensor in average]
                assert all(bool((mean == means[0][0]).all()) for mean in means)
                found.append(float(means[0][0]))
        except BaseException as error:
            faults.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for step in range(4, 60):
        save(step)
    stop.set()
    for reader in readers:
        reader.join(timeout=60)
        assert not reader.is_alive()
    # The mean of three steps in a row is the middle one; each thread saw only such.
    assert not faults and found and all(mean in range(2, 59) for mean in found)
