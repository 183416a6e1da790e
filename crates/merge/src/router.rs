//! Which tensors decide where a mixture of experts sends its tokens, by their names alone. It does not know what a plan
//! does with them.

/// Buffers that trainers move by counts of tokens, wherever they keep them: Megatron and torchtitan; DeepSeek-V3 in
/// transformers, and thalweg's lab; older torchtitan.
const BALANCE_BIASES: [&str; 3] = ["expert_bias", "e_score_correction_bias", "local_expert_bias"];

/// What the names of counters of tokens contain: `local_tokens_per_expert`, `tokens_per_expert_cumulative`.
const COUNTERS: [&str; 2] = ["tokens_per_expert", "batch_size_per_expert"];

/// Modules that do nothing else: everything in them counts, such as `router.gate.weight` of torchtitan,
/// `router.layer.weight` of Granite, `router.classifier.weight` of Switch and `router.score_bias` of OLMo-core.
const ROUTERS: [&str; 2] = ["router", "shared_expert_gate"];

/// Modules whose `gate` is a router: Qwen, OLMoE and DeepSeek; DeepSeek's own code; LFM2; Nemotron-H. Names that end in
/// `moe`, such as Mixtral's `block_sparse_moe` and DeepSpeed's `deepspeed_moe`, need no entry.
const BLOCKS: [&str; 4] = ["mlp", "ffn", "feed_forward", "mixer"];

/// Whether a tensor steers a mixture of experts: the router itself, its balancing bias or its counters.
pub(crate) fn is_router(name: &str) -> bool {
    let (modules, leaf) = name.rsplit_once('.').unwrap_or(("", name));
    // Newer versions of torchtitan, and Llama 4, append the names of the dimensions: `expert_bias_E`, `router_DE`.
    let leaf = match leaf.rsplit_once('_') {
        Some((name, dims)) if dims.bytes().all(|byte| byte.is_ascii_uppercase()) => name,
        _ => leaf,
    };
    if ROUTERS.contains(&leaf)
        || BALANCE_BIASES.contains(&leaf)
        || COUNTERS.iter().any(|counter| leaf.contains(counter))
    {
        return true;
    }
    // Megatron's shared experts have their gate as a parameter, not as a module.
    if leaf == "gate_weight" && modules.ends_with("shared_experts") {
        return true;
    }
    let mut block = "";
    modules.split('.').any(|module| {
        let is_gate = module == "gate" && (BLOCKS.contains(&block) || block.ends_with("moe"));
        block = module;
        is_gate || ROUTERS.contains(&module)
    })
}

#[cfg(test)]
mod tests {
    use super::is_router;

    fn check_names(names: &[&str], expected: bool) {
        for name in names {
            assert_eq!(is_router(name), expected, "{name}");
            let wrapped = format!("model.{name}");
            assert_eq!(is_router(&wrapped), expected, "{wrapped}");
        }
    }

    #[test]
    fn balance_biases_of_every_trainer_are_found() {
        check_names(
            &[
                "layers.1.moe.expert_bias",
                "layers.1.moe.expert_bias_E",
                "decoder.layers.1.mlp.router.expert_bias",
                "decoder.layers.mlp.router.expert_bias",
                "layers.3.mlp.gate.e_score_correction_bias",
                "layers.3.block_sparse_moe.e_score_correction_bias",
                "layers.3.mlp.moe_statics.e_score_correction_bias",
                "layers.3.ffn.gate.bias",
                "layers.3.feed_forward.expert_bias",
                "blocks.3.feed_forward_moe.router.score_bias",
                "layers.1.mlp.router.local_expert_bias",
                "expert_bias",
            ],
            true,
        );
    }

    #[test]
    fn counters_of_tokens_are_found() {
        check_names(
            &[
                "layers.1.moe.tokens_per_expert",
                "layers.1.moe.tokens_per_expert_E",
                "layers.1.moe.tokens_per_expert_cumulative",
                "decoder.layers.1.mlp.router.local_tokens_per_expert",
                "blocks.1.feed_forward_moe.router.batch_size_per_expert",
            ],
            true,
        );
    }

    #[test]
    fn matrices_of_routers_are_found() {
        check_names(
            &[
                "layers.1.moe.router.gate.weight",
                "decoder.layers.1.mlp.router.weight",
                "layers.1.mlp.gate.weight",
                "layers.1.block_sparse_moe.gate.weight",
                "layers.1.block_sparse_moe.router.layer.weight",
                "layers.1.feed_forward.router.weight",
                "layers.1.mlp.router.classifier.weight",
                "layers.1.mlp.router.bias",
                "layers.1.feed_forward.router_DE",
                "layers.1.ffn.gate.weight",
                "layers.1.mixer.gate.weight",
                "layers.1.mlp.deepspeed_moe.gate.wg.weight",
                "layers.1.mlp.shared_expert_gate.weight",
                "decoder.layers.1.mlp.shared_experts.gate_weight",
            ],
            true,
        );
    }

    #[test]
    fn experts_and_gated_layers_are_not_routers() {
        check_names(
            &[
                "layers.1.mlp.gate_proj.weight",
                "layers.1.mlp.experts.0.gate.weight",
                "layers.1.mlp.experts.gate_up_proj_bias",
                "layers.1.mlp.shared_experts.gate_proj.weight",
                "layers.1.moe.experts.w1_EFD",
                "layers.1.self_attn.gate.weight",
                "layers.1.attention.gate_weight",
                "layers.1.mlp.routers_of_heat.weight",
                "layers.1.norm.bias",
                "gate",
                "layers.1.router_norm",
            ],
            false,
        );
    }
}
