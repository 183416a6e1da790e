"""Tables of runs/extrapolate.sh: steps along the line of merged checkpoints against plain means.

    python3 runs/extrapolate_table.py OUT

Reads OUT/seed-*-*.json, writes docs/results/extrapolate.csv, and prints the tables of docs/results/extrapolate.md.
"""

import csv
import json
import sys
from pathlib import Path

out = Path(sys.argv[1])
seeds = sorted(path.name[5:] for path in out.glob("seed-*") if path.is_dir() and path.name[5:].isdigit())


def load(name):
    return json.loads((out / f"{name}.json").read_text())


def score(rows, suite):
    return next(row["value"] for row in rows if row["suite"] == suite)


rows, lines, summary = [], [], []
for seed in seeds:
    sweep = load(f"seed-{seed}-sweep")
    means = {trial["n_checkpoints"]: trial["scores"] for trial in sweep["trials"]}
    raw = score(sweep["raws"][-1]["scores"], "test")
    best_n = min(means, key=lambda n: score(means[n], "validation"))
    best = score(means[best_n], "test")
    for n, scores in sorted(means.items()):
        rows.append([seed, "mean", n, "", *(f"{score(scores, s):.5f}" for s in ("validation", "test"))])
    for direction in ("pc1", "secant"):
        for window in (8, 16):
            found = load(f"seed-{seed}-{direction}-{window}")
            steps = {row["alpha"]: row["scores"] for row in found["candidates"]}
            for at in out.glob(f"seed-{seed}-{direction}-{window}-at-*.json"):
                steps |= {row["alpha"]: row["scores"] for row in json.loads(at.read_text())["candidates"]}
            for alpha, scores in sorted(steps.items()):
                values = (f"{score(scores, s):.5f}" for s in ("validation", "test"))
                rows.append([seed, direction, window, f"{alpha:.3f}", *values])
            test = score(steps[found["alpha"]], "test")
            summary.append((seed, direction, window, found, test, score(steps[0.0], "test"), raw, best_n, best, steps))
            if direction == "pc1":
                line = found["line"]
                lines.append((seed, window, found["n_points"], line))

with open("docs/results/extrapolate.csv", "w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["seed", "what", "n", "alpha", "validation", "test"])
    writer.writerows(rows)

print("| seed | window | points | first component | random walk | mean cosine | random walk | verdict |")
print("|---|---|---|---|---|---|---|---|")
for seed, window, m, line in lines:
    print(
        f"| {seed} | {window} | {m} | {line['component_shares'][0]:.2f} | {line['random_walk_shares'][0]:.2f} "
        f"| {line['mean_cosine']:.2f} | {line['random_walk_cosine']:.2f} | {line['verdict']} |"
    )
grid = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
print("\nTest loss minus that of alpha = 0, mean over the seeds:\n")
print("| line | window | " + " | ".join(f"{alpha:g}" for alpha in grid) + " |")
print("|---" * (len(grid) + 2) + "|")
for direction in ("pc1", "secant"):
    for window in (8, 16):
        mine = [steps for _, d, w, *_, steps in summary if (d, w) == (direction, window)]
        cells = []
        for alpha in grid:
            have = [score(steps[alpha], "test") - score(steps[0.0], "test") for steps in mine if alpha in steps]
            cells.append(f"{sum(have) / len(have):+.4f}" if have else "-")
        print(f"| {direction} | {window} | " + " | ".join(cells) + " |")
print("\n| seed | line | window | alpha | gain over the same window | gain over the best of n/2, n, 2n | gain over the best "
      "mean of 8 lengths | answer |")
print("|---|---|---|---|---|---|---|---|")
for seed, direction, window, found, test, at_0, raw, best_n, best, _ in summary:
    held = next(row for row in found["gains"] if row["is_held_out"])
    answer = "no" if found["refusal"] else "yes"
    print(
        f"| {seed} | {direction} | {window} | {found['alpha']:.2f} | {at_0 - test:+.4f} "
        f"| {held['over_best_average']['value']:+.4f} | {best - test:+.4f} (n = {best_n}) | {answer} |"
    )
print()
for seed in seeds:
    one = next(row for row in summary if row[0] == seed)
    print(f"seed {seed}: raw {one[6]:.4f}, best mean {one[8]:.4f} (n = {one[7]})")
