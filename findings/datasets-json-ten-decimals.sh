#!/usr/bin/env bash
# datasets 5.2.0: `Dataset.to_json` writes ten decimals, and null for infinity.
#
# Expected: floats are written so that reading gives the same float64, as `json.dumps` and the package's own `to_csv` do.
# Observed: they are cut to ten digits after the point (pandas' default), whatever their size: a learning rate of 3e-11 becomes 0.0
# and a probability of 1e-10 keeps one digit. NaN and infinity become null, so a loss that diverged looks like one that was not
# measured. `to_json(path, double_precision=15)` only moves the limit. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$folder/venv/bin/python" - <<'PYTHON'
import csv, json, math
from datasets import Dataset
rows = [{"loss": 2.345678901234567, "rate": 3e-11}, {"loss": math.inf, "rate": 1.2345e-10}]
data = Dataset.from_list(rows)
data.to_json("rows.jsonl")
data.to_csv("rows.csv")
print("written:", rows)
text = open("rows.jsonl").read()
print("rows.jsonl:", text.split("\n")[:2])
found = [json.loads(line) for line in text.splitlines()]
assert [{name: float(value) for name, value in row.items()} for row in csv.DictReader(open("rows.csv"))] == rows
if found != [{"loss": 2.3456789012, "rate": 0.0}, {"loss": None, "rate": 1e-10}]:
    raise SystemExit("changed: other digits are kept now")
PYTHON
