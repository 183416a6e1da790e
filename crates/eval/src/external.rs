//! Results of other evaluators: lm-evaluation-harness's JSON, or a plain list. Read only; running them is the caller's
//! affair.

use std::path::Path;

use serde_json::Value;

use crate::Error;

/// A score that another program gave.
#[derive(Debug, Clone, PartialEq)]
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
const HIGHER: [&str; 8] = ["acc", "acc_norm", "acc_bytes", "exact_match", "f1", "mcc", "bleu", "pass@1"];
const LOWER: [&str; 8] =
    ["perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "nll", "loss", "ter", "brier_score"];

/// A score of another program that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedScore {
    /// The task, as in [`ExternalScore::task`].
    pub task: String,
    /// Why not, such as `its value is NaN, not a number`.
    pub why: String,
}

/// The scores of a file of results. One bad number does not invalidate the others.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExternalResults {
    /// The scores that can be used, at least one.
    pub scores: Vec<ExternalScore>,
    /// The scores that cannot be used.
    pub refused: Vec<RefusedScore>,
}

/// Reads results in either form.
///
/// NaN and infinities are read in the spelling of Python. As a standard error they mean that there is none; as a value
/// they are refused.
///
/// # Errors
/// `ResultsInvalid` for anything else, and if no score is usable.
///
/// # Example
/// ```
/// let list = br#"[{"task": "piqa", "value": 0.7, "stderr": NaN, "n": 1838, "higher_is_better": true}]"#;
/// let results = thalweg_eval::external::read_results(list, std::path::Path::new("out.json"))?;
/// assert_eq!((results.scores[0].task.as_str(), results.scores[0].standard_error), ("piqa", None));
/// # Ok::<(), thalweg_eval::Error>(())
/// ```
pub fn read_results(bytes: &[u8], path: &Path) -> Result<ExternalResults, Error> {
    let invalid = |what: String| Error::ResultsInvalid { path: path.to_owned(), what };
    let document: Value =
        serde_json::from_slice(&quote_python_numbers(bytes)).map_err(|error| invalid(error.to_string()))?;
    let rows = match &document {
        Value::Array(rows) => rows.iter().enumerate().map(|(i, row)| plain_row(i, row)).collect::<Result<Vec<_>, _>>(),
        Value::Object(_) if document["results"].is_object() => Ok(harness_results(&document)),
        _ => Err("a list of scores, or an object with `results`, expected".to_owned()),
    };
    let mut results = ExternalResults::default();
    for row in rows.map_err(invalid)? {
        match row {
            Ok(score) => results.scores.push(score),
            Err(refused) => results.refused.push(refused),
        }
    }
    if results.scores.is_empty() {
        let why = results.refused.iter().map(|refused| format!("; `{}`: {}", refused.task, refused.why));
        return Err(invalid(format!("it has no usable score{}", why.take(MAX_REASONS).collect::<String>())));
    }
    Ok(results)
}

/// The most refused scores that an error lists.
const MAX_REASONS: usize = 8;

/// What Python writes for numbers that JSON does not have.
const PYTHON_NUMBERS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

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
type Row = Result<ExternalScore, RefusedScore>;

/// The value if it is a finite number; otherwise the reason shows it.
fn finite_value(task: &str, value: &Value) -> Result<f64, RefusedScore> {
    value.as_f64().filter(|value| value.is_finite()).ok_or_else(|| {
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let shown: String = shown.chars().take(40).collect();
        RefusedScore { task: task.to_owned(), why: format!("its value is {shown}, not a number") }
    })
}

fn plain_row(i: usize, row: &Value) -> Result<Row, String> {
    let task = row["task"].as_str().ok_or_else(|| format!("entry {i} has no `task`"))?;
    if let Some(why) = row["refused"].as_str() {
        return Ok(Err(RefusedScore { task: task.to_owned(), why: why.to_owned() }));
    }
    let metric = task.rsplit('/').next().unwrap_or(task);
    let higher = row["higher_is_better"].as_bool().or_else(|| known_direction(metric));
    let higher = higher.ok_or_else(|| format!("`{task}` has no `higher_is_better`"))?;
    let value = row.get("value").ok_or_else(|| format!("`{task}` has no `value`"))?;
    let value = finite_value(task, value);
    Ok(value.map(|value| ExternalScore {
        task: task.to_owned(),
        value,
        standard_error: row["stderr"].as_f64(),
        n: row["n"].as_u64(),
        higher_is_better: higher,
    }))
}

