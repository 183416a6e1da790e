#!/usr/bin/env bash
# torchtitan 0.3.0 (torch 2.15.0): weights and moments of one checkpoint have different names and different row orders.
#
# Expected: `optimizer.state.NAME.exp_avg` for every model tensor NAME, of the same shape.
# Observed: Llama 3 trains one fused parameter, `qkv_linear.wqkv.weight`, and a hook splits it into wq, wk, wv for the state
# dict. So the weights are saved under three names and the Adam moments under a fourth, which the model part does not have.
# The fused rows are in groups (the queries of a key-value head, its key, its value), so the moments are not the three parts
# in sequence. torch's get_model_state_dict() fails on such a model. Matching moments to weights by name loses attention.
# The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 torchtitan==0.3.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torchtitan.components.optimizer import OptimizersContainer, ParamGroupConfig
from torchtitan.models import llama3
from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
dim, heads, kv_heads, vocab = 16, 4, 2, 32
layers = llama3._build_llama3_layers(n_layers=1, dim=dim, n_heads=heads, n_kv_heads=kv_heads, hidden_dim=24, attn_backend="flex",
                                     rope=ComplexRoPE.Config(dim=dim // heads, max_seq_len=32, theta=10000, scaling="none"))
model = llama3.Llama3Model.Config(
    dim=dim, vocab_size=vocab, layers=layers,
    tok_embeddings=Embedding.Config(num_embeddings=vocab, embedding_dim=dim, param_init=llama3._EMBEDDING_INIT),
    norm=RMSNorm.Config(normalized_shape=dim, param_init=llama3._NORM_INIT),
    lm_head=Linear.Config(in_features=dim, out_features=vocab, param_init=llama3._output_linear_init(dim))).build()
model.init_states()
optimizer = OptimizersContainer.Config(implementation="for-loop", param_groups=[
    ParamGroupConfig(pattern=".*", optimizer_name="AdamW", optimizer_kwargs={"lr": 0.1})]).build(model_parts=[model])
weights = model.state_dict()
fused = dict(model.named_parameters())["layers.0.attention.qkv_linear.wqkv.weight"]
owner = {tuple(row.tolist()): part for part in "qkv" for row in weights[f"layers.0.attention.qkv_linear.w{part}.weight"]}
order = "".join(owner[tuple(row.tolist())] for row in fused)
for parameter in model.parameters():
    parameter.grad = torch.ones_like(parameter)
optimizer.step()
moments = {key[len("state."):-len(".exp_avg")] for key in optimizer.state_dict() if key.endswith(".exp_avg")}
print("weights without moments:", sorted(set(weights) - moments))
print("moments without weights:", sorted(moments - set(weights)))
print("rows of the fused parameter:", order)
assert sorted(set(weights) - moments) == [f"layers.0.attention.qkv_linear.w{part}.weight" for part in "kqv"]
assert moments - set(weights) == {"layers.0.attention.qkv_linear.wqkv.weight"} and order == "qqqqqqqqkkkkvvvv" * 2
try:
    get_model_state_dict(model)
except AttributeError as error:
    print("get_model_state_dict:", error)
else:
    raise SystemExit("get_model_state_dict takes the model now")
PYTHON
