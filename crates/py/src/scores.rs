//! Scores that Python gives for a model, in the forms that another program's results have.

use std::path::Path;

use pyo3::prelude::*;
use thalweg_eval::external::{ExternalScore, read_results};

use crate::error::{Failure, Result};

/// The scores, at least one. What cannot be used beside them goes to the logger.
pub(crate) fn parse_scores(
    py: Python<'_>,
    scores: &Bound<'_, PyAny>,
    higher_is_better: Option<&Bound<'_, PyAny>>,
) -> Result<Vec<ExternalScore>> {
    let as_json = py.import("thalweg._scores")?.getattr("as_json")?;
    let text: String = as_json.call1((scores, higher_is_better))?.extract()?;
    let results = read_results(text.as_bytes(), Path::new("scores")).map_err(|error| {
        let hint =
            "give numbers by task, such as `{\"piqa/acc\": 0.7}`, and `higher_is_better=False` where lower is better";
        Failure::usage_with_hint(error.to_string(), hint)
    })?;
    let logger = py.import("logging")?.call_method1("getLogger", ("thalweg",))?;
    for refused in &results.refused {
        logger.call_method1("warning", ("score `%s` is not used: %s", &refused.task, &refused.why))?;
    }
    Ok(results.scores)
}
