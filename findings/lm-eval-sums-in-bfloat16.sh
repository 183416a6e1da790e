#!/usr/bin/env bash
# lm-eval 0.4.13 (torch 2.15.0, transformers 5.24.0): the log-likelihoods of a bfloat16 model have eight bits.
#
# Expected: the logits have the type of the model, but logarithms are taken and added in float32, so the sum over a text of 700 words
# is right to about seven digits.
# Observed: both happen in bfloat16. Sums near 3300 nats come in steps of 16, so -3322.893 is given as -3328. Three models whose sums
# span nine nats have this one score, so it cannot tell merges of one run apart. The option `softmax_dtype=float32`, which is not
# the default, gives the right sums. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 'lm-eval[hf]==0.4.13' transformers==5.24.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 TQDM_DISABLE=1 "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import random, torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(62)} | {"<s>": 62, "<unk>": 63}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="<s>", unk_token="<unk>")
random.seed(0)
text = " ".join(f"w{random.randrange(62)}" for _ in range(700))
tokens = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                                     num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.2)).bfloat16().eval()

def scores():
    with torch.no_grad():
        logits = model(torch.cat([torch.tensor([[62]]), tokens], 1)[:, :-1]).logits
    right = logits.double().log_softmax(-1).gather(-1, tokens[..., None]).sum().item()
    found = []
    for options in ({}, {"softmax_dtype": "float32"}):
        evaluated = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=1024, device="cpu", **options)
        found += evaluated.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    return right, *found

seen = []
for _ in range(4):
    seen.append(scores())
    print("right: %.3f, by default: %.3f, with softmax_dtype=float32: %.3f" % seen[-1])
    model.lm_head.weight.data.mul_(1.004)
for right, default, asked in seen:
    assert abs(right - asked) < 0.01, seen
    if default % 16 or abs(right - default) < 0.01:
        raise SystemExit("changed: sums are no longer rounded to bfloat16")
PYTHON
