//! Compares the configs of several checkpoints: which keys differ, and whether that matters.
//!
//! Only the text is compared; how an architecture uses the values is not known here.

use serde_json::{Map, Value};

use crate::config_meaning::{canonical_config, is_default, is_same_value};

/// Keys that say who saved the file and how it is run: never compared.
const IGNORED_KEYS: [&str; 5] = ["_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"];

/// Keys that do not change what the model computes from its tensors. Every other key is taken to do so.
const HARMLESS_KEYS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "attn_implementation",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "auto_map",
    "aux_loss_alpha",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "classifier_dropout",
    "cls_token_id",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dropout",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "id2label",
    "initializer_range",
    "keys_to_ignore_at_inference",
    "label2id",
    "length_penalty",
    "mask_token_id",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "router_aux_loss_coef",
    "router_z_loss_coef",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torchscript",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
];

/// A key whose value is not the same in all configs.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigDifference {
    /// The key; of a nested object as `rope_scaling.factor`.
    pub key: String,
    /// Label of each config and its value, `None` where the key is missing, in the order given.
    pub values: Vec<(String, Option<Value>)>,
    /// Whether the model computes something else under another value. True for unknown keys; false for a missing key
    /// whose default is the value that the other configs have.
    pub changes_function: bool,
}

/// The keys in which configs differ, sorted.
///
/// Who saved the file and the dtype of the tensors are not compared. `10000` equals `10000.0`, and a value equals
/// itself in another spelling, such as `rope_theta` inside `rope_parameters`. Keys are reported in the older spelling.
///
/// # Example
/// ```
/// use serde_json::json;
///
/// let (a, b) = (json!({"rope_scaling": {"factor": 2}}), json!({"rope_scaling": {"factor": 4}}));
/// let differences = thalweg_checkpoint::compare_configs(&[("step 1", &a), ("step 2", &b)]);
/// assert_eq!(differences[0].key, "rope_scaling.factor");
/// assert!(differences[0].changes_function);
/// ```
pub fn compare_configs(configs: &[(&str, &Value)]) -> Vec<ConfigDifference> {
    let canonical: Vec<Value> = configs.iter().map(|(_, config)| canonical_config(config)).collect();
    let flat: Vec<Vec<(String, &Value)>> = canonical.iter().map(flatten).collect();
    let mut keys: Vec<&str> = flat.iter().flatten().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut differences = Vec::new();
    for key in keys {
        let find = |flat: &Vec<(String, &Value)>| {
            flat.binary_search_by(|(known, _)| known.as_str().cmp(key)).ok().map(|at| flat[at].1.clone())
        };
        let values: Vec<Option<Value>> = flat.iter().map(find).collect();
        if values.windows(2).all(|pair| is_same_option(pair[0].as_ref(), pair[1].as_ref())) {
            continue;
        }
        let labels = configs.iter().map(|(label, _)| (*label).to_owned());
        let is_harmless = is_below_harmless(key) || missing_means_the_same(key, &values, &canonical);
        differences.push(ConfigDifference {
            key: key.to_owned(),
            values: labels.zip(values).collect(),
            changes_function: !is_harmless,
        });
    }
    differences
}

/// `id2label.0` is as harmless as `id2label`.
fn is_below_harmless(key: &str) -> bool {
    key.split('.').any(|part| HARMLESS_KEYS.contains(&part))
}

/// Whether some configs lack the key and all others state its default.
fn missing_means_the_same(key: &str, values: &[Option<Value>], configs: &[Value]) -> bool {
    let mut present = values.iter().zip(configs).filter_map(|(value, config)| Some((value.as_ref()?, config)));
    let is_missing_somewhere = values.iter().any(Option::is_none);
    is_missing_somewhere
        && present.all(|(value, config)| {
            let (outer, last) = key.rsplit_once('.').map_or((None, key), |(outer, last)| (Some(outer), last));
            let holder = outer.map_or(Some(config), |outer| outer.split('.').try_fold(config, |at, part| at.get(part)));
            let Some(object) = holder.and_then(Value::as_object) else { return false };
            let family = object.get("model_type").or_else(|| config.get("model_type")).and_then(Value::as_str);
            is_default(last, value, object, family)
        })
}

/// Leaves of nested objects under dotted keys, sorted; an empty object is a leaf.
fn flatten(config: &Value) -> Vec<(String, &Value)> {
    fn walk<'a>(prefix: &str, object: &'a Map<String, Value>, leaves: &mut Vec<(String, &'a Value)>) {
        for (key, value) in object.iter().filter(|(key, _)| !IGNORED_KEYS.contains(&key.as_str())) {
            let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                // The parser stops at a nesting of 128, so this recursion is bounded.
                Value::Object(inner) if !inner.is_empty() => walk(&key, inner, leaves),
                _ => leaves.push((key, value)),
            }
        }
    }
    let mut leaves = Vec::new();
    if let Value::Object(object) = config {
        walk("", object, &mut leaves);
    }
    leaves.sort_by(|a, b| a.0.cmp(&b.0));
    leaves
}

