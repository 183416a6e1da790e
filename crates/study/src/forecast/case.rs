//! A case: what four scored windows say about an anneal, and what the anneal then scored. Cases are what a forecast
//! learns from.

use std::path::Path;

use serde::{Deserialize, Serialize};
use thalweg_merge::scheme::DecayCurve;
use thalweg_storage::Storage;
use thalweg_storage::publish::publish_file;

use crate::Error;
use crate::document::{DocumentKind, Lines, json_line};

/// The lines of a file of cases.
pub(crate) const CASES: DocumentKind = DocumentKind::new("a file of forecast cases", "thalweg-forecast-case", 1);
/// The most cases that are read.
const MAX_CASES: usize = 100_000;

/// One anneal and the windows of the constant branch that end where it ends; one line of a file of cases.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Case {
    /// Always `thalweg-forecast-case`.
    pub kind: String,
    /// Always 1.
    pub version: u64,
    /// The run: cases of one run are not independent.
    pub run: String,
    /// Step at which the anneal ends, and the windows.
    pub end_step: u64,
    /// Steps of the anneal: it begins this many steps before its end.
    pub anneal_steps: u64,
    /// `linear`, `cosine` or `1-sqrt`.
    pub curve: String,
    /// Learning rate at the end, as a share of the peak.
    pub floor: f64,
    /// The task.
    pub task: String,
    /// The measure.
    pub measure: String,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// Checkpoints of the window that spans the anneal.
    pub n_checkpoints: usize,
    /// Score of the newest checkpoint.
    pub raw: f64,
    /// Score of the mean of the checkpoints within the anneal's span.
    pub full: f64,
    /// Score of the mean of those in its second half.
    pub half: f64,
    /// Score of the mean of a few over its whole span.
    pub thin: f64,
    /// Standard error of `full` against `raw` on the same items, where known.
    pub standard_error: Option<f64>,
    /// What the annealed model scored, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truth: Option<f64>,
}

/// The terms of the correction: constant, lag, noise, length, shape x lag.
pub(crate) const N_TERMS: usize = 5;

impl Case {
    /// A score as a cost: smaller is better.
    fn cost(&self, score: f64) -> f64 {
        if self.higher_is_better { -score } else { score }
    }

    /// What the merge over the anneal's span gains over the newest checkpoint; positive is better.
    pub fn merge_gain(&self) -> f64 {
        self.cost(self.raw) - self.cost(self.full)
    }

    /// What the first half of the span costs the mean: positive where the second half alone is better.
    pub fn lag_cost(&self) -> f64 {
        self.cost(self.full) - self.cost(self.half)
    }

    /// What the anneal gains over the newest checkpoint.
    pub fn anneal_gain(&self) -> Option<f64> {
        Some(self.cost(self.raw) - self.cost(self.truth?))
    }

    /// By how much the anneal is ahead of the merge, as a share of the merge's gain.
    pub fn lead(&self) -> Option<f64> {
        Some((self.cost(self.full) - self.cost(self.truth?)) / self.merge_gain())
    }

    /// The score of a model that is ahead of the merge by this share of its gain.
    pub(crate) fn score_of_lead(&self, lead: f64) -> f64 {
        let cost = self.cost(self.full) - lead * self.merge_gain();
        self.cost(cost)
    }

    /// Share of the anneal's length that its learning rate lacks: 1 minus the mean of the curve. A half for `linear`,
    /// and then the anneal trails as far as the mean of its checkpoints does.
    pub(crate) fn lag_share(&self) -> f64 {
        let mean = match self.curve.as_str() {
            "1-sqrt" => 1.0 / 3.0,
            _ => 0.5,
        };
        1.0 - (self.floor + (1.0 - self.floor) * mean)
    }

    /// Length over the step reached.
    pub(crate) fn length_share(&self) -> f64 {
        self.anneal_steps as f64 / self.end_step.max(1) as f64
    }

    /// The terms, in units of the merge's gain: lag is what the first half of the window costs the mean, noise what
    /// fewer checkpoints over the same span cost, shape what a curve lags more than a line would.
    pub fn terms(&self) -> [f64; N_TERMS] {
        let gain = self.merge_gain();
        let lag = self.lag_cost() / gain;
        let noise = (self.cost(self.thin) - self.cost(self.full)) / gain;
        [1.0, lag, noise, self.length_share(), 6.0 * (self.lag_share() - 0.5) * lag]
    }

    /// Whether it is about how often answers are right, where items agree or not, and not about a mean loss.
    pub fn is_accuracy(&self) -> bool {
        self.higher_is_better
    }
}

/// Reads cases, one JSON object per line; blank lines are skipped.
///
/// # Errors
/// `LineForm` with the line.
pub fn read_cases(text: &str) -> Result<Vec<Case>, Error> {
    Lines::of_text("the cases", text).read(MAX_CASES, CASE_HINT, read_case)
}

/// Reads a file of cases.
///
/// # Errors
/// `Request` where it is not text; `LineForm`; `Storage`.
pub fn read_case_file(storage: &dyn Storage, path: &Path) -> Result<Vec<Case>, Error> {
    /// The largest file of cases.
    const MAX_BYTES: u64 = 256 << 20;
    Lines::of_file(storage, path, MAX_BYTES)?.read(MAX_CASES, CASE_HINT, read_case)
}

