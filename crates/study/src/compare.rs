//! Is A better than B, and by how much beyond noise? Paired by held-out document, on text that decided nothing.
//!
//! The statistics are those of `eval`; here they become the record's gains.

use thalweg_eval::measure::Measure;
use thalweg_eval::uncertainty::Bootstrap;
use thalweg_eval::{TaskScores, compare_scores};

use crate::Error;
use crate::report::{Gain, HeldOut, Split};

/// A model's scores on one text, by document.
#[derive(Debug, Clone)]
pub struct SplitScores {
    /// Which text.
    pub split: Split,
    /// Its only task.
    pub scores: TaskScores,
}

/// The mean that a page shows.
///
/// # Errors
/// `MeasureMissing` where the suite does not measure nats a token and bits a byte.
pub fn held_out(scores: &SplitScores) -> Result<HeldOut, Error> {
    let find = |measure: Measure| {
        let found = scores.scores.scores().into_iter().find(|score| score.measure == measure);
        found.ok_or_else(|| Error::MeasureMissing { task: scores.scores.task.clone(), measure: measure.name() })
    };
    let nats = find(Measure::NatsPerToken)?;
    let bits = find(Measure::BitsPerByte)?;
    let n_tokens: f64 =
        scores.scores.measure(Measure::NatsPerToken).map_or(0.0, |values| values.denominators.iter().sum());
    Ok(HeldOut {
        split: scores.split,
        nll_nats: nats.value,
        standard_error: nats.standard_error.unwrap_or(0.0),
        bits_per_byte: bits.value,
        n_documents: nats.n as u64,
        n_tokens: whole(n_tokens),
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a sum of counts is whole and not negative"
)]
fn whole(count: f64) -> u64 {
    count.round() as u64
}

/// Gain of `model` over `over` in nats a token, with its 95 % interval by Student's t over paired documents.
///
/// # Errors
/// `Eval` where the documents are not the same; `TooFewDocuments` with fewer than two.
pub fn paired_gain(model: (&str, &SplitScores), over: (&str, &SplitScores)) -> Result<Gain, Error> {
    let ((model, judged), (over, reference)) = (model, over);
    let (a, b) = (std::slice::from_ref(&reference.scores), std::slice::from_ref(&judged.scores));
    // The percentile bootstrap is not shown, and its resamples would be most of the time.
    let comparisons = compare_scores(a, b, Bootstrap { seed: 0, n_resamples: 1 })?;
    let nats = comparisons.iter().find(|comparison| comparison.measure == Measure::NatsPerToken);
    let task = || judged.scores.task.clone();
    let nats = nats.ok_or_else(|| Error::MeasureMissing { task: task(), measure: Measure::NatsPerToken.name() })?;
    let interval_95 = nats.interval_95.ok_or_else(|| Error::TooFewDocuments { task: task(), n: nats.n })?;
    let (model, over) = (model.to_owned(), over.to_owned());
    Ok(Gain { model, over, split: judged.split, gain_nats: nats.gain, interval_95, n_documents: nats.n as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_eval::record::MeasureScores;

    /// Documents of ten tokens and twenty bytes with these nats.
    fn scores(nats: &[f64]) -> SplitScores {
        let items = (0..nats.len()).map(|i| i.to_string()).collect();
        let measure = |measure, scale: f64, per: f64| MeasureScores {
            measure,
            numerators: nats.iter().map(|nats| nats * scale).collect(),
            denominators: vec![per; nats.len()],
        };
        let bits = measure(Measure::BitsPerByte, std::f64::consts::LOG2_E, 20.0);
        let measures = vec![bits, measure(Measure::NatsPerToken, 1.0, 10.0)];
        let task = "text".to_owned();
        let scores = TaskScores { task, items, measures, n_tokens: 0, seconds: 0.0, is_cached: false };
        SplitScores { split: Split::Test, scores }
    }

    #[test]
    fn a_gain_is_positive_for_less_loss_and_its_interval_is_that_of_paired_documents() {
        let (raw, merged) = (scores(&[30.0, 20.0, 10.0]), scores(&[28.0, 19.0, 9.0]));
        let gain = paired_gain(("merged", &merged), ("raw", &raw)).unwrap();
        // Gains of 0.2, 0.1, 0.1 a token: mean 0.4/3, standard error 1/30, t(2) = 4.302653.
        assert!((gain.gain_nats - 0.4 / 3.0).abs() < 1e-12);
        assert!((gain.interval_95[0] - (0.4 / 3.0 - 4.302_653 / 30.0)).abs() < 1e-6);
        assert!((gain.interval_95[1] - (0.4 / 3.0 + 4.302_653 / 30.0)).abs() < 1e-6);
        assert_eq!((gain.model.as_str(), gain.over.as_str(), gain.n_documents), ("merged", "raw", 3));
        let other = paired_gain(("raw", &raw), ("merged", &merged)).unwrap();
        assert!((other.gain_nats + gain.gain_nats).abs() < 1e-12);
    }

    #[test]
    fn means_are_by_token_and_by_byte() {
        let shown = held_out(&scores(&[30.0, 20.0, 10.0])).unwrap();
        assert!((shown.nll_nats - 2.0).abs() < 1e-12);
        assert!((shown.bits_per_byte - 60.0 * std::f64::consts::LOG2_E / 60.0).abs() < 1e-12);
        assert_eq!((shown.n_documents, shown.n_tokens), (3, 30));
    }

    #[test]
    fn other_documents_are_not_compared() {
        let (a, b) = (scores(&[30.0, 20.0]), scores(&[30.0, 20.0, 10.0]));
        assert!(matches!(paired_gain(("a", &a), ("b", &b)), Err(Error::Eval(_))));
    }
}
