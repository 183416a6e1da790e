//! The model of a config: a few numbers become the `config.json` of a family, and that a [`ModelConfig`].

use serde_json::{Map, Value, json};
use thalweg_model::ModelConfig;

use crate::Error;
use crate::config::{ModelSection, TrainConfig};

/// How experts are kept evenly used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Balance {
    /// Not at all.
    None,
    /// A loss with this coefficient (Fedus et al. 2021, arXiv 2101.03961).
    Aux(f64),
    /// A bias on the choice, moved by this much a step (Wang et al. 2024, arXiv 2408.15664).
    Bias(f64),
}

impl Balance {
    /// Reads `aux:0.01`, `bias:0.001` or `none`.
    ///
    /// # Errors
    /// `Value`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let refuse = || {
            let message = format!("`{text}` is none of `aux:COEFFICIENT`, `bias:RATE` and `none`");
            Error::value("model.balance", message)
        };
        let number = |text: &str| text.parse::<f64>().ok().filter(|n| *n >= 0.0 && n.is_finite());
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            Some(("aux", coefficient)) => number(coefficient).map(Self::Aux).ok_or_else(refuse),
            Some(("bias", rate)) => number(rate).map(Self::Bias).ok_or_else(refuse),
            _ => Err(refuse()),
        }
    }
}

/// The balance that a config asks for.
///
/// # Errors
/// `Value`.
pub(crate) fn balance_of(section: &ModelSection) -> Result<Balance, Error> {
    section.balance.as_deref().map_or(Ok(Balance::None), Balance::parse)
}

/// The model that a config describes; `n_tokens` is the tokenizer's number of tokens.
///
/// # Errors
/// `Value` for keys that are missing or do not belong together; `VocabularyTooSmall`; `Model`.
pub(crate) fn model_config_of(config: &TrainConfig, n_tokens: usize) -> Result<ModelConfig, Error> {
    let section = &config.model;
    let json = match &section.config {
        Some(table) => table_config(section, table, n_tokens)?,
        None => shorthand_config(section, n_tokens, config.sequence_length)?,
    };
    let model = ModelConfig::from_json(&json)?;
    if model.vocab_size < n_tokens {
        return Err(Error::VocabularyTooSmall { n_tokens, vocab_size: model.vocab_size });
    }
    model.check_length(config.sequence_length)?;
    Ok(model)
}

fn table_config(section: &ModelSection, table: &Map<String, Value>, n_tokens: usize) -> Result<Value, Error> {
    let alone = ModelSection { config: Some(table.clone()), balance: section.balance.clone(), ..empty_section() };
    if *section != alone {
        let message = "a `config` says everything: of the other keys of `[model]` only `balance` may be given with it";
        return Err(Error::value("model.config", message));
    }
    let mut table = table.clone();
    table.entry("vocab_size").or_insert_with(|| json!(n_tokens));
    Ok(Value::Object(table))
}

fn empty_section() -> ModelSection {
    ModelSection {
        family: None,
        config: None,
        hidden: None,
        layers: None,
        heads: None,
        kv_heads: None,
        head_dim: None,
        intermediate: None,
        tied_head: None,
        vocab_size: None,
        rope_theta: None,
        n_experts: None,
        top_k: None,
        balance: None,
    }
}

/// Families that the short form knows, and their `model_type`.
const FAMILIES: [(&str, &str); 8] = [
    ("llama", "llama"),
    ("qwen3", "qwen3"),
    ("olmo2", "olmo2"),
    ("gpt-neox", "gpt_neox"),
    ("mixtral", "mixtral"),
    ("olmoe", "olmoe"),
    ("qwen3-moe", "qwen3_moe"),
    ("thalweg-moe", "thalweg_moe"),
];

fn shorthand_config(section: &ModelSection, n_tokens: usize, sequence_length: usize) -> Result<Value, Error> {
    let need = |key: &'static str, value: Option<usize>| {
        value.filter(|value| *value > 0).ok_or_else(|| Error::value(key, "it is missing or 0"))
    };
    let has_bias = matches!(balance_of(section)?, Balance::Bias(_));
    let default = if section.n_experts.is_none() { "llama" } else { "thalweg-moe" };
    let family = section.family.as_deref().unwrap_or(default);
    let known = FAMILIES.iter().find(|(name, _)| *name == family);
    let Some((_, model_type)) = known else {
        let names: Vec<&str> = FAMILIES.iter().map(|(name, _)| *name).collect();
        return Err(Error::value("model.family", format!("`{family}` is none of {}", names.join(", "))));
    };
    let is_moe = FAMILIES.iter().skip(4).any(|(name, _)| *name == family);
    if is_moe != section.n_experts.is_some() || is_moe != section.top_k.is_some() {
        let message = "`n_experts` and `top_k` belong to mixtral, olmoe, qwen3-moe and thalweg-moe, which need both";
        return Err(Error::value("model.n_experts", message));
    }
    if has_bias && family != "thalweg-moe" {
        return Err(Error::value("model.balance", "only the family thalweg-moe has a balancing bias"));
    }
    if !is_moe && section.balance.is_some() {
        return Err(Error::value("model.balance", "there are no experts to balance"));
    }
    let (hidden, heads) = (need("model.hidden", section.hidden)?, need("model.heads", section.heads)?);
    let inner = need("model.intermediate", section.intermediate)?;
    let inner_key =
        if ["qwen3-moe", "thalweg-moe"].contains(&family) { "moe_intermediate_size" } else { "intermediate_size" };
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
    put("model_type", json!(model_type));
    put("vocab_size", json!(section.vocab_size.unwrap_or(n_tokens)));
    put("hidden_size", json!(hidden));
    put(inner_key, json!(inner));
    put("num_hidden_layers", json!(need("model.layers", section.layers)?));
    put("num_attention_heads", json!(heads));
    put("max_position_embeddings", json!(sequence_length));
    put("tie_word_embeddings", json!(section.tied_head.unwrap_or(false)));
    let optional = [
        ("num_key_value_heads", section.kv_heads),
        ("head_dim", section.head_dim),
        ("num_experts_per_tok", section.top_k),
        (if family == "mixtral" { "num_local_experts" } else { "num_experts" }, section.n_experts),
    ];
    for (key, value) in optional {
        value.map(|value| put(key, json!(value)));
    }
    section.rope_theta.map(|theta| put("rope_theta", json!(theta)));
    if is_moe && family != "mixtral" {
        put("norm_topk_prob", json!(true));
    }
    if has_bias {
        put("balance_bias", json!(true));
    }
    Ok(Value::Object(map))
}
