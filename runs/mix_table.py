"""Mixtures, references and tables of runs/mix.sh.

    python3 runs/mix_table.py mixtures DIR SEED BASE BASE_STEPS STEPS DOMAIN...   configs of the reference runs
    python3 runs/mix_table.py references DIR                                      their scores as lines of JSON
    python3 runs/mix_table.py tables OUT              docs/results/mix.csv, and the tables of docs/results/mix.md
"""

import csv
import json
import random
import statistics
import sys
from pathlib import Path

BETA = 0.5
N = 24
LENGTHS = (16, 48, 144)


def write_mixtures(folder, seed, base, base_steps, steps, *domains):
    folder, draw = Path(folder), random.Random(int(seed))
    lines = []
    for i in range(1, N + 1):
        cuts = sorted(draw.randrange(10_001) for _ in domains[1:])
        alphas = [(b - a) / 10_000 for a, b in zip([0, *cuts], [*cuts, 10_000])]
        shares = [alphas[0] + BETA * (1 - alphas[0]), *((1 - BETA) * a for a in alphas[1:])]
        text, *sections = (folder / "all.toml").read_text().split("[[data]]\n")
        text = text.replace(f"\nsteps = {base_steps}\n", f"\nsteps = {int(base_steps) + int(steps)}\n")
        text = text.replace("\nsteps = [", f"\nsteps = [{int(base_steps) + 8}, {int(base_steps) + 24}, ")
        for section, share in zip(sections, shares):
            if share > 0:
                text += f"[[data]]\n{section}share = {share:.6f}\n"
        text += f'[start]\nfrom = "{base}"\nstate = "full"\n'
        (folder / f"reference-{i:02}.toml").write_text(text)
        lines.append(dict(zip(domains, shares)))
    (folder / "mixtures.json").write_text(json.dumps(lines))


def write_references(folder):
    folder = Path(folder)
    mixtures = json.loads((folder / "mixtures.json").read_text())
    for name, at in (("references", 48), ("trained-8", 8), ("trained-24", 24)):
        with (folder / f"{name}.jsonl").open("w") as file:
            for i, shares in enumerate(mixtures, 1):
                scores = json.loads((folder / f"score-{i:02}-{at}.json").read_text())["scores"]
                measures = {f"{row['task']}/{row['measure']}": row["value"] for row in scores}
                file.write(json.dumps({"data_shares": shares, "measures": measures}) + "\n")


def show(values, digits=2):
    values = [value for value in values if value is not None]
    return f"{statistics.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})" if values else "-"


def write_tables(out):
    out = Path(out)
    seeds = sorted(path.parent.name[5:] for path in out.glob("seed-*/validation-trained-24.json"))
    names = {f"merged-{beta}-{n}": f"merged, beta {beta}, components of {n} steps" for beta in ("0.5", "0") for n in LENGTHS}
    names |= {f"trained-{n}": f"trained {n} steps each" for n in (8, 24)}
    proxies = tuple(names)
    rows, found = [], {}
    for seed in seeds:
        for proxy in proxies:
            validation = json.loads((out / f"seed-{seed}/validation-{proxy}.json").read_text())
            for row in validation["rows"]:
                found[seed, proxy, row["measure"]] = row
                values = [row["spearman"], row["top_quartile_spearman"], row["recovery"]]
                rows.append([seed, proxy, row["measure"], row["n"], *("" if v is None else f"{v:.4f}" for v in values)])
    path = Path(__file__).parent.parent / "docs/results/mix.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["seed", "proxy", "score", "n_mixtures", "spearman", "top_quartile_spearman", "proxy_over_reference"])
        writer.writerows(rows)
    print(f"seeds {', '.join(seeds)}; mean (least to greatest)\n")
    print("| proxy | score | rho | rho of the best quarter | proxy over reference |\n|---|---|---|---|---|")
    for proxy in proxies:
        for measure in sorted({key[2] for key in found}):
            of = [found[seed, proxy, measure] for seed in seeds]
            cells = [show([row[key] for row in of]) for key in ("spearman", "top_quartile_spearman")]
            print("| " + " | ".join([names[proxy], measure, *cells, show([row["recovery"] for row in of], 3)]) + " |")
    print("\n| beta | steps | component | delta | cosine with others | barriers |\n|---|---|---|---|---|---|")
    verdicts = []
    for beta in ("0.5", "0"):
        for length in LENGTHS:
            checks = [json.loads((out / f"seed-{seed}/check-{beta}-{length}.json").read_text()) for seed in seeds]
            for i, one in enumerate(checks[0]["components"]):
                of = [check["components"][i] for check in checks]
                cosines = [value for row in of for value in row["cosines"].values()]
                barriers = [m["barrier"] for check in checks for m in check["midpoints"] if one["name"] in m["between"]]
                worse = f"{sum(b > 0 for b in barriers)} of {len(barriers)}"
                sizes = show([row["size"] for row in of], 3)
                print(f"| {beta} | {length} | {one['name']} | {sizes} | {show(cosines)} | {worse} |")
            verdicts.append(f"beta {beta}, {length} steps: " + ", ".join(check["verdict"] for check in checks))
    print("\n" + "\n\n".join(verdicts))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    {"mixtures": write_mixtures, "references": write_references, "tables": write_tables}[command](*arguments)
