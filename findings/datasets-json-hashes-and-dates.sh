#!/usr/bin/env bash
# datasets 5.2.0 (pyarrow 26.0.1): 64-bit hashes in JSON lines become floats, and texts that look like dates become times.
#
# Expected: integers stay integers (as uint64, or text, or an error above 2^63), and strings stay strings.
# Observed: one integer above 2^63 - 1 makes the whole column float64, so unsigned 64-bit hashes of documents lose their last 11 bits:
# three documents have one hash here, and a deduplication by it keeps one of them. With `features=` of uint64 the column says so, but
# holds the same rounded numbers. A text column whose lines all look like dates is loaded as `timestamp[s]`. All without a warning.
# Hashes are safe as text. The script fails when one of these changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6
cd "$folder"
HF_DATASETS_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import json
import datasets

datasets.disable_progress_bars()

def load(name, rows, features=None):
    with open(f"{name}.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    data = datasets.load_dataset("json", data_files=f"{name}.jsonl", split="train", cache_dir="cache", features=features)
    print(f"{name}:", data.features, data[:])
    return data

hashes = [2**63 + 1, 2**63 + 2, 2**63 + 3, 5]
small = load("below", [{"hash": one >> 1} for one in hashes])
assert small[:]["hash"] == [one >> 1 for one in hashes]
large = load("hashes", [{"hash": one} for one in hashes])
given = load("given", [{"hash": one} for one in hashes], datasets.Features({"hash": datasets.Value("uint64")}))
assert given.features["hash"].dtype == "uint64"
texts = load("texts", [{"text": "2026-01-01"}, {"text": "1999-12-31 23:59:59"}])
assert load("other", [{"text": "2026-01-01"}, {"text": "a text"}])[:]["text"][0] == "2026-01-01"
if large.features["hash"].dtype != "float64" or len(set(large[:]["hash"])) != 2 or given[:]["hash"][:3] != [2**63] * 3 or texts.features["text"].dtype != "timestamp[s]":
    raise SystemExit("changed: large integers or dates are loaded as they are now")
PYTHON
