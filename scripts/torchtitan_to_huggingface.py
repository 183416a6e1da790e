#!/usr/bin/env python3
"""Writes Llamas with torchtitan, converts them with `thalweg --to-huggingface`, and compares their logits in transformers with torchtitan's own.

    cargo build && python scripts/torchtitan_to_huggingface.py target/debug/thalweg

Each model is torchtitan's Llama 3 with random weights, built and run by torchtitan on a CPU with its own scaled-dot-product attention (the default one needs a GPU) and saved by
torch.distributed.checkpoint. The converted folder is loaded by AutoModelForCausalLM as it is, and must

    load without a missing, unexpected or mismatched tensor
    have the weights that torchtitan's Llama3StateDictAdapter makes, bit for bit
    give torchtitan's logits on random tokens, in float32

The logits are sums of the same products in another order, so they differ by rounding: at most TOLERANCE of the largest logit. The same comparison without the new order of the rows
of queries and keys is printed beside it, and must be far outside of that. The last case merges three checkpoints straight into a Hugging Face folder, and compares with the mean made by PyTorch.

Needs torch, torchtitan 0.3 and transformers 5. Exits with 0 if everything holds.
"""
import os
import subprocess
import sys
import tempfile
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")
import torch
import torch.distributed.checkpoint as dcp
import transformers
from torchtitan.models import llama3
from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.llama3.state_dict_adapter import Llama3StateDictAdapter

transformers.logging.disable_progress_bar()

# Some 160 roundings to float32, of 6e-8 each. A wrong order of rows makes a difference of about 1.
TOLERANCE = 1e-5
SCALING = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
CASES = {
    "8 heads, 2 of keys": {"heads": 8, "kv_heads": 2, "head_dim": 6},
    "5 heads, as many of keys": {"heads": 5, "kv_heads": 5, "head_dim": 10},
    "4 heads, 1 of keys, scaled rotation": {"heads": 4, "kv_heads": 1, "head_dim": 16, "scaling": SCALING},
    "tied": {"heads": 6, "kv_heads": 3, "head_dim": 8, "tied": True},
    "separate projections": {"heads": 8, "kv_heads": 4, "head_dim": 4, "fused": False},
}
VOCABULARY, INNER, LAYERS, THETA = 97, 52, 3, 10000.0


def titan_config(heads, kv_heads, head_dim, scaling=None, tied=False, fused=True):
    dim = heads * head_dim
    rotation = {"scaling": "none"}
    if scaling:
        names = {"scaling_factor": "factor", "low_freq_factor": "low_freq_factor", "high_freq_factor": "high_freq_factor", "original_max_position_embeddings": "original_max_position_embeddings"}
        rotation = {"scaling": "llama", **{ours: scaling[theirs] for ours, theirs in names.items()}}
    rope = ComplexRoPE.Config(dim=head_dim, max_seq_len=128, theta=THETA, **rotation)
    layers = llama3._build_llama3_layers(
        n_layers=LAYERS, dim=dim, n_heads=heads, n_kv_heads=kv_heads, hidden_dim=INNER, rope=rope, fuse_qkv=fused, attn_backend="flex")
    for layer in layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
    return llama3.Llama3Model.Config(
        dim=dim, vocab_size=VOCABULARY, layers=layers, enable_weight_tying=tied,
        tok_embeddings=Embedding.Config(num_embeddings=VOCABULARY, embedding_dim=dim, param_init=llama3._EMBEDDING_INIT),
        norm=RMSNorm.Config(normalized_shape=dim, param_init=llama3._NORM_INIT),
        lm_head=Linear.Config(in_features=dim, out_features=VOCABULARY, param_init=llama3._output_linear_init(dim)))


def titan_model(config, seed):
    """Weights large enough that attention is far from uniform: a wrong order of rows must show."""
    torch.manual_seed(seed)
    model = config.build()
    model.init_states() if hasattr(model, "init_states") else model.init_weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(1 + 0.1 * torch.randn_like(parameter) if "norm" in name else torch.randn_like(parameter) * 2 * parameter.shape[-1] ** -0.5)
    return model.eval()


