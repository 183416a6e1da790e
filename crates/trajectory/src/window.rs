//! Which checkpoints are in the window: the only place where that is decided.
//!
//! A request is met exactly or refused with what exists; it never becomes a smaller window. Nothing here reads
//! files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use thalweg_tensor::{counted, display_name, shell_path};

use crate::available::Available;
use crate::error::Length;
pub use crate::extent::Extent;
use crate::state::Fault;
use crate::trajectory::{Trajectory, TrajectoryCheckpoint, TrajectoryNote};
use crate::{Error, Phase, Step, Tokens};

/// Where a window ends: its newest checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WindowEnd {
    /// The newest finished checkpoint.
    #[default]
    Newest,
    /// The checkpoint at this place.
    At(Extent),
}

/// A request for a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WindowSpec {
    /// The newest finished checkpoints up to the end, on or off any grid.
    Last {
        /// How many.
        n_checkpoints: usize,
        /// Where the window ends.
        end: WindowEnd,
    },
    /// Checkpoints at equal intervals back from the end. Others, such as those saved at pre-emption, are skipped.
    Count {
        /// How many.
        n_checkpoints: usize,
        /// Between neighbours. Steps are met exactly; tokens within a tenth, because batches seldom divide round
        /// numbers.
        interval: Extent,
        /// Where the window ends.
        end: WindowEnd,
    },
    /// All checkpoints between the end and a checkpoint this far before it, or that many at equal intervals.
    Duration {
        /// From the first to the last.
        duration: Extent,
        /// How many, equally spaced; `None` takes every finished checkpoint.
        n_checkpoints: Option<usize>,
        /// Where the window ends.
        end: WindowEnd,
    },
    /// From one checkpoint to another, both included; a bound must exist.
    Range {
        /// The first; `None` for the oldest.
        from: Option<Step>,
        /// The last; `None` for the newest.
        to: Option<Step>,
        /// Keeps the last, and before it each newest one that is at least this far from the one kept after it.
        at_least_apart: Option<Extent>,
    },
    /// Every k-th finished checkpoint, counted back from the end.
    Every {
        /// 1 takes each, 2 every other.
        k: usize,
        /// How many; `None` goes back to the beginning.
        n_checkpoints: Option<usize>,
        /// Where the window ends.
        end: WindowEnd,
    },
    /// Just these steps, in any order.
    Steps(Vec<Step>),
    /// Every finished checkpoint.
    All,
}

/// Something a user should know about a window.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WindowNote {
    /// The learning rate falls within the window.
    CrossesStableEnd {
        /// The last step of the stable phase.
        at: Step,
    },
    /// The window begins before the learning rate has reached its level.
    StartsInWarmup {
        /// The last step of the warmup, if it ends.
        until: Option<Step>,
    },
    /// A checkpoint between the window's ends, or newer than it, cannot be used and was skipped.
    PassedOver {
        /// Its name.
        name: String,
        /// Its step.
        step: Step,
        /// Why it cannot be used.
        reason: String,
    },
    /// The checkpoints are not equally far apart.
    UnevenInterval {
        /// The smallest distance in steps.
        smallest: u64,
        /// The largest.
        largest: u64,
    },
    /// Intervals in tokens that are near what was asked, not equal to it.
    IntervalDiffers {
        /// What was asked.
        asked: Tokens,
        /// The smallest there is.
        smallest: Tokens,
        /// The largest.
        largest: Tokens,
    },
}

impl fmt::Display for WindowNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CrossesStableEnd { at } => write!(f, "the window crosses the end of the stable phase at step {at}"),
            Self::StartsInWarmup { until: Some(until) } => {
                write!(f, "the window starts in the warmup, which ends at step {until}")
            }
            Self::StartsInWarmup { until: None } => write!(f, "the window starts in the warmup"),
            Self::PassedOver { name, step, reason } => {
                write!(f, "step {step} (`{}`) is skipped: {reason}", display_name(name))
            }
            Self::UnevenInterval { smallest, largest } => {
                write!(f, "the checkpoints are unevenly spaced: {smallest} to {largest} steps")
            }
            Self::IntervalDiffers { asked, smallest, largest } if smallest == largest => {
                write!(f, "the interval is {smallest} tokens, but {asked} were requested")
            }
            Self::IntervalDiffers { asked, smallest, largest } => {
                write!(f, "the intervals are {smallest} to {largest} tokens, but {asked} were requested")
            }
        }
    }
}

