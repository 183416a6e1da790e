#!/usr/bin/env python3
"""Logs the record of a watcher in trackio or W&B, beside the trainer's own curves.

  records_to_trackers.py MERGED --trackio PROJECT      into trackio's database ($TRACKIO_DIR)
  records_to_trackers.py MERGED --wandb PROJECT        as a run of W&B; WANDB_MODE=offline needs no login
  records_to_trackers.py --check                       logs a small record with both packages and reads it back

Metrics are named as in the watcher's TensorBoard file: raw/TASK/MEASURE, merged/sma-10/TASK/MEASURE, forecast/TASK/MEASURE
with /low-80 and the others. Each call logs what is in the record then as a new run, named after the folder.
"""
import argparse, json, os, pathlib, sqlite3, subprocess, sys, tempfile


def metrics_by_step(folder):
    steps = {}
    for line in (pathlib.Path(folder) / "watch.jsonl").read_text().splitlines():
        row = json.loads(line)
        model = row["scheme"]
        if model not in ("raw", "annealed", "forecast"):
            model = f"merged/{model.replace(':', '-').replace('/', '-')}-{row['n_checkpoints']}"
        values = steps.setdefault(row["end_step"], {})
        for score in row.get("scores", []):
            values[f"{model}/{score['task']}/{score['measure']}"] = score["value"]
        for one in row.get("forecasts", []):
            name = f"{model}/{one['task']}/{one['measure']}"
            values[name] = one["value"]
            for percent in ("80", "95"):
                values[f"{name}/low-{percent}"], values[f"{name}/high-{percent}"] = one[f"interval_{percent}"]
    return {step: values for step, values in sorted(steps.items()) if values}


def to_trackio(folder, project):
    import trackio

    trackio.init(project=project, name=pathlib.Path(folder).resolve().name)
    for step, values in metrics_by_step(folder).items():
        trackio.log(values, step=step)
    trackio.finish()


def to_wandb(folder, project):
    import wandb

    run = wandb.init(project=project, name=pathlib.Path(folder).resolve().name)
    for step, values in metrics_by_step(folder).items():
        run.log(values, step=step)
    run.finish()


def check():
    work = pathlib.Path(tempfile.mkdtemp())
    merged = work / "merged"
    merged.mkdir()
    score = lambda value: [{"suite": "s", "task": "t", "measure": "nats", "value": value, "n": 1, "higher_is_better": False}]
    rows = [
        {"event": "merged", "end_step": 100, "scheme": "sma", "n_checkpoints": 10},
        {"event": "scored", "end_step": 100, "scheme": "raw", "n_checkpoints": 1, "scores": score(2.5)},
        {"event": "scored", "end_step": 100, "scheme": "sma", "n_checkpoints": 10, "scores": score(2.25)},
        {"event": "scored", "end_step": 200, "scheme": "sma", "n_checkpoints": 10, "scores": score(2.0)},
        {"event": "forecast", "end_step": 200, "scheme": "forecast", "n_checkpoints": 4,
         "forecasts": [{"task": "t", "measure": "nats", "value": 1.5, "interval_80": [1.25, 1.75], "interval_95": [1.0, 2.0]}]},
    ]
    (merged / "watch.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = metrics_by_step(merged)
    assert expected == {
        100: {"raw/t/nats": 2.5, "merged/sma-10/t/nats": 2.25},
        200: {"merged/sma-10/t/nats": 2.0, "forecast/t/nats": 1.5, "forecast/t/nats/low-80": 1.25,
              "forecast/t/nats/high-80": 1.75, "forecast/t/nats/low-95": 1.0, "forecast/t/nats/high-95": 2.0},
    }, expected
    os.environ.update(TRACKIO_DIR=str(work / "trackio"), WANDB_MODE="offline", WANDB_SILENT="true", WANDB_DIR=str(work))
    to_trackio(merged, "p")
    found = sqlite3.connect(work / "trackio" / "p.db").execute("SELECT step, metrics FROM metrics ORDER BY step")
    assert {step: json.loads(metrics) for step, metrics in found} == expected
    to_wandb(merged, "p")
    (file,) = work.glob("wandb/offline-run-*/*.wandb")
    program = pathlib.Path(sys.executable).with_name("wandb")
    printed = subprocess.run([program, "leet", "inspect", "--json", file], check=True, capture_output=True, text=True).stdout
    history = [row["history"] for row in map(json.loads, printed.splitlines()) if row["type"] == "history"]
    found = {row["step"]["num"]: {name: x for name, x in row["item"].items() if not name.startswith("_")} for row in history}
    assert found == expected, found
    print("trackio and W&B hold the record")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", metavar="MERGED")
    parser.add_argument("--trackio", metavar="PROJECT")
    parser.add_argument("--wandb", metavar="PROJECT")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.check:
        return check()
    if not args.folder or not (args.trackio or args.wandb):
        parser.error("give the folder of a watcher, and --trackio PROJECT or --wandb PROJECT")
    if args.trackio:
        to_trackio(args.folder, args.trackio)
    if args.wandb:
        to_wandb(args.folder, args.wandb)


main()
