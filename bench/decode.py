#!/usr/bin/env python3
"""Time greedy decoding beside transformers' generate, and compare the tokens.

    decode.py CKPT --decode target/release/examples/decode [--batch 64] [--prompt 32] [--new 32] [--rounds 5]

CKPT is a Hugging Face folder. Prompts are random tokens. Both decode the same batch with a key-value cache on two threads, in turn;
loading is not timed. Without `--decode` only the prompts are written.
"""
import argparse
import json
import random
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--decode", required=True)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_pretrained(args.checkpoint, dtype=torch.float32).eval()
    draw = random.Random(0)
    prompts = [[draw.randrange(5, model.config.vocab_size) for _ in range(args.prompt)] for _ in range(args.batch)]
    ids = torch.tensor(prompts)
    given = dict(attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=args.new, min_new_tokens=args.new, pad_token_id=0)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = Path(folder) / "prompts.json"
        path.write_text(json.dumps(prompts))
        model.generate(ids, **given)
        for _ in range(args.rounds):
            began = time.perf_counter()
            expected = model.generate(ids, **given)[:, args.prompt:].tolist()
            theirs.append(time.perf_counter() - began)
            found = subprocess.run([args.decode, args.checkpoint, path, str(args.new), "2"], capture_output=True, text=True, check=True)
            # The first round fills caches, as the one before the rounds does there.
            line = json.loads(found.stdout.splitlines()[-1])
            ours.append(line["seconds"])
    n_same = sum(a == b for one, other in zip(line["tokens"], expected) for a, b in zip(one, other))
    n_params = sum(param.numel() for param in model.parameters())
    print(f"{n_params} parameters, {args.batch} prompts of {args.prompt} tokens, {args.new} new; medians of {args.rounds} rounds")
    for name, seconds in (("thalweg", ours), ("transformers", theirs)):
        print(f"{name}: {statistics.median(seconds):.3f} s ({' '.join(f'{one:.3f}' for one in seconds)})")
    print(f"transformers takes {statistics.median(theirs) / statistics.median(ours):.2f} times as long")
    print(f"equal tokens: {n_same} of {args.batch * args.new}")


if __name__ == "__main__":
    main()
