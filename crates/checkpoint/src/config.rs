//! `config.json`: reading it, comparing those of several checkpoints, and writing one for an output.
//!
//! Only the text is handled here; what an architecture makes of its values is not known.

use serde_json::{Map, Value};
use thalweg_tensor::Dtype;

/// The largest `config.json` that is read, in bytes.
///
/// Parsed JSON takes many times its text; this keeps a hostile config within some 200 MB.
pub const MAX_CONFIG_BYTES: u64 = 4_000_000;

/// Keys that say who saved the file and how it is run: never compared.
const IGNORED_KEYS: [&str; 5] = ["_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"];

/// Keys that do not change what the model computes from its tensors. Every other key is taken to do so.
const HARMLESS_KEYS: [&str; 23] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "attn_implementation",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "classifier_dropout",
    "dropout",
    "embd_pdrop",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "initializer_range",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "resid_pdrop",
    "return_dict",
    "router_aux_loss_coef",
    "router_z_loss_coef",
    "aux_loss_alpha",
    "unsloth_fixed",
    "unsloth_version",
];

/// Reads the text of a `config.json`: one JSON object, nested at most 128 deep.
///
/// Python writes `NaN` and `Infinity` as bare words, and real configs hold them; they are read as strings.
///
/// # Errors
/// What is wrong, with the position.
///
/// # Example
/// ```
/// let config = thalweg_checkpoint::parse_config(br#"{"rope_theta": 1e4, "limit": [0.0, Infinity]}"#)?;
/// assert_eq!(config["limit"][1], "Infinity");
/// # Ok::<(), String>(())
/// ```
pub fn parse_config(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8 at byte {}", error.valid_up_to()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let parsed = serde_json::from_str(text).or_else(|_| serde_json::from_str(&quote_bare_words(text)));
    match parsed {
        Ok(Value::Object(object)) => Ok(Value::Object(object)),
        Ok(_) => Err("it holds another JSON value".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Puts quotes around `NaN`, `Infinity` and `-Infinity` where they stand outside of strings.
fn quote_bare_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(at) = rest.find(['"', 'N', 'I', '-']) {
        let (before, found) = rest.split_at(at);
        out.push_str(before);
        let word = ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| found.starts_with(word));
        let taken = match word {
            Some(word) => {
                out.push('"');
                out.push_str(word);
                out.push('"');
                word.len()
            }
            None => {
                let n_bytes = if found.starts_with('"') { string_len(found) } else { 1 };
                out.push_str(&found[..n_bytes]);
                n_bytes
            }
        };
        rest = &found[taken..];
    }
    out.push_str(rest);
    out
}

/// Bytes of the JSON string that `text` begins with, quotes included; all of `text` if it does not end.
fn string_len(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// A key whose value is not the same in all configs.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigDifference {
    /// The key; of a nested object as `rope_scaling.factor`.
    pub key: String,
    /// Label of each config and its value, `None` where the key is missing, in the order given.
    pub values: Vec<(String, Option<Value>)>,
    /// Whether the model computes something else under another value. Unknown keys are taken to.
    pub changes_function: bool,
}

/// The keys in which configs differ, sorted.
///
/// Who saved the file and the dtype of the tensors are not compared. `10000` equals `10000.0`.
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
    let flat: Vec<Vec<(String, &Value)>> = configs.iter().map(|(_, config)| flatten(config)).collect();
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
        differences.push(ConfigDifference {
            key: key.to_owned(),
            values: labels.zip(values).collect(),
            changes_function: !HARMLESS_KEYS.contains(&last_part(key)),
        });
    }
    differences
}

fn last_part(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, last)| last)
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

fn is_same_value(a: &Value, b: &Value) -> bool {
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

/// Names under which a config states the dtype of the saved tensors.
const DTYPE_KEYS: [&str; 2] = ["torch_dtype", "dtype"];

/// The config of an output: the same bytes, with `torch_dtype` and `dtype` set to the output's dtype.
///
/// Only strings that name another float dtype are replaced, at the top and in nested `..._config` objects, whose
/// tensors are saved in the same files; how a quantised model was computed (`quantization_config`) is left alone.
/// A dtype that configs have no word for changes nothing.
///
/// # Errors
/// As [`parse_config`].
///
/// # Example
/// ```
/// use thalweg_checkpoint::updated_config;
/// use thalweg_tensor::Dtype;
///
/// let out = updated_config(br#"{ "dtype": "bfloat16", "eps": 1e-06 }"#, Dtype::F32)?;
/// assert_eq!(out, br#"{ "dtype": "float32", "eps": 1e-06 }"#);
/// # Ok::<(), String>(())
/// ```
pub fn updated_config(bytes: &[u8], dtype: Dtype) -> Result<Vec<u8>, String> {
    parse_config(bytes)?;
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let Some(word) = float_word(dtype) else { return Ok(bytes.to_vec()) };
    let mut out = String::with_capacity(text.len() + 16);
    let mut copied = 0;
    for (start, end) in find_dtypes(text) {
        let old = &text[start..end];
        let prefix = if old.starts_with("torch.") { "torch." } else { "" };
        out.push_str(&text[copied..start]);
        out.push_str(prefix);
        out.push_str(word);
        copied = end;
    }
    out.push_str(&text[copied..]);
    Ok(out.into_bytes())
}

fn float_word(dtype: Dtype) -> Option<&'static str> {
    match dtype {
        Dtype::F64 => Some("float64"),
        Dtype::F32 => Some("float32"),
        Dtype::F16 => Some("float16"),
        Dtype::Bf16 => Some("bfloat16"),
        _ => None,
    }
}

