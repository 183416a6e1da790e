#!/usr/bin/env python3
"""Loads a merged checkpoint in transformers and compares its logits with those of the reference merge.

    python scripts/load_in_transformers.py MERGED EXPECTED.safetensors

MERGED is a folder that `thalweg merge` made from fixtures/hf-sharded or fixtures/hf-moe, EXPECTED.safetensors the file of
the same scheme in that fixture's `expected/`. Needs torch, transformers and safetensors. Exit 0 if all logits are equal.
"""
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def main():
    merged, expected = sys.argv[1:]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(merged, dtype="auto")
    tokens = torch.randint(0, model.config.vocab_size, (2, 48))
    with torch.no_grad():
        ours = model(tokens).logits
    # The reference goes through the same loader, from a copy of the folder with its tensors exchanged.
    import os, shutil, tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name in os.listdir(merged):
            if not name.endswith(".safetensors") and "index" not in name:
                shutil.copy(os.path.join(merged, name), folder)
        from safetensors.torch import save_file

        save_file(load_file(expected), os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        reference = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        with torch.no_grad():
            theirs = reference(tokens).logits
    equal = torch.equal(ours, theirs)
    print(f"{merged}: {type(model).__name__}, {model.dtype}, logits {'equal' if equal else 'DIFFER'} over {ours.numel()} values, "
          f"largest |logit| {ours.abs().max().item():.4f}")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
