//! Runs on the command line: opening them with what the user says, and choosing windows from them.

use std::path::{Path, PathBuf};

use thalweg_merge::plan::SourceRef;
use thalweg_storage::FileKind;
use thalweg_study::select::source_ref;
use thalweg_study::shell_word;
use thalweg_trajectory::layout::{CheckpointName, parse_entry_name};
use thalweg_trajectory::{
    ColumnMap, Extent, NamePattern, StableRange, Step, Tokens, TokensPerStep, Trajectory, TrajectoryOptions, WindowEnd,
    WindowSpec, lasting_spike, select_window,
};

use crate::args::{RunArgs, SelectionArgs};
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;
use crate::options::Count;

/// Opens a run with what the user says about it; prints notes about it.
pub(crate) fn open_trajectory(
    path: &Path,
    args: &RunArgs,
    world: &World<'_>,
    messages: &Messages,
) -> Result<Trajectory, Error> {
    let path = world.resolve(path)?;
    let stable = args.stable.as_deref().map(str::parse::<StableRange>).transpose()?;
    let columns = match args.log_columns.as_slice() {
        [] => ColumnMap::default(),
        columns => columns.join(",").parse()?,
    };
    let options = TrajectoryOptions {
        tokens_per_step: args.tokens_per_step.map(|tokens| TokensPerStep(tokens.0)),
        stable,
        log_paths: args.log.clone(),
        columns,
        log_every: args.log_every.map(std::num::NonZeroU64::get),
        reading: world.reading.clone(),
        pattern: name_pattern(args)?,
    };
    let trajectory = Trajectory::open(&world.storage, &path, &options)?;
    trajectory.notes().iter().for_each(|note| messages.note(note));
    Ok(trajectory)
}

/// The window that the options ask for, oldest first.
pub(crate) fn select(
    trajectory: &Trajectory,
    args: &SelectionArgs,
    messages: &Messages,
) -> Result<Vec<SourceRef>, Error> {
    let window = select_window(trajectory, &window_spec(args)?)?;
    window.notes().iter().for_each(|note| messages.note(note));
    if !args.steps.is_sorted_by_key(|step| step.0) {
        messages.note("the checkpoints are taken by their steps, oldest first, not in the order of `--steps`");
    }
    if let Some(newest) = window.checkpoints().last() {
        warn_of_spike(trajectory, newest.step, messages);
    }
    Ok(window.checkpoints().iter().map(source_ref).collect())
}

/// The user's pattern for names of checkpoints, if there is one.
pub(crate) fn name_pattern(args: &RunArgs) -> Result<Option<NamePattern>, Error> {
    Ok(args.checkpoint_pattern.as_deref().map(str::parse).transpose()?)
}

/// Parses a checkpoint's own name: that of its folder or file, or its revision.
pub(crate) fn parse_own_name(path: &Path, pattern: Option<&NamePattern>) -> Option<CheckpointName> {
    let text = |path: &Path| path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let name = text(path);
    // `run/step1000/model.safetensors` has its step in the name of the folder.
    let is_plain_file = name.starts_with("model") && (name.ends_with(".safetensors") || name.ends_with(".index.json"));
    let name = if is_plain_file { text(path.parent()?) } else { name };
    let parse = |name: &str| {
        parse_entry_name(name, FileKind::File, pattern).or_else(|| parse_entry_name(name, FileKind::Folder, pattern))
    };
    parse(&name).or_else(|| parse(name.rsplit_once('@')?.1))
}

/// Whether nothing was said about which checkpoints are wanted.
pub(crate) fn is_selection_empty(args: &SelectionArgs) -> bool {
    let numbers = [args.interval_steps, args.interval_tokens, args.duration_steps, args.duration_tokens];
    let places = [args.end_step, args.end_tokens, args.from_step, args.to_step];
    args.last.is_none()
        && args.count.is_none()
        && args.every.is_none()
        && args.steps.is_empty()
        && numbers.iter().chain(&places).all(Option::is_none)
}

fn end(args: &SelectionArgs) -> WindowEnd {
    match (args.end_step, args.end_tokens) {
        (Some(step), _) => WindowEnd::At(Extent::Steps(Step(step.0))),
        (_, Some(tokens)) => WindowEnd::At(Extent::Tokens(Tokens(tokens.0))),
        _ => WindowEnd::Newest,
    }
}

fn extent(steps: Option<Count>, tokens: Option<Count>) -> Option<Extent> {
    let steps = steps.map(|steps| Extent::Steps(Step(steps.0)));
    steps.or_else(|| tokens.map(|tokens| Extent::Tokens(Tokens(tokens.0))))
}