fn is_same_option(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => is_same_value(a, b),
        (None, None) => true,
        // A missing key and an explicit null mean the same to the readers of these files.
        (Some(value), None) | (None, Some(value)) => value.is_null(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_differences(a: &Value, b: &Value, expected: &[(&str, bool)]) {
        let found = compare_configs(&[("a", a), ("b", b)]);
        let found: Vec<(&str, bool)> = found.iter().map(|d| (d.key.as_str(), d.changes_function)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn differences_are_told_by_key_and_by_what_they_do() {
        let mut base = json!({"rope_theta": 10000, "use_cache": true, "x": null, "rope_scaling": {"factor": 2.0}});
        base["dtype"] = json!("float32");
        check_differences(&base, &json!({"rope_theta": 10000.0, "rope_scaling": {"factor": 2}}), &[]);
        check_differences(&base, &json!({"rope_theta": 5e5, "rope_scaling": {"factor": 2}}), &[("rope_theta", true)]);
        check_differences(&base, &json!({"rope_theta": 1e4, "rope_scaling": null}), &[("rope_scaling.factor", true)]);
        check_differences(
            &json!({"attention_dropout": 0.1}),
            &json!({"attention_dropout": 0.0}),
            &[("attention_dropout", false)],
        );
        check_differences(
            &json!({"text_config": {"dtype": "a", "eps": 1}}),
            &json!({"text_config": {"dtype": "b"}}),
            &[("text_config.eps", true)],
        );
        check_differences(&json!({"n": 9007199254740993_u64}), &json!({"n": 9007199254740992_u64}), &[("n", true)]);
        check_differences(&json!({"n": [1, {"a": 1}]}), &json!({"n": [1.0, {"a": 1.0}]}), &[]);
        check_differences(&json!({"n": {}}), &json!({"n": {"a": 1}}), &[("n", true), ("n.a", true)]);
    }

    #[test]
    fn one_value_in_two_spellings_is_no_difference() {
        let old = json!({"model_type": "llama", "rope_theta": 10000.0, "rope_scaling": null});
        let new = json!({"model_type": "llama", "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}});
        check_differences(&old, &new, &[]);
        let old = json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}});
        let new = json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}});
        check_differences(&old, &new, &[]);
        let old = json!({"text_config": {"rope_theta": 1e6, "rope_local_base_freq": 1e4}});
        let new = json!({"text_config": {"rope_parameters": {
            "full_attention": {"rope_theta": 1e6, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"}}}});
        check_differences(&old, &new, &[]);
        let old = json!({"rotary_pct": 0.25, "rotary_emb_base": 10000, "hidden_act": "swish"});
        let new = json!({"rope_parameters": {"partial_rotary_factor": 0.25, "rope_theta": 1e4}, "hidden_act": "silu"});
        check_differences(&old, &new, &[]);
    }

    #[test]
    fn another_value_in_another_spelling_is_a_difference() {
        let old = json!({"rope_theta": 10000.0});
        let new = json!({"rope_parameters": {"rope_theta": 500000.0, "rope_type": "yarn", "factor": 4}});
        let expected = [("rope_scaling.factor", true), ("rope_scaling.rope_type", true), ("rope_theta", true)];
        check_differences(&old, &new, &expected);
    }

    #[test]
    fn a_missing_key_stands_for_its_default() {
        let base = json!({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4});
        let with = |key: &str, value: Value| {
            let mut config = base.clone();
            config[key] = value;
            config
        };
        for (key, value) in [
            ("attention_bias", json!(false)),
            ("head_dim", json!(16)),
            ("num_key_value_heads", json!(4)),
            ("layer_types", json!(["full_attention", "full_attention"])),
            ("rope_theta", json!(10000)),
            ("tie_word_embeddings", json!(false)),
            ("max_window_layers", json!(28)),
        ] {
            check_differences(&base, &with(key, value), &[(key, false)]);
        }
        for (key, value) in [
            ("attention_bias", json!(true)),
            ("head_dim", json!(32)),
            ("num_key_value_heads", json!(2)),
            ("layer_types", json!(["full_attention", "sliding_attention"])),
            ("rope_theta", json!(500_000)),
            ("tie_word_embeddings", json!(true)),
        ] {
            check_differences(&base, &with(key, value), &[(key, true)]);
        }
        // Another family has other defaults.
        let (a, b) = (json!({"model_type": "gpt_neox"}), json!({"model_type": "gpt_neox", "attention_bias": false}));
        check_differences(&a, &b, &[("attention_bias", true)]);
    }
}
