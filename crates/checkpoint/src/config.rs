//! `config.json`: reading it, comparing those of several checkpoints, and writing one for an output.
//!
//! Only the text is handled here; what an architecture makes of its values is not known.

use serde_json::{Map, Value};

/// The largest `config.json` that is read, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 16_000_000;

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
