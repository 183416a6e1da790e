#!/usr/bin/env python3
"""The held-out loss of a checkpoint of `thalweg train` in transformers, beside the one that the run logged.

    python scripts/loss_in_transformers.py RUN STEP DOCUMENTS.jsonl SEQUENCE_LENGTH

RUN/step-STEP is loaded, DOCUMENTS.jsonl (not packed) is what the run's only domain was validated on, SEQUENCE_LENGTH that
of its config. Exit 0 if transformers' mean next-token loss over the same tokens differs by less than 1e-5 nats, exit 1 if not, or
if a tensor is missing, left over or of another shape (transformers fills it with random values and continues). Needs torch,
transformers and tokenizers.
"""
import json, os, sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch, transformers
from tokenizers import Tokenizer


def read_tokens(folder, documents):
    """Ids of all documents, each with its end of text; text that spells a special token out stays text."""
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    end = tokenizer.token_to_id("<|endoftext|>")
    with open(documents, encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines if line.strip()]
    return [token for text in texts for token in tokenizer.encode(text, add_special_tokens=False).ids + [end]]


def main():
    run, step, documents, length = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    folder = os.path.join(run, f"step-{step}")
    with open(os.path.join(run, "validation.jsonl"), encoding="utf-8") as lines:
        logged = next(row for row in map(json.loads, lines) if row["step"] == step)
    tokens = read_tokens(folder, documents)
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    problems = {kind: sorted(map(str, names)) for kind, names in loading.items() if names}
    if problems:
        sys.exit(f"{folder}: {problems}")
    total, n = 0.0, logged["n_tokens"]
    with torch.no_grad():
        for first in range(0, n, length):
            ids = torch.tensor(tokens[first:first + length + 1])
            logits = model.eval()(ids[None, :-1], use_cache=False).logits[0].double()
            total += torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum").item()
    print(f"{type(model).__name__}, {n} tokens: transformers {total / n:.8f}, thalweg {logged['nll_nats']:.8f} nats per token")
    return 0 if abs(total / n - logged["nll_nats"]) < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
