//! `config.json`: reading it, and writing one for an output. Comparing is in `config_compare`.
//!
//! Only the text is handled here; what an architecture makes of its values is not known.

use std::ops::Range;

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
    let text = thalweg_storage::text_of(bytes.to_vec())
        .map_err(|error| format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()))?;
    let parsed = serde_json::from_str(&text).or_else(|_| serde_json::from_str(&quote_bare_words(&text)));
    match parsed {
        Ok(Value::Object(object)) => Ok(Value::Object(object)),
        Ok(_) => Err("it holds a different kind of JSON value".to_owned()),
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

/// The name under which transformers keeps how a model was quantised.
const QUANTISATION_KEY: &str = "quantization_config";
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
    let with_prefix = |old: &str| format!("{}{word}", if old.starts_with("torch.") { "torch." } else { "" });
    Ok(replace_ranges(text, &find_dtypes(text), with_prefix))
}

/// The text with each of these ranges, which are ascending, replaced.
fn replace_ranges(text: &str, ranges: &[Range<usize>], new: impl Fn(&str) -> String) -> Vec<u8> {
    let mut out = String::with_capacity(text.len() + 16);
    let mut copied = 0;
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        let start = range.start.max(copied);
        out.push_str(&text[copied..start]);
        out.push_str(&new(&text[start..range.end]));
        copied = range.end;
    }
    out.push_str(&text[copied..]);
    out.into_bytes()
}

/// What a config says of the quantisation of its weights, at the top or in a nested `..._config`; `None` if it says
/// nothing.
pub fn quantisation_of(config: &Value) -> Option<&Value> {
    let object = config.as_object()?;
    let found = [QUANTISATION_KEY, "compression_config"].iter().find_map(|key| object.get(*key));
    found.filter(|value| !value.is_null()).or_else(|| {
        object.iter().filter(|(key, _)| key.ends_with("_config")).find_map(|(_, inner)| quantisation_of(inner))
    })
}

/// The config of an output whose weights are no longer quantised: the same bytes without `quantization_config`, at the
/// top and in nested `..._config` objects.
///
/// # Errors
/// As [`parse_config`]; when something about quantisation remains.
///
/// # Example
/// ```
/// use thalweg_checkpoint::without_quantisation;
///
/// let out = without_quantisation(br#"{"a": 1, "quantization_config": {"fmt": "e4m3"}, "b": 2}"#)?;
/// assert_eq!(out, br#"{"a": 1, "b": 2}"#);
/// # Ok::<(), String>(())
/// ```
pub fn without_quantisation(bytes: &[u8]) -> Result<Vec<u8>, String> {
    parse_config(bytes)?;
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let out = replace_ranges(text, &find_quantisation(text), |_| String::new());
    match quantisation_of(&parse_config(&out)?) {
        None => Ok(out),
        // Such as a key that is written with escapes.
        Some(_) => Err(format!("its `{QUANTISATION_KEY}` cannot be removed")),
    }
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

/// A member of an object that speaks of the saved tensors: the top of a config, or a nested `..._config`.
struct Member<'a> {
    /// Its key as it is written.
    key: &'a str,
    /// Where the quotes of the key begin.
    start: usize,
    /// Where its value is.
    value: Range<usize>,
}

/// An object or array that is open at some place of the text.
struct OpenValue<'a> {
    /// Key and beginning of the member that was started last; `None` in an array and before the first member.
    member: Option<(&'a str, usize)>,
    /// Where the value of that member begins.
    value_start: Option<usize>,
    speaks_of_tensors: SpeaksOfTensors,
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum SpeaksOfTensors {
    Yes,
    No,
}

/// Members of objects that speak of the saved tensors. `text` is valid JSON.
fn find_members(text: &str) -> Vec<Member<'_>> {
    let mut found = Vec::new();
    let mut open: Vec<OpenValue<'_>> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = text.as_bytes().get(at) {
        let mut n_bytes = 1;
        match byte {
            b'{' | b'[' => {
                let speaks_of_tensors = speaks_of_tensors(open.last(), byte);
                open.push(OpenValue { member: None, value_start: None, speaks_of_tensors });
            }
            b'}' | b']' | b',' => {
                if let Some(object) = open.last_mut() {
                    found.extend(object.finish_member(text, at));
                }
                if byte != b',' {
                    open.pop();
                }
            }
            b':' => {
                if let Some(object) = open.last_mut() {
                    object.value_start = Some(at + 1);
                }
            }
            b'"' => {
                n_bytes = string_len(&text[at..]);
                let (start, end) = (at + 1, (at + n_bytes).saturating_sub(1).max(at + 1));
                if let Some(object) = open.last_mut().filter(|object| object.member.is_none()) {
                    object.member = Some((&text[start..end], at));
                }
            }
            _ => {}
        }
        at += n_bytes;
    }
    found
}

