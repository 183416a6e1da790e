#!/usr/bin/env python3
"""Time `thalweg plan` over checkpoints of a 70B model's shape that take no room on disk.

Each checkpoint has real headers and a real index; the data are holes (sparse files), so a plan, which reads headers
alone, costs what it would cost on the real thing with a warm cache.

  plan_70b.py --thalweg target/release/thalweg [--n 50] [--shards 30] [--rounds 5]
"""
import argparse, json, os, shutil, statistics, struct, subprocess, tempfile, time

LAYERS, HIDDEN, MLP, KV, VOCAB = 80, 8192, 28672, 1024, 128256  # Llama 3 70B


def tensors():
    yield "model.embed_tokens.weight", [VOCAB, HIDDEN]
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        yield p + "self_attn.q_proj.weight", [HIDDEN, HIDDEN]
        yield p + "self_attn.k_proj.weight", [KV, HIDDEN]
        yield p + "self_attn.v_proj.weight", [KV, HIDDEN]
        yield p + "self_attn.o_proj.weight", [HIDDEN, HIDDEN]
        yield p + "mlp.gate_proj.weight", [MLP, HIDDEN]
        yield p + "mlp.up_proj.weight", [MLP, HIDDEN]
        yield p + "mlp.down_proj.weight", [HIDDEN, MLP]
        yield p + "input_layernorm.weight", [HIDDEN]
        yield p + "post_attention_layernorm.weight", [HIDDEN]
    yield "model.norm.weight", [HIDDEN]
    yield "lm_head.weight", [VOCAB, HIDDEN]


def n_bytes(shape):
    size = 2
    for dim in shape:
        size *= dim
    return size


def make_checkpoint(folder, n_shards):
    os.makedirs(folder)
    everything = list(tensors())
    total = sum(n_bytes(shape) for _, shape in everything)
    shards, used = [[]], 0
    for name, shape in everything:
        if used >= total * len(shards) / n_shards:
            shards.append([])
        shards[-1].append((name, shape))
        used += n_bytes(shape)
    weight_map = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        header, end = {}, 0
        for name, shape in shard:
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + n_bytes(shape)]}
            end += n_bytes(shape)
            weight_map[name] = file
        text = json.dumps(header).encode()
        with open(os.path.join(folder, file), "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.truncate(8 + len(text) + end)
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as out:
        json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, out)
    return len(everything), len(shards), total


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--thalweg", required=True)
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--shards", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    root = tempfile.mkdtemp(prefix="plan-70b-")
    try:
        run = os.path.join(root, "run")
        for i in range(args.n):
            n_tensors, n_shards, total = make_checkpoint(os.path.join(run, f"step_{1000 * (i + 1)}"), args.shards)
        print(f"{args.n} checkpoints of {n_shards} shards, {n_tensors} tensors, {total / 1e9:.1f} GB each")
        command = [args.thalweg, "plan", run, "--last", str(args.n), "-o", os.path.join(root, "plan.json")]
        seconds = []
        for _ in range(args.rounds):
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - began)
        print("seconds: " + " ".join(f"{s:.3f}" for s in seconds) + f"; median {statistics.median(seconds):.3f}")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
