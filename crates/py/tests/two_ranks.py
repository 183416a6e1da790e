"""One rank of two, over gloo on the CPU: trains a sharded model and keeps its average. Run by test_sharded.py.

    python two_ranks.py RANK FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import thalweg

SAVES = (2, 3, 5, 6)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        # 7 rows do not divide by 2, and 1 row leaves the second rank without any.
        self.embed = torch.nn.Embedding(20, 7)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(7, 7) for _ in range(2)])
        self.head = torch.nn.Linear(7, 1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(tokens)
        for layer in self.layers:
            hidden = torch.tanh(layer(hidden))
        out: torch.Tensor = self.head(hidden)
        return out


def sharded() -> Model:
    model = Model()
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def train(model: Model, average: thalweg.Average, steps: range, folder: Path) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in steps:
        tokens = torch.randint(0, 20, (4, 6), generator=torch.Generator().manual_seed(step + 100 * dist.get_rank()))
        loss = (model(tokens) - 1).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in SAVES:
            save({"model": model.state_dict()}, checkpoint_id=folder / f"step-{step}")
            average.update(step)


def no_gather() -> None:
    """From here on a gather is an error."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a tensor was gathered")

    DTensor.full_tensor = refuse  # type: ignore[assignment, method-assign]
    DTensor.redistribute = refuse  # type: ignore[assignment, method-assign]


def main(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = sharded()
    average = thalweg.Average(model, count=3, scheme="wma")
    train(model, average, range(1, 6), folder)
    save({"model": model.state_dict(), "average": average}, checkpoint_id=folder / "state")
    train(model, average, range(6, 7), folder)
    no_gather()
    average.write(folder / "average")
    # The same from the state, in another model.
    resumed = sharded()
    again = thalweg.Average(resumed, count=3, scheme="wma")
    model_state = resumed.state_dict()
    load({"model": model_state, "average": again}, checkpoint_id=folder / "state")
    resumed.load_state_dict(model_state)
    train(resumed, again, range(6, 7), folder / "resumed")
    assert again.steps == average.steps == [3, 5, 6]
    again.write(folder / "resumed-average")
    # Into the sharded model itself.
    again.load_into()
    save({"model": resumed.state_dict()}, checkpoint_id=folder / "loaded")
    try:
        again.write(folder / "refused", side_files_from=folder)
    except thalweg.UsageError as error:
        assert "sharded" in str(error)
    else:
        raise AssertionError("`side_files_from` was taken")
    # A merge of checkpoints, into the shards of a model.
    merged = sharded()
    plan = thalweg.plan(sources=[folder / f"step-{step}" for step in SAVES[1:]], scheme="wma")
    thalweg.merge(plan).load_into(merged)
    save({"model": merged.state_dict()}, checkpoint_id=folder / "merged-into-shards")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
    # A rank with PyTorch 2.15 once aborted while the interpreter ended ("terminate called without an active
    # exception"), with all that is tested here done.
    sys.stdout.flush()
    os._exit(0)
