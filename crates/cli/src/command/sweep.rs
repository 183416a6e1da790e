//! `thalweg sweep`: many windows and schemes of one run, each source byte read once. With a suite, see `sweep_scored`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use serde_json::json;
use thalweg_merge::engine::MergeOutcome;
use thalweg_merge::plan::{MergePlan, OutputPlan, SourceRef, newest_of};
use thalweg_merge::scheme::{CoefficientOrder, Scheme};
use thalweg_study::select::source_ref;
use thalweg_study::write_study::check_study_folder;
use thalweg_trajectory::{Extent, Step, Tokens, Trajectory, WindowEnd, WindowSpec, select_window};

use crate::args::{KeepChoice, SweepArgs};
use crate::command::Outcome;
use crate::command::merge::execute;
use crate::command::plan::show_plan;
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;
use crate::options::{Count, show_bytes, show_count};
use crate::resolve::output_plan;
use crate::run::open_trajectory;
use crate::weigh::{Weights, parse_scheme_word, weigh};

/// One merge of the sweep, before it is a plan.
pub(super) struct Trial {
    pub(super) window: Vec<SourceRef>,
    pub(super) interval: Option<Extent>,
    pub(super) scheme: Scheme,
}

impl Trial {
    /// A name that sorts and says what it is: `step16000-n5-every2000-sma`.
    pub(super) fn name(&self) -> String {
        let end = self.window.last().and_then(|last| last.step).unwrap_or(0);
        let interval = match self.interval {
            None => String::new(),
            Some(Extent::Steps(steps)) => format!("-every{steps}"),
            Some(Extent::Tokens(tokens)) => format!("-every{}", show_count(tokens.0)),
        };
        let scheme = self.scheme.to_string().replace([':', '/'], "-");
        format!("step{end:07}-n{}{interval}-{scheme}", self.window.len())
    }
}

pub(crate) fn run(args: &SweepArgs, world: &World<'_>, messages: &Messages) -> Result<Outcome, Error> {
    let trajectory = open_trajectory(&args.run_path, &args.run, world, messages)?;
    let trials = trials(args, &trajectory, messages)?;
    let mut told = BTreeSet::new();
    let outputs = trials
        .iter()
        .map(|trial| {
            let weighed = weigh(&Weights::Scheme(trial.scheme.clone()), CoefficientOrder::AsIs, &trial.window)?;
            for note in weighed.notes.into_iter().filter(|note| told.insert(note.clone())) {
                messages.note(note);
            }
            let (out, newest) = (args.out.join(trial.name()), newest_of(&trial.window));
            output_plan((&trial.window, newest), (&weighed.coefficients, weighed.name), &args.output, &out, world)
        })
        .collect::<Result<Vec<OutputPlan>, Error>>()?;
    if args.scoring.suite.is_some() || args.scoring.eval_command.is_some() {
        check_study_folder(&*world.storage, &args.out)?;
        return super::sweep_scored::run(args, &trajectory, (&trials, outputs), world, messages);
    }
    check_unscored(args)?;
    let plan = MergePlan::new(outputs)?;
    check_budget(args, &plan, world)?;
    if args.dry_run {
        show_plan(&plan, args.execution.memory.0, world, messages)?;
        return Ok(Outcome::Done);
    }
    world.storage.create_folder(&args.out)?;
    let outcomes = execute(&plan, &args.execution, world)?;
    messages.json(&document(&trials, &outcomes));
    messages.text(&table(&args.out, &trials, &outcomes));
    Ok(Outcome::Done)
}

/// Options that need scores.
fn check_unscored(args: &SweepArgs) -> Result<(), Error> {
    let needs = [
        ("--keep best or none", args.keep.is_some_and(|keep| keep != KeepChoice::All)),
        ("--report-suite", args.report_suite.is_some()),
        ("--by", args.scoring.by.is_some()),
        ("--budget-evaluations", args.budget_evaluations.is_some()),
    ];
    match needs.iter().find(|(_, is_asked)| *is_asked) {
        Some((option, _)) => Err(Error::usage_with_hint(
            format!("`{option}` needs scores"),
            "add `--suite FILE` or `--eval-command CMD`",
        )),
        None => Ok(()),
    }
}

