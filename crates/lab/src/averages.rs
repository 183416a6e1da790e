//! Averages that are kept while training, written as ordinary checkpoints.
//!
//! Two kinds. Over the last N checkpoints: the engine's own sum over the arenas in memory, so the bytes of merging them
//! offline. Over the parameters after every k steps: running sums in doubles that no checkpoint could give.

use serde::{Deserialize, Serialize};
use thalweg_merge::Coefficients;
use thalweg_merge::context::RunContext;
use thalweg_merge::in_memory::{LiveSource, merge_live};
use thalweg_merge::recent::{RecentSaves, coefficients_at_steps};
use thalweg_merge::scheme::{Scheme, SchemeParameters, power_ema_exponent};
use thalweg_model::{ParamLayout, arena_sink, arena_source};

use crate::Error;
use crate::config::AverageSection;

/// What a section asks for.
#[derive(Debug, Clone)]
pub(crate) enum AveragePlan {
    /// Over the last `count` checkpoints.
    Window { name: String, scheme: Scheme, count: usize },
    /// Over every `every_steps`-th step.
    Running { name: String, rule: RunningRule, every_steps: u64 },
}

/// How a running average takes the next parameters in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum RunningRule {
    /// Mean of the block since the last checkpoint; blocks do not overlap (Hägele et al. 2024, arXiv 2405.18392).
    BlockMean,
    /// A <- A + alpha (M - A), started at the first.
    Ema { alpha: f64 },
    /// A <- b A + (1 - b) M with b = (1 - D/t)^(gamma + 1) (Karras et al. 2024, arXiv 2312.02696), started at the
    /// first.
    PowerEma { gamma: f64 },
}

impl AveragePlan {
    pub(crate) fn new(section: &AverageSection) -> Result<Self, Error> {
        let scheme = Scheme::parse(&section.scheme, SchemeParameters::default())?;
        let name = section.name.clone();
        match (section.count, section.every_steps) {
            (Some(count), _) => {
                // Found wrong now rather than at the first checkpoint.
                coefficients_at_steps(&scheme, &(1..=count as u64).collect::<Vec<_>>())?;
                Ok(Self::Window { name, scheme, count })
            }
            (None, every_steps) => {
                coefficients_at_steps(&scheme, &[1, 2])?;
                let rule = match &scheme {
                    Scheme::Sma => RunningRule::BlockMean,
                    Scheme::Ema { alpha } => RunningRule::Ema { alpha: alpha.to_f64() },
                    Scheme::PowerEma { sigma_rel } => RunningRule::PowerEma { gamma: power_ema_exponent(sigma_rel)? },
                    _ => {
                        let message =
                            format!("`{}` cannot run during training; sma, ema and power-ema can", section.scheme);
                        return Err(Error::value("average.scheme", message));
                    }
                };
                Ok(Self::Running { name, rule, every_steps: every_steps.unwrap_or(1) })
            }
        }
    }

    /// Checkpoints that must be kept.
    pub(crate) fn window(&self) -> usize {
        match self {
            Self::Window { count, .. } => *count,
            Self::Running { .. } => 0,
        }
    }

    /// The running state before the first step, for those that have one.
    pub(crate) fn start(&self, n_params: usize) -> Option<RunningAverage> {
        match self {
            Self::Window { .. } => None,
            Self::Running { name, .. } => {
                let record = RunningRecord { name: name.clone(), n_samples: 0, last_step: 0 };
                Some(RunningAverage { record, values: vec![0.0; n_params] })
            }
        }
    }
}

/// Counters of a running average.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunningRecord {
    pub(crate) name: String,
    /// Parameters taken in (since the last checkpoint, for block means).
    pub(crate) n_samples: u64,
    /// The step of the last ones.
    pub(crate) last_step: u64,
}

/// A running average between two steps.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RunningAverage {
    pub(crate) record: RunningRecord,
    /// The average; for block means the sum.
    pub(crate) values: Vec<f64>,
}

impl RunningAverage {
    /// Takes in the parameters after `step`.
    pub(crate) fn update(&mut self, rule: RunningRule, step: u64, params: &[f32]) {
        let old_share = match rule {
            RunningRule::BlockMean => 1.0,
            _ if self.record.n_samples == 0 => 0.0,
            RunningRule::Ema { alpha } => 1.0 - alpha,
            RunningRule::PowerEma { gamma } => ((gamma + 1.0) * (-share(self.record.last_step, step)).ln_1p()).exp(),
        };
        let new_share = if rule == RunningRule::BlockMean { 1.0 } else { 1.0 - old_share };
        for (value, &param) in self.values.iter_mut().zip(params) {
            *value = old_share * *value + new_share * f64::from(param);
        }
        self.record.n_samples += 1;
        self.record.last_step = step;
    }

