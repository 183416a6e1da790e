//! Values that are one of a few words.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser, ValueParser};
use serde::de::DeserializeOwned;
use serde::de::value::{Error, StrDeserializer};
use thalweg_eval::StartRule;
use thalweg_merge::output_format::RequestedFormat;
use thalweg_merge::plan::OutputDtype;
use thalweg_tensor::kernel::Simd;

/// One of these words, which clap shows; `read` knows what they and their other spellings mean.
pub(crate) fn one_of<T: Clone + Send + Sync + 'static>(
    words: impl IntoIterator<Item: Into<PossibleValue>>,
    read: fn(&str) -> Option<T>,
) -> ValueParser {
    let read = move |word: String| read(&word.to_lowercase()).ok_or_else(|| format!("`{word}` has no meaning here"));
    PossibleValuesParser::new(words).try_map(read).into()
}

/// What a word means in plans and records.
pub(crate) fn word<T: DeserializeOwned>(word: &str) -> Option<T> {
    T::deserialize(StrDeserializer::<Error>::new(word)).ok()
}

/// When the start token is put before a text.
pub(crate) fn start_rule() -> ValueParser {
    one_of(StartRule::ALL.map(StartRule::name), |word| StartRule::ALL.into_iter().find(|rule| rule.name() == word))
}

/// The instruction set of the kernels.
pub(crate) fn simd() -> ValueParser {
    const KNOWN: [(&str, Simd); 3] = [("avx512", Simd::Avx512), ("avx2", Simd::Avx2), ("portable", Simd::Portable)];
    one_of(KNOWN.map(|(name, _)| name), |word| KNOWN.iter().find(|(name, _)| *name == word).map(|(_, simd)| *simd))
}

/// The formats; those that cannot be written are not shown.
pub(crate) fn format() -> ValueParser {
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
pub(crate) fn dtype() -> ValueParser {
    let names = OutputDtype::NAMES;
    let is_usual = |i: usize| names[..i].iter().all(|(_, dtype)| *dtype != names[i].1);
    let usual = (0..names.len()).filter(|i| is_usual(*i)).map(|i| {
        let (name, dtype) = names[i];
        let others = names.into_iter().filter(move |(other, same)| *same == dtype && *other != name);
        PossibleValue::new(name).aliases(others.map(|(other, _)| other))
    });
    one_of(usual.collect::<Vec<_>>(), OutputDtype::named)
}