/// Checkpoints chosen from one trajectory, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    checkpoints: Vec<TrajectoryCheckpoint>,
    notes: Vec<WindowNote>,
}

impl Window {
    /// The checkpoints, oldest first; at least one.
    pub fn checkpoints(&self) -> &[TrajectoryCheckpoint] {
        &self.checkpoints
    }

    /// How many there are.
    pub fn n_checkpoints(&self) -> usize {
        self.checkpoints.len()
    }

    /// What a user should know.
    pub fn notes(&self) -> &[WindowNote] {
        &self.notes
    }

    /// Steps between neighbours, if all are equally far apart; `None` also for a single checkpoint.
    pub fn interval_steps(&self) -> Option<u64> {
        let gaps = self.step_gaps();
        gaps.first().copied().filter(|first| gaps.iter().all(|gap| gap == first))
    }

    /// Tokens between neighbours, if all are known and equal. Tokens that were rounded in names count as equal within
    /// that rounding; then it is the mean interval.
    pub fn interval_tokens(&self) -> Option<Tokens> {
        let gaps = token_gaps(&self.checkpoints)?;
        let slack = self.checkpoints.iter().map(|checkpoint| checkpoint.tokens_unit).max()?;
        let (smallest, largest) = (gaps.iter().min()?, gaps.iter().max()?);
        if largest - smallest > slack || (slack > 0 && self.interval_steps().is_none()) {
            return None;
        }
        let n = u64::try_from(gaps.len()).ok()?;
        Some(Tokens(self.duration_tokens()?.0 / n))
    }

    /// Steps from the first to the last.
    pub fn duration_steps(&self) -> u64 {
        match (self.checkpoints.first(), self.checkpoints.last()) {
            (Some(first), Some(last)) => last.step.0 - first.step.0,
            _ => 0,
        }
    }

    /// Tokens from the first to the last, if both are known.
    pub fn duration_tokens(&self) -> Option<Tokens> {
        let (first, last) = (self.checkpoints.first()?.tokens?, self.checkpoints.last()?.tokens?);
        last.0.checked_sub(first.0).map(Tokens)
    }

    fn step_gaps(&self) -> Vec<u64> {
        let gaps = self.checkpoints.windows(2).filter_map(|two| Some(two.last()?.step.0 - two.first()?.step.0));
        gaps.collect()
    }
}

/// Tokens between neighbours; `None` if some are not known or do not rise, or for a single checkpoint.
fn token_gaps(checkpoints: &[TrajectoryCheckpoint]) -> Option<Vec<u64>> {
    let gaps = checkpoints.windows(2).map(|two| two.last()?.tokens?.0.checked_sub(two.first()?.tokens?.0));
    gaps.collect::<Option<Vec<u64>>>().filter(|gaps| !gaps.is_empty())
}

/// Chooses the window that is asked for.
///
/// # Errors
/// `BadWindow` for a request that means nothing; `TooFew` or `NoCheckpointAt` with what exists; `TokensUnknown` and
/// `TokensNotRising` for requests in tokens; `DuplicateStep`, `MixedStages`, `NothingFinished`.
///
/// # Example
/// ```no_run
/// use thalweg_trajectory::{Extent, Step, Trajectory, WindowEnd, WindowSpec, select_window};
///
/// # fn example(trajectory: &Trajectory) -> Result<(), thalweg_trajectory::Error> {
/// let interval = Extent::Steps(Step(2000));
/// let spec = WindowSpec::Count { n_checkpoints: 4, interval, end: WindowEnd::At(Extent::Steps(Step(16_000))) };
/// assert_eq!(select_window(trajectory, &spec)?.interval_steps(), Some(2000));
/// # Ok(())
/// # }
/// ```
pub fn select_window(trajectory: &Trajectory, spec: &WindowSpec) -> Result<Window, Error> {
    let pool = Pool::new(trajectory)?;
    let mut chosen = match spec {
        WindowSpec::Last { n_checkpoints, end } => pool.last(at_least_one(*n_checkpoints)?, *end)?,
        WindowSpec::Count { n_checkpoints, interval, end } => {
            let start = pool.end(*end)?;
            pool.grid(start, at_least_one(*n_checkpoints)?, *interval)?
        }
        WindowSpec::Duration { duration, n_checkpoints, end } => pool.duration(*duration, *n_checkpoints, *end)?,
        WindowSpec::Range { from, to, at_least_apart } => pool.range(*from, *to, *at_least_apart)?,
        WindowSpec::Every { k, n_checkpoints, end } => pool.every(*k, *n_checkpoints, *end)?,
        WindowSpec::Steps(steps) => pool.steps(steps)?,
        WindowSpec::All => (0..pool.finished.len()).collect(),
    };
    chosen.sort_unstable();
    let checkpoints: Vec<TrajectoryCheckpoint> =
        chosen.iter().filter_map(|idx| pool.finished.get(*idx)).map(|checkpoint| (*checkpoint).clone()).collect();
    pool.check(&checkpoints)?;
    // Exact steps need no order.
    if !matches!(spec, WindowSpec::Steps(_)) {
        pool.check_order()?;
    }
    let notes = describe_window(trajectory, spec, &checkpoints);
    Ok(Window { checkpoints, notes })
}

