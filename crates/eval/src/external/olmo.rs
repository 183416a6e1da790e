//! Results of olmo-eval: `metrics.json`, and what each item scored from `*-predictions.jsonl`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::items::TaskItems;
use super::score::{ExternalScore, RefusedScore, Row, finite_value, known_direction};

/// `tasks`: a list of tasks with metric -> scorer -> value.
///
/// # Errors
/// If it is about several models.
pub(super) fn scores(document: &Value) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for task in document["tasks"].as_array().into_iter().flatten() {
        if let Some(model) = task["model"].as_str() {
            return Err(format!("it has the scores of several models, such as `{model}`: evaluate one at a time"));
        }
        let name = task["task"].as_str().unwrap_or_default();
        for (metric, scorer, value) in metric_values(&task["metrics"]) {
            rows.push(row(name, (metric, scorer), value, task["num_instances"].as_u64()));
        }
    }
    Ok(rows)
}

fn row(task: &str, (metric, scorer): (&str, &str), value: &Value, n: Option<u64>) -> Row {
    let task = label(task, metric, scorer);
    let value = finite_value(&task, value)?;
    let why = "it is not known whether higher is better".to_owned();
    let higher_is_better = known_direction(metric).or_else(|| known_direction(scorer));
    let higher_is_better = higher_is_better.ok_or(RefusedScore { task: task.clone(), why })?;
    Ok(ExternalScore { task, value, standard_error: None, n, higher_is_better })
}

/// Metric, scorer and value; older files leave the scorer out.
fn metric_values(metrics: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    metrics.as_object().into_iter().flatten().flat_map(|(metric, value)| {
        let nested =
            value.as_object().into_iter().flatten().map(|(scorer, value)| (metric.as_str(), scorer.as_str(), value));
        let alone = (!value.is_object()).then_some((metric.as_str(), metric.as_str(), value));
        nested.chain(alone)
    })
}

fn label(task: &str, metric: &str, scorer: &str) -> String {
    if metric == scorer { format!("{task}/{metric}") } else { format!("{task}/{metric}:{scorer}") }
}

/// A task as it is called in names of files.
pub(super) fn file_stem(task: &str) -> String {
    task.replace([':', '/', '\\', ' '], "_")
}

/// The items of one task, read one after the other.
pub(super) struct PredictionReading<'a> {
    task: &'a str,
    pub(super) found: BTreeMap<String, TaskItems>,
}

impl<'a> PredictionReading<'a> {
    pub(super) fn new(task: &'a str) -> Self {
        Self { task, found: BTreeMap::new() }
    }

    /// Takes one prediction, by the name of the item in its data set.
    pub(super) fn take(&mut self, prediction: &Value) {
        let name = match &prediction["native_id"] {
            Value::String(name) => name.clone(),
            Value::Null => format!("doc {}", prediction["doc_id"]),
            other => other.to_string(),
        };
        for (metric, scorer, value) in metric_values(&prediction["instance_metrics"]) {
            let Some(value) = value.as_f64() else { continue };
            self.found.entry(label(self.task, metric, scorer)).or_default().add(&name, [value, 1.0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::external::read_results;

    #[test]
    fn metrics_have_scorers() {
        let text = br#"{"timestamp": "", "config": {}, "summary": {}, "errors": [], "tasks": [
            {"task": "arc_easy:mc", "num_instances": 10, "primary_metric": "accuracy:logprob",
             "metrics": {"accuracy": {"logprob": 0.6, "exact_match": 0.5}, "bits_per_byte": {"bits_per_byte": 0.9}, "zeal": {"zeal": 1}}}]}"#;
        let results = read_results(text, Path::new("metrics.json")).unwrap();
        let scores: Vec<_> =
            results.scores.iter().map(|s| (s.task.as_str(), s.value, s.higher_is_better, s.n)).collect();
        let expected = [
            ("arc_easy:mc/accuracy:logprob", 0.6, true, Some(10)),
            ("arc_easy:mc/accuracy:exact_match", 0.5, true, Some(10)),
            ("arc_easy:mc/bits_per_byte", 0.9, false, Some(10)),
        ];
        let mut sorted = expected.to_vec();
        let mut found = scores.clone();
        sorted.sort_by(|a, b| a.0.cmp(b.0));
        found.sort_by(|a, b| a.0.cmp(b.0));
        assert_eq!(found, sorted);
        assert_eq!(results.refused[0].task, "arc_easy:mc/zeal");
        let several = br#"{"tasks": [{"task": "a", "model": "m", "metrics": {"accuracy": {"x": 1}}}]}"#;
        let said = read_results(several, Path::new("metrics.json")).unwrap_err().to_string();
        assert!(said.contains("several models, such as `m`"), "{said}");
    }
}