fn speaks_of_tensors(parent: Option<&OpenValue<'_>>, bracket: u8) -> SpeaksOfTensors {
    match parent {
        _ if bracket == b'[' => SpeaksOfTensors::No,
        None => SpeaksOfTensors::Yes,
        Some(parent) => match parent.member {
            Some((key, _)) if key.ends_with("_config") && key != QUANTISATION_KEY => parent.speaks_of_tensors,
            _ => SpeaksOfTensors::No,
        },
    }
}

impl<'a> OpenValue<'a> {
    /// The member that ends at `end`, if it speaks of the tensors. What follows is another member.
    fn finish_member(&mut self, text: &'a str, end: usize) -> Option<Member<'a>> {
        let (member, value_start) = (self.member.take(), self.value_start.take());
        let ((key, start), value_start) = member.zip(value_start)?;
        let value = &text[value_start..end];
        let first = value_start + (value.len() - value.trim_start().len());
        let value = first..first + value.trim().len();
        (self.speaks_of_tensors == SpeaksOfTensors::Yes).then_some(Member { key, start, value })
    }
}

/// Byte ranges, without quotes, of the dtype words that speak of the saved tensors. `text` is valid JSON.
fn find_dtypes(text: &str) -> Vec<Range<usize>> {
    let word_of = |member: Member<'_>| {
        let word = text[member.value.clone()].strip_prefix('"')?.strip_suffix('"')?;
        (DTYPE_KEYS.contains(&member.key) && is_float_word(word)).then(|| member.value.start + 1..member.value.end - 1)
    };
    find_members(text).into_iter().filter_map(word_of).collect()
}

/// Byte ranges of the members that say how the weights are quantised, each with one comma. `text` is valid JSON.
fn find_quantisation(text: &str) -> Vec<Range<usize>> {
    let range_of = |member: Member<'_>| {
        let after = text[member.value.end..].trim_start();
        if let Some(next) = after.strip_prefix(',') {
            return member.start..text.len() - next.trim_start().len();
        }
        let before = text[..member.start].trim_end();
        before.strip_suffix(',').map_or(member.start, str::len)..member.value.end
    };
    find_members(text).into_iter().filter(|member| member.key == QUANTISATION_KEY).map(range_of).collect()
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

    #[test]
    fn a_byte_order_mark_is_skipped_and_counted() {
        assert!(parse_config(b"\xef\xbb\xbf{}").is_ok());
        assert_eq!(parse_config(b"\xef\xbb\xbf{\xff}").unwrap_err(), "not UTF-8 at byte 4");
    }

    #[track_caller]
    fn check_removal(config: &str, expected: Option<&str>) {
        let out = without_quantisation(config.as_bytes()).ok().map(|out| String::from_utf8(out).unwrap());
        assert_eq!(out.as_deref(), expected);
    }

    #[test]
    fn what_speaks_of_quantisation_is_removed_and_all_else_is_kept_as_it_is() {
        let quantised = r#""quantization_config": {"fmt": "e4m3", "weight_block_size": [128, 128], "x": "}\","}"#;
        for (before, after) in
            [("", ""), ("\"a\": 1e-06, ", ""), ("", ", \"b\" :[1, {}]"), ("\"a\": 1, ", ", \"b\": \"}\"")]
        {
            let kept = format!("{}{}", before, after.strip_prefix(", ").unwrap_or_default());
            let kept = if after.is_empty() { kept.strip_suffix(", ").unwrap_or_default() } else { &kept };
            check_removal(&format!("{{{before}{quantised}{after}}}"), Some(&format!("{{{kept}}}")));
        }
        check_removal("{\n  \"a\": 1,\n  \"quantization_config\": {}\n}\n", Some("{\n  \"a\": 1\n}\n"));
        check_removal(
            "{\n  \"quantization_config\": {},\n  \"limit\": Infinity\n}",
            Some("{\n  \"limit\": Infinity\n}"),
        );
        check_removal(
            r#"{"text_config": {"quantization_config": {"a": 1}, "b": 2}, "x": ["quantization_config"]}"#,
            Some(r#"{"text_config": {"b": 2}, "x": ["quantization_config"]}"#),
        );
        check_removal(r#"{"x": "quantization_config", "b": 2}"#, Some(r#"{"x": "quantization_config", "b": 2}"#));
        check_removal(r#"{"quantization_config": {}, "a": 1, "quantization_config": {}}"#, Some(r#"{"a": 1}"#));
    }

    #[test]
    fn a_config_that_still_speaks_of_quantisation_is_an_error() {
        check_removal(r#"{"quantization\u005fconfig": {"quant_method": "fp8"}}"#, None);
        check_removal(r#"{"compression_config": {"format": "x"}}"#, None);
        check_removal(r#"{"a": 1, "quantization_config": {}, "quantization_config": {}}"#, None);
        check_removal("[]", None);
    }
}
