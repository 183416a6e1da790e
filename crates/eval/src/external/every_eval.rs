//! Results in the schema of Every Eval Ever: one JSON for a model, and a `.jsonl` of its items beside it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::items::{TaskItems, sums};
use super::score::{ExternalScore, Row, finite_value};

/// `evaluation_results`, under the names of [`labels`].
pub(super) fn scores(document: &Value) -> Vec<Row> {
    let results = document["evaluation_results"].as_array().into_iter().flatten();
    let row = |(label, result): (String, &Value)| {
        let details = &result["score_details"];
        let value = finite_value(&label, &details["score"])?;
        let uncertainty = &details["uncertainty"];
        Ok(ExternalScore {
            task: label,
            value,
            standard_error: uncertainty["standard_error"]["value"].as_f64(),
            n: uncertainty["num_samples"].as_u64(),
            higher_is_better: result["metric_config"]["lower_is_better"] != Value::Bool(true),
        })
    };
    labels(document).into_iter().zip(results).map(row).collect()
}

/// How each result is called: the evaluation, with its metric where that is one word; a number where both recur.
fn labels(document: &Value) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let label = |result: &Value| {
        let name = result["evaluation_name"].as_str().unwrap_or("evaluation");
        let config = &result["metric_config"];
        let metric = ["metric_id", "metric_name", "evaluation_description"].iter().find_map(|key| {
            let word = config[key].as_str()?;
            // "exact_match (filter: strict-match)", where the filter is part of the name already
            let word = word.split_once(" (filter").map_or(word, |(metric, _)| metric);
            (!word.is_empty() && !word.contains(char::is_whitespace)).then_some(word)
        });
        let label = metric.map_or_else(|| name.to_owned(), |metric| format!("{name}/{metric}"));
        let times = seen.entry(label.clone()).or_insert(0);
        *times += 1;
        if *times == 1 { label } else { format!("{label}#{times}") }
    };
    document["evaluation_results"].as_array().into_iter().flatten().map(label).collect()
}

/// The items, read one after the other.
pub(super) struct InstanceReading {
    /// The labels of results by their ids and by the names of their evaluations.
    labels: BTreeMap<String, Vec<String>>,
    found: BTreeMap<String, TaskItems>,
}

impl InstanceReading {
    pub(super) fn new(document: &Value) -> Self {
        let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let results = document["evaluation_results"].as_array().into_iter().flatten();
        for (label, result) in labels(document).into_iter().zip(results) {
            for key in ["evaluation_result_id", "evaluation_name"].iter().filter_map(|key| result[key].as_str()) {
                by_key.entry(key.to_owned()).or_default().push(label.clone());
            }
        }
        Self { labels: by_key, found: BTreeMap::new() }
    }

    /// Takes one item, by the hash of what was asked, or else by its name.
    pub(super) fn take(&mut self, instance: &Value) {
        let name = instance["sample_hash"].as_str().or_else(|| instance["sample_id"].as_str());
        let (Some(name), Some(value)) = (name, instance["evaluation"]["score"].as_f64()) else { return };
        let id = instance["evaluation_result_id"].as_str();
        let key = id.or_else(|| instance["evaluation_name"].as_str()).unwrap_or_default();
        self.found.entry(key.to_owned()).or_default().add(name, [value, 1.0]);
    }

    /// The items of each result. Without ids, several metrics of one evaluation have the same name, and the one whose
    /// score is the mean of the items is meant.
    pub(super) fn finish(self, scores: &[ExternalScore]) -> BTreeMap<String, TaskItems> {
        let values: BTreeMap<&str, f64> = scores.iter().map(|score| (score.task.as_str(), score.value)).collect();
        let mut all = BTreeMap::new();
        for (key, items) in self.found {
            let columns = items.columns(|_| true);
            let mean = sums(&columns, false).value();
            let is_meant =
                |label: &&String| values.get(label.as_str()).is_some_and(|value| (value - mean).abs() <= 1e-6);
            let labels = self.labels.get(&key).map_or(&[][..], Vec::as_slice);
            if let Some(label) = labels.iter().find(is_meant).or_else(|| labels.first()) {
                all.insert(label.clone(), items);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::external::read_results;

    #[test]
    fn metrics_are_part_of_the_name() {
        let result = |name: &str, about: &str, lower: bool| {
            format!(
                r#"{{"evaluation_name": "{name}", "metric_config": {{"evaluation_description": "{about}", "lower_is_better": {lower}}},
                    "score_details": {{"score": 0.5, "uncertainty": {{"standard_error": {{"value": 0.1}}, "num_samples": 7}}}}}}"#
            )
        };
        let all = [
            result("arc", "acc", false),
            result("arc", "acc_norm", false),
            result("gsm8k/strict-match", "exact_match (filter: strict-match)", false),
            result("toxicity", "How often it is rude", true),
            result("toxicity", "How often it is rude", true),
        ];
        let text = format!(r#"{{"schema_version": "0.2.2", "evaluation_results": [{}]}}"#, all.join(","));
        let results = read_results(text.as_bytes(), Path::new("e.json")).unwrap();
        let names: Vec<_> = results.scores.iter().map(|score| (score.task.as_str(), score.higher_is_better)).collect();
        let expected = [
            ("arc/acc", true),
            ("arc/acc_norm", true),
            ("gsm8k/strict-match/exact_match", true),
            ("toxicity", false),
            ("toxicity#2", false),
        ];
        assert_eq!(names, expected);
        assert_eq!((results.scores[0].standard_error, results.scores[0].n), (Some(0.1), Some(7)));
    }
}
