//! Which window is best, from a few scored ones: lag against noise, in two terms.
//!
//! An average of checkpoints trails the run and damps its noise. With coefficients w over checkpoints that are t steps
//! before the newest one, its loss is
//!
//! loss(w) = river + drift * sum_i w_i t_i + hill * sum_ij w_i w_j r^|t_i - t_j|
//!
//! where `river` is the loss without noise and lag, `drift` the loss that the run gains in a step, `hill` the loss that
//! the noise of one checkpoint costs, and r the correlation of the noise over a step. For n checkpoints of equal
//! coefficients, V steps apart and without correlation this is drift V (n-1)/2 + hill/n, with its least at n* = sqrt(2
//! hill / (drift V)). Three scores give the three unknowns. The picture is that of a river in a valley (Wen et al.
//! 2024, arXiv 2410.05192); the two terms are the bias and the variance of an average. A fourth score tells r; the Gram
//! matrix gives a guess of it that needs no score. Without r the model proposes windows that
//! are too dense, and with the guess far too long ones (docs/results/windows.md): no command proposes from the Gram
//! matrix.

use crate::least_squares::Observed;

/// A window with its score, as a loss: smaller is better.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredWindow {
    /// How it averages.
    pub weighing: Weighing,
    /// Its loss.
    pub loss: f64,
}

/// Coefficients with the places of their checkpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighing {
    /// Steps before the end of the run, oldest first.
    pub steps_before_end: Vec<f64>,
    /// As many, with sum 1.
    pub coefficients: Vec<f64>,
}

/// Loss of an average in two terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowModel {
    /// Loss of the run's end without noise and without lag.
    pub river: f64,
    /// Loss that each step of lag costs; not negative.
    pub drift_per_step: f64,
    /// Loss that the noise of a single checkpoint costs; not negative.
    pub hill: f64,
    /// Correlation of the noise over one step, 0 to 1.
    pub correlation_per_step: f64,
}

/// Why scores support no proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsupported {
    /// There are fewer than three windows, or they do not differ in lag and noise.
    TooFewWindows,
    /// Averaging does not lower the loss: there is no noise to damp.
    NoNoise,
    /// Longer windows keep helping: where that ends is beyond what was scored.
    NoDrift,
}

impl Unsupported {
    /// What to tell a person.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooFewWindows => "at least three windows of different lengths are needed",
            Self::NoNoise => "averaging does not lower the loss here, so the newest checkpoint is best",
            Self::NoDrift => "longer windows still help, so the best length is beyond the longest that was scored",
        }
    }
}

impl Weighing {
    /// Equal coefficients on n checkpoints, `interval` steps apart.
    pub fn uniform(n: usize, interval: f64) -> Self {
        let n = n.max(1);
        let steps_before_end = (0..n).rev().map(|back| back as f64 * interval).collect();
        let coefficients = vec![1.0 / n as f64; n];
        Self { steps_before_end, coefficients }
    }

    /// Mean steps by which it trails the end.
    pub fn lag(&self) -> f64 {
        self.steps_before_end.iter().zip(&self.coefficients).map(|(steps, w)| steps * w).sum()
    }

    /// Share of a single checkpoint's noise that is left, where noise keeps `correlation_per_step` from step to step.
    ///
    /// Without correlation this is the sum of the squared coefficients.
    pub(crate) fn noise_share(&self, correlation_per_step: f64) -> f64 {
        let places = || self.steps_before_end.iter().zip(&self.coefficients);
        let correlation = |steps: f64| if steps == 0.0 { 1.0 } else { correlation_per_step.powf(steps) };
        places().flat_map(|(s, w)| places().map(move |(t, v)| w * v * correlation((s - t).abs()))).sum()
    }
}

impl WindowModel {
    /// Steps over which half of the noise is forgotten; 0 without correlation.
    pub(crate) fn half_life_steps(&self) -> f64 {
        if self.correlation_per_step > 0.0 { 0.5_f64.ln() / self.correlation_per_step.ln() } else { 0.0 }
    }

    /// Loss that the model gives a window.
    pub fn loss(&self, weighing: &Weighing) -> f64 {
        let noise = weighing.noise_share(self.correlation_per_step);
        self.river + self.drift_per_step * weighing.lag() + self.hill * noise
    }

    /// Fits river, drift and hill to at least three scored windows, by least squares with drift and hill not negative.
    ///
    /// # Errors
    /// `Unsupported` where the scores leave the best window open; the fit is then not one to propose from.
    ///
    /// # Example
    /// ```
    /// use thalweg_study::window_fit::{ScoredWindow, Weighing, WindowModel};
    ///
    /// // River 2, drift 0.001 per step, hill 0.2.
    /// let truth = WindowModel { river: 2.0, drift_per_step: 0.001, hill: 0.2, correlation_per_step: 0.0 };
    /// let score = |n| {
    ///     let weighing = Weighing::uniform(n, 10.0);
    ///     ScoredWindow { loss: truth.loss(&weighing), weighing }
    /// };
    /// let fit = WindowModel::fit(&[score(1), score(4), score(16)], 0.0).unwrap();
    /// assert!((fit.hill - 0.2).abs() < 1e-9 && (fit.drift_per_step - 0.001).abs() < 1e-9);
    /// ```
    pub fn fit(windows: &[ScoredWindow], correlation_per_step: f64) -> Result<Self, Unsupported> {
        let lags = windows.iter().map(|window| window.weighing.lag()).collect();
        let noise = windows.iter().map(|window| window.weighing.noise_share(correlation_per_step)).collect();
        let losses: Vec<f64> = windows.iter().map(|window| window.loss).collect();
        let fit = Observed { values: &losses, weights: &vec![1.0; losses.len()] }.fit(&[lags, noise]);
        let Some(&[river, drift_per_step, hill]) = fit.as_ref().map(|fit| fit.coefficients.as_slice()) else {
            return Err(Unsupported::TooFewWindows);
        };
        if hill <= 0.0 {
            return Err(Unsupported::NoNoise);
        }
        if drift_per_step <= 0.0 {
            return Err(Unsupported::NoDrift);
        }
        Ok(Self { river, drift_per_step, hill, correlation_per_step })
    }
}

