#!/usr/bin/env bash
# Aim 3.29.1: a value that is logged at a step again replaces the earlier one, so a resumed run mixes two histories.
#
# Expected: a log is appended to: after a run that went back to step 2 logs steps 3 and 5, both values of step 3 are there, with their
# times, as in TensorBoard's event files.
# Observed: one value for each step. Step 3 has the new value and step 4 still that of the abandoned part, and nothing says so. A
# curve of a run that was restarted before a spike shows a spike that the weights do not have. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet aim==3.29.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import os
from aim import Run
from aim.sdk.repo import Repo

os.mkdir("log")
Repo.from_path("log", init=True)
quiet = {"repo": "log", "system_tracking_interval": None, "log_system_params": False, "capture_terminal_logs": False}

def seen(run):
    [metric] = [one for one in run.metrics() if one.name == "loss"]
    steps, (losses, *_) = metric.data.items_list()
    return sorted(zip(steps, losses))

run = Run(**quiet)
for step, loss in ((1, 3.0), (2, 2.5), (3, 9.0), (4, 9.5)):
    run.track(loss, name="loss", step=step)
before, name = seen(run), run.hash
run.close()
run = Run(run_hash=name, **quiet)
for step, loss in ((3, 2.4), (5, 2.2)):
    run.track(loss, name="loss", step=step)
after = seen(run)
run.close()
print("before the restart:", before)
print("after it:", after)
assert before == [(1, 3.0), (2, 2.5), (3, 9.0), (4, 9.5)], before
if after != [(1, 3.0), (2, 2.5), (3, 2.4), (4, 9.5), (5, 2.2)]:
    raise SystemExit("changed: the earlier values are kept now")
PYTHON
