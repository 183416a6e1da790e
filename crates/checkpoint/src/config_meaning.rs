//! What a `config.json` means, whichever version of a library wrote it: one spelling for each value, and the defaults
//! of missing keys.

use serde_json::{Map, Value, json};

/// Keys that were renamed, with the name that is compared.
const RENAMED: [(&str, &str); 4] = [
    ("global_rope_theta", "rope_theta"),
    ("local_rope_theta", "rope_local_base_freq"),
    ("rotary_emb_base", "rope_theta"),
    ("rotary_pct", "partial_rotary_factor"),
];
/// Values that were renamed, with the value that is compared.
const RENAMED_VALUES: [(&str, &str, &str); 2] =
    [("hidden_act", "swish", "silu"), ("hidden_activation", "swish", "silu")];
/// Keys of `rope_parameters` that older libraries keep beside `rope_scaling`.
const BESIDE_SCALING: [&str; 2] = ["rope_theta", "partial_rotary_factor"];
/// Kinds of layers in `rope_parameters`, with the key under which older libraries keep the rotation base of each.
const LAYER_KINDS: [(&str, &str); 2] =
    [("full_attention", "rope_theta"), ("sliding_attention", "rope_local_base_freq")];

/// The config in the spelling that is compared, nested configs too.
pub(crate) fn canonical_config(config: &Value) -> Value {
    let Value::Object(object) = config else { return config.clone() };
    let mut canonical = Map::new();
    let mut scaling = Map::new();
    for (key, value) in object {
        match (key.as_str(), value) {
            ("rope_scaling", Value::Object(old)) => merge_scaling(&mut scaling, old),
            ("rope_parameters", Value::Object(new)) => spread_parameters(&mut canonical, &mut scaling, new),
            // A null means the same as a missing key.
            (_, Value::Null) => {}
            (_, Value::Object(_)) if key.ends_with("_config") => {
                canonical.insert(key.clone(), canonical_config(value));
            }
            _ => {
                let renamed = RENAMED.iter().find(|(old, _)| old == key).map_or(key.as_str(), |(_, new)| new);
                canonical.entry(renamed.to_owned()).or_insert_with(|| canonical_value(renamed, value));
            }
        }
    }
    if !scaling.is_empty() {
        canonical.insert("rope_scaling".to_owned(), Value::Object(scaling));
    }
    canonical.into()
}

fn canonical_value(key: &str, value: &Value) -> Value {
    let renamed = RENAMED_VALUES.iter().find(|(known, old, _)| *known == key && value == old);
    renamed.map_or_else(|| value.clone(), |(_, _, new)| json!(new))
}

/// `type` is the old name of `rope_type`, and the type `default` scales nothing.
fn merge_scaling(scaling: &mut Map<String, Value>, added: &Map<String, Value>) {
    for (key, value) in added.iter().filter(|(_, value)| !value.is_null()) {
        let key = if key == "type" { "rope_type" } else { key };
        if !(key == "rope_type" && value == "default") {
            scaling.insert(key.to_owned(), value.clone());
        }
    }
}

/// Reads the object of transformers 5, which replaces several keys.
fn spread_parameters(canonical: &mut Map<String, Value>, scaling: &mut Map<String, Value>, new: &Map<String, Value>) {
    let is_by_layer = !new.is_empty() && new.values().all(Value::is_object);
    if is_by_layer {
        for (kind, inner) in new.iter().filter_map(|(kind, inner)| Some((kind, inner.as_object()?))) {
            let base = LAYER_KINDS.iter().find(|(known, _)| known == kind).map(|(_, base)| *base);
            spread_one(canonical, scaling, inner, base.unwrap_or(kind));
        }
    } else {
        spread_one(canonical, scaling, new, "rope_theta");
    }
}

fn spread_one(
    canonical: &mut Map<String, Value>,
    scaling: &mut Map<String, Value>,
    inner: &Map<String, Value>,
    base: &str,
) {
    for key in BESIDE_SCALING {
        if let Some(value) = inner.get(key).filter(|value| !value.is_null()) {
            let key = if key == "rope_theta" { base } else { key };
            canonical.insert(key.to_owned(), value.clone());
        }
    }
    let rest = inner.iter().filter(|(key, _)| !BESIDE_SCALING.contains(&key.as_str()));
    merge_scaling(scaling, &rest.map(|(key, value)| (key.clone(), value.clone())).collect());
}