/// Checkpoints that a hint names one by one.
const MAX_NAMED: usize = 8;

/// The hint for a run in which no checkpoint can be used. Waiting helps only while a save is unfinished.
fn advice(checkpoints: &[TrajectoryCheckpoint]) -> String {
    let faults = || checkpoints.iter().filter_map(|checkpoint| checkpoint.state.fault().zip(Some(checkpoint)));
    if faults().any(|(fault, _)| fault == Fault::Unfinished) {
        return "wait until a save has finished, or copy the missing files again".to_owned();
    }
    if faults().all(|(fault, _)| fault == Fault::Merge) {
        let given: Vec<String> = checkpoints.iter().map(|one| format!("-m {}", shell_path(&one.path))).collect();
        let named = if given.len() <= MAX_NAMED { given.join(" ") } else { "-m CKPT -m CKPT".to_owned() };
        return format!("give the folder of the raw checkpoints; if these are meant, name each of them: `{named}`");
    }
    let mut hints = faults().filter(|(fault, _)| *fault != Fault::Merge).filter_map(|(_, one)| one.state.hint());
    hints.next_back().unwrap_or("copy the checkpoints again").to_owned()
}

fn bad(reason: impl Into<String>, hint: &'static str) -> Error {
    Error::BadWindow { reason: reason.into(), hint }
}

fn at_least_one(n_checkpoints: usize) -> Result<usize, Error> {
    if n_checkpoints == 0 {
        Err(bad("a window of 0 checkpoints is empty", "ask for at least 1 checkpoint"))
    } else {
        Ok(n_checkpoints)
    }
}

/// The finished checkpoints, one for each step; places are indexes into it.
#[derive(Debug)]
struct Pool<'a> {
    trajectory: &'a Trajectory,
    finished: Vec<&'a TrajectoryCheckpoint>,
}

impl<'a> Pool<'a> {
    fn new(trajectory: &'a Trajectory) -> Result<Self, Error> {
        let mut by_step: BTreeMap<Step, &TrajectoryCheckpoint> = BTreeMap::new();
        for checkpoint in trajectory.finished() {
            by_step.entry(checkpoint.step).or_insert(checkpoint);
        }
        let finished: Vec<&TrajectoryCheckpoint> = by_step.into_values().collect();
        if finished.is_empty() {
            let reasons = trajectory.checkpoints().iter();
            let reasons = reasons.map(|checkpoint| {
                format!("step {}: {}", checkpoint.step, checkpoint.state.reason().unwrap_or_default())
            });
            return Err(Error::NothingFinished {
                path: trajectory.path().to_owned(),
                n_checkpoints: trajectory.checkpoints().len(),
                reasons: reasons.collect(),
                advice: advice(trajectory.checkpoints()),
            });
        }
        Ok(Self { trajectory, finished })
    }

    fn available(&self) -> Box<Available> {
        let unusable = self.trajectory.checkpoints().iter();
        let unusable = unusable.filter_map(|checkpoint| Some((checkpoint.step, checkpoint.state.reason()?)));
        Box::new(Available {
            finished: self.finished.iter().map(|checkpoint| (checkpoint.step, checkpoint.tokens)).collect(),
            unusable: unusable.collect(),
        })
    }

