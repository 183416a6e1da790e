"""Summarises runs/expert_bias.sh: docs/results/expert-bias.csv, and the tables within docs/results/expert-bias.md.

expert_bias_table.py OUT writes both; expert_bias_table.py --zero IN OUT copies a checkpoint with its balance biases set to zero.
"""

import csv
import json
import math
import pathlib
import shutil
import statistics
import struct
import sys

from pages import paste

RESULTS = pathlib.Path(__file__).parent.parent / "docs" / "results"
BIAS = ".e_score_correction_bias"
T95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
WINDOWS = {"8x10": "8 checkpoints, 10 steps apart", "8x40": "8 checkpoints, 40 steps apart", "8x80": "8 checkpoints, 80 steps apart"}
ARMS = {
    "average": "all averaged (`--router average`)",
    "bias-newest": "bias of the newest (`--take-newest`)",
    "matrix-newest": "router's matrix of the newest, bias averaged",
    "router-newest": "both of the newest (`--router newest`)",
    "bias-zero": "control: bias 0",
    "rebalanced": "all averaged, then the bias moved for 50 steps",
    "trunk": "not merged: the newest checkpoint",
}
NAMES = (
    "bias_rate seed window arm nats_per_token over_average_nats standard_error low_95 high_95 n_texts "
    "imbalance busiest_share bias_distance_to_average bias_sd"
)


def tensors(folder):
    """Names and bytes of a checkpoint of one file in F32."""
    data = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    place = lambda entry: slice(*(8 + length + offset for offset in entry["data_offsets"]))
    assert all(entry["dtype"] == "F32" for entry in header.values()), folder
    return data, {name: place(entry) for name, entry in header.items()}


def biases(folder):
    """The bias of each layer, less its mean: only differences between experts choose."""
    data, places = tensors(folder)
    found = [data[place] for name, place in sorted(places.items()) if name.endswith(BIAS)]
    found = [struct.unpack(f"<{len(raw) // 4}f", raw) for raw in found]
    return [[value - statistics.fmean(layer) for value in layer] for layer in found]


def parameters(folder):
    data, places = tensors(folder)
    return {name: data[place] for name, place in places.items() if not name.endswith(BIAS)}


def zero(source, target):
    if (target / "model.safetensors").exists():
        return
    target.mkdir(exist_ok=True)
    data, places = tensors(source)
    data = bytearray(data)
    for name, place in places.items():
        if name.endswith(BIAS):
            data[place] = bytes(place.stop - place.start)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if (source / name).exists():
            shutil.copy(source / name, target / name)
    (target / "model.safetensors").write_bytes(data)


def arm_of(path):
    """`.../8x10/rebalanced/step-50` -> `rebalanced`."""
    return next(part for part in reversed(pathlib.Path(path).parts) if part in ARMS)


def load_of(line):
    """Largest over mean load, and the share of tokens that choose the busiest expert; means over layers."""
    for layer in line["counts"]:
        assert sum(layer) == 2 * line["n_tokens"], line["checkpoint"]
    largest = [max(layer) * len(layer) / sum(layer) for layer in line["counts"]]
    shares = [max(layer) / line["n_tokens"] for layer in line["counts"]]
    return statistics.fmean(largest), statistics.fmean(shares)


def check_trunk(folder):
    """The loss that the loads were counted with is the one in the run's own log."""
    log = [json.loads(line) for line in (folder / "trunk" / "validation.jsonl").read_text().splitlines()]
    line = json.loads((folder / "validation-load.jsonl").read_text())
    gap = abs(log[-1]["nll_nats"] - line["nats_per_token"])
    assert log[-1]["n_tokens"] == line["n_tokens"] and gap < 1e-6, (folder, log[-1], line["nats_per_token"])


def collect(out):
    rows = []
    for done in sorted(out.glob("bias-*/seed-*/done")):
        folder = done.parent
        rate, seed = folder.parent.name.removeprefix("bias-"), int(folder.name.split("-")[1])
        check_trunk(folder)
        for window in WINDOWS:
            scores = json.loads((folder / window / "scores.json").read_text())
            loads = [json.loads(line) for line in (folder / window / "loads.jsonl").read_text().splitlines()]
            load = {arm_of(line["checkpoint"]): (line["checkpoint"], *load_of(line)) for line in loads}
            gains = {arm_of(row["b"]): row for row in scores["comparisons"] if row["task"] == "stories"}
            of_average = biases(pathlib.Path(load["average"][0]))
            moved = pathlib.Path(load["rebalanced"][0])
            assert parameters(moved) == parameters(folder / window / "average"), "more than the bias moved"
            for score in scores["scores"]:
                arm = arm_of(score["checkpoint"])
                path, imbalance, busiest = load[arm]
                bias = biases(pathlib.Path(path))
                distance = statistics.fmean(abs(a - b) for x, y in zip(bias, of_average) for a, b in zip(x, y))
                spread = statistics.fmean(statistics.pstdev(layer) for layer in bias)
                # The gain is positive where the arm is better than the average; here lower is better, as in nats.
                gain = gains.get(arm)
                paired = [0.0, 0.0, 0.0, 0.0]
                if gain:
                    paired = [-gain["gain"], gain["standard_error"], -gain["interval_95"][1], -gain["interval_95"][0]]
                rows.append([rate, seed, window, arm, score["value"], *paired, score["n"], imbalance, busiest, distance, spread])
    return rows


