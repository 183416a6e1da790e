//! Results of other evaluators: lm-evaluation-harness's JSON, or a plain list. Read only; running them is the caller's affair.

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

/// Reads results in either form.
///
/// # Errors
/// `ResultsInvalid` for anything else, a value that is not finite, or a metric whose direction is not known.
///
/// # Example
/// ```
/// let list = br#"[{"task": "piqa", "value": 0.7, "stderr": 0.01, "n": 1838, "higher_is_better": true}]"#;
/// let scores = thalweg_eval::external::read_results(list, std::path::Path::new("out.json"))?;
/// assert_eq!((scores[0].task.as_str(), scores[0].n), ("piqa", Some(1838)));
/// # Ok::<(), thalweg_eval::Error>(())
/// ```
pub fn read_results(bytes: &[u8], path: &Path) -> Result<Vec<ExternalScore>, Error> {
    let invalid = |what: String| Error::ResultsInvalid { path: path.to_owned(), what };
    let document: Value = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
    let scores = match &document {
        Value::Array(rows) => rows.iter().enumerate().map(|(i, row)| plain_row(i, row)).collect(),
        Value::Object(_) if document["results"].is_object() => harness_results(&document),
        _ => Err("a list of scores, or an object with `results`, expected".to_owned()),
    };
    let scores: Vec<ExternalScore> = scores.map_err(invalid)?;
    if scores.is_empty() {
        return Err(invalid("it has no scores".to_owned()));
    }
    Ok(scores)
}

fn plain_row(i: usize, row: &Value) -> Result<ExternalScore, String> {
    let task = row["task"].as_str().ok_or_else(|| format!("entry {i} has no `task`"))?;
    let value = row["value"].as_f64().ok_or_else(|| format!("`{task}` has no number `value`"))?;
    let higher = row["higher_is_better"].as_bool().ok_or_else(|| format!("`{task}` has no `higher_is_better`"))?;
    Ok(ExternalScore {
        task: task.to_owned(),
        value,
        standard_error: row["stderr"].as_f64(),
        n: row["n"].as_u64(),
        higher_is_better: higher,
    })
}

/// `results`: task -> `"metric,filter"` and `"metric_stderr,filter"`.
fn harness_results(document: &Value) -> Result<Vec<ExternalScore>, String> {
    let mut scores = Vec::new();
    for (task, metrics) in document["results"].as_object().into_iter().flatten() {
        for (key, value) in metrics.as_object().into_iter().flatten() {
            let Some((metric, filter)) = key.split_once(',') else { continue };
            if metric.ends_with("_stderr") {
                continue;
            }
            let name = if filter == "none" { format!("{task}/{metric}") } else { format!("{task}/{metric},{filter}") };
            // Python writes NaN, which is no JSON and fails before this; a text says that there is no number.
            let value = value.as_f64().ok_or_else(|| format!("`{name}` is {value}, not a number"))?;
            let n_samples = &document["n-samples"][task];
            scores.push(ExternalScore {
                value,
                standard_error: metrics[format!("{metric}_stderr,{filter}")].as_f64(),
                n: n_samples["effective"].as_u64().or_else(|| n_samples["original"].as_u64()),
                higher_is_better: direction(document, task, metric)
                    .ok_or_else(|| format!("whether more is better is not known for `{name}`"))?,
                task: name,
            });
        }
    }
    Ok(scores)
}

fn direction(document: &Value, task: &str, metric: &str) -> Option<bool> {
    let said = document["higher_is_better"][task][metric].as_bool();
    said.or_else(|| HIGHER.contains(&metric).then_some(true)).or_else(|| LOWER.contains(&metric).then_some(false))
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

    fn read(text: &str) -> Result<Vec<ExternalScore>, String> {
        read_results(text.as_bytes(), Path::new("r.json")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_harness_form_is_read() {
        let scores = read(HARNESS).unwrap();
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
    fn what_is_missing_is_said() {
        let wrong = |text: &str| read(text).unwrap_err();
        assert_eq!(wrong("[]"), "results `r.json`: it has no scores");
        assert_eq!(wrong("3"), "results `r.json`: a list of scores, or an object with `results`, expected");
        assert_eq!(wrong(r#"[{"task": "a", "value": 1}]"#), "results `r.json`: `a` has no `higher_is_better`");
        let unknown = r#"{"results": {"a": {"zeal,none": 1.0}}}"#;
        assert_eq!(wrong(unknown), "results `r.json`: whether more is better is not known for `a/zeal`");
        assert!(wrong(r#"{"results": {"a": {"acc,none": NaN}}}"#).starts_with("results `r.json`: "));
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
