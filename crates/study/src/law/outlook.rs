//! What a law is for: the reach of a finite pool, models for a target, the gain of one more, when to stop.

use serde::Serialize;

/// What the pool of models can reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ReachRow {
    /// Models in the pool.
    pub pool: u32,
    /// The loss of merging all of them.
    pub loss: f64,
    /// How far that is above the floor.
    pub above_floor: f64,
    /// Models that give 80 % of the gain from one to all.
    pub k80: u32,
    /// Models that give 90 % of it.
    pub k90: u32,
}

/// How many models a loss takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TargetRow {
    /// The loss.
    pub target: f64,
    /// The least number of models that reaches it.
    pub k: Option<f64>,
    /// Whether the pool has this many models, where its size is known.
    pub within_pool: Option<bool>,
    /// Why none reaches it.
    pub reason: Option<String>,
}

/// The gain of one more model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MarginalRow {
    /// Models before.
    pub k: u32,
    /// By how much the next lowers the loss.
    pub gain: f64,
}

/// When one more is no longer worth it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StopRow {
    /// The least gain that is worth a model.
    pub least_gain: f64,
    /// The number of models at which the next one gains less.
    pub k: u32,
}

/// The least number of models whose merge has at most the loss `target`; `None` where no number does.
pub(super) fn models_for(l_inf: f64, a: f64, b: f64, target: f64) -> Option<f64> {
    if target <= l_inf || a <= 0.0 {
        return None;
    }
    // Rounding must not add a model where a whole number is meant.
    let exact = a / (target - l_inf) - b;
    Some((exact - 1e-9 * exact.abs().max(1.0)).ceil().max(1.0))
}

pub(super) fn target_row((l_inf, a, b): (f64, f64, f64), target: f64, pool: Option<u32>) -> TargetRow {
    let k = models_for(l_inf, a, b, target);
    let within_pool = k.zip(pool).map(|(k, pool)| k <= f64::from(pool));
    let reason = k.is_none().then(|| format!("the floor is {l_inf:.4}, above {target}"));
    TargetRow { target, k, within_pool, reason }
}

/// A / ((k + b)(k + 1 + b)).
pub(super) fn marginal_gain(a: f64, b: f64, k: u32) -> f64 {
    a / ((f64::from(k) + b) * (f64::from(k) + 1.0 + b))
}

/// Where the next model gains less than `least_gain`, which is above 0.
pub(super) fn stop_row(a: f64, b: f64, least_gain: f64) -> StopRow {
    /// More than anybody trains.
    const MAX_MODELS: f64 = 1e6;
    // (k + b + 1/2)^2 = A / gain + 1/4.
    let exact = ((a / least_gain).max(0.0) + 0.25).sqrt() - 0.5 - b;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and a million")]
    let mut k = exact.ceil().clamp(1.0, MAX_MODELS) as u32;
    // The root may be a rounding error off a whole number.
    while k > 1 && marginal_gain(a, b, k - 1) < least_gain {
        k -= 1;
    }
    StopRow { least_gain, k }
}

pub(super) fn reach_row((l_inf, a, b): (f64, f64, f64), pool: u32) -> ReachRow {
    let loss = |k: u32| l_inf + a / (f64::from(k) + b);
    let share = |k: u32| if pool > 1 { (loss(1) - loss(k)) / (loss(1) - loss(pool)) } else { 1.0 };
    let reaches = |wanted: f64| (1..=pool).find(|k| share(*k) >= wanted - 1e-12).unwrap_or(pool);
    ReachRow { pool, loss: loss(pool), above_floor: loss(pool) - l_inf, k80: reaches(0.8), k90: reaches(0.9) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gain_of_nine_experts_is_the_arithmetic_of_their_pool() {
        // R(k) = (1/(1+b) - 1/(k+b)) / (1/(1+b) - 1/(9+b)) is 0.864 and 0.913 for k = 5 and 6 at b = 1/2.
        let row = reach_row((0.7, 0.08, 0.5), 9);
        assert_eq!((row.pool, row.k80, row.k90), (9, 5, 6));
        assert!((row.loss - (0.7 + 0.08 / 9.5)).abs() < 1e-15 && (row.above_floor - 0.08 / 9.5).abs() < 1e-12);
        assert_eq!(reach_row((0.7, 0.08, 0.5), 1).k90, 1);
    }

    #[test]
    fn models_for_a_target_are_the_least_that_reach_it() {
        let law = (2.0, 0.4, 0.5);
        let loss = |k: f64| 2.0 + 0.4 / (k + 0.5);
        for k in [1.0, 2.0, 7.0, 40.0] {
            assert_eq!(models_for(2.0, 0.4, 0.5, loss(k)), Some(k), "its own loss");
            assert_eq!(models_for(2.0, 0.4, 0.5, loss(k) - 1e-7), Some(k + 1.0));
        }
        assert_eq!(models_for(2.0, 0.4, 0.5, 9.0), Some(1.0));
        assert_eq!(target_row(law, 2.0, Some(8)).reason.unwrap(), "the floor is 2.0000, above 2");
        assert_eq!(target_row(law, loss(9.0), Some(8)).within_pool, Some(false));
        assert_eq!(target_row(law, loss(9.0), None).within_pool, None);
    }

    #[test]
    fn stopping_is_where_the_next_gains_less() {
        for (a, b, least) in [(0.4, 0.5, 0.01), (0.4, -0.3, 0.001), (1.5, 5.2, 0.02), (0.4, 0.0, 10.0)] {
            let StopRow { k, .. } = stop_row(a, b, least);
            assert!(marginal_gain(a, b, k) < least, "{k}");
            assert!(k == 1 || marginal_gain(a, b, k - 1) >= least, "{k}");
        }
        assert!((marginal_gain(0.4, 0.5, 1) - (0.4 / 1.5 - 0.4 / 2.5)).abs() < 1e-15);
    }
}
