//! Results beside a model, as the Hugging Face Hub reads them: `.eval_results/*.yaml`
//! (<https://huggingface.co/docs/hub/eval-results>).
//!
//! The model card itself stays as the merge wrote it, because the receipt has its digest; the Hub shows both.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;
use thalweg_eval::external::{ExternalResults, ExternalScore};
use thalweg_storage::guard::OwnKind;
use thalweg_storage::publish::publish_file;
use thalweg_storage::{FileKind, Storage};
use thalweg_tensor::counted;

use crate::Error;

/// The folder that the Hub looks into.
const FOLDER: &str = ".eval_results";
const NAME: &str = "thalweg.yaml";
/// The first line, by which a file of ours is recognised.
const HEAD: &str = "# Results that thalweg read; written anew by it.";
const FILE: OwnKind<'static> = OwnKind::text("results for the Hugging Face Hub", HEAD);

/// Writes the scores whose data set is at the Hub: one for each task, by its first metric. Returns the file.
///
/// # Errors
/// `Request` if no score names such a data set; `Storage`, also where the file is there and not of ours.
pub fn write_hub_results(storage: &dyn Storage, model: &Path, results: &ExternalResults) -> Result<PathBuf, Error> {
    let text = hub_results(results).ok_or_else(|| {
        Error::request_with_hint(
            "the results name no data set of the Hugging Face Hub",
            "`results_*.json` of lm-evaluation-harness names them, for tasks whose data are from there",
        )
    })?;
    if storage.file_info(model)?.kind != FileKind::Folder {
        let what = format!("`{}` is not a folder", model.display());
        return Err(Error::request_with_hint(what, "name the folder of the model"));
    }
    let path = model.join(FOLDER).join(NAME);
    storage.create_folder(&model.join(FOLDER))?;
    publish_file(storage, &path, text.as_bytes(), FILE)?;
    Ok(path)
}

/// The file's content; `None` without an entry.
fn hub_results(results: &ExternalResults) -> Option<String> {
    let mut first: BTreeMap<&str, (&str, &ExternalScore)> = BTreeMap::new();
    for score in &results.scores {
        let (task, metric) = score.task.rsplit_once('/').unwrap_or((&score.task, ""));
        first.entry(task).or_insert((metric, score));
    }
    let mut text = format!("{HEAD}\n");
    let mut is_empty = true;
    for dataset in &results.datasets {
        let Some((metric, score)) = first.get(dataset.task.as_str()) else { continue };
        is_empty = false;
        // Writing to a String cannot fail. Strings of JSON are strings of YAML.
        let _ = write!(
            text,
            "- dataset:\n    id: {}\n    task_id: {}\n  value: {}\n  notes: {}\n",
            Value::from(dataset.dataset.as_str()),
            Value::from(dataset.task.as_str()),
            score.value,
            Value::from(notes(metric, score))
        );
    }
    (!is_empty).then_some(text)
}

fn notes(metric: &str, score: &ExternalScore) -> String {
    let error = score.standard_error.map(|error| format!("standard error {error:.4}"));
    let n = score.n.map(|n| counted(n, "item"));
    let parts: Vec<String> = [Some(metric.to_owned()), error, n].into_iter().flatten().collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use thalweg_eval::external::read_results;
    use thalweg_storage::LocalStorage;

    use super::*;

    const RESULTS: &str = r#"{
        "results": {"arc_easy": {"acc,none": 0.5, "acc_stderr,none": 0.01, "acc_norm,none": 0.4},
                    "own": {"acc,none": 0.1}, "gsm8k": {"exact_match,strict-match": 0.25}},
        "configs": {"arc_easy": {"dataset_path": "allenai/ai2_arc"}, "own": {"dataset_path": "json"},
                    "gsm8k": {"dataset_path": "openai/gsm8k"}},
        "n-samples": {"arc_easy": {"effective": 2376}}}"#;

    #[test]
    fn each_task_of_the_hub_has_its_first_metric() {
        let folder = tempfile::tempdir().unwrap();
        let results = read_results(RESULTS.as_bytes(), Path::new("results.json")).unwrap();
        let path = write_hub_results(&LocalStorage::new(), folder.path(), &results).unwrap();
        assert_eq!(path, folder.path().join(".eval_results/thalweg.yaml"));
        insta::assert_snapshot!(std::fs::read_to_string(&path).unwrap(), @r#"
        # Results that thalweg read; written anew by it.
        - dataset:
            id: "allenai/ai2_arc"
            task_id: "arc_easy"
          value: 0.5
          notes: "acc, standard error 0.0100, 2376 items"
        - dataset:
            id: "openai/gsm8k"
            task_id: "gsm8k"
          value: 0.25
          notes: "exact_match,strict-match"
        "#);
        // It replaces itself, and no file of somebody else.
        write_hub_results(&LocalStorage::new(), folder.path(), &results).unwrap();
        std::fs::write(&path, "- dataset: mine\n").unwrap();
        assert!(write_hub_results(&LocalStorage::new(), folder.path(), &results).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "- dataset: mine\n");
    }

    #[test]
    fn results_without_data_sets_of_the_hub_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let results = read_results(br#"[{"task": "acc", "value": 1}]"#, Path::new("r.json")).unwrap();
        let said = write_hub_results(&LocalStorage::new(), folder.path(), &results).unwrap_err();
        assert!(said.to_string().contains("no data set") && said.hint().is_some());
        assert!(!folder.path().join(".eval_results").exists());
    }
}