    fn missing(&self, wanted: Extent) -> Error {
        let stands_there = self.trajectory.checkpoints().iter().find(|checkpoint| match wanted {
            Extent::Steps(step) => checkpoint.step == step,
            Extent::Tokens(tokens) => checkpoint.tokens == Some(tokens),
        });
        let state = stands_there.and_then(|checkpoint| checkpoint.state.reason());
        Error::NoCheckpointAt { wanted, state, available: self.available() }
    }

    fn step(&self, idx: usize) -> u64 {
        self.finished.get(idx).map_or(0, |checkpoint| checkpoint.step.0)
    }

    /// The tokens of all finished checkpoints, with how far each may be off.
    fn tokens(&self) -> Result<Vec<(u64, u64)>, Error> {
        if self.trajectory.notes.contains(&TrajectoryNote::EpochsForSteps) {
            return Err(bad(
                "the names count epochs, whose tokens are unknown",
                "select by steps, which mean epochs here",
            ));
        }
        let mut tokens: Vec<(u64, u64)> = Vec::with_capacity(self.finished.len());
        let mut before: Option<&TrajectoryCheckpoint> = None;
        for checkpoint in &self.finished {
            let Some(found) = checkpoint.tokens else { return Err(Error::TokensUnknown { step: checkpoint.step }) };
            if let Some(before) = before
                && before.tokens.is_some_and(|earlier| earlier >= found)
                // Names round: two saves within one unit look equal.
                && !(before.tokens == Some(found) && checkpoint.tokens_unit > 0)
            {
                return Err(Error::TokensNotRising {
                    earlier: before.step,
                    earlier_tokens: before.tokens.unwrap_or_default(),
                    later: checkpoint.step,
                    later_tokens: found,
                });
            }
            before = Some(checkpoint);
            tokens.push((found.0, checkpoint.tokens_unit));
        }
        Ok(tokens)
    }

    fn find_step(&self, step: Step) -> Result<usize, Error> {
        let found = self.finished.binary_search_by_key(&step, |checkpoint| checkpoint.step);
        found.map_err(|_| self.missing(Extent::Steps(step)))
    }

    fn end(&self, end: WindowEnd) -> Result<usize, Error> {
        match end {
            WindowEnd::Newest => Ok(self.finished.len() - 1),
            WindowEnd::At(Extent::Steps(step)) => self.find_step(step),
            WindowEnd::At(wanted @ Extent::Tokens(_)) => {
                let tokens = self.tokens()?;
                let gap = |idx: usize| {
                    let place = |idx: usize| tokens.get(idx).map(|(tokens, _)| *tokens);
                    let before = idx.checked_sub(1).and_then(place).zip(place(idx)).map(|(a, b)| b - a);
                    let after = place(idx).zip(place(idx + 1)).map(|(a, b)| b - a);
                    before.into_iter().chain(after).min().unwrap_or(0)
                };
                let idx = nearest(&tokens, wanted.amount()).ok_or_else(|| self.missing(wanted))?;
                let (found, unit) = tokens.get(idx).copied().unwrap_or_default();
                let is_near = found.abs_diff(wanted.amount()) <= unit.max(gap(idx) / 10);
                if is_near { Ok(idx) } else { Err(self.missing(wanted)) }
            }
        }
    }

    fn last(&self, n_checkpoints: usize, end: WindowEnd) -> Result<Vec<usize>, Error> {
        let end_idx = self.end(end)?;
        let Some(first) = (end_idx + 1).checked_sub(n_checkpoints) else {
            return Err(self.too_few(n_checkpoints, end_idx + 1, end));
        };
        Ok((first..=end_idx).collect())
    }

    fn too_few(&self, wanted: usize, found: usize, end: WindowEnd) -> Error {
        let up_to = match end {
            WindowEnd::Newest => String::new(),
            WindowEnd::At(place) => format!(" up to {place}"),
        };
        Error::TooFew { wanted, found, up_to, available: self.available() }
    }