def save_assets(folder, heads, kv_heads, head_dim, scaling=None, tied=False, fused=True):
    """The folder that `--hf-assets` names. Its dtype is not that of the checkpoint, as in practice."""
    del fused
    rotation = {"rope_theta": THETA, **(scaling or {"rope_type": "default"})}
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=heads * head_dim, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=heads, num_key_value_heads=kv_heads,
        max_position_embeddings=128, rms_norm_eps=1e-5, rope_parameters=rotation, tie_word_embeddings=tied, architectures=["LlamaForCausalLM"], dtype="bfloat16")
    config.save_pretrained(folder)


def load(folder):
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
    problems = {kind: sorted(map(str, names)) for kind, names in loading.items() if names}
    assert not problems, f"{folder}: {problems}"
    return model.eval()


def run(*arguments):
    subprocess.run([sys.argv[1], *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def difference(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def check_weights(model, adapted, tied):
    found = model.state_dict()
    expected = {**adapted, "lm_head.weight": adapted["model.embed_tokens.weight"]} if tied else adapted
    assert found.keys() == expected.keys(), sorted(found.keys() ^ expected.keys())
    assert all(torch.equal(found[name], expected[name]) for name in expected), "the weights are not the adapter's"


def undone(model, heads, kv_heads):
    """The same model with the rows of queries and keys in torchtitan's order."""
    for layer in model.model.layers:
        for projection, n_heads in ((layer.self_attn.q_proj, heads), (layer.self_attn.k_proj, kv_heads)):
            rows, columns = projection.weight.shape
            weight = projection.weight.detach().view(n_heads, 2, rows // n_heads // 2, columns).transpose(1, 2).reshape(rows, columns)
            projection.weight = torch.nn.Parameter(weight.contiguous())
    return model


def compare(what, folder, model, config, tied, heads, kv_heads):
    tokens = torch.randint(VOCABULARY, (4, 61))
    positions = torch.arange(tokens.shape[1]).expand_as(tokens).contiguous()
    loaded = load(folder)
    with torch.no_grad():
        check_weights(loaded, Llama3StateDictAdapter(config, None).to_hf(dict(model.state_dict())), tied)
        theirs = model(tokens, positions=positions, attention_masks=None)
        found = difference(loaded(tokens).logits, theirs)
        without = difference(undone(loaded, heads, kv_heads)(tokens).logits, theirs)
    print(f"{what}: logits differ by {found:.2e} of the largest, {theirs.abs().max().item():.2f}; in torchtitan's order of rows by {without:.2e}", flush=True)
    return found <= TOLERANCE and without >= 100 * TOLERANCE


def check(what, scratch, case):
    step, assets, out = (os.path.join(scratch, name) for name in ("step-10", "assets", "hf"))
    config = titan_config(**case)
    model = titan_model(config, 1)
    dcp.save(dict(model.state_dict()), checkpoint_id=step)
    save_assets(assets, **case)
    run("convert", step, "-o", out, "--to-huggingface", "--hf-assets", assets)
    run("verify", out, "--inputs")
    return compare(what, out, model, config, case.get("tied", False), case["heads"], case["kv_heads"])


def check_merge(scratch):
    case = {"heads": 8, "kv_heads": 2, "head_dim": 6}
    config = titan_config(**case)
    models = [titan_model(config, seed) for seed in (1, 2, 3)]
    assets, out, steps = os.path.join(scratch, "assets"), os.path.join(scratch, "hf"), os.path.join(scratch, "checkpoint")
    save_assets(assets, **case)
    for i, model in enumerate(models):
        dcp.save(dict(model.state_dict()), checkpoint_id=os.path.join(steps, f"step-{10 * (i + 1)}"))
    run("merge", steps, "--last", "3", "-o", out, "--to-huggingface", "--hf-assets", assets)
    mean = titan_model(config, 4)
    with torch.no_grad():
        for parameter, *sources in zip(mean.parameters(), *(model.parameters() for model in models)):
            parameter.copy_(sum(source.double() for source in sources) / 3)
    return compare("merge of three", out, mean, config, False, case["heads"], case["kv_heads"])


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    outcomes = []
    for what, case in CASES.items():
        with tempfile.TemporaryDirectory() as scratch:
            outcomes.append(check(what, scratch, case))
    with tempfile.TemporaryDirectory() as scratch:
        outcomes.append(check_merge(scratch))
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
