//! Which windows a sweep merges: every combination of end, count, interval and scheme.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use thalweg_merge::context::RunContext;
use thalweg_merge::engine::open_sources;
use thalweg_merge::plan::{MergePlan, OutputPlan, SourceRef};
use thalweg_merge::scheme::Scheme;
use thalweg_tensor::{parse_count, show_size};
use thalweg_trajectory::{Extent, Step, Tokens, Trajectory, WindowEnd, WindowSpec, select_window};

use super::{SweepTrial, WindowInterval};
use crate::Error;
use crate::request::{OutputOptions, Resolver, parse_scheme_word};
use crate::select::{even_interval, source_ref};

/// Which raw checkpoints are scored beside the merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawChoice {
    /// The newest of each window.
    #[default]
    Newest,
    /// All of each window.
    Window,
}

/// The windows that are asked for.
#[derive(Debug, Clone)]
pub struct SweepRequest {
    /// Numbers of checkpoints in a window.
    pub counts: Vec<usize>,
    /// Steps between neighbours; with `interval_tokens` empty too, consecutive checkpoints are taken.
    pub interval_steps: Vec<u64>,
    /// Tokens between neighbours.
    pub interval_tokens: Vec<u64>,
    /// Schemes with their parameter, such as `ema:0.2`.
    pub schemes: Vec<String>,
    /// Where windows end: `newest`, a step, `steps` for every checkpoint, or `every:STEPS`, back from the newest.
    pub ends: Vec<String>,
    /// Which raw checkpoints are scored.
    pub raws: RawChoice,
    /// What the outputs are like.
    pub output: OutputOptions,
    /// Folder of the study: outputs are named below it.
    pub folder: PathBuf,
}

/// A sweep whose windows are known. Nothing was read but names and headers.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Merges in the order asked for.
    pub trials: Vec<SweepTrial>,
    /// Raw checkpoints, each once, by step.
    pub raws: Vec<SweepTrial>,
}

impl Sweep {
    /// The merges as one plan, whose sources are read once.
    ///
    /// # Errors
    /// `Merge` without windows.
    pub fn plan(&self) -> Result<MergePlan, Error> {
        Ok(MergePlan::new(self.outputs().cloned().collect())?)
    }

    /// The merges.
    pub fn outputs(&self) -> impl Iterator<Item = &OutputPlan> {
        self.trials.iter().map(|trial| &trial.output)
    }

    /// A checkpoint of the run, by which others are recognised as of the same model.
    ///
    /// # Errors
    /// `Request` without windows.
    pub fn any_checkpoint(&self) -> Result<PathBuf, Error> {
        let first = self.raws.first().and_then(|raw| raw.output.sources.first());
        first.map(|source| source.path.clone()).ok_or_else(|| Error::request("the sweep has no windows"))
    }

    /// Refuses to read more than `budget_bytes`, before the first byte is read.
    ///
    /// # Errors
    /// `Request` where it would be more.
    pub fn check_budget(&self, budget_bytes: u64, cx: &RunContext<'_>) -> Result<(), Error> {
        let sources = open_sources(&self.plan()?, cx)?;
        let n_bytes: u64 = sources.iter().map(|source| source.checkpoint.stored_catalog().n_bytes()).sum();
        if n_bytes <= budget_bytes {
            return Ok(());
        }
        let (needed, allowed) = (show_size(n_bytes), show_size(budget_bytes));
        Err(Error::request_with_hint(
            format!("this sweep reads {needed}, more than the {allowed} of `--budget-bytes`"),
            "choose fewer ends or shorter windows",
        ))
    }

    /// Refuses to score more than `budget` models.
    ///
    /// # Errors
    /// `Request` where it would be more.
    pub fn check_evaluations(&self, budget: usize) -> Result<(), Error> {
        let n_models = self.raws.len() + self.trials.len();
        if n_models <= budget {
            return Ok(());
        }
        Err(Error::request_with_hint(
            format!("this sweep scores {n_models} models, more than the {budget} of `--budget-evaluations`"),
            "choose fewer windows, ends or schemes",
        ))
    }
}

