"""Runs the program on every hostile input of a folder with a MANIFEST.json, under limits of memory and time.

    python3 scripts/hostile_inputs.py ../shared/fixtures/hostile [pickle/ dcp/ ...]

Runs `inspect` and then `merge` on each input alone, and `merge` on the checkpoints of each set together. The manifest says what must
happen. `reject`: all commands fail, and their messages name the file. `accept`: `inspect`, or the merge of a set, succeeds. `either`
and `skip-part`: both outcomes are fine. Never: a signal, a panic, a timeout, a file that a pickle made, or an output of a refused merge.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile

PROGRAM = os.path.abspath(os.environ.get("THALWEG", "target/debug/thalweg"))
MEMORY_BYTES = 1 << 30
SECONDS = 20
SETS = "sets/"
# An empty folder may be lost on the way.
MISSING = {"sets/empty-folder": ["c1"]}


def limit():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


def run(arguments, folder):
    result = subprocess.run([PROGRAM, *arguments, "-j", "2"], cwd=folder, preexec_fn=limit, capture_output=True, timeout=3 * SECONDS)
    return result.returncode, (result.stdout + result.stderr).decode(errors="replace")


def members(path, source):
    """What is merged: the checkpoints of a set, of which one may be missing, or the input alone."""
    if not path.startswith(SETS):
        return ["-m", source]
    return [part for name in sorted({*os.listdir(source), *MISSING.get(path, [])}) for part in ("-m", os.path.join(source, name))]


def named(path, source):
    """The names of which a refusal has at least one."""
    return [os.path.basename(part) for part in members(path, source)[1::2]]


def check(root, entry, scratch):
    """The faults in how the program handled one input, as sentences."""
    path, verdict = entry["path"], entry["verdict"]
    source = os.path.join(root, path)
    faults = []
    codes = {}
    out = os.path.join(scratch, "out")
    merge = ["merge", *members(path, source), "-o", out, "--digest", "none"]
    commands = [merge] if path.startswith(SETS) else [["inspect", source], merge]
    for command in commands:
        name = command[0]
        try:
            code, text = run(command, scratch)
        except subprocess.TimeoutExpired:
            faults.append(f"{name} did not finish")
            continue
        codes[name] = code
        if code not in (0, 1, 2) or "panicked" in text:
            faults.append(f"{name} ended with {code}: {text[-300:]}")
        if verdict == "reject" and code != 0 and not any(file in text for file in named(path, source)):
            faults.append(f"{name} does not name the file: {text[-300:]}")
    made = [name for name in os.listdir(scratch) if name != "out"]
    if made:
        faults.append(f"it made files: {made}")
    if codes.get("merge") != 0 and os.path.exists(out):
        faults.append("a refused merge left an output")
    if verdict == "reject" and codes.get("merge") == 0:
        faults.append("it was merged")
    if verdict == "reject" and codes.get("inspect") == 0:
        faults.append("inspect accepted it")
    # A set may say in so many words that a refusal is as good.
    is_sure = verdict == "accept" and ", or refuse" not in entry["must"]
    if is_sure and codes.get("inspect", codes["merge"]) != 0:
        faults.append(f"it was refused: {text[-300:]}")
    shutil.rmtree(out, ignore_errors=True)
    return faults


def main():
    root = os.path.abspath(sys.argv[1])
    groups = tuple(sys.argv[2:]) or ("",)
    with open(os.path.join(root, "MANIFEST.json"), encoding="utf-8") as file:
        entries = [entry for entry in json.load(file) if entry["path"].startswith(groups)]
    n_wrong = 0
    for entry in entries:
        with tempfile.TemporaryDirectory() as scratch:
            faults = check(root, entry, scratch)
        n_wrong += bool(faults)
        for fault in faults:
            print(f"{entry['path']} ({entry['verdict']}): {fault}")
    print(f"{len(entries) - n_wrong} of {len(entries)} inputs are handled as the manifest says")
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
