//! Proxies against real runs: do merged mixtures rank as the models that were trained on them?

use std::collections::BTreeMap;

use serde::Serialize;
use thalweg_eval::external::known_direction;
use thalweg_eval::measure::Measure;
use thalweg_tensor::SplitMix;

use super::rank::spearman;
use super::trials::TrialRecord;
use crate::Error;
use crate::values::mean;

/// Mixtures are the same if no share differs by more.
const SAME: f64 = 2e-3;
const N_RESAMPLES: usize = 1000;
/// The most comparisons: each reference is compared with each trial.
const MAX_COMPARISONS: usize = 1_000_000_000;

/// Agreement of proxies with references on one score.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ValidationRow {
    /// `task/measure`; `mean` over all of them.
    pub measure: String,
    /// Mixtures that both have.
    pub n: usize,
    /// Correlation of ranks.
    pub spearman: Option<f64>,
    /// 95 % percentile interval over mixtures.
    pub spearman_interval_95: Option<[f64; 2]>,
    /// Mixtures in the best quarter of the references.
    pub n_top: usize,
    /// Correlation of ranks within that quarter.
    pub top_quartile_spearman: Option<f64>,
    /// Mean of proxy over reference; the paper's capability recovery, for scores of which more is better.
    pub recovery: Option<f64>,
    /// Whether more is better.
    pub higher_is_better: Option<bool>,
    /// Proxy and reference of each mixture, the best references first; none for a mean over scores.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<[f64; 2]>,
}

/// What was compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Validation {
    /// Mixtures of the trials.
    pub n_trials: usize,
    /// Mixtures of the references.
    pub n_references: usize,
    /// Mixtures that both have.
    pub n_matched: usize,
    /// By score, the mean over scores last.
    pub rows: Vec<ValidationRow>,
}

/// Compares scored merges with runs that were trained on the same mixtures.
///
/// # Errors
/// `Request` for too many mixtures to compare, and where fewer than three mixtures or no score are in both.
pub fn validate_proxies(trials: &[TrialRecord], references: &[TrialRecord], seed: u64) -> Result<Validation, Error> {
    if trials.len().saturating_mul(references.len()) > MAX_COMPARISONS {
        return Err(Error::request_with_hint(
            format!("{} trials and {} references are too many to compare", trials.len(), references.len()),
            format!("the one number times the other may be at most {MAX_COMPARISONS}: give fewer of them"),
        ));
    }
    let pairs: Vec<(&TrialRecord, &TrialRecord)> =
        references.iter().filter_map(|reference| Some((nearest(trials, reference)?, reference))).collect();
    if pairs.len() < 3 {
        return Err(Error::request_with_hint(
            format!(
                "{} of {} references have a trial of the same mixture, but three are needed",
                pairs.len(),
                references.len()
            ),
            "score the merges of the references' mixtures: `thalweg mix search --mixtures REFERENCES ...`",
        ));
    }
    let mut names: Vec<&String> = pairs.iter().flat_map(|(trial, _)| trial.measures.keys()).collect();
    names.sort();
    names.dedup();
    names.retain(|name| pairs.iter().all(|(a, b)| a.measures.contains_key(*name) && b.measures.contains_key(*name)));
    if names.is_empty() {
        return Err(Error::request_with_hint(
            "no score is in all trials and all references",
            "give both the same names, such as `code/nats_per_token`",
        ));
    }
    let values = |name: &String| -> Vec<[f64; 2]> {
        pairs.iter().map(|(trial, reference)| [trial.measures[name], reference.measures[name]]).collect()
    };
    let mut rows: Vec<ValidationRow> = names.iter().map(|name| agreement(name, &values(name), seed)).collect();
    if rows.len() > 1 {
        rows.push(mean_row(&rows, pairs.len()));
    }
    Ok(Validation { n_trials: trials.len(), n_references: references.len(), n_matched: pairs.len(), rows })
}