/// What the options mean; two ways of asking at once are an error.
fn window_spec(args: &SelectionArgs) -> Result<WindowSpec, Error> {
    let interval = extent(args.interval_steps, args.interval_tokens);
    let duration = extent(args.duration_steps, args.duration_tokens);
    let asked = [
        ("--last", args.last.is_some()),
        ("--every", args.every.is_some()),
        ("--steps", !args.steps.is_empty()),
        ("--from-step or --to-step", args.from_step.is_some() || args.to_step.is_some()),
        ("a duration", duration.is_some()),
        ("an interval", interval.is_some()),
    ];
    let asked: Vec<&str> = asked.iter().filter(|(_, is_asked)| *is_asked).map(|(name, _)| *name).collect();
    if let [first, second, ..] = asked.as_slice() {
        return Err(Error::usage(format!("{first} and {second} are two ways of choosing checkpoints: give one")));
    }
    let end = end(args);
    if let Some(n_checkpoints) = args.last {
        return Ok(WindowSpec::Last { n_checkpoints, end });
    }
    if let Some(k) = args.every {
        return Ok(WindowSpec::Every { k: k.get(), n_checkpoints: args.count, end });
    }
    if !args.steps.is_empty() {
        return Ok(WindowSpec::Steps(args.steps.iter().map(|step| Step(step.0)).collect()));
    }
    if let Some(duration) = duration {
        return Ok(WindowSpec::Duration { duration, n_checkpoints: args.count, end });
    }
    match (args.count, interval) {
        (Some(n_checkpoints), Some(interval)) => Ok(WindowSpec::Count { n_checkpoints, interval, end }),
        (Some(_), None) => Err(Error::usage_with_hint(
            "`--count` needs to know how far apart the checkpoints are",
            "add `--interval-steps` or `--interval-tokens`; the newest N as they come are `--last N`",
        )),
        (None, Some(_)) => Err(Error::usage_with_hint("an interval needs a number of checkpoints", "add `--count N`")),
        (None, None) => range_or_all(args, end),
    }
}

fn range_or_all(args: &SelectionArgs, end: WindowEnd) -> Result<WindowSpec, Error> {
    let step = |count: Option<Count>| count.map(|count| Step(count.0));
    if args.from_step.is_some() || args.to_step.is_some() {
        return Ok(WindowSpec::Range { from: step(args.from_step), to: step(args.to_step), at_least_apart: None });
    }
    match end {
        WindowEnd::Newest => Err(Error::usage_with_hint(
            "which checkpoints of the run?",
            "for example `--last 10`, or `--count 10 --interval-tokens 8B`; `--every 1` takes all",
        )),
        WindowEnd::At(_) => Err(Error::usage_with_hint("an end needs a beginning", "add `--last N` or `--count N`")),
    }
}

/// The learning rate that the log has at a step, or at the last one before it.
pub(crate) fn learning_rate_at(trajectory: &Trajectory, step: u64) -> Option<f64> {
    let rates = trajectory.log()?.learning_rates();
    rates.take_while(|(at, _)| at.0 <= step).last().map(|(_, rate)| rate)
}

/// The root of the local Hugging Face cache, where models are found by name.
pub(crate) fn hub_cache_root() -> Option<PathBuf> {
    thalweg_trajectory::hub_cache_root(&|name| std::env::var_os(name))
}

/// Notes that a window ends within a spike, before the run has recovered from it.
fn warn_of_spike(trajectory: &Trajectory, newest: Step, messages: &Messages) {
    let Some(spike) = trajectory.log().and_then(|log| lasting_spike(log, trajectory.spikes(), newest)) else { return };
    let what = match spike.end {
        Some(end) => format!("the loss comes back only at step {end}"),
        None => "it did not come back".to_owned(),
    };
    messages.note(format!(
        "the window holds an unhealed spike: onset at step {}, seen in the {}, {what}; `thalweg recover {}` proposes \
         checkpoints before it",
        spike.onset,
        spike.signal,
        shell_word(&trajectory.path().display().to_string())
    ));
}

/// The files of the step log, as words for a line of text.
pub(crate) fn log_words(trajectory: &Trajectory) -> Option<String> {
    let (first, more) = trajectory.log_paths().split_first()?;
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    Some(format!("`{}`{more}", first.display()))
}

/// The files of the step log as JSON: a string for one, a list for several.
pub(crate) fn log_json(trajectory: &Trajectory) -> serde_json::Value {
    match trajectory.log_paths() {
        [] => serde_json::Value::Null,
        [one] => serde_json::json!(one),
        several => serde_json::json!(several),
    }
}
