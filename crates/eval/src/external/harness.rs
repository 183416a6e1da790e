//! Results of lm-evaluation-harness: `results_*.json`, and what each item scored from `samples_*.jsonl` or from the
//! samples that `simple_evaluate` returns.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::items::TaskItems;
use super::score::{ExternalScore, PYTHON_NUMBERS, RefusedScore, Row, TaskDataset, finite_value, known_direction};

/// Metrics whose items are log-likelihoods, of which the score is exp(-mean).
const PERPLEXITIES: [&str; 3] = ["perplexity", "word_perplexity", "byte_perplexity"];

/// `results`: task -> `"metric,filter"` and `"metric_stderr,filter"`.
pub(super) fn scores(document: &Value) -> Vec<Row> {
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
            let name = label(task, metric, filter);
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

/// How a score is called: tasks have several metrics, and a metric several filters.
fn label(task: &str, metric: &str, filter: &str) -> String {
    if filter == "none" { format!("{task}/{metric}") } else { format!("{task}/{metric},{filter}") }
}

/// The data sets of tasks that come from the Hub: names of an owner and a data set.
pub(super) fn datasets(document: &Value) -> Vec<TaskDataset> {
    let of_task = |(task, config): (&String, &Value)| {
        let dataset = config["dataset_path"].as_str()?;
        let is_name = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(is_of_a_name);
        let (owner, name) = dataset.split_once('/')?;
        (is_name(owner) && is_name(name)).then(|| TaskDataset { task: task.clone(), dataset: dataset.to_owned() })
    };
    document["configs"].as_object().into_iter().flatten().filter_map(of_task).collect()
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// The items of the document itself, which `simple_evaluate` returns and no file has.
///
/// # Errors
/// If an item is there twice.
pub(super) fn own_items(document: &Value) -> Result<BTreeMap<String, TaskItems>, String> {
    let mut found = BTreeMap::new();
    for (task, samples) in document["samples"].as_object().into_iter().flatten() {
        let mut reading = SampleReading::new(task);
        let mut take = |sample| reading.take(sample).map_err(|what| format!("samples of `{task}`: {what}"));
        samples.as_array().into_iter().flatten().try_for_each(&mut take)?;
        found.extend(reading.found);
    }
    Ok(found)
}

/// The samples of one task, read one after the other.
pub(super) struct SampleReading<'a> {
    task: &'a str,
    pub(super) found: BTreeMap<String, TaskItems>,
    /// Numbers and filters of the documents so far.
    seen: BTreeSet<(u64, String)>,
}

impl<'a> SampleReading<'a> {
    pub(super) fn new(task: &'a str) -> Self {
        Self { task, found: BTreeMap::new(), seen: BTreeSet::new() }
    }

    /// Takes one sample, by the hash of its document: the number of a document differs where only some were scored.
    ///
    /// # Errors
    /// If the document is there already: with the results of two evaluations in one file, errors would be too small.
    pub(super) fn take(&mut self, sample: &Value) -> Result<(), String> {
        let by_hash = sample["doc_hash"].as_str().map(str::to_owned);
        let id = sample["doc_id"].as_u64();
        let Some(name) = by_hash.or_else(|| id.map(|id| format!("doc {id}"))) else { return Ok(()) };
        let filter = sample["filter"].as_str().unwrap_or("none");
        if let Some(id) = id.filter(|id| !self.seen.insert((*id, filter.to_owned()))) {
            return Err(format!("there are two samples of document {id}: keep those of one evaluation"));
        }
        for metric in sample["metrics"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let Some(value) = item_value(metric, &sample[metric]) else { continue };
            let items = self.found.entry(label(self.task, metric, filter)).or_default();
            items.is_exponential = PERPLEXITIES.contains(&metric);
            items.add(&name, value);
        }
        Ok(())
    }
}

/// Numerator and denominator of an item. Other metrics than means have lists that are not understood.
fn item_value(metric: &str, value: &Value) -> Option<[f64; 2]> {
    let number = |value: &Value| value.as_f64().or_else(|| value.as_bool().map(|is| f64::from(u8::from(is))));
    let is_perplexity = PERPLEXITIES.contains(&metric);
    if let Some(number) = number(value) {
        return Some([if is_perplexity { -number } else { number }, 1.0]);
    }
    match value.as_array()?.as_slice() {
        // A log-likelihood and the words or bytes that it is of.
        [log_likelihood, weight] if is_perplexity => Some([-number(log_likelihood)?, number(weight)?]),
        [log_likelihood, weight] if metric == "bits_per_byte" => {
            Some([-number(log_likelihood)? / std::f64::consts::LN_2, number(weight)?])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::external::{compare_results, read_results};

    /// As `simple_evaluate(.., log_samples=True)` returns them.
    fn document(first: f64, order: [usize; 3]) -> String {
        let samples = [
            format!(r#"{{"doc_id": 0, "doc_hash": "aa", "filter": "none", "metrics": ["acc", "acc_norm"], "acc": {first}, "acc_norm": 1.0}}"#),
            r#"{"doc_id": 1, "doc_hash": "bb", "filter": "none", "metrics": ["acc", "acc_norm"], "acc": 1.0, "acc_norm": 0.0}"#.to_owned(),
            r#"{"doc_id": 2, "doc_hash": "bb", "filter": "none", "metrics": ["acc", "acc_norm"], "acc": 0.0, "acc_norm": 0.0}"#.to_owned(),
        ];
        let samples = order.map(|i| samples[i].clone()).join(",");
        let acc = (first + 1.0) / 3.0;
        format!(
            r#"{{"results": {{"t": {{"acc,none": {acc}, "acc_stderr,none": 0.1, "acc_norm,none": 0.3333333333333333}}}},
                "n-samples": {{"t": {{"original": 3, "effective": 3}}}}, "samples": {{"t": [{samples}]}}}}"#
        )
    }

    #[test]
    fn a_sample_that_is_there_twice_or_not_at_all_is_named() {
        let read = |text: &str| read_results(text.as_bytes(), Path::new("r.json"));
        let said = read(&document(0.0, [0, 1, 1])).unwrap_err().to_string();
        assert!(said.contains("samples of `t`: there are two samples of document 1"), "{said}");
        // Three samples where the scores are of four.
        let results = read(&document(0.0, [0, 1, 2]).replace("\"effective\": 3", "\"effective\": 4")).unwrap();
        assert!(results.items.is_empty() && results.scores.len() == 2);
        assert_eq!(
            results.notes,
            ["acc", "acc_norm"].map(|metric| {
                format!("`t/{metric}` is of 4 items, but there are values of 3 items: it is compared without them")
            })
        );
    }

    #[test]
    fn samples_are_paired_by_the_hash_of_their_document() {
        let read = |text: &str| read_results(text.as_bytes(), Path::new("r.json")).unwrap();
        let (a, b) = (read(&document(0.0, [0, 1, 2])), read(&document(1.0, [1, 2, 0])));
        assert_eq!(a.items.len(), 2);
        assert_eq!(a.items["t/acc"].values.keys().collect::<Vec<_>>(), ["aa", "bb", "bb#2"]);
        let found = compare_results(&a, &b);
        assert!((found[0].gain - 1.0 / 3.0).abs() < 1e-12 && found[0].n == Some(3), "{found:?}");
        assert!(found[1].gain.abs() < 1e-12 && found[1].interval_95 == Some([0.0, 0.0]), "{found:?}");
    }

    #[test]
    fn perplexities_are_those_of_the_harness() {
        // exp(-(-6 - 3) / (4 + 2)), and the same in bits: 9 / ln 2 / 6.
        let text = r#"{"results": {"w": {"word_perplexity,none": 4.4816890703380645, "bits_per_byte,none": 2.1640425613334453, "mcc,none": 0.5}},
            "samples": {"w": [
              {"doc_hash": "a", "filter": "none", "metrics": ["word_perplexity", "bits_per_byte", "mcc"], "word_perplexity": [-6.0, 4], "bits_per_byte": [-6.0, 4], "mcc": [0, 1]},
              {"doc_hash": "b", "filter": "none", "metrics": ["word_perplexity", "bits_per_byte", "mcc"], "word_perplexity": [-3.0, 2], "bits_per_byte": [-3.0, 2], "mcc": [1, 1]}]}}"#;
        let results = read_results(text.as_bytes(), Path::new("r.json")).unwrap();
        assert_eq!(results.notes, Vec::<String>::new());
        let tasks: Vec<_> = results.items.iter().map(|(task, items)| (task.as_str(), items.is_exponential)).collect();
        assert_eq!(tasks, [("w/bits_per_byte", false), ("w/word_perplexity", true)]);
    }
}
