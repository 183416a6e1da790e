#!/usr/bin/env bash
# transformers 5.24.0 (tokenizers 0.23.3): a call that truncates and pads is part of the tokenizer that is saved after it.
#
# Expected: `tokenizer(texts, truncation=True, max_length=4, padding="max_length")` is about these texts; `save_pretrained` writes what was
# loaded, and the same bytes before and after the call.
# Observed: the call leaves truncation and padding set, and both are in tokenizer.json. transformers sets them anew in each call, so it
# does not notice. What reads the file with the tokenizers library, in Python or Rust, cuts every text to 4 tokens and pads shorter ones,
# without a warning: perplexities of whole documents become those of their beginnings. Save before the first call, or call
# `no_truncation()` and `no_padding()`. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 tokenizers==0.23.3 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

plain = Tokenizer(models.WordLevel({word: number for number, word in enumerate(["<pad>", "<unk>", "a", "b", "c"])}, unk_token="<unk>"))
plain.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", unk_token="<unk>")

def saved(folder):
    tokenizer.save_pretrained(folder)
    path = Path(folder) / "tokenizer.json"
    kept = json.loads(path.read_text())
    read = Tokenizer.from_file(str(path))
    by_transformers = PreTrainedTokenizerFast.from_pretrained(folder)("a b c a b c").input_ids
    seen = bool(kept["truncation"]), bool(kept["padding"]), read.encode("a b c a b c").ids, read.encode("a").ids, by_transformers
    print(f"{folder}: truncation {seen[0]}, padding {seen[1]}; six words and one word by tokenizers: {seen[2]} {seen[3]}; six by transformers: {seen[4]}")
    return seen

before = saved("before")
tokenizer(["a b c a b", "a"], truncation=True, max_length=4, padding="max_length")
after = saved("after")
six = [2, 3, 4, 2, 3, 4]
assert before == (False, False, six, [2], six), before
if after != (True, True, six[:4], [2, 0, 0, 0], six):
    raise SystemExit("changed: the call is not saved now")
PYTHON
