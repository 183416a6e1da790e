//! The families of models: whose names, layouts and configuration keys a model has.

/// Whose names, layouts and configuration keys a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the variants are the families' own names")]
pub enum Family {
    Llama,
    Qwen2,
    Qwen3,
    Olmo2,
    GptNeox,
    Gpt2,
    Mixtral,
    Qwen3Moe,
    Olmoe,
    /// Our own: names as Qwen3-MoE, with shared experts and a balance bias. No other program knows it, so none computes
    /// it wrongly.
    ThalwegMoe,
}

impl Family {
    /// Every family, in the order of their declaration.
    pub const ALL: [Self; 10] = [
        Self::Llama,
        Self::Qwen2,
        Self::Qwen3,
        Self::Olmo2,
        Self::GptNeox,
        Self::Gpt2,
        Self::Mixtral,
        Self::Qwen3Moe,
        Self::Olmoe,
        Self::ThalwegMoe,
    ];

    /// The `model_type` of its configurations.
    pub const fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Olmo2 => "olmo2",
            Self::GptNeox => "gpt_neox",
            Self::Gpt2 => "gpt2",
            Self::Mixtral => "mixtral",
            Self::Qwen3Moe => "qwen3_moe",
            Self::Olmoe => "olmoe",
            Self::ThalwegMoe => "thalweg_moe",
        }
    }

    /// Whether the configuration can have only a part of each head rotated. The other families rotate whole heads.
    pub(crate) const fn rotates_a_share(self) -> bool {
        matches!(self, Self::GptNeox | Self::ThalwegMoe)
    }

    /// The class that transformers loads it with.
    pub(crate) const fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Olmo2 => "Olmo2ForCausalLM",
            Self::GptNeox => "GPTNeoXForCausalLM",
            Self::Gpt2 => "GPT2LMHeadModel",
            Self::Mixtral => "MixtralForCausalLM",
            Self::Qwen3Moe => "Qwen3MoeForCausalLM",
            Self::Olmoe => "OlmoeForCausalLM",
            Self::ThalwegMoe => "ThalwegMoeForCausalLM",
        }
    }
}