impl Resolver<'_> {
    /// Finds the windows that a sweep asks for; passes notes about ends that have too few checkpoints.
    ///
    /// # Errors
    /// `Request`, `Scheme` for a request that does not parse; `Trajectory` where a window that was named is not there.
    pub fn sweep(&self, request: &SweepRequest, trajectory: &Trajectory) -> Result<Sweep, Error> {
        let schemes = request.schemes.iter().map(|text| parse_scheme_word(text)).collect::<Result<Vec<_>, _>>()?;
        let mut trials = Vec::new();
        let mut newest: Vec<SourceRef> = Vec::new();
        let ends = ends(&request.ends, trajectory)?;
        let EndedWindows { windows, skipped, last_error } = self.ended_windows(&ends, &request.shapes(), trajectory)?;
        if let Some(error) = last_error.filter(|_| windows.is_empty()) {
            return Err(error.into());
        }
        skipped.iter().for_each(|skipped| self.note(skipped));
        for EndedWindow { shape, sources: window } in windows {
            for scheme in &schemes {
                trials.push(self.window_trial((&window, shape.interval), scheme, &request.output, &request.folder)?);
            }
            match request.raws {
                RawChoice::Newest => newest.extend(window.last().cloned()),
                RawChoice::Window => newest.extend(window),
            }
        }
        newest.sort_by_key(|one| one.step);
        newest.dedup_by_key(|one| one.step);
        let raws = self.raw_trials(request, &newest)?;
        Ok(Sweep { trials, raws })
    }

    /// Raw checkpoints, as windows of one.
    pub(crate) fn raw_trials(&self, request: &SweepRequest, sources: &[SourceRef]) -> Result<Vec<SweepTrial>, Error> {
        sources.iter().map(|source| self.raw(source, request)).collect()
    }

    /// A merge of checkpoints that no window of the request has, to score beside them.
    ///
    /// `name` tells it from the other trials; it is the name of the merge's folder, if the merge is kept.
    ///
    /// # Errors
    /// As [`merge_plan`](Self::merge_plan).
    pub fn trial(
        &self,
        name: &str,
        sources: &[SourceRef],
        scheme: &Scheme,
        request: &SweepRequest,
    ) -> Result<SweepTrial, Error> {
        let output = self.scheme_output(sources, scheme, &request.output, &request.folder.join(name))?;
        Ok(SweepTrial { name: name.to_owned(), output, interval: window_interval(sources, None) })
    }

    /// The merge of a window by a scheme, in a folder that is named after both.
    pub(crate) fn window_trial(
        &self,
        (window, interval): (&[SourceRef], Option<Extent>),
        scheme: &Scheme,
        output: &OutputOptions,
        folder: &Path,
    ) -> Result<SweepTrial, Error> {
        let name = trial_name(window, interval, scheme);
        let output = self.scheme_output(window, scheme, output, &folder.join(&name))?;
        Ok(SweepTrial { name, output, interval: window_interval(window, interval) })
    }

    /// The window of each shape at each end, ends first. What a grid's end has too few checkpoints for is skipped.
    pub(crate) fn ended_windows(
        &self,
        ends: &[End],
        shapes: &[WindowShape],
        trajectory: &Trajectory,
    ) -> Result<EndedWindows, Error> {
        let mut windows = Vec::new();
        let mut skipped = BTreeMap::<usize, BTreeSet<u64>>::new();
        let mut last_error = None;
        for End { at, need } in ends {
            for shape in shapes {
                let window = match select_window(trajectory, &shape.ending(*at)) {
                    Err(error) if *need == Need::IfThereIsRoom && is_lack(&error) => {
                        if let WindowEnd::At(Extent::Steps(step)) = at {
                            skipped.entry(shape.n_checkpoints).or_default().insert(step.0);
                        }
                        last_error = Some(error);
                        continue;
                    }
                    window => window?,
                };
                window.notes().iter().for_each(|note| self.note(note));
                let sources = window.checkpoints().iter().map(source_ref).collect();
                windows.push(EndedWindow { shape: *shape, sources });
            }
        }
        let newest = windows.iter().filter_map(|window: &EndedWindow| window.sources.last()?.step);
        self.warn_of_spikes(trajectory, newest.map(Step));
        let skipped = skipped.into_iter().map(|(n_checkpoints, steps)| SkippedEnds { n_checkpoints, steps });
        Ok(EndedWindows { windows, skipped: skipped.collect(), last_error })
    }

    /// A raw checkpoint, as a window of one.
    fn raw(&self, source: &SourceRef, request: &SweepRequest) -> Result<SweepTrial, Error> {
        let name = format!("raw-step{:07}", source.step.unwrap_or(0));
        let one = Scheme::Sma.coefficients(1)?;
        let (window, out) = (std::slice::from_ref(source), request.folder.join(&name));
        let output = self.output_plan((window, 0), (&one, "raw".to_owned()), &request.output, &out)?;
        Ok(SweepTrial { name, output, interval: WindowInterval::default() })
    }
}

