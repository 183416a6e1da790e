"""Tables of runs/law.sh: the law on eight experts, and its forecast from subsets of one, two and four.

    python3 runs/law_table.py OUT

Reads OUT/seed-*/width-*/{law,forecast}.json, writes docs/results/law.csv, and prints the tables of docs/results/law.md.
"""

import csv
import json
import statistics
import sys
from pathlib import Path

out = Path(sys.argv[1])
cells = sorted((int(path.parent.name[6:]), path.parent.parent.name[5:]) for path in out.glob("seed-*/width-*/law.json"))
rows, found = [], {}
for width, seed in cells:
    folder = out / f"seed-{seed}/width-{width}"
    law = json.loads((folder / "law.json").read_text())
    seen = json.loads((folder / "forecast.json").read_text())
    records = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    of_base = statistics.mean(record["loss"] for record in records if record["k"] == 0)
    levels = {row["k"]: row for row in law["points"]}
    forecasts = {row["form"]: row["predictions"][0] for row in seen["forms"]}
    found[width, seed] = dict(base=of_base, law=law, levels=levels, forecasts=forecasts, n=records[0]["n_params"],
                              r=seen["three_point"]["r"], b=seen["b"])
    for k, row in levels.items():
        rows.append([width, records[0]["n_params"], seed, k, row["n_merges"], f"{row['loss']:.5f}",
                     "" if row["sd"] is None else f"{row['sd']:.5f}"])
    rows.append([width, records[0]["n_params"], seed, 0, 1, f"{of_base:.5f}", ""])

path = Path(__file__).parent.parent / "docs/results/law.csv"
with path.open("w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["width", "n_params", "seed", "k", "n_merges", "mean_loss", "sd"])
    writer.writerows(rows)

print("| width | parameters | seed | base | " + " | ".join(f"k = {k}" for k in range(1, 9)) + " |")
print("|---" * 12 + "|")
for (width, seed), one in found.items():
    losses = " | ".join(f"{one['levels'][k]['loss']:.4f}" for k in range(1, 9))
    print(f"| {width} | {one['n']} | {seed} | {one['base']:.4f} | {losses} |")

print("\n| width | seed | L_inf | A | b | R2 | form with the least AICc |\n|---|---|---|---|---|---|---|")
for (width, seed), one in found.items():
    law = one["law"]
    best = min(law["forms"], key=lambda row: float("inf") if row["aicc"] is None else row["aicc"])
    own = next(row for row in law["forms"] if row["form"] == law["form"])
    print(f"| {width} | {seed} | {law['l_inf']:.4f} | {law['a']:.4f} | {law['b']:.2f} | {own['r2']:.5f} | {best['form']} |")

print("\nEight experts, forecast from k = 1, 2 and 4, minus what was measured:\n")
FORMS = {"reciprocal": "L + A/(k + b)", "inverse": "L + A/k", "power": "L + A k^-p", "exponential": "L + A exp(-k/q)"}
print("| width | seed | measured | r | b | " + " | ".join(FORMS.values()) + " |\n" + "|---" * 9 + "|")
errors = {form: [] for form in FORMS}
for (width, seed), one in found.items():
    measured = one["levels"][8]["loss"]
    for form, values in errors.items():
        values.append(one["forecasts"][form] - measured)
    cells = " | ".join(f"{values[-1]:+.4f}" for values in errors.values())
    print(f"| {width} | {seed} | {measured:.4f} | {one['r']:.3f} | {one['b']:.2f} | {cells} |")
mean = " | ".join(f"{statistics.mean(map(abs, values)):.4f}" for values in errors.values())
print(f"| mean size | | | | | {mean} |")

print("\nVariance over subsets, times k, and times k (M - 1)/(M - k), both as shares of k = 1:\n")
print("| width | seed | " + " | ".join(f"k = {k}" for k in (2, 4, 6, 7)) + " |\n" + "|---" * 6 + "|")
for (width, seed), one in found.items():
    variance = {k: row["sd"] ** 2 for k, row in one["levels"].items() if row["sd"] is not None}
    cells = [f"{variance[k] * k / variance[1]:.2f}, {variance[k] * k * 7 / (8 - k) / variance[1]:.2f}" for k in (2, 4, 6, 7)]
    print(f"| {width} | {seed} | " + " | ".join(cells) + " |")

for seed in sorted({seed for _, seed in found}):
    joint = json.loads((out / f"seed-{seed}/joint.json").read_text()).get("joint")
    print(f"\nseed {seed}, over sizes: {json.dumps(joint)}")
