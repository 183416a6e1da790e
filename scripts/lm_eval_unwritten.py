#!/usr/bin/env python3
"""Runs lm-evaluation-harness over a merge that is not written and over the written one, and compares item by item.

    python scripts/lm_eval_unwritten.py [--task TASK] [--limit N] [--scheme SCHEME] [--device D] RUN

RUN holds checkpoints of a Hugging Face model with a tokenizer; fixtures/hf-sharded is a tiny one. Without `--task`, two
tasks of questions made here are scored: choices by log-likelihood, and text by perplexity. Needs lm-eval, transformers
and thalweg. Ends with 1 if any item differs.
"""
import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import thalweg
import thalweg.lm_eval

CHOICES = """
task: tiny_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/choices.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""
TEXTS = """
task: tiny_texts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/texts.jsonl}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - {{metric: word_perplexity}}
  - {{metric: bits_per_byte}}
"""


def make_tasks(folder):
    words = "the cat sat on a mat and then it ran to its small house by the old river".split()
    draw = random.Random(5)
    text = lambda n: " ".join(draw.choice(words) for _ in range(n))
    rows = [{"question": text(8), "choices": [" " + text(3) for _ in range(4)], "answer": i % 4} for i in range(40)]
    (folder / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text(40)}) + "\n" for _ in range(10)))
    for name, form in (("choices", CHOICES), ("texts", TEXTS)):
        (folder / f"{name}.yaml").write_text(form.format(folder=folder))
    return ["tiny_choices", "tiny_texts"]


def items(results):
    return {
        task: [{key: value for key, value in sample.items() if key != "arguments"} for sample in samples]
        for task, samples in results["samples"].items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", action="append")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--scheme", default="sma")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("run")
    args = parser.parse_args()
    plan = thalweg.plan(sources=[one.path for one in thalweg.open_run(args.run).checkpoints], scheme=args.scheme)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        tasks = args.task or make_tasks(scratch)
        manager = TaskManager(include_path=str(scratch))
        thalweg.merge(plan, scratch / "merged")
        scored = {}
        for name, model in (
            ("unwritten", thalweg.lm_eval.UnwrittenMerge(plan, device=args.device, batch_size=4)),
            ("written", HFLM(pretrained=str(scratch / "merged"), device=args.device, batch_size=4)),
        ):
            scored[name] = lm_eval.simple_evaluate(
                model=model, tasks=tasks, task_manager=manager, limit=args.limit, log_samples=True, bootstrap_iters=0
            )
    mine, theirs = items(scored["unwritten"]), items(scored["written"])
    n_items = sum(map(len, mine.values()))
    n_differing = sum(a != b for task in theirs for a, b in zip(mine[task], theirs[task], strict=True))
    for task, metrics in scored["unwritten"]["results"].items():
        print(task, {name: value for name, value in metrics.items() if isinstance(value, float)})
    print(json.dumps(scored["unwritten"]["config"]["thalweg"], indent=1))
    print(f"{n_differing} of {n_items} items differ between the unwritten and the written merge")
    same = not n_differing and n_items and scored["unwritten"]["results"] == scored["written"]["results"]
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
