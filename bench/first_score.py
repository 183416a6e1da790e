"""Seconds from the start of a scored sweep to its first score, for several builds in turn.

Makes a run of 10 checkpoints of 30 shards (a Llama of 3 layers) in FOLDER, unless it exists, and sweeps 40 windows over it. Prints the
minimum of five rounds.

    python3 bench/first_score.py FOLDER thalweg-before thalweg-after
"""
import json, os, random, shutil, struct, subprocess, sys, time
from array import array

HIDDEN, INNER, VOCAB, LAYERS, ROUNDS = 64, 128, 512, 3, 5
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")


def tensors():
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for layer in range(LAYERS):
        name = f"model.layers.{layer}."
        yield from ((name + f"{norm}_layernorm.weight", (HIDDEN,)) for norm in ("input", "post_attention"))
        yield from ((name + f"self_attn.{part}_proj.weight", (HIDDEN, HIDDEN)) for part in "qkvo")
        yield from ((name + f"mlp.{part}_proj.weight", (INNER, HIDDEN)) for part in ("gate", "up"))
        yield name + "mlp.down_proj.weight", (HIDDEN, INNER)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCAB, HIDDEN)


def make(folder):
    config = {"model_type": "llama", "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": INNER,
              "num_hidden_layers": LAYERS, "num_attention_heads": 4, "max_position_embeddings": 512}
    numbers, shards = random.Random(1), list(tensors())
    for step in range(100, 1001, 100):
        path = os.path.join(folder, "run", f"step-{step}")
        os.makedirs(path)
        index = {}
        for i, (name, shape) in enumerate(shards, 1):
            n = shape[0] * (shape[1] if len(shape) > 1 else 1)
            data = array("f", [numbers.gauss(0, 0.05) if len(shape) > 1 else 1.0 for _ in range(n)]).tobytes()
            entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, len(data)]}
            head = json.dumps({name: entry, "__metadata__": {"format": "pt"}}).encode()
            head += b" " * (-len(head) % 8)
            index[name] = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
            with open(os.path.join(path, index[name]), "wb") as file:
                file.write(struct.pack("<Q", len(head)) + head + data)
        with open(os.path.join(path, "model.safetensors.index.json"), "w") as file:
            json.dump({"metadata": {}, "weight_map": index}, file)
        with open(os.path.join(path, "config.json"), "w") as file:
            json.dump(config, file)
        shutil.copy(os.path.join(ROOT, "tokenizers/bpe-512/tokenizer.json"), path)
    with open(os.path.join(folder, "notes.txt"), "w") as file:
        file.write("One day a cat met a dog.\n")
    with open(os.path.join(folder, "suite.toml"), "w") as file:
        file.write('kind = "thalweg-suite"\nversion = 1\nrole = "selection"\ncontext_length = 64\n'
                   'start = "<|endoftext|>"\n[[task]]\nname = "notes"\nkind = "text"\nfile = "notes.txt"\n')


def first_score(folder, program):
    out = os.path.join(folder, "out")
    shutil.rmtree(out, ignore_errors=True)
    scores, began = os.path.join(out, "scores"), time.perf_counter()
    command = [program, "sweep", os.path.join(folder, "run"), "--counts", "3,4,5,6,7,8,9,10",
               "--schemes", "sma,wma,ema:0.2,ema:0.3,ema:0.4", "--suite", os.path.join(folder, "suite.toml"),
               "--keep", "none", "-o", out, "-q", "-j", "2"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while child.poll() is None:
        if os.path.isdir(scores) and any(name.endswith(".json") for name in os.listdir(scores)):
            break
        time.sleep(0.0005)
    seconds = time.perf_counter() - began
    child.kill()
    child.wait()
    return seconds


folder, *programs = sys.argv[1:]
if not os.path.isdir(os.path.join(folder, "run")):
    make(folder)
seconds = {program: [] for program in programs}
for _ in range(ROUNDS):
    for program in programs:
        seconds[program].append(first_score(folder, program))
for program in programs:
    print(f"{program}: {min(seconds[program]):.3f} s, all {' '.join(f'{one:.3f}' for one in seconds[program])}")
for program in programs[1:]:
    print(f"{program} takes {min(seconds[program]) / min(seconds[programs[0]]):.3f} of the time of {programs[0]}")
