//! Values as people type them: numbers with their units, and words of which one is chosen.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser, ValueParser};
use serde::de::DeserializeOwned;
use serde::de::value::{Error, StrDeserializer};
use thalweg_merge::output_format::RequestedFormat;
use thalweg_merge::plan::OutputDtype;
use thalweg_tensor::{parse_count, parse_size};

/// A whole number in the forms that people write: `500`, `2K`, `1.5M`, `4e9`, `8B`.
///
/// # Errors
/// What is wrong with the text, and what is right.
pub fn parse_whole<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let number = parse_count(text).map_err(|reason| format!("`{text}`: {reason}, such as 2000, 2K, 4e9 or 8B"))?;
    T::try_from(number).map_err(|_| format!("`{text}` is too large"))
}

/// As [`parse_whole`], above zero.
///
/// # Errors
/// As [`parse_whole`].
pub fn parse_positive<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    match parse_whole::<u64>(text)? {
        0 => Err(format!("`{text}` is not above zero")),
        _ => parse_whole(text),
    }
}

/// A size in bytes above zero: `5GB` (decimal), `5GiB` (binary), `5000000`.
///
/// # Errors
/// What is wrong with the text, and what is right.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let refuse = || format!("`{text}` is not a size; write 5GB, 5GiB or a number of bytes above zero");
    parse_size(text).ok().filter(|n_bytes| *n_bytes > 0).ok_or_else(refuse)
}

/// One of these words, which the help shows; `read` knows what they and their other spellings mean.
pub fn one_of<T: Clone + Send + Sync + 'static>(
    words: impl IntoIterator<Item: Into<PossibleValue>>,
    read: fn(&str) -> Option<T>,
) -> ValueParser {
    let read = move |word: String| read(&word.to_lowercase()).ok_or_else(|| format!("`{word}` has no meaning here"));
    PossibleValuesParser::new(words).try_map(read).into()
}

/// What a word means in plans and records.
pub fn word<T: DeserializeOwned>(word: &str) -> Option<T> {
    T::deserialize(StrDeserializer::<Error>::new(word)).ok()
}

/// The formats of outputs; those that cannot be written are not shown.
pub fn format() -> ValueParser {
    let words = [
        PossibleValue::new("same"),
        PossibleValue::new("safetensors"),
        PossibleValue::new("torch").aliases(["pt", "bin", "pytorch"]),
        PossibleValue::new("dcp"),
        PossibleValue::new("megatron-dist").alias("torch_dist"),
        PossibleValue::new("deepspeed-zero"),
        PossibleValue::new("deepspeed-universal"),
        PossibleValue::new("npz"),
        PossibleValue::new("gguf"),
        PossibleValue::new("orbax"),
    ];
    let only_read = ["torch-checkpointing", "megatron-legacy", "nanotron"];
    let only_read = only_read.map(|name| PossibleValue::new(name).hide(true));
    one_of(words.into_iter().chain(only_read), RequestedFormat::from_name)
}

/// Every name of an element type of floating tensors; the usual ones are shown.
pub(super) fn dtype() -> ValueParser {
    let names = OutputDtype::NAMES;
    let is_usual = |i: usize| names[..i].iter().all(|(_, dtype)| *dtype != names[i].1);
    let usual = (0..names.len()).filter(|i| is_usual(*i)).map(|i| {
        let (name, dtype) = names[i];
        let others = names.into_iter().filter(move |(other, same)| *same == dtype && *other != name);
        PossibleValue::new(name).aliases(others.map(|(other, _)| other))
    });
    one_of(usual.collect::<Vec<_>>(), OutputDtype::named)
}