const CASE_HINT: &str = "`thalweg forecast ... --save-cases FILE --truth CKPT` writes cases";

fn read_case(_: usize, line: &str) -> Result<Case, String> {
    let case: Case = CASES.parse(line.as_bytes())?;
    check_case(&case)?;
    Ok(case)
}

/// Refuses a value out of its range, with its key.
fn check_case(case: &Case) -> Result<(), String> {
    let refuse = |key: &str, found: f64, expected: &str| Err(format!("`{key}` is {found:?}, not {expected}"));
    let scores = [("raw", case.raw), ("full", case.full), ("half", case.half), ("thin", case.thin)];
    let truth = case.truth.map(|truth| ("truth", truth));
    let is_score = |score: f64| (-MAX_SCORE..=MAX_SCORE).contains(&score);
    if let Some((key, score)) = scores.into_iter().chain(truth).find(|(_, score)| !is_score(*score)) {
        return refuse(key, score, "a score");
    }
    if !(0.0..=1.0).contains(&case.floor) {
        return refuse("floor", case.floor, "a share from 0 to 1");
    }
    match case.standard_error {
        Some(error) if !(0.0..=MAX_SCORE).contains(&error) => {
            refuse("standard_error", error, "a number that is at least 0")
        }
        _ => match serde_json::from_value::<DecayCurve>(case.curve.as_str().into()) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("`curve`: {error}")),
        },
    }
}

/// Scores beyond this are so large that sums of squares may overflow.
const MAX_SCORE: f64 = 1e100;

/// The cases of a file that may not exist yet.
///
/// # Errors
/// As [`read_case_file`].
pub(crate) fn known_cases(storage: &dyn Storage, path: &Path) -> Result<Vec<Case>, Error> {
    match storage.file_info(path) {
        Ok(_) => read_case_file(storage, path),
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Adds cases to a file; those that it has already are not added again.
///
/// # Errors
/// As [`read_case_file`]; `Request` for a case that could not be read again; `Storage` where the file is not one of
/// cases.
pub(crate) fn add_cases(storage: &dyn Storage, path: &Path, cases: impl Iterator<Item = Case>) -> Result<(), Error> {
    let mut known = known_cases(storage, path)?;
    for case in cases {
        if known.contains(&case) {
            continue;
        }
        let refuse = |why: String| {
            Error::request(format!("the case of `{}/{}` cannot be saved: {why}", case.task, case.measure))
        };
        check_case(&case).map_err(refuse)?;
        known.push(case);
    }
    if known.len() > MAX_CASES {
        return Err(Error::request_with_hint(
            format!("`{}` would have more than the limit of {MAX_CASES} cases", path.display()),
            "give `--save-cases` another file",
        ));
    }
    let text = known.iter().map(json_line).collect::<Result<String, _>>()?;
    Ok(publish_file(storage, path, text.as_bytes(), CASES.file())?)
}

#[cfg(test)]
mod tests {
    use thalweg_storage::MemoryStorage;

    use super::*;

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let (storage, path) = (MemoryStorage::new(), Path::new("/cases.jsonl"));
        let case = |raw: f64| Case {
            kind: CASES.kind.to_owned(),
            version: CASES.version,
            curve: "linear".to_owned(),
            task: "t".to_owned(),
            measure: "m".to_owned(),
            raw,
            ..Case::default()
        };
        add_cases(&storage, path, [case(1.0)].into_iter()).unwrap();
        let refused = add_cases(&storage, path, [case(2.0), case(1e101)].into_iter()).unwrap_err().to_string();
        assert!(refused.starts_with("the case of `t/m` cannot be saved: `raw` is 1"), "{refused}");
        assert_eq!(known_cases(&storage, path).unwrap(), [case(1.0)]);
    }

    #[test]
    fn a_value_out_of_its_range_is_refused_with_its_key() {
        let case = |key: &str, value: &str| {
            let line = r#"{"kind": "thalweg-forecast-case", "version": 1, "run": "r", "end_step": 600, "anneal_steps": 120,
                "curve": "linear", "floor": 0.0, "task": "t", "measure": "m", "higher_is_better": false,
                "n_checkpoints": 6, "raw": 1.9, "full": 1.8, "half": 1.8, "thin": 1.8, "standard_error": 0.1}"#;
            let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
            line[key] = serde_json::from_str(value).unwrap();
            read_case(1, &line.to_string())
        };
        assert!(case("truth", "1.75").is_ok() && case("standard_error", "null").is_ok());
        for (key, value, told) in [
            ("truth", "1e308", "`truth` is 1"),
            ("thin", "-1e101", "`thin` is -1"),
            ("floor", "-1", "`floor` is -1.0, not a share from 0 to 1"),
            ("standard_error", "-1", "`standard_error` is -1.0, not a number that is at least 0"),
            ("curve", "\"cubic\"", "`curve`: unknown variant `cubic`, expected one of"),
        ] {
            assert!(case(key, value).unwrap_err().starts_with(told), "{key}");
        }
    }
}
