"""Tables of runs/rules.sh: rules for merging eight experts beside the plain mean, at several values of lambda.

    python3 runs/rules_table.py OUT

Reads OUT/seed-*/width-*/rules.json, writes docs/results/rules.csv, and prints the tables of docs/results/rules.md.
"""

import csv
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

out = Path(sys.argv[1])
losses = defaultdict(dict)  # (rule, density, lambda) -> seed -> mean loss over the domains
controls = defaultdict(lambda: defaultdict(list))
for path in sorted(out.glob("seed-*/width-*/rules.json")):
    seed = path.parent.parent.name[5:]
    of = defaultdict(list)
    for row in json.loads(path.read_text())["scores"]:
        of[row["checkpoint"]].append(row["value"])
    for checkpoint, values in of.items():
        name = Path(checkpoint).name
        loss = statistics.mean(values)
        if "@" in name:
            rule, strength = name.split("@")
            parts = rule.rsplit("-", 1)
            density = parts[1] if parts[1].replace(".", "").isdigit() else ""
            losses[parts[0] if density else rule, density, float(strength)][seed] = loss
        else:
            controls["base" if Path(checkpoint).parent.name == "base" else "one expert"][seed].append(loss)
seeds = sorted({seed for of_seed in losses.values() for seed in of_seed})
plain = losses["task-arithmetic", "", 1.0]

path = Path(__file__).parent.parent / "docs/results/rules.csv"
with path.open("w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["rule", "density", "lambda", "seed", "mean_loss"])
    for (rule, density, strength), of_seed in sorted(losses.items()):
        writer.writerows([rule, density, f"{strength:g}", seed, f"{loss:.5f}"] for seed, loss in sorted(of_seed.items()))
    for name, of_seed in controls.items():
        writer.writerows([name, "", "", seed, f"{statistics.mean(values):.5f}"] for seed, values in sorted(of_seed.items()))

print(f"seeds {', '.join(seeds)}; loss: mean over eight domains, nats per token\n")
print("| | " + " | ".join(f"seed {seed}" for seed in seeds) + " |\n|---" + "|---" * len(seeds) + "|")
for name, of_seed in controls.items():
    print(f"| {name} | " + " | ".join(f"{statistics.mean(of_seed[seed]):.4f}" for seed in seeds) + " |")
print("| plain mean | " + " | ".join(f"{plain[seed]:.4f}" for seed in seeds) + " |")

strengths = sorted({strength for _, _, strength in losses})
shown = sorted({(rule, density) for rule, density, _ in losses})
print("\nLoss minus that of the plain mean of the same seed, mean over the seeds:\n")
print("| rule | density | " + " | ".join(f"lambda {s:g}" for s in strengths) + " | best lambda, by seed |")
print("|---" * (len(strengths) + 3) + "|")
for rule, density in shown:
    cells = []
    for strength in strengths:
        of_seed = losses.get((rule, density, strength))
        cells.append(f"{statistics.mean(of_seed[s] - plain[s] for s in seeds):+.4f}" if of_seed else "-")
    of_rule = {s: losses[rule, density, s] for s in strengths if (rule, density, s) in losses}
    best = [min(of_rule, key=lambda strength: of_rule[strength][seed]) for seed in seeds]
    gains = [of_rule[strength][seed] - plain[seed] for strength, seed in zip(best, seeds)]
    words = ", ".join(f"{gain:+.4f} at {strength:g}" for strength, gain in zip(best, gains))
    print(f"| {rule} | {density or '-'} | " + " | ".join(cells) + f" | {words} |")