    /// Back from `end_idx` at equal intervals.
    fn grid(&self, end_idx: usize, n_checkpoints: usize, interval: Extent) -> Result<Vec<usize>, Error> {
        if interval.amount() == 0 {
            return Err(bad(
                "the interval must be above 0",
                "`--last N` takes the newest N checkpoints, whatever lies between them",
            ));
        }
        let mut chosen = vec![end_idx];
        match interval {
            Extent::Steps(interval) => {
                let end = self.step(end_idx);
                for n_back in 1..n_checkpoints {
                    let back = u64::try_from(n_back).ok().and_then(|n| n.checked_mul(interval.0));
                    let Some(wanted) = back.and_then(|back| end.checked_sub(back)) else {
                        return Err(self.too_few(n_checkpoints, n_back, WindowEnd::Newest).on_grid(end, interval.0));
                    };
                    chosen.push(self.find_step(Step(wanted))?);
                }
            }
            Extent::Tokens(_) => {
                let tokens = self.tokens()?;
                let mut from = end_idx;
                for _ in 1..n_checkpoints {
                    from = self.token_neighbour(&tokens, from, interval)?;
                    chosen.push(from);
                }
            }
        }
        Ok(chosen)
    }

    /// The checkpoint one interval of tokens before `from`: the nearest, at most a tenth of the interval off.
    fn token_neighbour(&self, tokens: &[(u64, u64)], from: usize, interval: Extent) -> Result<usize, Error> {
        let (place, unit) = tokens.get(from).copied().unwrap_or_default();
        let wanted = place.checked_sub(interval.amount());
        let slack = |found_unit: u64| (interval.amount() / 10).max(unit.max(found_unit));
        let missing = |wanted: u64| self.missing(interval.with_amount(wanted));
        // An interval that would begin a little before the run may still be met within the tolerance.
        let wanted = wanted.unwrap_or(0);
        let older = tokens.get(..from).unwrap_or_default();
        let idx = nearest(older, wanted).ok_or_else(|| missing(wanted))?;
        let (found, found_unit) = tokens.get(idx).copied().unwrap_or_default();
        let is_near = (place - found).abs_diff(interval.amount()) <= slack(found_unit);
        if is_near { Ok(idx) } else { Err(missing(wanted)) }
    }

    fn duration(&self, duration: Extent, n: Option<usize>, end: WindowEnd) -> Result<Vec<usize>, Error> {
        let end_idx = self.end(end)?;
        if duration.amount() == 0 {
            return Err(bad(
                "the duration must be above 0",
                "give the length of the window, or choose it by `--last N`",
            ));
        }
        self.check_duration(duration, end_idx)?;
        let Some(n) = n else {
            let first = match duration {
                Extent::Steps(steps) => self.find_step(Step(self.step(end_idx).saturating_sub(steps.0)))?,
                Extent::Tokens(_) => self.token_neighbour(&self.tokens()?, end_idx, duration)?,
            };
            return Ok((first..=end_idx).collect());
        };
        let n_intervals = u64::try_from(n).ok().and_then(|n| n.checked_sub(1)).filter(|n| *n > 0);
        let Some(n_intervals) = n_intervals else {
            return Err(bad("a duration needs at least 2 checkpoints", "ask for 2 or more, or leave `--count` out"));
        };
        if matches!(duration, Extent::Steps(_)) && !duration.amount().is_multiple_of(n_intervals) {
            let steps = counted(duration.amount(), "step");
            let text = format!("{steps} cannot be divided into {}", counted(n_intervals, "equal interval"));
            return Err(bad(
                text,
                "choose a duration that is a multiple of the checkpoints less one, or leave `--count` out",
            ));
        }
        self.grid(end_idx, n, duration.with_amount(duration.amount() / n_intervals))
    }

    /// Refuses a duration that reaches back beyond the first checkpoint.
    fn check_duration(&self, duration: Extent, end_idx: usize) -> Result<(), Error> {
        let end = Step(self.step(end_idx));
        let (span, tolerance, option) = match duration {
            Extent::Steps(_) => (self.step(end_idx) - self.step(0), 0, "duration-steps"),
            Extent::Tokens(asked) => {
                let tokens = self.tokens()?;
                let [(first, unit), (last, last_unit)] =
                    [0, end_idx].map(|idx| tokens.get(idx).copied().unwrap_or_default());
                (last.saturating_sub(first), (asked.0 / 10).max(unit).max(last_unit), "duration-tokens")
            }
        };
        if duration.amount() <= span.saturating_add(tolerance) {
            return Ok(());
        }
        let (wanted, span) = (Length(duration), Length(duration.with_amount(span)));
        Err(Error::LongerThanRun { wanted, span, end, option, available: self.available() })
    }

