"""Tables of runs/rules.sh: rules for merging eight experts beside the plain mean, at several values of lambda.

    python3 runs/rules_table.py OUT

Reads rules-choice.json and rules-report.json in OUT/seed-*/width-*, writes docs/results/rules.csv, and prints the tables of
docs/results/rules.md. Lambda and the best rule are chosen by the first, and reported by the second, of other documents.
"""

import csv
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

SUITES = ("choice", "report")
out = Path(sys.argv[1])
losses = {name: defaultdict(dict) for name in SUITES}  # (rule, density, lambda) -> seed -> mean loss over the domains
controls = {name: defaultdict(lambda: defaultdict(list)) for name in SUITES}


def read(suite, path):
    seed = path.parent.parent.name[5:]
    of = defaultdict(list)
    for row in json.loads(path.read_text())["scores"]:
        of[row["checkpoint"]].append(row["value"])
    for checkpoint, values in of.items():
        name, loss = Path(checkpoint).name, statistics.mean(values)
        if "@" not in name:
            control = "base" if Path(checkpoint).parent.name == "base" else "one expert"
            controls[suite][control][seed].append(loss)
            continue
        rule, strength = name.split("@")
        head, _, tail = rule.rpartition("-")
        has_density = tail.replace(".", "").isdigit()
        key = (head, tail) if has_density else (rule, "")
        losses[suite][*key, float(strength)][seed] = loss


def show(numbers):
    mean = statistics.mean(numbers)
    spread = statistics.stdev(numbers) if len(numbers) > 1 else float("nan")
    return f"{mean:+.4f} ({spread:.4f})"


for suite in SUITES:
    for path in sorted(out.glob(f"seed-*/width-*/rules-{suite}.json")):
        read(suite, path)
plain = {suite: losses[suite]["task-arithmetic", "", 1.0] for suite in SUITES}
seeds = sorted(plain["report"])

table = Path(__file__).parent.parent / "docs/results/rules.csv"
with table.open("w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["suite", "rule", "density", "lambda", "seed", "mean_loss"])
    for suite in SUITES:
        for (rule, density, strength), of_seed in sorted(losses[suite].items()):
            rows = ([suite, rule, density, f"{strength:g}", seed, f"{loss:.5f}"] for seed, loss in sorted(of_seed.items()))
            writer.writerows(rows)
        for name, of_seed in controls[suite].items():
            rows = ([suite, name, "", "", seed, f"{statistics.mean(values):.5f}"] for seed, values in sorted(of_seed.items()))
            writer.writerows(rows)

print(f"seeds {', '.join(seeds)}; loss on the documents of the report: mean over eight domains, nats per token\n")
print("| | " + " | ".join(f"seed {seed}" for seed in seeds) + " |\n|---" + "|---" * len(seeds) + "|")
for name, of_seed in controls["report"].items():
    print(f"| {name} | " + " | ".join(f"{statistics.mean(of_seed[seed]):.4f}" for seed in seeds) + " |")
print("| plain mean | " + " | ".join(f"{plain['report'][seed]:.4f}" for seed in seeds) + " |")

strengths = sorted({strength for _, _, strength in losses["report"]})
shown = sorted({(rule, density) for rule, density, _ in losses["report"]})
chosen = {}  # (rule, density) -> seed -> (lambda, its gain in the report)
print("\nLoss minus that of the plain mean of the same seed, in the report; mean over the seeds and, in brackets, standard deviation")
print("of the last column, where lambda is the one that the other documents chose for each seed:\n")
print("| rule | density | " + " | ".join(f"lambda {s:g}" for s in strengths) + " | chosen lambda | with it |")
print("|---" * (len(strengths) + 4) + "|")
for rule, density in shown:
    report = {s: losses["report"][rule, density, s] for s in strengths if (rule, density, s) in losses["report"]}
    choice = {s: losses["choice"][rule, density, s] for s in report}
    cells = [
        f"{statistics.mean(report[s][seed] - plain['report'][seed] for seed in seeds):+.4f}" if s in report else "-"
        for s in strengths
    ]
    best = {seed: min(choice, key=lambda s: choice[s][seed]) for seed in seeds}
    gains = {seed: report[s][seed] - plain["report"][seed] for seed, s in best.items()}
    chosen[rule, density] = {seed: (choice[s][seed], gains[seed]) for seed, s in best.items()}
    words = ", ".join(f"{best[seed]:g}" for seed in seeds)
    print(f"| {rule} | {density or '-'} | " + " | ".join(cells) + f" | {words} | {show(list(gains.values()))} |")

print("\nThe rule, density and lambda that the other documents choose, by seed:\n")
for seed in seeds:
    rule, density = min(chosen, key=lambda key: chosen[key][seed][0])
    scaled = chosen["task-arithmetic", ""][seed][1]
    print(f"- seed {seed}: {rule} {density}: {chosen[rule, density][seed][1]:+.4f} against the plain mean; task arithmetic {scaled:+.4f}")