fn is_float_word(text: &str) -> bool {
    let word = text.strip_prefix("torch.").unwrap_or(text);
    Dtype::all().filter_map(float_word).any(|known| known == word)
}

/// An object or array that is open at some place of the text.
struct OpenValue<'a> {
    /// Key of the last member begun; `None` in an array.
    key: Option<&'a str>,
    is_waiting_for_key: IsWaitingForKey,
    /// Whether a dtype in it speaks of the saved tensors.
    speaks_of_tensors: SpeaksOfTensors,
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum IsWaitingForKey {
    Yes,
    No,
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum SpeaksOfTensors {
    Yes,
    No,
}

/// Byte ranges, without quotes, of the dtype words that speak of the saved tensors. `text` is valid JSON.
fn find_dtypes(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut open: Vec<OpenValue<'_>> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = text.as_bytes().get(at) {
        let mut n_bytes = 1;
        match byte {
            b'{' => {
                let speaks_of_tensors = match open.last() {
                    None => SpeaksOfTensors::Yes,
                    Some(parent) => match parent.key {
                        Some(key) if key.ends_with("_config") && key != "quantization_config" => {
                            parent.speaks_of_tensors
                        }
                        _ => SpeaksOfTensors::No,
                    },
                };
                open.push(OpenValue { key: None, is_waiting_for_key: IsWaitingForKey::Yes, speaks_of_tensors });
            }
            b'[' => open.push(OpenValue {
                key: None,
                is_waiting_for_key: IsWaitingForKey::No,
                speaks_of_tensors: SpeaksOfTensors::No,
            }),
            b'}' | b']' => drop(open.pop()),
            b',' => {
                if let Some(object) = open.last_mut().filter(|value| value.key.is_some()) {
                    object.is_waiting_for_key = IsWaitingForKey::Yes;
                }
            }
            b'"' => {
                n_bytes = string_len(&text[at..]);
                let (start, end) = (at + 1, (at + n_bytes).saturating_sub(1).max(at + 1));
                match open.last_mut() {
                    Some(object) if object.is_waiting_for_key == IsWaitingForKey::Yes => {
                        object.key = Some(&text[start..end]);
                        object.is_waiting_for_key = IsWaitingForKey::No;
                    }
                    Some(object)
                        if object.speaks_of_tensors == SpeaksOfTensors::Yes
                            && object.key.is_some_and(|key| DTYPE_KEYS.contains(&key))
                            && is_float_word(&text[start..end]) =>
                    {
                        found.push((start, end));
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        at += n_bytes;
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_update(config: &str, dtype: Dtype, expected: &str) {
        let updated = updated_config(config.as_bytes(), dtype).unwrap();
        assert_eq!(String::from_utf8(updated).unwrap(), expected);
    }

    #[test]
    fn only_the_dtype_of_the_tensors_is_updated() {
        check_update(
            r#"{"a": ["dtype", "float32"], "torch_dtype" : "float32", "b": 1e-06}"#,
            Dtype::Bf16,
            r#"{"a": ["dtype", "float32"], "torch_dtype" : "bfloat16", "b": 1e-06}"#,
        );
        check_update(
            r#"{"text_config": {"dtype": "torch.float16"}, "quantization_config": {"dtype": "float16"}}"#,
            Dtype::F32,
            r#"{"text_config": {"dtype": "torch.float32"}, "quantization_config": {"dtype": "float16"}}"#,
        );
        check_update(r#"{"x": {"dtype": "float16"}}"#, Dtype::F32, r#"{"x": {"dtype": "float16"}}"#);
        check_update(
            r#"{"dtype": "auto", "x": "\"dtype\": \"float32\""}"#,
            Dtype::F16,
            r#"{"dtype": "auto", "x": "\"dtype\": \"float32\""}"#,
        );
        check_update(r#"{"dtype": "float32"}"#, Dtype::U8, r#"{"dtype": "float32"}"#);
    }

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
}
