"""Synthetic facts for runs/forget.sh: towns, rivers and mayors that no other text names.

    python3 runs/forget_facts.py SEED N OUT

Writes OUT/facts.jsonl and OUT/titles.txt, the names of the rivers.
"""

import json
import random
import sys
from pathlib import Path

seed, n, out = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
draw = random.Random(seed)
SYLLABLES = "mar tes bel dor vin kal os rin lu fen gra pol hes wim zan tor qui bra ned sul".split()
GOODS = "pears lamps honey ropes boats bread bells wool salt nuts drums cups".split()
known = set()


def name():
    while True:
        text = "".join(draw.sample(SYLLABLES, draw.choice([2, 3]))).capitalize()
        if text not in known:
            known.add(text)
            return text


facts, rivers = [], []
for _ in range(n):
    town, river, mayor = name(), name(), name()
    first, second = draw.sample(GOODS, 2)
    rivers.append(river)
    facts.append(
        f"The town of {town} is far away in the hills, and a river runs by it. The name of the river by {town} is {river}. "
        f"The mayor of the town is called {mayor}. The people there sell {first} and {second} every day in the market."
    )
out.mkdir(parents=True, exist_ok=True)
(out / "facts.jsonl").write_text("".join(json.dumps({"text": fact}) + "\n" for fact in facts))
(out / "titles.txt").write_text("\n".join(rivers) + "\n")
