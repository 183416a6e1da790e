//! The CORE metric (22 tasks of DCLM, each centred on chance): nanochat's table, and DCLM's own JSON.
//!
//! Neither says how many items a task has, or what each scored.

use serde_json::Value;

use super::score::{ExternalScore, Row, finite_value};

/// Columns of nanochat's table.
const HEAD: [&str; 3] = ["Task", "Accuracy", "Centered"];
/// The row of the mean, which has no accuracy.
const CORE: &str = "CORE";

/// Whether this is nanochat's table: text in columns that commas and spaces separate.
pub(super) fn is_table(bytes: &[u8]) -> bool {
    let head = bytes.split(|byte| *byte == b'\n').next().and_then(|line| std::str::from_utf8(line).ok());
    head.is_some_and(|line| cells(line).eq(HEAD))
}

fn cells(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(str::trim)
}

/// The accuracy of each task, and the CORE metric.
pub(super) fn scores(bytes: &[u8]) -> Vec<Row> {
    let text = String::from_utf8_lossy(bytes);
    let row = |line: &str| {
        let mut cells = cells(line);
        let (task, accuracy, centered) = (cells.next()?, cells.next()?, cells.next()?);
        let number = |cell: &str| cell.parse::<f64>().map_or_else(|_| Value::from(cell), Value::from);
        Some(match task {
            "" => return None,
            CORE => score(CORE, "centered", &number(centered)),
            _ => score(task, "acc", &number(accuracy)),
        })
    };
    text.lines().skip(1).filter_map(row).collect()
}

/// `eval_metrics.icl`, and the means that DCLM calls Core and Extended.
pub(super) fn dclm_scores(document: &Value) -> Vec<Row> {
    let tasks = document["eval_metrics"]["icl"].as_object().into_iter().flatten();
    let mut rows: Vec<Row> = tasks.map(|(task, value)| score(task, "acc", value)).collect();
    for (key, name) in [("Core", CORE), ("Extended", "EXTENDED")] {
        // Where a task is missing it is a sentence that says so.
        rows.extend(document.get(key).map(|value| score(name, "centered", value)));
    }
    rows
}

fn score(task: &str, metric: &str, value: &Value) -> Row {
    let task = format!("{task}/{metric}");
    let value = finite_value(&task, value)?;
    Ok(ExternalScore { task, value, standard_error: None, n: None, higher_is_better: true })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::external::{Verdict, compare_results, read_results};

    /// As nanochat's `base_eval` writes it.
    const TABLE: &str = "Task                               , Accuracy  , Centered  \n\
        hellaswag_zeroshot                 , 0.423000  , 0.230667  \n\
        jeopardy                           , nan       , 0.012000  \n\
        CORE                               ,           , 0.121333  \n";

    #[test]
    fn the_table_of_nanochat_and_the_json_of_dclm_have_the_same_scores() {
        let table = read_results(TABLE.as_bytes(), Path::new("base_model_021400.csv")).unwrap();
        let names: Vec<_> = table.scores.iter().map(|score| (score.task.as_str(), score.value)).collect();
        assert_eq!(names, [("hellaswag_zeroshot/acc", 0.423), ("CORE/centered", 0.121_333)]);
        assert_eq!(table.refused[0].why, "its value is nan, not a number");
        let json = br#"{"eval_metrics": {"perplexity": 2.9, "icl": {"hellaswag_zeroshot": 0.433}},
            "Core": 0.13, "Extended": "N/A due to missing tasks: ['x']"}"#;
        let dclm = read_results(json, Path::new("eval.json")).unwrap();
        assert_eq!(dclm.refused[0].task, "EXTENDED/centered");
        let found = compare_results(&table, &dclm);
        let gains: Vec<_> = found.iter().map(|one| (one.task.as_str(), one.verdict())).collect();
        // Without items or standard errors nothing is said about noise.
        assert_eq!(gains, [("hellaswag_zeroshot/acc", None::<Verdict>), ("CORE/centered", None)]);
        assert!((found[0].gain - 0.01).abs() < 1e-12);
    }
}