/// Every combination of end, count, interval and scheme.
fn trials(args: &SweepArgs, trajectory: &Trajectory, messages: &Messages) -> Result<Vec<Trial>, Error> {
    let schemes = args.schemes.iter().map(|text| parse_scheme_word(text)).collect::<Result<Vec<Scheme>, Error>>()?;
    let steps = args.interval_steps.iter().map(|count| Some(Extent::Steps(Step(count.0))));
    let tokens = args.interval_tokens.iter().map(|count| Some(Extent::Tokens(Tokens(count.0))));
    let mut intervals: Vec<Option<Extent>> = steps.chain(tokens).collect();
    if intervals.is_empty() {
        intervals.push(None);
    }
    let mut trials = Vec::new();
    let mut told = BTreeSet::new();
    let mut skipped = SkippedEnds::default();
    for End { at, need } in ends(&args.ends, trajectory)? {
        for &n_checkpoints in &args.counts {
            for &interval in &intervals {
                let spec = match interval {
                    Some(interval) => WindowSpec::Count { n_checkpoints, interval, end: at },
                    None => WindowSpec::Last { n_checkpoints, end: at },
                };
                let window = match select_window(trajectory, &spec) {
                    Err(error) if need == Need::IfThereIsRoom && is_lack(&error) => {
                        skipped.add(n_checkpoints, at, error);
                        continue;
                    }
                    window => window?,
                };
                for note in window.notes().iter().map(ToString::to_string) {
                    if told.insert(note.clone()) {
                        messages.note(note);
                    }
                }
                let window: Vec<SourceRef> = window.checkpoints().iter().map(source_ref).collect();
                let trial = |scheme: &Scheme| Trial { window: window.clone(), interval, scheme: scheme.clone() };
                trials.extend(schemes.iter().map(trial));
            }
        }
    }
    skipped.finish(trials.is_empty(), messages)?;
    Ok(trials)
}

/// An end of windows.
struct End {
    at: WindowEnd,
    need: Need,
}

/// Whether an end must have a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The user named it: a window that cannot be made is an error.
    Always,
    /// It is one of a grid, whose first ends may have too few checkpoints before them.
    IfThereIsRoom,
}

/// Ends of a grid that have too few checkpoints before them, by the number of checkpoints in the windows.
#[derive(Default)]
struct SkippedEnds {
    by_count: BTreeMap<usize, BTreeSet<u64>>,
    last_error: Option<thalweg_trajectory::Error>,
}

impl SkippedEnds {
    fn add(&mut self, n_checkpoints: usize, end: WindowEnd, error: thalweg_trajectory::Error) {
        if let WindowEnd::At(Extent::Steps(step)) = end {
            self.by_count.entry(n_checkpoints).or_default().insert(step.0);
        }
        self.last_error = Some(error);
    }

    /// Notes what was skipped.
    ///
    /// # Errors
    /// If no end is left, the error of the last one.
    fn finish(self, is_nothing_left: bool, messages: &Messages) -> Result<(), Error> {
        if let Some(error) = self.last_error.filter(|_| is_nothing_left) {
            return Err(error.into());
        }
        for (n_checkpoints, steps) in self.by_count {
            let (first, last) = (steps.first().copied().unwrap_or(0), steps.last().copied().unwrap_or(0));
            let which = if steps.len() == 1 {
                format!("end at step {first} is")
            } else {
                format!("{} ends from step {first} to {last} are", steps.len())
            };
            messages.note(format!("{which} skipped: too few checkpoints for windows of {n_checkpoints}"));
        }
        Ok(())
    }
}

/// Whether a window lacks checkpoints, as opposed to an invalid request.
fn is_lack(error: &thalweg_trajectory::Error) -> bool {
    use thalweg_trajectory::Error as Run;
    matches!(error, Run::TooFew { .. } | Run::NoCheckpointAt { .. })
}

