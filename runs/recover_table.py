"""Summarises runs/recover.sh: docs/results/recovery.csv, and the tables within docs/results/recovery.md."""

import csv
import json
import math
import pathlib
import statistics
import sys

from pages import paste

OUT = pathlib.Path(sys.argv[1])
RESULTS = pathlib.Path(__file__).parent.parent / "docs" / "results"
LAST_STEP = 560
# Said before the runs: a run survives if its last held-out loss is within this many nats of the never-spiked run's.
SURVIVES_NATS = 0.3
# Two-sided 95 % points of Student's t by degrees of freedom.
T95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
SCENARIOS = {
    "gone-replay": "The cause is gone, the data are replayed",
    "gone-skip": "The cause is gone, the data are skipped",
    "again-2": "The cause recurs at step 411, for 2 steps at 30 times the rate",
    "again-3": "The same for 3 steps",
    "again-8": "The same for 8 steps, as in the incident",
}
ARMS = [f"{source}-{moments}" for source in ("newest", "oldest", "merge") for moments in ("newest", "reset", "average")]


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def last_nats(folder):
    rows = [row for row in read(folder / "validation.jsonl") if row["step"] == LAST_STEP]
    return rows[0]["nll_nats"] if rows else math.inf


def collect():
    rows = []
    for done in sorted(OUT.glob("seed-*/done")):
        folder, seed = done.parent, int(done.parent.name.split("-")[1])
        reference = last_nats(folder / "gone-replay-newest-newest")
        recovery = json.loads((folder / "recover.json").read_text())
        sources = [source["step"] for source in recovery["sources"]]
        assert sources == [360, 380, 400], (folder, sources)
        incident = last_nats(folder / "incident")
        rows.append([seed, "incident", "none", "none", "", incident, incident - reference, reference])
        for scenario in SCENARIOS:
            for arm in ARMS:
                run = folder / f"{scenario}-{arm}"
                if not run.exists():
                    continue
                source, moments = arm.split("-")
                first = read(run / "steps.jsonl")[0]["loss"]
                nats = last_nats(run)
                rows.append([seed, scenario, source, moments, first, nats, nats - reference, reference])
    return rows


def detections():
    """What `thalweg recover` found in the logs of the incidents, whose first damaged loss is that of step 412."""
    found, others = [], []
    for done in sorted(OUT.glob("seed-*/done")):
        spikes = json.loads((done.parent / "recover.json").read_text())["spikes"]
        found += [spike["onset"] - 412 for spike in spikes if abs(spike["onset"] - 412) <= 3]
        others += [spike for spike in spikes if abs(spike["onset"] - 412) > 3]
    back = [spike["end"] - spike["onset"] for spike in others if spike["end"] is not None]
    seen = sum("gradient" in spike["signal"] for spike in others)
    offsets = ", ".join(map(str, sorted(set(found))))
    text = f"Incidents found: {len(found)} of {len(list(OUT.glob('seed-*/done')))}, onset off by {offsets} steps. Other spikes found: {len(others)}"
    if others:
        text += f", of which {len(back)} came back, after {min(back)} to {max(back)} steps, and {seen} showed in the gradient norm"
    return [text + ".", ""]


def spread(values):
    """Mean with the half width of its 95 % interval over seeds."""
    mean = statistics.fmean(values)
    if len(values) < 2 or not math.isfinite(mean):
        return f"{mean:+.3f}"
    half = T95[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:+.3f} ± {half:.3f}"


def tables(rows):
    seeds = sorted({row[0] for row in rows})
    text = [f"n = {len(seeds)} seeds ({', '.join(map(str, seeds))}).", ""]
    incident = [row[6] for row in rows if row[1] == "incident"]
    survivors = sum(value <= SURVIVES_NATS for value in incident)
    text += [f"The incident itself, not resumed: {survivors} of {len(incident)} survive, {spread(incident)} nats over never spiked.", ""]
    for scenario, title in SCENARIOS.items():
        text += [f"### {title}", ""]
        text += ["| resumed from | moments | n | survive | nats over never spiked | nats over newest, own moments (paired) | seeds better |"]
        text += ["|---|---|---|---|---|---|---|"]
        control = {row[0]: row[6] for row in rows if row[1:4] == [scenario, "newest", "newest"]}
        for arm in ARMS:
            source, moments = arm.split("-")
            found = {row[0]: row[6] for row in rows if row[1:4] == [scenario, source, moments]}
            if not found:
                continue
            survive = sum(value <= SURVIVES_NATS for value in found.values())
            paired = [value - control[seed] for seed, value in found.items()]
            better = sum(value < 0 for value in paired)
            is_control = arm == "newest-newest"
            name = {"newest": "newest (step 400)", "oldest": "oldest (step 360)", "merge": "SMA of 3"}[source]
            own = "own" if moments == "newest" and source != "merge" else moments
            last = ["–", "–"] if is_control else [spread(paired), f"{better} of {len(paired)}"]
            cells = [name, own, str(len(found)), f"{survive} of {len(found)}", spread(list(found.values())), *last]
            text.append("| " + " | ".join(cells) + " |")
        text.append("")
    return text


rows = collect()
RESULTS.mkdir(parents=True, exist_ok=True)
with open(RESULTS / "recovery.csv", "w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    names = "seed scenario source moments first_loss_nats last_nll_nats over_never_spiked_nats never_spiked_nll_nats"
    writer.writerow(names.split())
    for row in rows:
        writer.writerow([f"{cell:.6f}" if isinstance(cell, float) else cell for cell in row])
lines = detections() + tables(rows)
if (RESULTS / "recovery.md").exists():
    paste(RESULTS / "recovery.md", lines)
print("\n".join(lines))