/// `results`: task -> `"metric,filter"` and `"metric_stderr,filter"`.
fn harness_results(document: &Value) -> Vec<Row> {
    let mut rows = Vec::new();
    for (task, metrics) in document["results"].as_object().into_iter().flatten() {
        for (key, value) in metrics.as_object().into_iter().flatten() {
            let Some((metric, filter)) = key.split_once(',') else {
                // Other forms are not read, but a value that is not a number is worth a word.
                let is_odd = value.as_str().is_some_and(|text| PYTHON_NUMBERS.contains(&text));
                if let Some(refused) = finite_value(&format!("{task}/{key}"), value).err().filter(|_| is_odd) {
                    rows.push(Err(refused));
                }
                continue;
            };
            if metric.ends_with("_stderr") {
                continue;
            }
            let name = if filter == "none" { format!("{task}/{metric}") } else { format!("{task}/{metric},{filter}") };
            let n_samples = &document["n-samples"][task];
            let row = finite_value(&name, value).and_then(|value| {
                let why = "it is unknown whether higher is better".to_owned();
                let refused = RefusedScore { task: name.clone(), why };
                Ok(ExternalScore {
                    value,
                    // `None` for `N/A` and NaN.
                    standard_error: metrics[format!("{metric}_stderr,{filter}")].as_f64(),
                    n: n_samples["effective"].as_u64().or_else(|| n_samples["original"].as_u64()),
                    higher_is_better: direction(document, task, metric).ok_or(refused)?,
                    task: name,
                })
            });
            rows.push(row);
        }
    }
    rows
}