impl SweepRequest {
    /// Plain means of the newest consecutive checkpoints, `counts` of them.
    pub fn new(counts: Vec<usize>, folder: impl Into<PathBuf>) -> Self {
        Self {
            counts,
            interval_steps: Vec::new(),
            interval_tokens: Vec::new(),
            schemes: vec!["sma".to_owned()],
            ends: vec!["newest".to_owned()],
            raws: RawChoice::Newest,
            output: OutputOptions::default(),
            folder: folder.into(),
        }
    }

    /// Every combination of count and interval.
    fn shapes(&self) -> Vec<WindowShape> {
        let steps = self.interval_steps.iter().map(|&steps| Some(Extent::Steps(Step(steps))));
        let tokens = self.interval_tokens.iter().map(|&tokens| Some(Extent::Tokens(Tokens(tokens))));
        let mut intervals: Vec<Option<Extent>> = steps.chain(tokens).collect();
        if intervals.is_empty() {
            intervals.push(None);
        }
        let of_count =
            |&n_checkpoints: &usize| intervals.iter().map(move |&interval| WindowShape { n_checkpoints, interval });
        self.counts.iter().flat_map(of_count).collect()
    }
}

/// A window without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WindowShape {
    pub(crate) n_checkpoints: usize,
    /// Between neighbours; consecutive checkpoints, if left out.
    pub(crate) interval: Option<Extent>,
}

impl WindowShape {
    fn ending(self, end: WindowEnd) -> WindowSpec {
        let n_checkpoints = self.n_checkpoints;
        match self.interval {
            Some(interval) => WindowSpec::Count { n_checkpoints, interval, end },
            None => WindowSpec::Last { n_checkpoints, end },
        }
    }
}

/// A window that was found.
#[derive(Debug)]
pub(crate) struct EndedWindow {
    pub(crate) shape: WindowShape,
    /// Its checkpoints, oldest first.
    pub(crate) sources: Vec<SourceRef>,
}

/// The windows at some ends.
#[derive(Debug)]
pub(crate) struct EndedWindows {
    pub(crate) windows: Vec<EndedWindow>,
    pub(crate) skipped: Vec<SkippedEnds>,
    /// Why the last one was skipped.
    pub(crate) last_error: Option<thalweg_trajectory::Error>,
}

/// A name that sorts and says what it is: `step16000-n5-every2000-sma`.
fn trial_name(window: &[SourceRef], interval: Option<Extent>, scheme: &Scheme) -> String {
    let end = window.last().and_then(|last| last.step).unwrap_or(0);
    let interval = match interval {
        None => String::new(),
        Some(Extent::Steps(steps)) => format!("-every{steps}"),
        Some(Extent::Tokens(tokens)) => format!("-every{}", exact_count(tokens.0)),
    };
    let scheme = scheme.to_string().replace([':', '/'], "-");
    format!("step{end:07}-n{}{interval}-{scheme}", window.len())
}

