#!/usr/bin/env python3
"""Time all 255 subsets of eight experts: what merging and bookkeeping take beside scoring, and how often experts are read.

    law_curve.py FOLDER --thalweg target/release/thalweg [--rounds 3]

FOLDER gets a model of about a million parameters and eight experts that are trained from it for a few steps, once.
"""
import argparse
import json
import statistics
import subprocess
from pathlib import Path

CONFIG = """kind = "thalweg-train"
version = 1
seed = {seed}
steps = {steps}
sequence_length = 64
batch_sequences = 8
tokenizer = "bpe-512"
[model]
hidden = 128
layers = 4
heads = 4
intermediate = 352
[[data]]
from = "stories"
[optimizer]
learning_rate = 2e-3
[schedule]
kind = "constant"
[checkpoints]
every_steps = {steps}
"""
SUITE = """kind = "thalweg-suite"
version = 1
name = "stories"
role = "selection"
context_length = 64
[[task]]
name = "stories"
kind = "text"
file = "{file}"
limit = 128
cut_tokens = 64
measures = ["nats_per_token"]
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--thalweg", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    stories = Path(__file__).resolve().parent.parent / "corpora/stories/validation.jsonl.zst"
    (folder / "suite.toml").write_text(SUITE.format(file=stories))

    def train(name, seed, steps, start=""):
        if not (folder / name / f"step-{steps}").exists():
            (folder / f"{name}.toml").write_text(CONFIG.format(seed=seed, steps=steps) + start)
            subprocess.run([args.thalweg, "train", folder / f"{name}.toml", "-o", folder / name, "-q"], check=True)
        return folder / name / f"step-{steps}"

    base = train("base", 0, 40)
    experts = [train(f"expert-{i}", i, 60, f'[start]\nfrom = "{base}"\nstate = "full"\n') for i in range(1, 9)]
    rows = []
    for _ in range(args.rounds):
        (folder / "curve.jsonl").unlink(missing_ok=True)
        command = [args.thalweg, "law", "curve", "--suite", folder / "suite.toml", "-o", folder / "curve.jsonl", "--json", "-q"]
        for expert in experts:
            command += ["-m", expert]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        stored = sum(file.stat().st_size for expert in experts for file in expert.glob("*.safetensors"))
        rows.append((found["overhead"], found["cost"]["seconds"], found["scoring_seconds"], found["cost"]["bytes_read"] / stored))
        n_merges, n_tokens = found["n_merges"], found["cost"]["n_tokens"]
    overhead, seconds, scoring, read = (statistics.median(column) for column in zip(*rows))
    print(f"{n_merges} merges of {len(experts)} experts, {n_tokens // n_merges} tokens each; medians of {args.rounds} rounds")
    print(f"{seconds:.2f} s, of which scoring {scoring:.2f} s; merging and bookkeeping {100 * overhead:.1f} % of the scoring")
    print(f"each round: {' '.join(f'{100 * row[0]:.1f} %' for row in rows)}; read {read:.3f} times the files of the experts")


if __name__ == "__main__":
    main()
