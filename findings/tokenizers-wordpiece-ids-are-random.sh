#!/usr/bin/env bash
# tokenizers 0.23.3: training WordPiece twice on the same text gives the same tokens under other ids, even within one process.
#
# Expected: as for BPE, where the same text gives the same tokenizer to the byte.
# Observed: pieces that continue a word ("##e") are numbered in random order. BPE with a `continuing_subword_prefix` does the same. A
# model trained with the first tokenizer reads other letters with the second one, whose set of tokens is equal, so a comparison of
# vocabularies as sets finds nothing. Keep the file; the text and the settings do not give it again. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tokenizers==0.23.3
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import random
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

random.seed(0)
words = ["low", "lower", "lowest", "new", "newest", "wide", "widest", "slow", "town", "wont"]
lines = [" ".join(random.choices(words, k=8)) for _ in range(200)]

def train(model, trainer, **options):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(lines, trainer(vocab_size=40, show_progress=False, **options))
    return tokenizer

kinds = {
    "BPE": lambda: train(models.BPE(), trainers.BpeTrainer),
    "BPE with a prefix": lambda: train(models.BPE(), trainers.BpeTrainer, continuing_subword_prefix="##"),
    "WordPiece": lambda: train(models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer, special_tokens=["[UNK]"]),
}
seen = {}
for name, make in kinds.items():
    tokenizers = [make() for _ in range(8)]
    n_numberings = len({tuple(sorted(one.get_vocab().items())) for one in tokenizers})
    n_sets = len({tuple(sorted(one.get_vocab())) for one in tokenizers})
    n_texts = len({tuple(one.encode("lot widow").ids) for one in tokenizers})
    seen[name] = n_numberings, n_sets, n_texts
    print(f"{name}: of 8 trained, {n_sets} set of tokens, {n_numberings} numberings, {n_texts} encodings of a text")
assert seen["BPE"] == (1, 1, 1), seen
if any(seen[name][0] == 1 or seen[name][1] != 1 for name in ("WordPiece", "BPE with a prefix")):
    raise SystemExit("changed: ids are the same each time now")
PYTHON