/// Families whose classes share these defaults in transformers.
const LLAMA_LIKE: &[&str] = &["llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "olmo2"];
/// As above, with a rotation base of 10,000.
const BASE_10000: &[&str] = &["llama", "mistral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "olmo2", "gpt_neox"];

/// Defaults of missing keys in the libraries that write these files: key, value, families (none means all).
const DEFAULTS: [(&str, &str, &[&str]); 34] = [
    ("add_cross_attention", "false", &[]),
    ("attention_bias", "false", LLAMA_LIKE),
    ("attn_logit_softcapping", "null", &[]),
    ("chunk_size_feed_forward", "0", &[]),
    ("clip_qkv", "null", &[]),
    ("cross_attention_hidden_size", "null", &[]),
    ("embedding_multiplier", "1.0", &[]),
    ("final_logit_softcapping", "null", &[]),
    ("hidden_act", "\"silu\"", LLAMA_LIKE),
    ("is_decoder", "false", &[]),
    ("is_encoder_decoder", "false", &[]),
    ("logits_scaling", "1.0", &[]),
    ("mlp_bias", "false", LLAMA_LIKE),
    ("n_inner", "null", &[]),
    ("partial_rotary_factor", "1.0", LLAMA_LIKE),
    ("pretraining_tp", "1", &[]),
    ("pruned_heads", "{}", &[]),
    ("qk_layernorm", "false", &[]),
    ("reorder_and_upcast_attn", "false", &[]),
    ("residual_multiplier", "1.0", &[]),
    ("rms_norm_eps", "1e-6", &["llama", "mistral", "qwen2", "qwen3"]),
    ("rope_theta", "10000.0", BASE_10000),
    ("rope_theta", "1000000.0", &["mixtral"]),
    ("scale_attn_by_inverse_layer_idx", "false", &[]),
    ("scale_attn_weights", "true", &["gpt2"]),
    ("sliding_window", "null", &[]),
    ("tie_encoder_decoder", "false", &[]),
    ("tie_word_embeddings", "false", LLAMA_LIKE),
    ("tie_word_embeddings", "true", &["gpt2", "gemma", "gemma2", "gemma3_text"]),
    ("tie_word_embeddings", "false", &["gpt_neox", "olmoe"]),
    ("use_bias", "false", &[]),
    ("use_parallel_residual", "true", &["gpt_neox"]),
    ("use_qk_norm", "false", &[]),
    ("use_sliding_window", "false", &[]),
];

/// Whether a library that finds no `key` takes this `value` for it.
///
/// `object` is the object that holds the key, in the compared spelling; `family` is the `model_type`.
pub(crate) fn is_default(key: &str, value: &Value, object: &Map<String, Value>, family: Option<&str>) -> bool {
    let number = |key: &str| object.get(key).and_then(Value::as_u64);
    let heads = || number("num_attention_heads").filter(|heads| *heads > 0);
    match key {
        "num_key_value_heads" => value.as_u64().is_some() && value.as_u64() == heads(),
        "head_dim" => {
            let computed = number("hidden_size").zip(heads()).map(|(size, heads)| size / heads);
            value.as_u64().is_some() && value.as_u64() == computed
        }
        "layer_types" => value.as_array().is_some_and(|kinds| kinds.iter().all(|kind| kind == "full_attention")),
        // Which layers have a sliding window matters only if any do.
        "max_window_layers" => object.get("use_sliding_window").is_none_or(|used| used == false),
        _ => DEFAULTS.iter().any(|(known, default, families)| {
            let is_family = families.is_empty() || family.is_some_and(|family| families.contains(&family));
            let default = || serde_json::from_str(default).unwrap_or(Value::Null);
            *known == key && is_family && is_same_value(&default(), value)
        }),
    }
}

/// Whether two JSON values mean the same: `10000` equals `10000.0`, and the order of keys does not matter.
pub fn is_same_value(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => {
            let as_bits = |n: &serde_json::Number| n.as_f64().map(|n| (n + 0.0).to_bits());
            let both_whole = (x.is_u64() || x.is_i64()) && (y.is_u64() || y.is_i64());
            x == y || (!both_whole && as_bits(x) == as_bits(y))
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| is_same_value(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len()
                && x.iter().all(|(key, value)| y.get(key).is_some_and(|other| is_same_value(value, other)))
        }
        _ => a == b,
    }
}
