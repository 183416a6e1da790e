//! The window to merge, from a fitted model: among windows that the run really has.

use thalweg_merge::scheme::{Scheme, SchemeParameters};
use thalweg_trajectory::TrajectoryCheckpoint;

use crate::Error;
use crate::record::ProposalRow;
use crate::window_fit::{ScoredWindow, Unsupported, Weighing, WindowModel, fit_correlated};

/// Schemes that are proposed from.
const SCHEMES: [&str; 3] = ["sma", "wma", "ema:0.2"];
/// Intervals that are proposed, as multiples of the smallest distance of checkpoints.
const INTERVAL_MULTIPLES: [u64; 6] = [1, 2, 3, 4, 6, 8];
/// Times over which half of the noise may be forgotten, in intervals of checkpoints; 0 means no correlation.
const HALF_LIVES: [f64; 8] = [0.0, 0.2, 0.4, 0.8, 1.6, 3.0, 6.0, 12.0];
/// Longest window that is proposed, relative to the longest that was scored: the model is a line there, and lines bend.
const MAX_REACH: f64 = 1.5;

/// A window that could be merged.
#[derive(Debug, Clone, PartialEq)]
struct Candidate {
    n_checkpoints: usize,
    interval_steps: u64,
    scheme: &'static str,
    weighing: Weighing,
}

/// What the run has to choose from.
#[derive(Debug, Clone, PartialEq)]
pub struct Choices {
    candidates: Vec<Candidate>,
    interval_steps: u64,
}

impl Choices {
    /// Windows of stable checkpoints, oldest first, that end at the newest and reach back at most half further than
    /// `longest_steps`.
    ///
    /// # Errors
    /// `Scheme`, which the schemes here do not give.
    pub fn new(stable: &[TrajectoryCheckpoint], longest_steps: u64) -> Result<Self, Error> {
        let steps: Vec<u64> = stable.iter().map(|one| one.step.0).collect();
        let interval_steps = steps.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap_or(1).max(1);
        let end = steps.last().copied().unwrap_or(0);
        let mut candidates = Vec::new();
        for scheme in SCHEMES {
            let parsed = Scheme::parse(scheme, SchemeParameters::default())?;
            for multiple in INTERVAL_MULTIPLES {
                let interval = interval_steps * multiple;
                let has = |n: &usize| {
                    let back = interval * (*n as u64 - 1);
                    back <= end && steps.binary_search(&(end - back)).is_ok()
                };
                for n in (2..=64).take_while(has) {
                    if interval as f64 * (n as f64 - 1.0) > MAX_REACH * longest_steps as f64 {
                        break;
                    }
                    let places = Weighing::uniform(n, interval as f64).steps_before_end;
                    let coefficients = parsed.coefficients(n)?.as_f64();
                    let weighing = Weighing { steps_before_end: places, coefficients };
                    candidates.push(Candidate { n_checkpoints: n, interval_steps: interval, scheme, weighing });
                }
            }
        }
        Ok(Self { candidates, interval_steps })
    }

    /// Correlations over a step that are tried.
    fn correlations(&self) -> Vec<f64> {
        let per_step = |half_life: &f64| {
            if *half_life == 0.0 { 0.0 } else { 0.5_f64.powf(1.0 / (half_life * self.interval_steps as f64)) }
        };
        HALF_LIVES.iter().map(per_step).collect()
    }

    fn best(&self, model: &WindowModel) -> Option<&Candidate> {
        let losses = self.candidates.iter().map(|candidate| (candidate, model.loss(&candidate.weighing)));
        let (_, least) = losses.clone().min_by(|a, b| a.1.total_cmp(&b.1))?;
        // What costs no more than a hundredth of what merging brings is as good: fewer checkpoints are read.
        let slack = 0.01 * (model.river + model.hill - least).max(0.0);
        losses
            .filter(|(_, loss)| *loss <= least + slack)
            .map(|(candidate, _)| candidate)
            .min_by_key(|c| c.n_checkpoints)
    }
}

/// Proposes a window from scored ones; `resampled` are the same windows with losses over resampled items, for the
/// interval.
///
/// # Errors
/// `Unsupported` where the scores do not say where the best window is.
pub fn propose(
    choices: &Choices,
    windows: &[ScoredWindow],
    resampled: &[Vec<f64>],
) -> Result<ProposalRow, Unsupported> {
    let correlations = choices.correlations();
    let model = fit_correlated(windows, &correlations)?;
    let best = choices.best(&model).ok_or(Unsupported::TooFewWindows)?;
    let mut counts: Vec<usize> = resampled
        .iter()
        .filter_map(|losses| {
            let again = windows.iter().zip(losses).map(|(w, loss)| ScoredWindow { loss: *loss, ..w.clone() });
            let model = fit_correlated(&again.collect::<Vec<_>>(), &correlations).ok()?;
            // The interval is of the count at the proposed spacing and scheme.
            let alike = choices
                .candidates
                .iter()
                .filter(|c| c.interval_steps == best.interval_steps && c.scheme == best.scheme);
            let loss = |c: &&Candidate| model.loss(&c.weighing);
            alike.min_by(|a, b| loss(a).total_cmp(&loss(b))).map(|c| c.n_checkpoints)
        })
        .collect();
    counts.sort_unstable();
    let at = |share: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list")]
        let place = (share * (counts.len().max(1) - 1) as f64).round() as usize;
        counts.get(place).copied().unwrap_or(best.n_checkpoints)
    };
    let half_life = model.half_life_steps();
    let memory = if half_life < 0.5 {
        "the noise of neighbouring checkpoints is independent".to_owned()
    } else {
        format!("the noise halves in {half_life:.0} steps")
    };
    let rests_on = format!(
        "{} scored windows: the noise of one checkpoint costs {:.4}, a lag of a hundred steps costs {:.4}, and {memory}",
        windows.len(),
        model.hill,
        100.0 * model.drift_per_step,
    );
    Ok(ProposalRow {
        n_checkpoints: best.n_checkpoints,
        n_interval_95: [at(0.025).min(best.n_checkpoints), at(0.975).max(best.n_checkpoints)],
        interval_steps: best.interval_steps,
        scheme: best.scheme.to_owned(),
        rests_on,
    })
}
