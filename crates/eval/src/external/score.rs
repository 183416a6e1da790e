//! A score that another program gave, and what is known of its name.

use serde::Serialize;
use serde_json::Value;

/// A score that another program gave.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExternalScore {
    /// The task, with the metric after a slash where the file has several.
    pub task: String,
    /// The value.
    pub value: f64,
    /// Its standard error, if it is said.
    pub standard_error: Option<f64>,
    /// Items, if it is said.
    pub n: Option<u64>,
    /// Whether more is better.
    pub higher_is_better: bool,
}

/// Names whose direction everybody agrees on, for files that do not say it.
const HIGHER: [&str; 16] = [
    "acc",
    "acc_norm",
    "acc_bytes",
    "accuracy",
    "bleu",
    "centered",
    "exact_match",
    "f1",
    "greedy_accuracy",
    "mcc",
    "pass@1",
    "pass_at_1",
    "pass_at_k",
    "pass_pow_k",
    "rouge",
    "tool_accuracy",
];
const LOWER: [&str; 10] = [
    "bits_per_byte",
    "bpb",
    "brier_score",
    "byte_perplexity",
    "corpus_perplexity",
    "loss",
    "nll",
    "perplexity",
    "ter",
    "word_perplexity",
];

/// A score of another program that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedScore {
    /// The task, as in [`ExternalScore::task`].
    pub task: String,
    /// Why not, such as `its value is NaN, not a number`.
    pub why: String,
}

/// Which data set a task asks, by the name that it has at the Hugging Face Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskDataset {
    /// The task, without a metric.
    pub task: String,
    /// Such as `openai/gsm8k`.
    pub dataset: String,
}

/// What Python writes for numbers that JSON does not have.
pub(super) const PYTHON_NUMBERS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// Puts quotes around `NaN`, `Infinity` and `-Infinity`, which Python writes and which are not JSON. As strings they
/// are not taken for numbers.
pub fn quote_python_numbers(bytes: &[u8]) -> Vec<u8> {
    const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let mut quoted = Vec::with_capacity(bytes.len());
    let (mut is_text, mut at) = (false, 0);
    while let Some(&byte) = bytes.get(at) {
        let word = WORDS.iter().find(|word| !is_text && bytes[at..].starts_with(word));
        let n_bytes = word.map_or(1, |word| word.len());
        // The byte after a backslash is copied with it, so that an escaped quote does not end the string.
        let n_bytes = if is_text && byte == b'\\' { 2.min(bytes.len() - at) } else { n_bytes };
        is_text ^= byte == b'"';
        quoted.extend(word.map(|_| b'"'));
        quoted.extend_from_slice(&bytes[at..at + n_bytes]);
        quoted.extend(word.map(|_| b'"'));
        at += n_bytes;
    }
    quoted
}

/// One score, or why it cannot be used.
pub(super) type Row = Result<ExternalScore, RefusedScore>;

/// The value if it is a finite number; otherwise the reason shows it.
pub(super) fn finite_value(task: &str, value: &Value) -> Result<f64, RefusedScore> {
    value.as_f64().filter(|value| value.is_finite()).ok_or_else(|| {
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let shown: String = shown.chars().take(40).collect();
        RefusedScore { task: task.to_owned(), why: format!("its value is {shown}, not a number") }
    })
}

/// Whether more of a measure is better, for names whose direction is known.
pub fn known_direction(metric: &str) -> Option<bool> {
    HIGHER.contains(&metric).then_some(true).or_else(|| LOWER.contains(&metric).then_some(false))
}

/// Gain of `b` over `a`, positive for what is better, with its 95 % interval where both have a standard error.
///
/// Items are not known, so the two are taken as independent: on the same items the true interval is narrower.
pub fn unpaired_gain(a: &ExternalScore, b: &ExternalScore) -> (f64, Option<[f64; 2]>) {
    const NORMAL_QUANTILE: f64 = 1.959_963_984_540_054;
    let gain = if a.higher_is_better { b.value - a.value } else { a.value - b.value };
    let interval = a.standard_error.zip(b.standard_error).map(|(a, b)| {
        let half = NORMAL_QUANTILE * a.hypot(b);
        [gain - half, gain + half]
    });
    (gain, interval)
}