    fn range(&self, from: Option<Step>, to: Option<Step>, apart: Option<Extent>) -> Result<Vec<usize>, Error> {
        if let (Some(from), Some(to)) = (from, to)
            && from > to
        {
            let text = format!("it would end at step {to} before it begins at step {from}");
            return Err(bad(text, "exchange `--from-step` and `--to-step`"));
        }
        let first = from.map_or(Ok(0), |from| self.find_step(from))?;
        let last = to.map_or(Ok(self.finished.len() - 1), |to| self.find_step(to))?;
        let Some(apart) = apart else { return Ok((first..=last).collect()) };
        let places: Vec<u64> = match apart {
            Extent::Steps(_) => self.finished.iter().map(|checkpoint| checkpoint.step.0).collect(),
            Extent::Tokens(_) => self.tokens()?.into_iter().map(|(tokens, _)| tokens).collect(),
        };
        let place = |idx: usize| places.get(idx).copied().unwrap_or(0);
        let mut chosen = vec![last];
        let mut kept = last;
        for idx in (first..last).rev() {
            if place(kept) - place(idx) >= apart.amount() {
                chosen.push(idx);
                kept = idx;
            }
        }
        Ok(chosen)
    }

    fn every(&self, k: usize, n_checkpoints: Option<usize>, end: WindowEnd) -> Result<Vec<usize>, Error> {
        if k == 0 {
            return Err(bad("`every` must be at least 1", "`--every 1` takes all checkpoints"));
        }
        let end_idx = self.end(end)?;
        let all: Vec<usize> = (0..=end_idx).rev().step_by(k).collect();
        match n_checkpoints {
            None => Ok(all),
            Some(n) if at_least_one(n)? > all.len() => Err(self.too_few(n, all.len(), end)),
            Some(n) => Ok(all.into_iter().take(n).collect()),
        }
    }

    fn steps(&self, steps: &[Step]) -> Result<Vec<usize>, Error> {
        if steps.is_empty() {
            return Err(bad("no step is given", "name the steps, such as `--steps 1000,2000`"));
        }
        let mut chosen = steps.iter().map(|step| self.find_step(*step)).collect::<Result<Vec<_>, _>>()?;
        chosen.sort_unstable();
        if let Some(twice) = chosen.windows(2).find(|two| two.first() == two.last()).and_then(|two| two.first()) {
            return Err(bad(format!("step {} is given twice", self.step(*twice)), "name each step once"));
        }
        Ok(chosen)
    }

    /// What no window may hold: a step that appears twice, or stages whose steps cannot be ordered.
    fn check(&self, checkpoints: &[TrajectoryCheckpoint]) -> Result<(), Error> {
        for checkpoint in checkpoints {
            let same = self.trajectory.finished().filter(|other| other.step == checkpoint.step);
            let names: Vec<String> = same.map(|other| other.name.clone()).collect();
            if names.len() > 1 {
                return Err(Error::DuplicateStep { step: checkpoint.step, names });
            }
        }
        check_stages(checkpoints.iter())
    }

    /// Whether the steps put the checkpoints in order. If not, none of them is the newest.
    fn check_order(&self) -> Result<(), Error> {
        check_stages(self.finished.iter().copied())?;
        let of_epochs = self.finished.iter().filter_map(|one| Some((one.epoch?, *one)));
        let mut newest: Option<(u64, &TrajectoryCheckpoint)> = None;
        for (epoch, checkpoint) in of_epochs {
            if let Some((_, later)) = newest.filter(|(highest, _)| *highest > epoch) {
                let [earlier, later_name] = [checkpoint, later].map(|one| one.name.clone());
                return Err(Error::EpochsDisagree { earlier, later: later_name, step: later.step });
            }
            newest = Some((epoch, checkpoint));
        }
        Ok(())
    }
}

