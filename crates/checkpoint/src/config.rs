//! `config.json`: reading it, and writing one for an output. Comparing is in `config_compare`.
//!
//! Only the text is handled here; what an architecture makes of its values is not known.

use serde_json::Value;
use thalweg_tensor::Dtype;

/// The largest `config.json` that is read, in bytes.
///
/// Parsed JSON takes many times its text; this keeps a hostile config within some 200 MB.
pub const MAX_CONFIG_BYTES: u64 = 4_000_000;

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

/// Puts quotes around `NaN`, `Infinity` and `-Infinity` outside of strings.
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
    /// Key of the last member that was started; `None` in an array.
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
}