    /// The average as parameters; a block mean begins its next block.
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "one rounding to f32")]
    pub(crate) fn take(&mut self, rule: RunningRule, out: &mut [f32]) {
        let divisor = if rule == RunningRule::BlockMean { self.record.n_samples.max(1) as f64 } else { 1.0 };
        out.iter_mut().zip(&self.values).for_each(|(out, value)| *out = (value / divisor) as f32);
        if rule == RunningRule::BlockMean {
            self.values.fill(0.0);
            self.record.n_samples = 0;
        }
    }
}

/// D/t of an update at step t, D steps after the one before.
#[expect(clippy::cast_precision_loss, reason = "steps stay far below 2^53")]
fn share(last_step: u64, step: u64) -> f64 {
    step.saturating_sub(last_step) as f64 / step.max(1) as f64
}

/// Keeps the newest parameters; their arena reuses that of those that fall out.
pub(crate) fn keep_recent(recent: &mut RecentSaves<Vec<f32>>, step: u64, params: &[f32]) {
    if recent.n_kept() == 0 {
        return;
    }
    let mut arena = recent.make_room().unwrap_or_else(|| Vec::with_capacity(params.len()));
    arena.clear();
    arena.extend_from_slice(params);
    recent.push(step, arena);
}

/// The weighted sum of the last `count` checkpoints, into `out`.
pub(crate) fn combine_recent(
    recent: &RecentSaves<Vec<f32>>,
    layout: &ParamLayout,
    (scheme, count): (&Scheme, usize),
    out: &mut [f32],
    run: &RunContext<'_>,
) -> Result<(), Error> {
    let steps: Vec<u64> = recent.last(count).map(|(step, _)| *step).collect();
    let coefficients = coefficients_at_steps(scheme, &steps)?;
    let arenas: Vec<&[f32]> = recent.last(count).map(|(_, arena)| arena.as_slice()).collect();
    let names: Vec<String> = steps.iter().map(|step| format!("step {step}")).collect();
    combine_arenas(layout, &arenas, &names, &coefficients, out, run)
}

/// The engine's weighted sum of arenas of one layout.
pub(crate) fn combine_arenas(
    layout: &ParamLayout,
    arenas: &[&[f32]],
    names: &[String],
    coefficients: &Coefficients,
    out: &mut [f32],
    run: &RunContext<'_>,
) -> Result<(), Error> {
    let sources: Vec<_> = arenas.iter().map(|arena| arena_source(layout, arena)).collect();
    let live: Vec<LiveSource<'_>> =
        sources.iter().zip(names).map(|(tensors, name)| LiveSource { name, tensors }).collect();
    Ok(merge_live(&live, coefficients, &arena_sink(layout, out), run)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_average(rule: RunningRule, samples: &[(u64, f32)]) -> f32 {
        let record = RunningRecord { name: "a".to_owned(), n_samples: 0, last_step: 0 };
        let mut average = RunningAverage { record, values: vec![0.0] };
        samples.iter().for_each(|&(step, value)| average.update(rule, step, &[value]));
        let mut out = [0.0];
        average.take(rule, &mut out);
        out[0]
    }

    #[test]
    fn averages_over_uneven_checkpoints_have_the_coefficients_of_a_merge() {
        let scheme = |text: &str| Scheme::parse(text, SchemeParameters::default()).unwrap();
        let steps = [2000, 4000, 10_000];
        let linear = coefficients_at_steps(&scheme("decay:linear"), &steps).unwrap();
        assert_eq!(linear, Coefficients::new([1, 3, 2], 6).unwrap());
        let cosine = coefficients_at_steps(&scheme("decay:cosine"), &steps).unwrap();
        assert_eq!(cosine, scheme("decay:cosine").coefficients_at(&steps).unwrap());
        assert_ne!(cosine, scheme("decay:cosine").coefficients(3).unwrap());
        assert_eq!(coefficients_at_steps(&scheme("wma"), &steps).unwrap(), Coefficients::new([1, 2, 3], 6).unwrap());
    }

    #[test]
    fn running_averages_equal_the_coefficients_of_their_schemes() {
        let samples = [(10, 1.0_f32), (20, -2.0), (30, 0.5), (40, 4.0), (50, 8.0)];
        let steps: Vec<u64> = samples.iter().map(|(step, _)| *step).collect();
        for (text, rule) in [
            ("sma", RunningRule::BlockMean),
            ("ema:0.25", RunningRule::Ema { alpha: 0.25 }),
            ("power-ema:0.1", RunningRule::PowerEma { gamma: power_ema_exponent(&"0.1".parse().unwrap()).unwrap() }),
        ] {
            let scheme = Scheme::parse(text, SchemeParameters::default()).unwrap();
            let coefficients = coefficients_at_steps(&scheme, &steps).unwrap();
            let pairs = coefficients.as_f64();
            let expected: f64 = pairs.iter().zip(samples).map(|(c, (_, value))| c * f64::from(value)).sum();
            let found = f64::from(run_average(rule, &samples));
            // One rounding to f32 of a sum of five terms below 8 in doubles.
            assert!((found - expected).abs() <= expected.abs() * 6e-8 + 1e-14, "{text}: {found} and {expected}");
        }
    }
}