fn direction(document: &Value, task: &str, metric: &str) -> Option<bool> {
    let said = document["higher_is_better"][task][metric].as_bool();
    said.or_else(|| known_direction(metric))
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

#[cfg(test)]
mod tests {
    use super::*;

    const HARNESS: &str = r#"{
        "results": {
            "arc_easy": {"alias": "arc_easy", "acc,none": 0.5, "acc_stderr,none": 0.01, "acc_norm,none": 0.4, "acc_norm_stderr,none": "N/A"},
            "wikitext": {"alias": "wikitext", "word_perplexity,none": 12.5, "word_perplexity_stderr,none": "N/A"},
            "gsm8k": {"exact_match,strict-match": 0.25, "exact_match_stderr,strict-match": 0.02, "exact_match,flexible-extract": 0.5}
        },
        "higher_is_better": {"arc_easy": {"acc": true, "acc_norm": true}, "wikitext": {"word_perplexity": false}},
        "n-samples": {"arc_easy": {"original": 2376, "effective": 100}}
    }"#;

    fn read(text: &str) -> Result<ExternalResults, String> {
        read_results(text.as_bytes(), Path::new("r.json")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_harness_form_is_read() {
        let scores = read(HARNESS).unwrap().scores;
        let names: Vec<&str> = scores.iter().map(|score| score.task.as_str()).collect();
        let expected = [
            "arc_easy/acc",
            "arc_easy/acc_norm",
            "wikitext/word_perplexity",
            "gsm8k/exact_match,strict-match",
            "gsm8k/exact_match,flexible-extract",
        ];
        assert_eq!(names, expected);
        assert_eq!((scores[0].standard_error, scores[0].n), (Some(0.01), Some(100)));
        assert_eq!((scores[1].standard_error, scores[2].higher_is_better), (None, false));
        assert_eq!((scores[3].value, scores[3].standard_error, scores[3].n), (0.25, Some(0.02), None));
    }

    #[test]
    fn results_of_nan_alone_name_task_and_value_in_every_form() {
        for (text, task) in [
            (r#"{"results": {"a": {"acc,none": NaN}}}"#, "a/acc"),
            (r#"{"results": {"a": {"alias": "a", "acc": NaN}}}"#, "a/acc"),
            (r#"[{"task": "b", "value": NaN, "higher_is_better": true}]"#, "b"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(&format!("`{task}`: its value is NaN")), "{said}");
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let wrong = |text: &str| read(text).unwrap_err();
        assert_eq!(wrong("[]"), "results `r.json`: it has no usable score");
        assert_eq!(wrong("3"), "results `r.json`: a list of scores, or an object with `results`, expected");
        assert_eq!(wrong(r#"[{"task": "a", "value": 1}]"#), "results `r.json`: `a` has no `higher_is_better`");
        let unknown = r#"{"results": {"a": {"zeal,none": 1.0}}}"#;
        let said = "results `r.json`: it has no usable score; `a/zeal`: it is unknown whether higher is better";
        assert_eq!(wrong(unknown), said);
        let nan = r#"{"results": {"a": {"acc,none": NaN}}}"#;
        assert_eq!(wrong(nan), "results `r.json`: it has no usable score; `a/acc`: its value is NaN, not a number");
    }

    #[test]
    fn a_standard_error_that_is_not_a_number_is_none_and_a_bad_value_spoils_no_other() {
        let text = r#"{"results": {
            "a": {"acc,none": 0.5, "acc_stderr,none": NaN},
            "b": {"acc,none": NaN, "acc_stderr,none": NaN},
            "c": {"acc,none": 0.25, "acc_stderr,none": Infinity},
            "d": {"perplexity,none": Infinity},
            "e": {"perplexity,none": -Infinity},
            "f": {"acc,none": null},
            "g": {"acc,none": "N/A"},
            "h": {"zeal,none": 1.0}
        }}"#;
        let results = read(text).unwrap();
        let scores: Vec<_> = results.scores.iter().map(|s| (s.task.as_str(), s.value, s.standard_error)).collect();
        assert_eq!(scores, [("a/acc", 0.5, None), ("c/acc", 0.25, None)]);
        let refused: Vec<String> = results.refused.iter().map(|one| format!("{}: {}", one.task, one.why)).collect();
        let expected = [
            "b/acc: its value is NaN, not a number",
            "d/perplexity: its value is Infinity, not a number",
            "e/perplexity: its value is -Infinity, not a number",
            "f/acc: its value is null, not a number",
            "g/acc: its value is N/A, not a number",
            "h/zeal: it is unknown whether higher is better",
        ];
        assert_eq!(refused, expected);
        let plain = r#"[{"task": "x", "value": 1, "stderr": NaN, "higher_is_better": true},
                        {"task": "y", "value": NaN, "higher_is_better": true}]"#;
        let results = read(plain).unwrap();
        assert_eq!((results.scores[0].standard_error, results.refused[0].task.as_str()), (None, "y"));
    }

    #[test]
    fn words_in_texts_stay_as_they_are() {
        let quote = |text: &str| String::from_utf8(quote_python_numbers(text.as_bytes())).unwrap();
        assert_eq!(quote(r#"{"NaN \" NaN": [NaN,-Infinity, 1]}"#), r#"{"NaN \" NaN": ["NaN","-Infinity", 1]}"#);
        assert_eq!(quote(r#""a\\" NaN"#), r#""a\\" "NaN""#);
        assert_eq!(quote("\"\\"), "\"\\");
    }

    #[test]
    fn gains_point_to_the_better() {
        let score = |value, higher_is_better| ExternalScore {
            task: "t".into(),
            value,
            standard_error: Some(0.3),
            n: None,
            higher_is_better,
        };
        let (gain, _) = unpaired_gain(&score(1.0, false), &score(0.5, false));
        assert!((gain - 0.5).abs() < 1e-12, "{gain}");
        let (gain, interval) =
            unpaired_gain(&score(1.0, true), &ExternalScore { standard_error: Some(0.4), ..score(2.0, true) });
        let [low, high] = interval.unwrap();
        assert!(
            (gain - 1.0).abs() < 1e-12 && (high - 1.979_981_992).abs() < 1e-8 && (low - 0.020_018_008).abs() < 1e-8
        );
    }
}