/// The trial of the same mixture: later rounds try mixtures that are close together.
fn nearest<'a>(trials: &'a [TrialRecord], reference: &TrialRecord) -> Option<&'a TrialRecord> {
    let distances = trials.iter().filter_map(|trial| Some((distance(trial, reference)?, trial)));
    let (distance, trial) = distances.min_by(|a, b| a.0.total_cmp(&b.0))?;
    (distance <= SAME).then_some(trial)
}

/// The largest difference of a share, in coordinates that both have.
fn distance(a: &TrialRecord, b: &TrialRecord) -> Option<f64> {
    let between = |a: &Option<BTreeMap<String, f64>>, b: &Option<BTreeMap<String, f64>>| {
        let (a, b) = a.as_ref().zip(b.as_ref())?;
        let of = |shares: &BTreeMap<String, f64>, name: &String| shares.get(name).copied().unwrap_or(0.0);
        Some(a.keys().chain(b.keys()).map(|name| (of(a, name) - of(b, name)).abs()).fold(0.0, f64::max))
    };
    between(&a.data_shares, &b.data_shares).or_else(|| between(&a.coefficients, &b.coefficients))
}

/// Whether more of a score is better, by its name; losses where the name is unknown.
fn higher_is_better(name: &str) -> bool {
    let measure = name.rsplit('/').next().unwrap_or(name);
    let ours = Measure::from_name(measure).map(Measure::higher_is_better);
    ours.or_else(|| known_direction(measure)).unwrap_or(false)
}

fn agreement(name: &str, pairs: &[[f64; 2]], seed: u64) -> ValidationRow {
    let correlation = |pairs: &[[f64; 2]]| {
        let (proxies, references): (Vec<f64>, Vec<f64>) = pairs.iter().map(|[a, b]| (*a, *b)).unzip();
        spearman(&proxies, &references)
    };
    let mut best = pairs.to_vec();
    best.sort_by(|a, b| a[1].total_cmp(&b[1]));
    if higher_is_better(name) {
        best.reverse();
    }
    let ordered = best.clone();
    best.truncate(pairs.len().div_ceil(4));
    let mut random = SplitMix::new(seed);
    let resample = |_| {
        let drawn: Vec<[f64; 2]> = pairs.iter().map(|_| pairs[random.below(pairs.len())]).collect();
        correlation(&drawn)
    };
    let mut resampled: Vec<f64> = (0..N_RESAMPLES).filter_map(resample).collect();
    resampled.sort_by(f64::total_cmp);
    let at = |share: usize| resampled.get(resampled.len() * share / 1000).copied();
    let ratios: Vec<f64> = pairs.iter().map(|[proxy, reference]| proxy / reference).collect();
    let recovery = ratios.iter().sum::<f64>() / pairs.len() as f64;
    ValidationRow {
        measure: name.to_owned(),
        n: pairs.len(),
        spearman: correlation(pairs),
        spearman_interval_95: at(25).zip(at(975)).map(|(low, high)| [low, high]),
        n_top: best.len(),
        top_quartile_spearman: correlation(&best),
        recovery: recovery.is_finite().then_some(recovery),
        higher_is_better: Some(higher_is_better(name)),
        pairs: ordered,
    }
}

