//! A study as a table for other programs: one row for each scored model, task and measure, as comma-separated values.

use thalweg_storage::guard::OwnKind;

use crate::record::{RawRow, ScoreRow, StudyRecord, TrialRow};

/// Name of the file in a study's folder.
pub const TABLE_NAME: &str = "study.csv";
/// How the table of a study is recognised before it is replaced.
pub const TABLE_FILE: OwnKind<'_> = OwnKind::text("the table of a study", "kind,name,step,tokens,n_checkpoints");

const COLUMNS: [&str; 25] = [
    "kind",
    "name",
    "step",
    "tokens",
    "n_checkpoints",
    "interval_steps",
    "interval_tokens",
    "scheme",
    "is_chosen",
    "suite",
    "role",
    "task",
    "measure",
    "higher_is_better",
    "value",
    "standard_error",
    "n",
    "gain",
    "gain_low_95",
    "gain_high_95",
    "plan_digest",
    "params_digest",
    "path",
    "source_steps",
    "coefficients",
];

/// The scores of `record` by RFC 4180: a header, then raw checkpoints, merges and annealed checkpoints in their order.
///
/// A number is written so that reading it gives the same number; what is not known is empty. Steps and coefficients of
/// a window are one field each, oldest first, with spaces between them.
///
/// # Example
/// ```
/// let record = thalweg_study::record::StudyRecord::new("A study", "runs/mine", "thalweg sweep runs/mine -o sweep");
/// assert!(thalweg_study::table::to_csv(&record).starts_with("kind,name,step,tokens,"));
/// ```
pub fn to_csv(record: &StudyRecord) -> String {
    let mut text = String::new();
    write_line(&mut text, &COLUMNS.map(str::to_owned));
    let raw = |text: &mut String, kind: &str, raw: &RawRow| {
        for score in &raw.scores {
            write_line(text, &cells(record, Model::of_raw(kind, raw), score));
        }
    };
    record.raws.iter().for_each(|row| raw(&mut text, "raw", row));
    for trial in &record.trials {
        for score in &trial.scores {
            write_line(&mut text, &cells(record, Model::of_trial(trial), score));
        }
    }
    record.annealed.iter().for_each(|row| raw(&mut text, "annealed", row));
    text
}

/// A scored model of either kind.
struct Model<'a> {
    kind: &'a str,
    name: String,
    step: u64,
    trial: Option<&'a TrialRow>,
    params_digest: Option<&'a String>,
    path: Option<&'a String>,
}

impl<'a> Model<'a> {
    fn of_raw(kind: &'a str, raw: &'a RawRow) -> Self {
        let name = format!("{kind} step {}", raw.step);
        Self {
            kind,
            name,
            step: raw.step,
            trial: None,
            params_digest: raw.params_digest.as_ref(),
            path: Some(&raw.path),
        }
    }

    fn of_trial(trial: &'a TrialRow) -> Self {
        let (params_digest, path) = (trial.params_digest.as_ref(), trial.path.as_ref());
        Self { kind: "merged", name: trial.name.clone(), step: trial.end_step, trial: Some(trial), params_digest, path }
    }
}

fn cells(record: &StudyRecord, model: Model<'_>, score: &ScoreRow) -> [String; 25] {
    let trial = model.trial;
    let checkpoint = record.checkpoints.iter().find(|row| row.step == model.step);
    let suite = record.suites.iter().find(|suite| suite.name == score.suite);
    let is_chosen = record.choice.as_ref().is_some_and(|choice| trial.is_some_and(|trial| trial.name == choice.trial));
    let gain = score.gain;
    let interval = gain.and_then(|gain| gain.interval_95);
    let joined = |show: &dyn Fn(&crate::record::MergeSource) -> String| {
        trial.map_or_else(String::new, |trial| trial.sources.iter().map(show).collect::<Vec<_>>().join(" "))
    };
    [
        model.kind.to_owned(),
        model.name,
        model.step.to_string(),
        maybe(checkpoint.and_then(|row| row.tokens)),
        maybe(trial.map(|trial| trial.n_checkpoints)),
        maybe(trial.and_then(|trial| trial.interval_steps)),
        maybe(trial.and_then(|trial| trial.interval_tokens)),
        maybe(trial.map(|trial| &trial.scheme)),
        is_chosen.to_string(),
        score.suite.clone(),
        maybe(suite.and_then(|suite| suite.role.as_ref())),
        score.task.clone(),
        score.measure.clone(),
        score.higher_is_better.to_string(),
        score.value.to_string(),
        maybe(score.standard_error),
        score.n.to_string(),
        maybe(gain.map(|gain| gain.value)),
        maybe(interval.map(|interval| interval[0])),
        maybe(interval.map(|interval| interval[1])),
        maybe(trial.map(|trial| &trial.plan_digest)),
        maybe(model.params_digest),
        maybe(model.path),
        joined(&|source| source.step.to_string()),
        joined(&|source| source.coefficient.to_string()),
    ]
}

fn maybe(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

fn write_line(text: &mut String, cells: &[String]) {
    for (i, cell) in cells.iter().enumerate() {
        if i > 0 {
            text.push(',');
        }
        if cell.contains([',', '"', '\n', '\r']) {
            text.push('"');
            text.push_str(&cell.replace('"', "\"\""));
            text.push('"');
        } else {
            text.push_str(cell);
        }
    }
    text.push('\n');
}
