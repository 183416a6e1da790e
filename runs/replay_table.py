"""Memory and tables of runs/replay.sh.

    python3 runs/replay_table.py memory STORIES N DIR    DIR/facts.jsonl and the first N stories as DIR/memory.jsonl
    python3 runs/replay_table.py tables OUT              docs/results/replay.csv, and the tables of docs/results/replay.md
"""

import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path

A = 420
ARMS = ("control", "uniform", "focused", "intensive", "similar")
MEASURES = ("m_ex", "m_in", "ppl_ent", "m_f_ent", "ppl", "m_f")


def write_memory(stories, n, folder):
    folder = Path(folder)
    lines = subprocess.run(["zstd", "-dcq", stories], check=True, capture_output=True, text=True).stdout.splitlines()
    texts = [json.dumps({"text": json.loads(line)["text"]}) for line in lines[: int(n)]]
    (folder / "memory.jsonl").write_text((folder / "facts.jsonl").read_text() + "\n".join(texts) + "\n")


def write_tables(out):
    out = Path(out)
    seeds = sorted(path.parent.name[5:] for path in out.glob("seed-*/scores-similar.json"))
    rows, found = [], {}
    for seed in seeds:
        for arm in ARMS:
            for model in json.loads((out / f"seed-{seed}/scores-{arm}.json").read_text())["models"]:
                values = {row["measure"]: row for row in model["measures"]}
                step = model["step"] - A
                found[seed, arm, step] = {name: row["value"] for name, row in values.items()}
                rows.append([seed, arm, step, values["m_ex"]["n"], *(f"{values[m]['value']:.5f}" for m in MEASURES),
                             f"{values['m_ex']['standard_error']:.5f}"])
    path = Path(__file__).parent.parent / "docs/results/replay.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["seed", "policy", "steps_of_b", "n_entities", *MEASURES, "m_ex_standard_error"])
        writer.writerows(rows)
    print(f"seeds {', '.join(seeds)}; mean (least to greatest); entities: {[row[3] for row in rows if row[1] == 'control'][::2]}")
    for step, title in ((31, "midway"), (94, "midway"), (63, "right after a replay")):
        print(f"\nAfter {step} steps of B, {title}:\n\n| | M_ex | M_in | PPL_ent | PPL |\n|---|---|---|---|---|")
        for arm in ARMS:
            of = [found[seed, arm, step] for seed in seeds if (seed, arm, step) in found]
            cells = [[one[m] for one in of] for m in ("m_ex", "m_in", "ppl_ent", "ppl")] if of else []
            show = [f"{statistics.mean(v):.2f} ({min(v):.2f} to {max(v):.2f})" for v in cells]
            if show:
                print(f"| {arm} | " + " | ".join(show) + " |")


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    {"memory": write_memory, "tables": write_tables}[command](*arguments)
