//! Scored mixtures as lines of JSON: what a search wrote, or what real runs scored.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thalweg_eval::external::quote_python_numbers;
use thalweg_storage::Storage;
use thalweg_tensor::display_name;

use crate::Error;
use crate::document::{DocumentKind, Field, Lines};

/// The lines that a search writes.
pub(super) const TRIALS: DocumentKind = DocumentKind::new("a file of scored mixtures", "thalweg-mix-trial", 1);

/// The largest file, and the most lines, that are read.
const MAX_BYTES: u64 = 256 << 20;
const MAX_TRIALS: usize = 1_000_000;
/// How far shares may be from a sum of 1.
const SUM_TOLERANCE: f64 = 1e-3;

/// A mixture and what it scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialRecord {
    /// The round of the search, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<usize>,
    /// By which the components are multiplied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coefficients: Option<BTreeMap<String, f64>>,
    /// What a run trains on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_shares: Option<BTreeMap<String, f64>>,
    /// Scores by `task/measure`.
    #[serde(default)]
    pub measures: BTreeMap<String, f64>,
}

/// Reads scored mixtures, one JSON object on each line. Blank lines are skipped.
///
/// # Errors
/// `LineForm` with the line for what is not one; `Request` for a file without any; `Storage`.
pub fn read_trials(storage: &dyn Storage, path: &Path) -> Result<Vec<TrialRecord>, Error> {
    let lines = Lines::of_file(storage, path, MAX_BYTES)?;
    let trials = lines.read(MAX_TRIALS, TRIAL_HINT, |_, line| read_trial(line))?;
    if trials.is_empty() {
        return Err(Error::request_with_hint(format!("{} has no mixtures", lines.file), TRIAL_HINT));
    }
    Ok(trials)
}

const TRIAL_HINT: &str = "each line is one mixture, such as {\"data_shares\": {\"web\": 0.7, \"code\": 0.3}, \"measures\": {\"code/nats_per_token\": 2.31}}";

fn read_trial(line: &str) -> Result<TrialRecord, String> {
    let bytes = quote_python_numbers(line.as_bytes());
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    if let Some(fault) = TRIALS.fault_of_any_line(&value) {
        return Err(fault);
    }
    // Here with the place of a value that is not a number; what serde says has none.
    for key in ["coefficients", "data_shares", "measures"] {
        let numbers = Field::root(&value).at(key);
        let names = value[key].as_object().into_iter().flat_map(|numbers| numbers.keys());
        names.map(|name| numbers.at(name).real()).collect::<Result<Vec<_>, _>>()?;
    }
    let trial: TrialRecord = serde_json::from_value(value).map_err(|error| error.to_string())?;
    if trial.coefficients.is_none() && trial.data_shares.is_none() {
        return Err("it has neither `coefficients` nor `data_shares`".to_owned());
    }
    for (key, shares) in [("coefficients", &trial.coefficients), ("data_shares", &trial.data_shares)] {
        let Some(shares) = shares else { continue };
        if let Some((name, share)) = shares.iter().find(|(_, share)| !share.is_finite() || **share < 0.0) {
            return Err(format!("`{key}`: {share} of `{}` is not a share", display_name(name)));
        }
        let sum: f64 = shares.values().sum();
        if (sum - 1.0).abs() > SUM_TOLERANCE {
            return Err(format!("`{key}` sum to {sum}, not to 1"));
        }
    }
    match trial.measures.iter().find(|(_, value)| !value.is_finite()) {
        Some((name, value)) => Err(format!("`{}` is {value}, not a finite number", display_name(name))),
        None => Ok(trial),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_other_programs_are_read_and_faults_are_named() {
        let trial = read_trial(r#"{"data_shares": {"web": 0.75, "code": 0.25}, "measures": {"a/b": 2}}"#).unwrap();
        assert_eq!((trial.data_shares.unwrap()["web"], trial.measures["a/b"]), (0.75, 2.0));
        let refused = |line: &str| read_trial(line).unwrap_err();
        assert_eq!(
            refused(r#"{"kind": "thalweg-mix-trial", "version": 2}"#),
            "it is `thalweg-mix-trial` version 2, not `thalweg-mix-trial` version 1"
        );
        assert!(refused("{}").contains("neither `coefficients` nor `data_shares`"));
        assert!(refused(r#"{"data_shares": {"web": 0.7}}"#).contains("sum to 0.7, not to 1"));
        assert!(refused(r#"{"coefficients": {"web": 1.5, "code": -0.5}}"#).contains("-0.5 of `code` is not a share"));
        let with =
            |measure: &str| refused(&format!(r#"{{"coefficients": {{"web": 1}}, "measures": {{"a/b": {measure}}}}}"#));
        assert_eq!(with("NaN"), r#"`measures.a/b` is "NaN", not a number"#);
        assert_eq!(with("null"), "`measures.a/b` is missing, but a number is expected");
        assert_eq!(refused(r#"{"coefficients": {"web": "1"}}"#), r#"`coefficients.web` is "1", not a number"#);
        assert!(refused("[1, 2").contains("line 1 column"));
        assert!(refused("[]").contains("neither") && refused("7").contains("invalid type"));
    }
}