/// A count with the largest suffix that leaves a whole number, so that different counts have different names.
fn exact_count(count: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1_000_000_000_000, "T"), (1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")];
    let unit = UNITS.iter().find(|(unit, _)| count > 0 && count.is_multiple_of(*unit));
    unit.map_or_else(|| count.to_string(), |(unit, name)| format!("{}{name}", count / unit))
}

fn window_interval(window: &[SourceRef], interval: Option<Extent>) -> WindowInterval {
    let steps: Vec<u64> = window.iter().filter_map(|one| one.step).collect();
    let interval_tokens = match interval {
        Some(Extent::Tokens(tokens)) => Some(tokens.0),
        _ => None,
    };
    WindowInterval { interval_steps: even_interval(&steps), interval_tokens }
}

/// An end of windows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    at: WindowEnd,
    need: Need,
}

impl End {
    /// An end of a grid.
    pub(crate) fn of_grid(step: u64) -> Self {
        Self { at: WindowEnd::At(Extent::Steps(Step(step))), need: Need::IfThereIsRoom }
    }

    /// The step, if it is one.
    pub(crate) fn step(&self) -> Option<u64> {
        match self.at {
            WindowEnd::At(Extent::Steps(step)) => Some(step.0),
            _ => None,
        }
    }
}

/// Whether an end must have a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The user named it: a window that cannot be made is an error.
    Always,
    /// It is one of a grid, whose first ends may have too few checkpoints before them.
    IfThereIsRoom,
}

/// Ends of a grid that have too few checkpoints before them for windows of one length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SkippedEnds {
    /// Checkpoints in the windows.
    pub n_checkpoints: usize,
    /// The steps of the ends.
    #[serde(rename = "end_steps")]
    pub steps: BTreeSet<u64>,
}

impl fmt::Display for SkippedEnds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.steps.first().copied().unwrap_or(0), self.steps.last().copied().unwrap_or(0));
        match self.steps.len() {
            1 => write!(f, "end at step {first} is")?,
            n => write!(f, "{n} ends from step {first} to {last} are")?,
        }
        write!(f, " skipped: too few checkpoints for windows of {}", self.n_checkpoints)
    }
}

/// Whether a window lacks checkpoints, as opposed to an invalid request.
fn is_lack(error: &thalweg_trajectory::Error) -> bool {
    use thalweg_trajectory::Error as Run;
    matches!(error, Run::TooFew { .. } | Run::NoCheckpointAt { .. })
}

/// The ends that `newest`, `steps` (every finished checkpoint), single steps or `every:STEPS` (back from the newest)
/// mean.
pub(crate) fn ends(texts: &[String], trajectory: &Trajectory) -> Result<Vec<End>, Error> {
    let always = |at: WindowEnd| End { at, need: Need::Always };
    let at = |step: u64| WindowEnd::At(Extent::Steps(Step(step)));
    let finished = || trajectory.finished().map(|one| one.step.0);
    let mut ends = Vec::new();
    for text in texts {
        let parse = |text: &str| {
            parse_count(text).map_err(|reason| {
                Error::request_with_hint(
                    format!("`--ends`: `{text}`: {reason}, such as 2000, 2K, 4e9 or 8B"),
                    "write `newest`, `steps` for all of them, steps such as 8000,16000, or `every:STEPS`",
                )
            })
        };
        if text == "newest" {
            ends.push(always(WindowEnd::Newest));
        } else if text == "steps" {
            ends.extend(finished().map(End::of_grid));
        } else if let Some(interval) = text.strip_prefix("every:") {
            let interval = parse(interval)?.max(1);
            let newest = finished().next_back().unwrap_or(0);
            ends.extend(finished().filter(|step| (newest - step).is_multiple_of(interval)).map(End::of_grid));
        } else {
            ends.push(always(at(parse(text)?)));
        }
    }
    Ok(ends)
}