def spread(values, digits=4, sign="+"):
    """Mean with the half width of its 95 % interval over seeds."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:{sign}.{digits}f}"
    half = T95[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:{sign}.{digits}f} ± {half:.{digits}f}"


def overview(rows, rates):
    """What each policy costs against averaging everything: a line for each rate and window, and the mean of the windows."""
    shown = ["bias-newest", "router-newest", "bias-zero"]
    names = ["bias of the newest", "matrix and bias of the newest", "bias 0"]
    text = ["| bias rate | window | " + " | ".join(f"{name}: nats | load" for name in names) + " |"]
    text.append("|---|---" + "|---" * (2 * len(shown)) + "|")
    for rate in rates:
        for windows, title in [*(([window], title) for window, title in WINDOWS.items()), (list(WINDOWS), "mean of the three")]:
            cells = []
            for arm in shown:
                of = lambda arm, window: sorted(row for row in rows if (row[0], row[2], row[3]) == (rate, window, arm))
                nats = [[row[5] for row in of(arm, window)] for window in windows]
                loads = [[row[10] - base[10] for row, base in zip(of(arm, window), of("average", window))] for window in windows]
                cells += [spread([statistics.fmean(seed) for seed in zip(*nats)]), spread([statistics.fmean(seed) for seed in zip(*loads)], 3)]
            text.append(f"| {rate} | {title} | " + " | ".join(cells) + " |")
    return [*text, ""]


def details(rows, rate, window, title):
    of = lambda arm: sorted(row for row in rows if (row[0], row[2], row[3]) == (rate, window, arm))
    text = [f"### Bias moved by {rate} each step, {title}", ""]
    text += ["| policy | nats per token | over all averaged (paired) | seeds worse, better beyond the texts' noise | largest over mean load | over all averaged (paired) | busiest expert's share of tokens |"]
    text += ["|---|---|---|---|---|---|---|"]
    base = of("average")
    for arm, name in ARMS.items():
        found = of(arm)
        worse, better = sum(row[7] > 0 for row in found), sum(row[8] < 0 for row in found)
        loads = spread([row[10] - other[10] for row, other in zip(found, base)], 3)
        paired = [spread([row[5] for row in found]), f"{worse}, {better} of {len(found)}", loads]
        if arm == "average":
            paired = ["–", "–", "–"]
        cells = [name, spread([row[4] for row in found], sign=""), paired[0], paired[1], spread([row[10] for row in found], 3, ""), paired[2]]
        text.append("| " + " | ".join([*cells, f"{statistics.fmean(row[11] for row in found):.3f}"]) + " |")
    moved, wide = statistics.fmean(row[12] for row in of("bias-newest")), statistics.fmean(row[13] for row in base)
    return [*text, "", f"With its mean removed, the newest bias is {moved:.4f} from the averaged one (mean over experts), which has a standard deviation of {wide:.4f} over experts.", ""]


def tables(rows):
    rates, seeds = sorted({row[0] for row in rows}), sorted({row[1] for row in rows})
    assert all({row[1] for row in rows if row[0] == rate} == set(seeds) for rate in rates), "a seed is not done at every rate"
    text = [f"n = {len(seeds)} seeds ({', '.join(map(str, seeds))}) at each rate, {rows[0][9]} texts. Over all averaged, paired by seed:", ""]
    text += overview(rows, rates)
    for rate in rates:
        for window, title in WINDOWS.items():
            text += details(rows, rate, window, title)
    return text


def main(out):
    rows = collect(out)
    with open(RESULTS / "expert-bias.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(NAMES.split())
        for row in rows:
            writer.writerow([f"{cell:.6f}" if isinstance(cell, float) else cell for cell in row])
    lines = tables(rows)
    if (RESULTS / "expert-bias.md").exists():
        paste(RESULTS / "expert-bias.md", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    if sys.argv[1] == "--zero":
        zero(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    else:
        main(pathlib.Path(sys.argv[1]))