/// Steps of different stages cannot be ordered.
fn check_stages<'a>(checkpoints: impl Iterator<Item = &'a TrajectoryCheckpoint>) -> Result<(), Error> {
    let stages: BTreeSet<String> = checkpoints.map(|checkpoint| checkpoint.stage.clone().unwrap_or_default()).collect();
    if stages.len() > 1 { Err(Error::MixedStages { stages: stages.into_iter().collect() }) } else { Ok(()) }
}

impl Error {
    /// Says which grid ran out before the beginning of the run.
    fn on_grid(self, end: u64, interval: u64) -> Self {
        match self {
            Self::TooFew { wanted, found, available, .. } => {
                let up_to = format!(" every {} up to step {end}", counted(interval, "step"));
                Self::TooFew { wanted, found, up_to, available }
            }
            other => other,
        }
    }
}

/// The index of the place nearest to `wanted`; of two equally near ones the later.
fn nearest(places: &[(u64, u64)], wanted: u64) -> Option<usize> {
    let distance = |idx: &usize| places.get(*idx).map_or(u64::MAX, |(place, _)| place.abs_diff(wanted));
    (0..places.len()).rev().min_by_key(distance)
}

fn describe_window(
    trajectory: &Trajectory,
    spec: &WindowSpec,
    checkpoints: &[TrajectoryCheckpoint],
) -> Vec<WindowNote> {
    let mut notes = Vec::new();
    let (Some(first), Some(last)) = (checkpoints.first(), checkpoints.last()) else { return notes };
    notes.extend(describe_phases(trajectory, first.step, last.step));
    // Given steps are what was meant; what is between them was not asked for.
    if !matches!(spec, WindowSpec::Steps(_)) {
        let ends_at_newest = trajectory.finished().next_back().is_some_and(|newest| newest.step == last.step);
        for checkpoint in trajectory.checkpoints() {
            let is_within = checkpoint.step > first.step && (checkpoint.step < last.step || ends_at_newest);
            if let Some(reason) = checkpoint.state.reason().filter(|_| is_within) {
                let (name, step) = (checkpoint.name.clone(), checkpoint.step);
                notes.push(WindowNote::PassedOver { name, step, reason });
            }
        }
    }
    let gaps = checkpoints.windows(2).filter_map(|two| Some(two.last()?.step.0 - two.first()?.step.0));
    let gaps: Vec<u64> = gaps.collect();
    let asked = match spec {
        WindowSpec::Count { interval: Extent::Tokens(asked), .. } => Some(*asked),
        WindowSpec::Duration { duration: Extent::Tokens(asked), n_checkpoints: Some(n), .. } => {
            u64::try_from(*n).ok().and_then(|n| asked.0.checked_div(n.saturating_sub(1))).map(Tokens)
        }
        _ => None,
    };
    if let Some((asked, token_gaps)) = asked.zip(token_gaps(checkpoints)) {
        let (smallest, largest) = (token_gaps.iter().min(), token_gaps.iter().max());
        if let (Some(smallest), Some(largest)) = (smallest, largest)
            && (*smallest != asked.0 || *largest != asked.0)
        {
            notes.push(WindowNote::IntervalDiffers { asked, smallest: Tokens(*smallest), largest: Tokens(*largest) });
        }
    }
    if let (Some(smallest), Some(largest)) = (gaps.iter().min(), gaps.iter().max())
        && smallest != largest
        && !matches!(spec, WindowSpec::Steps(_))
    {
        notes.push(WindowNote::UnevenInterval { smallest: *smallest, largest: *largest });
    }
    notes
}

/// What the phases of a run say about checkpoints from one step to another.
pub fn describe_phases(trajectory: &Trajectory, first: Step, last: Step) -> Vec<WindowNote> {
    let Some(phases) = trajectory.phases() else { return Vec::new() };
    let mut notes = Vec::new();
    if phases.phase_at(first) == Some(Phase::Warmup) {
        let here = phases.segments().iter().find(|segment| segment.from <= first && first <= segment.to);
        let until = here.map(|segment| segment.to).filter(|to| *to < last);
        notes.push(WindowNote::StartsInWarmup { until });
    }
    for pair in phases.segments().windows(2) {
        if let [a, b] = pair
            && a.phase == Phase::Stable
            && b.phase == Phase::Anneal
            && first <= a.to
            && a.to < last
        {
            notes.push(WindowNote::CrossesStableEnd { at: a.to });
        }
    }
    notes
}
