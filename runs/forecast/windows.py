#!/usr/bin/env python3
"""Regret of proposed windows, from what `windows.sh` left: windows.py RUNS prints the tables, windows.py --csv RUNS the rows
behind them, windows.py --window FILE one proposal."""

import glob
import json
import os
import sys

SELECTION, REPORT = "validation", "test-120"


def window(path):
    """Checkpoints, interval and scheme of a proposal; the newest checkpoint twice (which is raw) means none."""
    found = json.load(open(path))["window"]
    return (found["n_checkpoints"], found["interval_steps"], found["scheme"]) if found else (1, 10, "sma")


def score(row, suite):
    return next(s["value"] for s in row["scores"] if s["suite"] == suite)


def cases(runs):
    for path in sorted(glob.glob(os.path.join(runs, "*/seed-*/windows-*-proposed.json"))):
        folder, name = os.path.split(path)
        end = name.split("-")[1]
        grid, raw = [], None
        for part in ("every-10", "every-20", "every-40"):
            document = json.load(open(os.path.join(folder, f"windows-{end}-{part}.json")))
            raw = document["raws"][0]
            grid += document["trials"]
        proposed = json.load(open(path))["trials"][0]
        chosen = min(grid, key=lambda row: score(row, SELECTION))
        usual = next(r for r in grid if (r["n_checkpoints"], r["interval_steps"], r["scheme"]) == (12, 10, "sma"))
        best = min(score(row, REPORT) for row in grid + [proposed])
        gain = score(raw, REPORT) - best
        regret = lambda row: (score(row, REPORT) - best) / gain
        configuration = os.path.relpath(folder, runs).split(os.sep)[0]
        is_proposal = json.load(open(os.path.join(folder, f"windows-{end}-proposal.json")))["window"] is not None
        what = "{n_checkpoints}@{interval_steps} {scheme}".format(**proposed)
        seed = folder.rsplit("-", 1)[1]
        yield configuration, int(end), gain, regret(proposed), regret(chosen), regret(usual), is_proposal, seed, what


def main(runs):
    rows = list(cases(runs))
    print(f"{len(rows)} ends of {len(glob.glob(os.path.join(runs, '*/seed-*/done')))} runs. Regret on test text, as a share of what the "
          "best window there (of 38 and the proposal) gains over the newest checkpoint.\n")
    print("| window | evaluations | mean regret | largest | at most 10 % in |\n|---|---|---|---|---|")
    names = ["proposed from four scores on validation text", "best of the grid on validation text", "mean of the newest 12, fixed beforehand"]
    for i, (name, cost) in enumerate(zip(names, ["4", "38", "0"])):
        values = [row[3 + i] for row in rows]
        within = 100 * sum(v <= 0.10 for v in values) / len(values)
        print(f"| {name} | {cost} | {sum(values) / len(values):.3f} | {max(values):.3f} | {within:.0f} % |")
    print("\n| configuration | ends | mean regret of the proposal | largest | at most 10 % in |\n|---|---|---|---|---|")
    for configuration in sorted({row[0] for row in rows}):
        values = [row[3] for row in rows if row[0] == configuration]
        within = sum(v <= 0.10 for v in values)
        print(f"| {configuration} | {len(values)} | {sum(values) / len(values):.3f} | {max(values):.3f} | {within} of {len(values)} |")
    none = sum(not row[6] for row in rows)
    print(f"\nWithout a proposal (the newest checkpoint was taken instead): {none} of {len(rows)}.")


if __name__ == "__main__":
    if sys.argv[1] == "--window":
        print(*window(sys.argv[2]))
    elif sys.argv[1] == "--csv":
        print("configuration,seed,end,gain,proposed,regret,regret_of_grid_choice,regret_of_newest_12")
        for row in cases(sys.argv[2]):
            print(row[0], row[7], row[1], f"{row[2]:.6f}", row[8], *(f"{value:.4f}" for value in row[3:6]), sep=",")
    else:
        main(sys.argv[1])
