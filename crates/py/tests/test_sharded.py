"""Parameters that are sharded over two ranks: averaged and filled shard by shard, equal to merging on one rank."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import thalweg
from two_ranks import SAVES


def run_ranks(folder: Path) -> None:
    script = Path(__file__).with_name("two_ranks.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for rank in range(2)
    ]
    told = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(told)


def test_two_ranks_have_the_average_of_one(tmp_path: Path) -> None:
    run_ranks(tmp_path)
    window = [tmp_path / f"step-{step}" for step in SAVES[1:]]
    # One rank merges the checkpoints that two wrote.
    thalweg.merge(thalweg.plan(sources=window, scheme="wma"), tmp_path / "merged")
    for name in ("average", "resumed-average", "loaded", "merged-into-shards"):
        assert thalweg.diff(tmp_path / name, tmp_path / "merged").equal, name
    average = thalweg.open_checkpoint(tmp_path / "average")
    assert average.format == "dcp" and average.keys() == thalweg.open_checkpoint(window[0]).keys()
    record = json.loads((tmp_path / "average/thalweg-average.json").read_text())
    assert [source["step"] for source in record["sources"]] == [3, 5, 6]
