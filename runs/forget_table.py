"""Tables of runs/forget.sh: what phase B forgets, what merges keep, and replay at equal steps.

    python3 runs/forget_table.py OUT

Reads OUT/seed-*/scores-*.json, writes docs/results/forget.csv, and prints the tables of docs/results/forget.md.
"""

import csv
import json
import statistics
import sys
from pathlib import Path

out = Path(sys.argv[1])
MEASURES = ["m_ex", "m_in", "ppl_ent", "m_f_ent", "ppl", "m_f"]
A = 420
seeds = sorted(path.name[5:] for path in out.glob("seed-*") if (path / "scores-bursts.json").exists())
rows, models = [], {}
for seed in seeds:
    for arm in ("a", "none", "mixed", "bursts"):
        record = json.loads((out / f"seed-{seed}" / f"scores-{arm}.json").read_text())
        for model in record["models"]:
            values = {row["measure"]: row["value"] for row in model["measures"]}
            name = model["name"] if model["name"].startswith("half") else model["window"] or "raw"
            step = None if model["step"] is None else model["step"] - A
            models[seed, arm, name, step] = values
            errors = {row["measure"]: row["standard_error"] for row in model["measures"]}
            n = next((row["n"] for row in model["measures"] if row["measure"] == "m_ex"), 0)
            rows.append([seed, arm, name, step, n, *(f"{values[m]:.5f}" for m in MEASURES), f"{errors['m_ex']:.5f}"])

path = Path(__file__).parent.parent / "docs/results/forget.csv"
with path.open("w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["seed", "arm", "model", "steps_of_b", "n_entities", *MEASURES, "m_ex_standard_error"])
    writer.writerows(rows)


def show(keys, measure):
    values = [models[key][measure] for key in keys if key in models]
    if not values:
        return "-"
    spread = f" ({min(values):.2f}-{max(values):.2f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def table(title, lines):
    print(f"\n{title}\n\n| | M_ex | M_in | PPL_ent | PPL |\n|---|---|---|---|---|")
    for name, keys in (line for line in lines if any(key in models for key in line[1])):
        print("| " + " | ".join([name, *(show(keys, m) for m in ("m_ex", "m_in", "ppl_ent", "ppl"))]) + " |")


print(f"seeds {', '.join(seeds)}; mean (least-greatest)")
counts = [row[4] for row in rows if row[1] == "a" and row[2] == "raw"]
print(f"entities that the end of phase A recalls: {counts}")
table("Phase B without replay, by steps of B:", [
    ("0 (end of A)", [(s, "a", "raw", 0) for s in seeds]),
    *((str(b), [(s, "none", "raw", b) for s in seeds]) for b in (6, 12, 24, 36, 60, 90, 126)),
])
for b, half in ((6, "half-a"), (12, "half-b"), (24, "half-c"), (60, None), (126, "half-d")):
    table(f"Merges that end after {b} steps of B:", [
        ("newest checkpoint", [(s, "none", "raw", b) for s in seeds]),
        *((w, [(s, "none", w, b) for s in seeds]) for w in ("sma:3", "sma:5", "sma:10")),
        *([("mean of it and the end of A", [(s, "a", half, None) for s in seeds])] if half else []),
    ])
for b in (42, 60, 84, 102, 126):
    table(f"Replay, after {b} steps of B:", [
        (name, [(s, arm, "raw", b) for s in seeds])
        for name, arm in (("none, equal steps", "none"), ("mixed in", "mixed"), ("bursts", "bursts"))
    ])
print("\nMerge minus newest checkpoint, and minus the mean of its checkpoints, all ends of B:\n")
print("| merge | seed | ends | M_ex less newest | M_ex less its mean | PPL_ent less newest | PPL less newest |\n|---|---|---|---|---|---|---|")
for window, n in (("sma:3", 3), ("sma:5", 5), ("sma:10", 10)):
    for seed in seeds:
        ends = [b for (s, arm, w, b) in models if (s, arm, w) == (seed, "none", window)]
        new, own = {m: [] for m in MEASURES}, []
        for b in ends:
            merge, newest = models[seed, "none", window, b], models[seed, "none", "raw", b]
            members = [models[seed, "none", "raw", b - 6 * i]["m_ex"] for i in range(n)]
            own.append(merge["m_ex"] - statistics.mean(members))
            for m in MEASURES:
                new[m].append(merge[m] - newest[m])
        mean = statistics.mean
        print(f"| {window} | {seed} | {len(ends)} | {mean(new['m_ex']):+.3f} | {mean(own):+.3f} | {mean(new['ppl_ent']):+.3f} | {mean(new['ppl']):+.3f} |")
