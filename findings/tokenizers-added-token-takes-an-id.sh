#!/usr/bin/env bash
# tokenizers 0.23.3: in a vocabulary with a gap, an added token gets the id of a token that is there.
#
# Expected: a new token gets an id that is free: the gap, or the one after the largest.
# Observed: ids of added tokens start at the number of tokens. In a vocabulary {a: 0, b: 1, c: 3, e: 4}, as after removing a token, the
# first one gets 4, which is "e". Both names have this id from then on, "e" is decoded as the added token, and a saved and loaded
# tokenizer is the same. A padding token that is added this way shares the embedding of a word, without a warning.
# The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tokenizers==0.23.3
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from tokenizers import Tokenizer, models

def added(vocabulary):
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(["<pad>"])
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    ids = tokenizer.encode("abce").ids
    seen = tokenizer.token_to_id("<pad>"), tokenizer.token_to_id("e"), ids, tokenizer.decode(ids, skip_special_tokens=False)
    print(vocabulary, "<pad> is", seen[0], "and e is", seen[1], "; abce is", seen[2], "and back", repr(seen[3]))
    return seen

assert added({"a": 0, "b": 1, "c": 2, "e": 3}) == (4, 3, [0, 1, 2, 3], "a b c e")
if added({"a": 0, "b": 1, "c": 3, "e": 4}) != (4, 4, [0, 1, 3, 4], "a b c <pad>"):
    raise SystemExit("changed: the added token has a free id now")
PYTHON
