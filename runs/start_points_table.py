"""Summarises runs/start_points.sh: docs/results/start-points.csv, and the tables within docs/results/start-points.md."""

import csv
import json
import math
import pathlib
import statistics
import sys

from pages import paste

OUT = pathlib.Path(sys.argv[1])
RESULTS = pathlib.Path(__file__).parent.parent / "docs" / "results"
RATES = ["0.0015", "0.003", "0.006"]
T95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}
CLIP_NORM = 1.0
NAMES = "first_loss nats_at_10 nats_at_100 nats_at_end grad_norm_mean grad_norm_sd grad_norm_largest clip_rate".split()


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def measure(run):
    steps = read(run / "steps.jsonl")
    held_out = {row["step"]: row["nll_nats"] for row in read(run / "validation.jsonl")}
    norms = [row["grad_norm"] for row in steps]
    assert len(steps) == 200, run
    clipped = sum(norm > CLIP_NORM for norm in norms) / len(norms)
    spread = statistics.stdev(norms)
    return [steps[0]["loss"], held_out[10], held_out[100], held_out[200], statistics.fmean(norms), spread, max(norms), clipped]


def collect():
    rows = []
    for done in sorted(OUT.glob("seed-*/done")):
        seed = int(done.parent.name.split("-")[1])
        for data in ("stories", "african-storybook"):
            for rate in RATES:
                for source in ("trunk", "merge"):
                    rows.append([seed, data, rate, source, *measure(done.parent / f"{data}-{source}-{rate}")])
    return rows


def spread(values, digits=3, sign=""):
    mean = statistics.fmean(values)
    half = T95[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{mean:{sign}.{digits}f} ± {half:.{digits}f}"


def tables(rows):
    seeds = sorted({row[0] for row in rows})
    text = [f"n = {len(seeds)} seeds ({', '.join(map(str, seeds))}).", ""]
    for data in ("stories", "african-storybook"):
        text += [f"### Continued on {data}", ""]
        text += ["| peak rate | start | loss of the first batch | nats at step 10 | at step 100 | at step 200 | gradient norm: mean | standard deviation | largest | clip rate |"]
        text += ["|---|---|---|---|---|---|---|---|---|---|"]
        for rate in RATES:
            for source in ("trunk", "merge"):
                found = [row[4:] for row in rows if row[1:4] == [data, rate, source]]
                cells = [f"{statistics.fmean(column):.3f}" for column in zip(*found)]
                text.append("| " + " | ".join([rate, {"trunk": "newest", "merge": "merge of 10"}[source], *cells]) + " |")
        text += ["", "Merge minus newest, paired by seed:", ""]
        text += ["| peak rate | " + " | ".join(name.replace("_", " ") for name in NAMES) + " |", "|---" * (len(NAMES) + 1) + "|"]
        for rate in RATES:
            of = lambda source: {row[0]: row[4:] for row in rows if row[1:4] == [data, rate, source]}
            merge, newest = of("merge"), of("trunk")
            gaps = zip(*[[a - b for a, b in zip(merge[seed], newest[seed])] for seed in seeds])
            text.append("| " + " | ".join([rate, *[spread(gap, sign="+") for gap in gaps]]) + " |")
        text.append("")
    return text


rows = collect()
RESULTS.mkdir(parents=True, exist_ok=True)
with open(RESULTS / "start-points.csv", "w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["seed", "data", "peak_rate", "start", *NAMES])
    for row in rows:
        writer.writerow([f"{cell:.6f}" if isinstance(cell, float) else cell for cell in row])
lines = tables(rows)
if (RESULTS / "start-points.md").exists():
    paste(RESULTS / "start-points.md", lines)
print("\n".join(lines))
