//! What past anneals teach: by how much an anneal leads the merge over its span, from the terms of a case, with an
//! interval.
//!
//! For mean losses the lead, as a share of the merge's gain, is linear in the terms of [`Case::terms`]; ridge
//! regression pulls the coefficients towards those of the anneals that come with the program, so that few cases of
//! one's own already help. The spread is that of cases of runs that were left out, one run at a time. For accuracies
//! the merge's own score is the forecast, and the spread is in units of the paired standard error, which says how many
//! items two such models disagree on.

use nalgebra::{DMatrix, DVector};
use thalweg_eval::uncertainty::Difference;
use thalweg_tensor::counted;

use super::case::{Case, N_TERMS};
use super::request::Refusal;
use crate::values::range_of;

/// How strongly coefficients are held: as if each had been seen in this many cases of unit size.
const RIDGE: f64 = 0.02;
/// How far beyond what was seen a number may be, as a factor.
const DOMAIN_MARGIN: f64 = 1.25;
/// Without cases of an accuracy: a forecast is off by so many paired standard errors.
const DEFAULT_ACCURACY_SPREAD: f64 = 1.2;

/// A correction with its spread and domain.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    coefficients: [f64; N_TERMS],
    /// Standard deviation of a new case's lead about its forecast, as a share of the merge's gain.
    spread: f64,
    /// Degrees of freedom of the spread.
    freedom: f64,
    /// The same for accuracies, in paired standard errors.
    accuracy_spread: f64,
    /// Least and most of length over step.
    length_shares: [f64; 2],
    /// Least and most floor.
    floors: [f64; 2],
    curves: Vec<String>,
    n_cases: usize,
    n_runs: usize,
    has_own: bool,
}

/// A forecast of one score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Predicted {
    /// The score.
    pub value: f64,
    /// 80 % interval.
    pub interval_80: [f64; 2],
    /// 95 % interval.
    pub interval_95: [f64; 2],
}

impl Calibration {
    /// Learns from `own` cases, shrunk towards what `others` teach; either may be empty, but not both.
    ///
    /// Cases without a truth, or whose merge gains nothing, teach nothing and are skipped.
    pub fn fit(own: &[Case], others: &[Case]) -> Option<Self> {
        let (own_losses, other_losses) = (losses(own), losses(others));
        let prior = regress(&other_losses, [0.0; N_TERMS]);
        let (taught_by, base) =
            if own_losses.is_empty() { (&other_losses, [0.0; N_TERMS]) } else { (&own_losses, prior) };
        if taught_by.is_empty() {
            return None;
        }
        let coefficients = regress(taught_by, base);
        let (spread, freedom) = left_out_spread(taught_by, base, &other_losses);
        let accuracies: Vec<&Case> = own.iter().chain(others).filter(|case| case.is_accuracy()).collect();
        let all = || own.iter().chain(others).filter(|case| !case.is_accuracy() && case.truth.is_some());
        let range = |of: fn(&Case) -> f64| range_of(all().map(of));
        let mut curves: Vec<String> = all().map(|case| case.curve.clone()).collect();
        curves.sort();
        curves.dedup();
        Some(Self {
            coefficients,
            spread,
            freedom,
            accuracy_spread: accuracy_spread(&accuracies),
            length_shares: range(Case::length_share),
            floors: range(|case| case.floor),
            curves,
            n_cases: taught_by.len(),
            n_runs: runs_of(taught_by).len(),
            has_own: !own_losses.is_empty(),
        })
    }

    /// Whether a case is within the range of what was learned.
    ///
    /// # Errors
    /// `UnknownCurve`, `OutsideDomain`.
    pub fn check_domain(&self, case: &Case) -> Result<(), Refusal> {
        if !self.curves.contains(&case.curve) {
            return Err(Refusal::UnknownCurve { curve: case.curve.clone() });
        }
        let [low, high] = self.length_shares;
        within(
            "the anneal's length over its last step",
            case.length_share(),
            [low / DOMAIN_MARGIN, high * DOMAIN_MARGIN],
        )?;
        let [low, high] = self.floors;
        within("the learning rate at the end, as a share of the peak,", case.floor, [low, high])
    }

    /// The forecast for a case.
    ///
    /// # Errors
    /// For a loss: `TooFast` where the first half of the span costs the mean as much as it gains; `NoGain` where the
    /// mean does not beat the newest checkpoint beyond twice its standard error.
    pub fn predict(&self, case: &Case) -> Result<Predicted, Refusal> {
        let standard_error = case.standard_error.unwrap_or(0.0);
        if case.is_accuracy() {
            return Ok(interval(case.full, self.accuracy_spread * standard_error, self.freedom));
        }
        let (gain, cost) = (case.merge_gain(), case.lag_cost());
        if cost >= gain && cost > 0.0 {
            return Err(Refusal::TooFast { task: case.task.clone(), cost, gain });
        }
        if gain.is_nan() || gain <= 2.0 * standard_error {
            let (task, n_checkpoints) = (case.task.clone(), case.n_checkpoints);
            return Err(Refusal::NoGain { task, n_checkpoints, gain });
        }
        let value = case.score_of_lead(dot(&self.coefficients, &case.terms()));
        Ok(interval(value, self.spread * gain, self.freedom))
    }

