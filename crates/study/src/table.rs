//! A study as a table for other programs: one row for each scored model, task and measure, as comma-separated values.

use thalweg_storage::guard::OwnKind;

use crate::record::{MergeSource, RawRow, ScoreRow, StudyRecord, TrialRow};

/// Name of the file in a study's folder.
pub const TABLE_NAME: &str = "study.csv";
/// How the table of a study is recognised before it is replaced.
pub const TABLE_FILE: OwnKind<'_> = OwnKind::text("the table of a study", "kind,name,step,tokens,n_checkpoints");

/// The name of a column, and what makes its cells.
type Column = (&'static str, fn(&Row<'_>) -> String);

const COLUMNS: [Column; 25] = [
    ("kind", |row| row.model.kind.to_owned()),
    ("name", |row| row.model.name.clone()),
    ("step", |row| row.model.step.to_string()),
    ("tokens", |row| maybe(row.tokens())),
    ("n_checkpoints", |row| maybe(row.model.trial.map(|trial| trial.n_checkpoints))),
    ("interval_steps", |row| maybe(row.model.trial.and_then(|trial| trial.interval_steps))),
    ("interval_tokens", |row| maybe(row.model.trial.and_then(|trial| trial.interval_tokens))),
    ("scheme", |row| maybe(row.model.trial.map(|trial| &trial.scheme))),
    ("is_chosen", |row| row.is_chosen().to_string()),
    ("suite", |row| row.score.suite.clone()),
    ("role", |row| maybe(row.role())),
    ("task", |row| row.score.task.clone()),
    ("measure", |row| row.score.measure.clone()),
    ("higher_is_better", |row| row.score.higher_is_better.to_string()),
    ("value", |row| row.score.value.to_string()),
    ("standard_error", |row| maybe(row.score.standard_error)),
    ("n", |row| row.score.n.to_string()),
    ("gain", |row| maybe(row.score.gain.map(|gain| gain.value))),
    ("gain_low_95", |row| maybe(row.gain_interval().map(|interval| interval[0]))),
    ("gain_high_95", |row| maybe(row.gain_interval().map(|interval| interval[1]))),
    ("plan_digest", |row| maybe(row.model.trial.map(|trial| &trial.plan_digest))),
    ("params_digest", |row| maybe(row.model.params_digest)),
    ("path", |row| maybe(row.model.path)),
    ("source_steps", |row| row.of_sources(|source| source.step.to_string())),
    ("coefficients", |row| row.of_sources(|source| source.coefficient.to_string())),
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
    write_line(&mut text, COLUMNS.iter().map(|(name, _)| (*name).to_owned()));
    let raws = record.raws.iter().map(|raw| (Model::of_raw("raw", raw), &raw.scores));
    let trials = record.trials.iter().map(|trial| (Model::of_trial(trial), &trial.scores));
    let annealed = record.annealed.iter().map(|raw| (Model::of_raw("annealed", raw), &raw.scores));
    for (model, scores) in raws.chain(trials).chain(annealed) {
        for score in scores {
            let row = Row { record, model: &model, score };
            write_line(&mut text, COLUMNS.iter().map(|(_, cell)| cell(&row)));
        }
    }
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

/// One score of a model.
struct Row<'a> {
    record: &'a StudyRecord,
    model: &'a Model<'a>,
    score: &'a ScoreRow,
}

impl Row<'_> {
    fn tokens(&self) -> Option<u64> {
        self.record.checkpoints.iter().find(|row| row.step == self.model.step)?.tokens
    }

    fn is_chosen(&self) -> bool {
        let chosen = self.record.choice.as_ref().map(|choice| &choice.trial);
        chosen.is_some() && chosen == self.model.trial.map(|trial| &trial.name)
    }

    fn role(&self) -> Option<&String> {
        self.record.suites.iter().find(|suite| suite.name == self.score.suite)?.role.as_ref()
    }

    fn gain_interval(&self) -> Option<[f64; 2]> {
        self.score.gain?.interval_95
    }

    fn of_sources(&self, show: fn(&MergeSource) -> String) -> String {
        self.model.trial.map_or_else(String::new, |trial| trial.sources.iter().map(show).collect::<Vec<_>>().join(" "))
    }
}

fn maybe(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

fn write_line(text: &mut String, cells: impl Iterator<Item = String>) {
    for (i, cell) in cells.enumerate() {
        if i > 0 {
            text.push(',');
        }
        if cell.contains([',', '"', '\n', '\r']) {
            text.push('"');
            text.push_str(&cell.replace('"', "\"\""));
            text.push('"');
        } else {
            text.push_str(&cell);
        }
    }
    text.push('\n');
}