/// The ends that `newest`, `steps` (every finished checkpoint), single steps or `every:STEPS` (back from the newest)
/// mean.
fn ends(texts: &[String], trajectory: &Trajectory) -> Result<Vec<End>, Error> {
    let always = |at: WindowEnd| End { at, need: Need::Always };
    let at = |step: u64| WindowEnd::At(Extent::Steps(Step(step)));
    let of_grid = |step: u64| End { at: at(step), need: Need::IfThereIsRoom };
    let finished = || trajectory.finished().map(|one| one.step.0);
    let mut ends = Vec::new();
    for text in texts {
        let parse = |text: &str| {
            text.parse::<Count>().map_err(|error| {
                Error::usage_with_hint(
                    format!("`--ends`: {error}"),
                    "write `newest`, `steps` for all of them, steps such as 8000,16000, or `every:STEPS`",
                )
            })
        };
        if text == "newest" {
            ends.push(always(WindowEnd::Newest));
        } else if text == "steps" {
            ends.extend(finished().map(of_grid));
        } else if let Some(interval) = text.strip_prefix("every:") {
            let interval = parse(interval)?.0.max(1);
            let newest = finished().next_back().unwrap_or(0);
            ends.extend(finished().filter(|step| (newest - step).is_multiple_of(interval)).map(of_grid));
        } else {
            ends.push(always(at(parse(text)?.0)));
        }
    }
    Ok(ends)
}

/// Says no before the first byte where a sweep would read more than it may.
pub(super) fn check_budget(args: &SweepArgs, plan: &MergePlan, world: &World<'_>) -> Result<(), Error> {
    let Some(budget) = args.budget_bytes else { return Ok(()) };
    let sources = thalweg_merge::engine::open_sources(plan, &world.context(args.execution.memory.0))?;
    let n_bytes: u64 = sources.iter().map(|source| source.checkpoint.stored_catalog().n_bytes()).sum();
    if n_bytes > budget.0 {
        return Err(Error::usage_with_hint(
            format!(
                "this sweep reads {}, more than the {} of `--budget-bytes`",
                show_bytes(n_bytes),
                show_bytes(budget.0)
            ),
            "take fewer ends, or shorter windows",
        ));
    }
    Ok(())
}

fn document(trials: &[Trial], outcomes: &[MergeOutcome]) -> serde_json::Value {
    let rows: Vec<_> = trials
        .iter()
        .zip(outcomes)
        .map(|(trial, outcome)| {
            let interval_tokens = match trial.interval {
                Some(Extent::Tokens(tokens)) => Some(tokens.0),
                _ => None,
            };
            json!({
                "plan_digest": outcome.receipt.plan_digest,
                "end_step": trial.window.last().and_then(|last| last.step),
                "n_checkpoints": trial.window.len(),
                "interval_tokens": interval_tokens,
                "scheme": trial.scheme.to_string(),
                "path": outcome.path,
                "distance_to_newest": outcome.receipt.distance_to_newest(),
                "was_done": outcome.was_done,
                "scores": [],
            })
        })
        .collect();
    // Outputs of one reading share it; those that were there already were not read for now.
    let bytes_read =
        outcomes.iter().filter(|outcome| !outcome.was_done).map(|outcome| outcome.receipt.bytes_read).max();
    json!({"kind": "thalweg-sweep", "version": 1, "trials": rows, "bytes_read": bytes_read.unwrap_or(0)})
}

fn table(out: &Path, trials: &[Trial], outcomes: &[MergeOutcome]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:>10} {:>5} {:<16} {:>14}  folder in `{}`",
        "end step",
        "N",
        "scheme",
        "to newest",
        out.display()
    );
    for (trial, outcome) in trials.iter().zip(outcomes) {
        let end = trial.window.last().and_then(|last| last.step).unwrap_or(0);
        let distance = outcome.receipt.distance_to_newest();
        let distance = distance.map_or_else(|| "-".to_owned(), |distance| format!("{distance:.6}"));
        let scheme = trial.scheme.to_string();
        let (n, name) = (trial.window.len(), trial.name());
        let _ = writeln!(text, "{end:>10} {n:>5} {scheme:<16} {distance:>14}  {name}");
    }
    text
}