    /// What it rests on, for a person.
    pub fn describe(&self) -> String {
        let whose =
            if self.has_own { "of your own, shrunk towards those of the lab" } else { "of the lab, none of your own" };
        format!(
            "{} from {} {whose}; leaving out each run in turn, the forecasts are off by {:.1} % of the merge's gain (one standard deviation)",
            counted(self.n_cases, "anneal"),
            counted(self.n_runs, "run"),
            100.0 * self.spread
        )
    }

    /// Coefficients of the terms of [`Case::terms`], in their order.
    pub fn coefficients(&self) -> [f64; N_TERMS] {
        self.coefficients
    }
}

fn within(what: &'static str, value: f64, [low, high]: [f64; 2]) -> Result<(), Refusal> {
    let slack = 1e-9;
    if value >= low - slack && value <= high + slack {
        Ok(())
    } else {
        Err(Refusal::OutsideDomain { what, value, low, high })
    }
}

/// What can be learned from: mean losses whose truth is known and whose merge gains something.
fn losses(cases: &[Case]) -> Vec<&Case> {
    let is_useful =
        |case: &&Case| !case.is_accuracy() && case.truth.is_some() && case.merge_gain() > case.lag_cost().max(0.0);
    cases.iter().filter(is_useful).collect()
}

fn runs_of(cases: &[&Case]) -> Vec<String> {
    let mut runs: Vec<String> = cases.iter().map(|case| case.run.clone()).collect();
    runs.sort();
    runs.dedup();
    runs
}

fn dot(a: &[f64; N_TERMS], b: &[f64; N_TERMS]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Ridge regression of the lead on the terms, towards `base`.
fn regress(cases: &[&Case], base: [f64; N_TERMS]) -> [f64; N_TERMS] {
    if cases.is_empty() {
        return base;
    }
    let matrix = DMatrix::from_fn(cases.len(), N_TERMS, |i, k| cases[i].terms()[k]);
    let left = DVector::from_fn(cases.len(), |i, _| cases[i].lead().unwrap_or(0.0) - dot(&base, &cases[i].terms()));
    let normal = matrix.transpose() * &matrix + DMatrix::identity(N_TERMS, N_TERMS) * RIDGE;
    let Some(inverse) = normal.cholesky() else { return base };
    let change = inverse.solve(&(matrix.transpose() * left));
    std::array::from_fn(|k| base[k] + change[k])
}

/// Root mean square of what is left of the runs that were left out, and its degrees of freedom.
///
/// With a single run there is nothing to leave out: the other cases are used instead.
fn left_out_spread(cases: &[&Case], base: [f64; N_TERMS], others: &[&Case]) -> (f64, f64) {
    let runs = runs_of(cases);
    let mut squares = Vec::new();
    for run in &runs {
        let (out, kept): (Vec<&Case>, Vec<&Case>) = cases.iter().copied().partition(|case| case.run == *run);
        let coefficients = regress(&kept, base);
        squares.extend(out.iter().filter_map(|case| Some((case.lead()? - dot(&coefficients, &case.terms())).powi(2))));
    }
    if runs.len() < 2 && !others.is_empty() {
        return left_out_spread(others, [0.0; N_TERMS], &[]);
    }
    let (n, n_runs) = (squares.len() as f64, runs.len() as f64);
    let spread = (squares.iter().sum::<f64>() / n.max(1.0)).sqrt();
    // Cases of one run share its luck: the truth is between the number of runs and that of cases.
    (spread, (n_runs * n).sqrt().max(2.0) - 1.0)
}

fn accuracy_spread(cases: &[&Case]) -> f64 {
    let off = |case: &&Case| Some((case.truth? - case.full) / case.standard_error.filter(|error| *error > 0.0)?);
    let off: Vec<f64> = cases.iter().filter_map(off).collect();
    if off.len() < 8 {
        return DEFAULT_ACCURACY_SPREAD;
    }
    let n = off.len() as f64;
    (off.iter().map(|off| off * off).sum::<f64>() / n).sqrt()
}

fn interval(value: f64, spread: f64, degrees: f64) -> Predicted {
    let difference = Difference { value, standard_error: spread, degrees };
    Predicted { value, interval_80: difference.t_interval(0.80), interval_95: difference.t_interval(0.95) }
}
