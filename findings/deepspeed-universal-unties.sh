#!/usr/bin/env bash
# DeepSpeed 0.19.8 (torch 2.15.0): a universal checkpoint of a model with tied weights holds two unequal copies of them.
#
# Expected: the tied weight once, or twice with the same values.
# Observed: under the name that the optimizer knows, `ds_to_universal --inject_missing_state` writes the float32 master. Under the name
# tied to it, it writes the 16-bit module weight widened to float32, without moments. The two differ in most elements, by up to half a
# ULP of bfloat16. A reader that takes both names gets a model that is no longer tied. The script fails when this changes.
# It runs on the CPU and needs g++ (DeepSpeed builds a helper for gloo).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
DS_BUILD_OPS=0 "$folder/venv/bin/pip" install --quiet setuptools wheel ninja torch==2.15.0 deepspeed==0.19.8 numpy==2.4.6
cd "$folder"
export PATH="$folder/venv/bin:$PATH" DS_ACCELERATOR=cpu RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 LOCAL_SIZE=1 CROSS_RANK=0 CROSS_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=0
cat > main.py <<'PYTHON'
import os, subprocess, sys, torch, torch.distributed as dist
dist.init_process_group("gloo", init_method=f"file://{os.getcwd()}/store", rank=0, world_size=1)
import deepspeed
deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(16, 8); self.head = torch.nn.Linear(8, 16, bias=False); self.head.weight = self.embed.weight
    def forward(self, tokens):
        return torch.nn.functional.cross_entropy(self.head(self.embed(tokens)).float(), tokens)

torch.manual_seed(0)
net = Net()
engine, *_ = deepspeed.initialize(model=net, optimizer=torch.optim.AdamW(net.parameters(), lr=0.01), config={
    "train_micro_batch_size_per_gpu": 4, "bf16": {"enabled": True}, "zero_optimization": {"stage": 1}, "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False})
for _ in range(3):
    engine.backward(engine(torch.arange(4))); engine.step()
engine.save_checkpoint("run", tag="global_step3")
subprocess.run([sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--input_folder", "run/global_step3", "--output_folder", "run/universal",
                "--inject_missing_state", "--num_extract_workers", "1", "--num_merge_workers", "1"], check=True, stdout=subprocess.DEVNULL)
read = lambda name: torch.load(f"run/universal/zero/{name}/fp32.pt", weights_only=False)["param"].detach().float().reshape(16, 8)
embed, head = read("embed.weight"), read("head.weight")
print("files:", {name: sorted(os.listdir(f"run/universal/zero/{name}")) for name in ("embed.weight", "head.weight")})
print("elements that differ:", int((embed != head).sum()), "of", embed.numel(), "; head is embed in bfloat16:", torch.equal(head, embed.bfloat16().float()))
assert not torch.equal(embed, head) and torch.equal(head, embed.bfloat16().float())
PYTHON
"$folder/venv/bin/python" main.py
