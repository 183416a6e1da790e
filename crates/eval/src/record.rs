//! What is kept of a scored task: the values of every item, as a document with kind and version.

use serde::{Deserialize, Serialize};

use crate::measure::Measure;
use crate::uncertainty::Sums;

/// Values of one task for one checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskScores {
    /// The task.
    pub task: String,
    /// Its items, in the order of the values.
    pub items: Vec<String>,
    /// Values by measure.
    pub measures: Vec<MeasureScores>,
    /// Tokens that were run.
    pub n_tokens: u64,
    /// Seconds that it took when it was run.
    pub seconds: f64,
    /// Whether it was taken from a cache.
    #[serde(skip)]
    pub is_cached: bool,
}

/// Values of one measure, by item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasureScores {
    /// The measure.
    #[serde(with = "measure_name")]
    pub measure: Measure,
    /// What is summed.
    pub numerators: Vec<f64>,
    /// What it is divided by.
    pub denominators: Vec<f64>,
}

/// A number with its uncertainty and direction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// The task.
    pub task: String,
    /// What was measured.
    #[serde(serialize_with = "measure_name::serialize")]
    pub measure: Measure,
    /// The value.
    pub value: f64,
    /// Its standard error; `None` with fewer than two items.
    pub standard_error: Option<f64>,
    /// Items.
    pub n: usize,
    /// Whether more is better.
    pub higher_is_better: bool,
}

impl MeasureScores {
    /// Numerators and denominators, for statistics.
    pub fn sums(&self) -> Sums<'_> {
        Sums {
            numerators: &self.numerators,
            denominators: &self.denominators,
            is_exponential: self.measure.is_exponential(),
        }
    }
}

impl TaskScores {
    /// One score for each measure.
    pub fn scores(&self) -> Vec<Score> {
        let score = |values: &MeasureScores| Score {
            task: self.task.clone(),
            measure: values.measure,
            value: values.sums().value(),
            standard_error: values.sums().standard_error(),
            n: self.items.len(),
            higher_is_better: values.measure.higher_is_better(),
        };
        self.measures.iter().map(score).collect()
    }

    /// The values of a measure.
    pub fn measure(&self, measure: Measure) -> Option<&MeasureScores> {
        self.measures.iter().find(|values| values.measure == measure)
    }
}

pub(crate) mod measure_name {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::measure::Measure;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
    pub(crate) fn serialize<S: Serializer>(measure: &Measure, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(measure.name())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Measure, D::Error> {
        let name = String::deserialize(deserializer)?;
        Measure::from_name(&name).ok_or_else(|| de::Error::custom(format!("no measure `{name}`")))
    }
}