/// Fits a model for each correlation and keeps the one that leaves the least of the losses; with three windows, which
/// any correlation fits, the first.
///
/// `correlations` are those over one step, as [`WindowModel::correlation_per_step`] has them.
///
/// # Errors
/// `Unsupported` where no correlation gives a model to propose from.
pub(crate) fn fit_correlated(windows: &[ScoredWindow], correlations: &[f64]) -> Result<WindowModel, Unsupported> {
    let left = |model: &WindowModel| -> f64 {
        windows.iter().map(|window| (model.loss(&window.weighing) - window.loss).powi(2)).sum()
    };
    let mut best: Result<WindowModel, Unsupported> = Err(Unsupported::TooFewWindows);
    for &correlation in correlations {
        let model = match WindowModel::fit(windows, correlation) {
            Ok(model) => model,
            Err(why) => {
                best = best.or(Err(why));
                continue;
            }
        };
        // A difference below rounding is none: the first stays.
        if best.as_ref().map_or(true, |known| left(&model) < left(known) * (1.0 - 1e-6) - 1e-24) {
            best = Ok(model);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(model: &WindowModel, n: usize, interval: f64) -> ScoredWindow {
        let weighing = Weighing::uniform(n, interval);
        ScoredWindow { loss: model.loss(&weighing), weighing }
    }

    #[test]
    fn equal_coefficients_give_the_closed_form() {
        let model = WindowModel { river: 1.0, drift_per_step: 0.002, hill: 0.3, correlation_per_step: 0.0 };
        for n in [1_u32, 2, 7, 30] {
            let expected = 1.0 + 0.002 * 10.0 * (f64::from(n) - 1.0) / 2.0 + 0.3 / f64::from(n);
            assert!((scored(&model, n as usize, 10.0).loss - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn noise_factors_are_those_of_an_autoregression() {
        // Values for ten checkpoints computed elsewhere: correlation 0.3 and 0.7 from one to the next.
        for (correlation, expected) in [(0.3, 0.173), (0.7, 0.416), (0.9, 0.728)] {
            let share = Weighing::uniform(10, 1.0).noise_share(correlation);
            assert!((share - expected).abs() < 5e-4, "{share}");
        }
        let wma = Weighing {
            steps_before_end: (0..10).rev().map(f64::from).collect(),
            coefficients: (1..=10).map(|i| f64::from(i) / 55.0).collect(),
        };
        assert!((wma.lag() - 3.0).abs() < 1e-12);
        assert!((wma.noise_share(0.7) - 0.474).abs() < 5e-4);
    }

    #[test]
    fn four_scores_tell_all_four_unknowns() {
        let correlation = 0.5_f64.powf(1.0 / 16.0);
        let truth = WindowModel { river: 2.1, drift_per_step: 2e-4, hill: 0.15, correlation_per_step: correlation };
        let windows =
            [scored(&truth, 1, 10.0), scored(&truth, 8, 10.0), scored(&truth, 15, 10.0), scored(&truth, 5, 30.0)];
        let correlations = [0.0, 0.5_f64.powf(1.0 / 4.0), correlation, 0.5_f64.powf(1.0 / 60.0)];
        let fit = fit_correlated(&windows, &correlations).unwrap();
        assert!((fit.half_life_steps() - 16.0).abs() < 1e-9);
        assert!((fit.river - 2.1).abs() < 1e-9 && (fit.hill - 0.15).abs() < 1e-9, "{fit:?}");
    }

    #[test]
    fn scores_that_leave_the_window_open_support_no_proposal() {
        let quiet = WindowModel { river: 2.0, drift_per_step: 1e-3, hill: -0.01, correlation_per_step: 0.0 };
        let loud = WindowModel { river: 2.0, drift_per_step: -1e-5, hill: 0.3, correlation_per_step: 0.0 };
        let windows = |model: &WindowModel| [1, 4, 16].map(|n| scored(model, n, 10.0));
        assert_eq!(WindowModel::fit(&windows(&quiet), 0.0), Err(Unsupported::NoNoise));
        assert_eq!(WindowModel::fit(&windows(&loud), 0.0), Err(Unsupported::NoDrift));
        assert_eq!(WindowModel::fit(&windows(&loud)[..2], 0.0), Err(Unsupported::TooFewWindows));
    }
}