/// The mean over scores; a number that one score lacks is left out of it.
fn mean_row(rows: &[ValidationRow], n: usize) -> ValidationRow {
    let mean = |values: Vec<f64>| (!values.is_empty()).then(|| mean(&values));
    ValidationRow {
        measure: "mean".to_owned(),
        n,
        spearman: mean(rows.iter().filter_map(|row| row.spearman).collect()),
        spearman_interval_95: None,
        n_top: rows.first().map_or(0, |row| row.n_top),
        top_quartile_spearman: mean(rows.iter().filter_map(|row| row.top_quartile_spearman).collect()),
        recovery: mean(rows.iter().filter_map(|row| row.recovery).collect()),
        higher_is_better: None,
        pairs: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(general: f64, measures: &[(&str, f64)]) -> TrialRecord {
        TrialRecord {
            round: None,
            coefficients: None,
            data_shares: Some([("web".to_owned(), general), ("code".to_owned(), 1.0 - general)].into()),
            measures: measures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        }
    }

    #[test]
    fn mixtures_that_would_take_hours_to_compare_are_refused() {
        let many = vec![record(0.5, &[]); 40_000];
        let refused = validate_proxies(&many, &many, 1).unwrap_err().to_string();
        assert_eq!(refused, "40000 trials and 40000 references are too many to compare");
    }

    #[test]
    fn agreement_by_hand() {
        // Losses of eight references in the order of their shares, and proxies that swap the best two.
        let references: Vec<f64> = (1..=8).map(f64::from).collect();
        let mut proxies = references.clone();
        proxies.swap(0, 1);
        let make = |losses: &[f64]| -> Vec<TrialRecord> {
            losses
                .iter()
                .enumerate()
                .map(|(i, loss)| record(0.5 + 0.05 * i as f64, &[("a/nats_per_token", *loss)]))
                .collect()
        };
        let found = validate_proxies(&make(&proxies), &make(&references), 1).unwrap();
        let row = &found.rows[0];
        assert_eq!((found.n_matched, found.rows.len(), row.n, row.n_top), (8, 1, 8, 2));
        assert_eq!((row.pairs.len(), row.pairs[0], row.pairs[7]), (8, [2.0, 1.0], [8.0, 8.0]));
        // 1 - 6 (1 + 1) / (8 (64 - 1)).
        assert!((row.spearman.unwrap() - (1.0 - 12.0 / 504.0)).abs() < 1e-12);
        let [low, high] = row.spearman_interval_95.unwrap();
        assert!(low < row.spearman.unwrap() && high <= 1.0 + 1e-12);
        // Two are too few to correlate.
        assert_eq!(row.top_quartile_spearman, None);
        // (2/1 + 1/2 + 6) / 8.
        assert!((row.recovery.unwrap() - 8.5 / 8.0).abs() < 1e-12);
    }

    #[test]
    fn the_best_quarter_is_that_of_the_references_whichever_way_is_better() {
        let make = |measure: &str, values: &[f64]| -> Vec<TrialRecord> {
            values.iter().enumerate().map(|(i, v)| record(0.3 + 0.05 * i as f64, &[(measure, *v)])).collect()
        };
        let references: Vec<f64> = (1..=12).map(f64::from).collect();
        // The proxies rank the lowest three right and the highest three the wrong way round.
        let proxies = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 12.0, 11.0, 10.0];
        for (measure, top) in [("a/loss", 1.0), ("a/acc", -1.0)] {
            let found = validate_proxies(&make(measure, &proxies), &make(measure, &references), 1).unwrap();
            assert_eq!((found.rows[0].n_top, found.rows[0].top_quartile_spearman), (3, Some(top)), "{measure}");
        }
    }

    #[test]
    fn of_close_mixtures_the_nearest_is_compared() {
        let close = [(0.5, 1.0), (0.501, 2.0), (0.502, 3.0)].map(|(share, loss)| record(share, &[("a/loss", loss)]));
        let found = validate_proxies(&close, &close, 1).unwrap();
        assert_eq!((found.rows[0].spearman, found.rows[0].recovery), (Some(1.0), Some(1.0)));
    }

    #[test]
    fn only_the_same_mixtures_and_scores_are_compared() {
        let trials =
            [record(0.5, &[("a/loss", 1.0)]), record(0.6, &[("a/loss", 2.0)]), record(0.7, &[("a/loss", 3.0)])];
        let off = [record(0.5, &[("a/loss", 1.0)]), record(0.61, &[("a/loss", 2.0)]), record(0.7, &[("a/loss", 3.0)])];
        let error = validate_proxies(&trials, &off, 1).unwrap_err();
        assert!(error.to_string().contains("2 of 3 references") && error.hint().unwrap().contains("--mixtures"));
        let other = [0.5, 0.6, 0.7].map(|share| record(share, &[("b/loss", 1.0)]));
        assert!(validate_proxies(&trials, &other, 1).unwrap_err().to_string().contains("no score is in all"));
    }
}
