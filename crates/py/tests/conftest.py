"""What the tests share: fixtures of the repository, checkpoints written by torch and safetensors, the program itself."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Callable, Sequence

import pytest
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[3]
FIXTURES = ROOT / "fixtures"

# Every format that the fixtures have a run of: the sources, oldest first.
FORMATS: dict[str, list[Path]] = {
    "safetensors": [FIXTURES / f"hf-sharded/step-{step}" for step in (20, 40, 60, 80)],
    "experts": sorted((FIXTURES / "hf-moe").glob("step-*")),
    "dcp": [FIXTURES / "dcp-2d/step-20", FIXTURES / "dcp-2d/step-40"],
    "torch": sorted((FIXTURES / "torch/trainstate").glob("*.pt")),
}


@pytest.fixture(scope="session")
def program() -> Path:
    """The command line of the same version."""
    return Path(os.environ.get("THALWEG", ROOT / "target/debug/thalweg"))


@pytest.fixture
def run_program(program: Path) -> Callable[..., dict[str, Any]]:
    def run(*arguments: str | Path) -> dict[str, Any]:
        words = [str(program), *map(str, arguments), "--json"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert isinstance(document, dict)
        return document

    return run


def raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor, whatever its element type."""
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def read_folder(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder of safetensors, by another reader."""
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(path))
    return tensors


def make_sources(
    folder: Path, dtypes: Sequence[torch.dtype], n_sources: int = 3, rows: int = 64
) -> list[Path]:
    """Checkpoints of one tensor for each element type, and what merges meet beside: a scalar, an empty tensor, integers."""
    paths = []
    for i in range(n_sources):
        generator = torch.Generator().manual_seed(i)
        tensors = {
            f"layers.{j}.weight": torch.randn(rows, 48, generator=generator).to(dtype) for j, dtype in enumerate(dtypes)
        }
        tensors["scale"] = torch.tensor(float(i), dtype=dtypes[0])
        tensors["empty"] = torch.zeros(0, 5, dtype=dtypes[0])
        tensors["positions"] = torch.arange(7, dtype=torch.int64)
        tensors["mask"] = torch.tensor([True, False, True])
        path = folder / f"step-{10 * (i + 1)}"
        path.mkdir(parents=True)
        save_file(tensors, path / "model.safetensors")
        paths.append(path)
    return paths
