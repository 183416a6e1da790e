"""Times merges and conversions of trainers' formats beside the safetensors merge of the same weights and beside PyTorch.

    python bench/formats.py --program target/release/thalweg --out FOLDER [--millions 280] [--rounds 3]

Needs torch and safetensors. Writes four checkpoints of a Llama-like model (bf16) as safetensors, `torch.save` and a
distributed checkpoint of two ranks, then runs each work in turn, `rounds` times: merges without digests over a warm cache,
the same merge by `dcp.load` of each source into CPU state dicts, an f32 sum and `dcp.save`, and conversions to one
safetensors file. Times are wall time and a sync; memory is the largest resident set. Prints one JSON object with medians.
"""
import argparse, json, os, shutil, statistics, subprocess, sys, tempfile, time

N = 4


def shapes(millions):
    """Names and shapes of about so many million parameters."""
    hidden, vocab = 1024, 32_000
    layer = 4 * hidden * hidden + 3 * hidden * 2816 + 2 * hidden
    n_layers = max(1, round((millions * 1e6 - 2 * vocab * hidden) / layer))
    out = {"model.embed_tokens.weight": (vocab, hidden), "lm_head.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for i in range(n_layers):
        start = f"model.layers.{i}."
        for name in "qkvo":
            out[f"{start}self_attn.{name}_proj.weight"] = (hidden, hidden)
        out[f"{start}mlp.gate_proj.weight"] = out[f"{start}mlp.up_proj.weight"] = (2816, hidden)
        out[f"{start}mlp.down_proj.weight"] = (hidden, 2816)
        out[f"{start}input_layernorm.weight"] = out[f"{start}post_attention_layernorm.weight"] = (hidden,)
    return out


def state(millions, k):
    import torch
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(k + 1)
    out = {}
    for name, shape in shapes(millions).items():
        base = torch.randn(shape) * 0.02
        out[name] = (base + torch.randn(shape, generator=generator) * 1e-3).to(torch.bfloat16)
    return out


def save_rank(rank, folder, millions, port):
    import torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for k in range(N):
        tensors = {name: distribute_tensor(tensor, mesh, [Shard(0)]) for name, tensor in state(millions, k).items()}
        dcp.save({"model": tensors}, checkpoint_id=f"{folder}/step-{k + 1}")
    dist.destroy_process_group()


def make(out, millions):
    import torch
    from safetensors.torch import save_file
    for kind in ("safetensors", "torch", "dcp"):
        os.makedirs(f"{out}/{kind}", exist_ok=True)
    for k in range(N):
        tensors = state(millions, k)
        os.makedirs(f"{out}/safetensors/step-{k + 1}", exist_ok=True)
        save_file(tensors, f"{out}/safetensors/step-{k + 1}/model.safetensors")
        torch.save({"model": tensors, "step": k + 1}, f"{out}/torch/step-{k + 1}.pt")
    torch.multiprocessing.spawn(save_rank, args=(f"{out}/dcp", millions, 29611), nprocs=2)


PEER = """
import sys, torch, torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader
out, *sources = sys.argv[1:]
total, names = None, FileSystemReader(sources[0]).read_metadata().state_dict_metadata
for path in sources:
    state = {name: torch.empty(meta.size, dtype=meta.properties.dtype) for name, meta in names.items()}
    dcp.load(state, checkpoint_id=path)
    if total is None:
        total = {name: tensor.float() for name, tensor in state.items()}
    else:
        for name, tensor in state.items():
            total[name] += tensor
dcp.save({name: (tensor / len(sources)).to(torch.bfloat16) for name, tensor in total.items()}, checkpoint_id=out)
"""
TO_ONE_FILE = """
import sys, torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from safetensors.torch import save_file
source, out = sys.argv[1:]
dcp_to_torch_save(source, out + ".pt")
save_file({k: v.contiguous() for k, v in torch.load(out + ".pt", mmap=True)["model"].items()}, out)
"""


def timed(command):
    """Wall seconds with a sync of the disk, and peak memory in MiB."""
    os.sync()
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    message = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    os.sync()
    if status != 0:
        sys.exit(f"{command[:4]}: {message.decode()[-500:]}")
    return time.monotonic() - start, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--millions", type=int, default=280)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if not os.path.exists(f"{args.out}/dcp/step-{N}/.metadata"):
        make(args.out, args.millions)
    steps = [f"{args.out}/dcp/step-{k + 1}" for k in range(N)]
    scratch = tempfile.mkdtemp(dir=args.out)
    merge = lambda kind: [args.program, "merge", f"{args.out}/{kind}", "--last", str(N), "--digest", "none", "-o", f"{scratch}/out"]
    works = {
        "merge safetensors": merge("safetensors"),
        "merge torch": merge("torch"),
        "merge dcp": merge("dcp"),
        "merge dcp by PyTorch": [sys.executable, "-c", PEER, f"{scratch}/out", *steps],
        "convert dcp": [args.program, "convert", steps[0], "--digest", "none", "--consolidate", "-o", f"{scratch}/out"],
        "dcp_to_torch_save and save_file": [sys.executable, "-c", TO_ONE_FILE, steps[0], f"{scratch}/out"],
    }
    found = {name: [] for name in works}
    for _ in range(args.rounds + 1):
        for name, command in works.items():
            found[name].append(timed(command))
            shutil.rmtree(f"{scratch}/out", ignore_errors=True)
            for left in os.listdir(scratch):
                os.remove(f"{scratch}/{left}")
    shutil.rmtree(scratch)
    # The first round fills the cache.
    medians = {name: [round(statistics.median(run[i] for run in runs[1:]), 3) for i in (0, 1)] for name, runs in found.items()}
    print(json.dumps({"millions": args.millions, "rounds": args.rounds, "seconds_and_mib": medians}, indent=1))


if __name__ == "__main__":
    main()
