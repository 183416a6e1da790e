//! Learning rate by step: constant, cosine, and warmup, stable phase and anneal (WSD).
//!
//! Steps count from 1: the learning rate of step s is what moves the parameters from s - 1 to s.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};
use thalweg_tensor::counted;

use crate::Error;

/// Which curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// The peak, after the warmup.
    Constant,
    /// Warmup, stable phase, anneal over the last `anneal_steps`.
    Wsd,
    /// Half a cosine from the end of the warmup to the last step.
    Cosine,
}

/// The shape of an anneal, from 1 at its start to 0 at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AnnealCurve {
    /// 1 - t.
    #[serde(rename = "linear")]
    Linear,
    /// (1 + cos(pi t)) / 2.
    #[serde(rename = "cosine")]
    Cosine,
    /// 1 - sqrt(t): Hägele et al. 2024 (arXiv 2405.18392), eq. 1.
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

impl AnnealCurve {
    /// The multiplier at `t`, the share of the anneal that is done, 0 to 1.
    pub fn at(self, t: f64) -> f64 {
        match self {
            Self::Linear => 1.0 - t,
            Self::Cosine => 0.5 * (1.0 + (PI * t).cos()),
            Self::OneMinusSqrt => 1.0 - t.sqrt(),
        }
    }
}

/// Learning rate by step, relative to the peak.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Which curve.
    pub kind: ScheduleKind,
    /// Steps of the linear ramp from 0; step `warmup_steps` has the peak.
    #[serde(default)]
    pub warmup_steps: u64,
    /// `wsd`: steps of the anneal; 0 for none.
    #[serde(default)]
    pub anneal_steps: u64,
    /// `wsd`: its shape.
    #[serde(default = "one_minus_sqrt")]
    pub curve: AnnealCurve,
    /// `wsd` and `cosine`: the share of the peak that is left at the last step.
    #[serde(default)]
    pub floor: f64,
}

fn one_minus_sqrt() -> AnnealCurve {
    AnnealCurve::OneMinusSqrt
}

impl ScheduleConfig {
    /// The multiplier of the peak at `step` (from 1) of a run of `n_steps`.
    ///
    /// # Example
    /// ```
    /// use thalweg_lab::schedule::{AnnealCurve, ScheduleConfig, ScheduleKind};
    ///
    /// let schedule = ScheduleConfig {
    ///     kind: ScheduleKind::Wsd,
    ///     warmup_steps: 10,
    ///     anneal_steps: 20,
    ///     curve: AnnealCurve::Linear,
    ///     floor: 0.0,
    /// };
    /// assert_eq!(schedule.multiplier(5, 100), 0.5);
    /// assert_eq!(schedule.multiplier(80, 100), 1.0);
    /// assert_eq!(schedule.multiplier(90, 100), 0.5);
    /// assert_eq!(schedule.multiplier(100, 100), 0.0);
    /// ```
    pub fn multiplier(&self, step: u64, n_steps: u64) -> f64 {
        if step < self.warmup_steps {
            return ratio(step, self.warmup_steps);
        }
        let floored = |value: f64| self.floor + (1.0 - self.floor) * value;
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Wsd => {
                let start = n_steps.saturating_sub(self.anneal_steps);
                let n_done = step.saturating_sub(start);
                if n_done == 0 { 1.0 } else { floored(self.curve.at(ratio(n_done, self.anneal_steps).min(1.0))) }
            }
            ScheduleKind::Cosine => {
                let n_decay = n_steps.saturating_sub(self.warmup_steps).max(1);
                floored(AnnealCurve::Cosine.at(ratio(step - self.warmup_steps, n_decay).min(1.0)))
            }
        }
    }

    /// First and last step of the stable phase, if the curve has one.
    pub(crate) fn stable_steps(&self, n_steps: u64) -> Option<(u64, u64)> {
        let end = match self.kind {
            ScheduleKind::Constant => n_steps,
            ScheduleKind::Wsd => n_steps.saturating_sub(self.anneal_steps),
            ScheduleKind::Cosine => return None,
        };
        (self.warmup_steps <= end).then_some((self.warmup_steps, end))
    }

    pub(crate) fn check(&self, n_steps: u64) -> Result<(), Error> {
        if !(0.0..=1.0).contains(&self.floor) {
            return Err(Error::value("schedule.floor", format!("{} is not between 0 and 1", self.floor)));
        }
        if self.kind != ScheduleKind::Wsd && self.anneal_steps > 0 {
            return Err(Error::value("schedule.anneal_steps", "only `wsd` has an anneal"));
        }
        let n_planned = self.warmup_steps.checked_add(self.anneal_steps);
        if n_planned.is_none_or(|n_planned| n_planned > n_steps) {
            let (warmup, anneal) = (counted(self.warmup_steps, "step"), self.anneal_steps);
            let message = format!("{warmup} of warmup and {anneal} of anneal do not fit into {n_steps}");
            return Err(Error::value("schedule", message));
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "steps stay far below 2^53")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wsd(curve: AnnealCurve, floor: f64) -> ScheduleConfig {
        ScheduleConfig { kind: ScheduleKind::Wsd, warmup_steps: 4, anneal_steps: 4, curve, floor }
    }

    fn check_curve(schedule: &ScheduleConfig, expected: [f64; 12]) {
        let found: Vec<f64> = (1..=12).map(|step| schedule.multiplier(step, 12)).collect();
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            // Three roundings of doubles near 1.
            assert!((found - expected).abs() < 4e-16, "step {}: {found} and {expected}", i + 1);
        }
    }

    #[test]
    fn every_curve_has_its_closed_form() {
        let ramp = [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0];
        let with = |tail: [f64; 4]| std::array::from_fn(|i| if i < 8 { ramp[i] } else { tail[i - 8] });
        check_curve(&wsd(AnnealCurve::Linear, 0.0), with([0.75, 0.5, 0.25, 0.0]));
        check_curve(&wsd(AnnealCurve::Linear, 0.2), with([0.8, 0.6, 0.4, 0.2]));
        let (half_root, root3) = (0.5f64.sqrt(), 0.75f64.sqrt());
        check_curve(&wsd(AnnealCurve::OneMinusSqrt, 0.0), with([0.5, 1.0 - half_root, 1.0 - root3, 0.0]));
        check_curve(&wsd(AnnealCurve::Cosine, 0.0), with([0.5 * (1.0 + half_root), 0.5, 0.5 * (1.0 - half_root), 0.0]));
        let cosine = ScheduleConfig { kind: ScheduleKind::Cosine, warmup_steps: 0, ..wsd(AnnealCurve::Linear, 0.1) };
        let cosine = ScheduleConfig { anneal_steps: 0, ..cosine };
        assert!((cosine.multiplier(6, 12) - 0.55).abs() < 1e-15);
        assert!((cosine.multiplier(12, 12) - 0.1).abs() < 1e-15);
        let constant = ScheduleConfig { kind: ScheduleKind::Constant, ..cosine };
        assert!((1..=12).all(|step| constant.multiplier(step, 12).total_cmp(&1.0).is_eq()));
    }

    #[test]
    fn phases_that_do_not_fit_are_refused() {
        assert!(wsd(AnnealCurve::Linear, 0.0).check(8).is_ok());
        let error = wsd(AnnealCurve::Linear, 0.0).check(7).unwrap_err().to_string();
        assert_eq!(error, "`schedule`: 4 steps of warmup and 4 of anneal do not fit into 7");
        assert!(wsd(AnnealCurve::Linear, 1.5).check(8).is_err());
    }
}
