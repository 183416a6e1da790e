//! From arguments to checkpoints: one run with a selection, or checkpoints by name, oldest first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thalweg_merge::Ratio;
use thalweg_merge::plan::SourceRef;
use thalweg_tensor::display_name;
use thalweg_trajectory::layout::NameCount;
use thalweg_trajectory::{NamePattern, PathKind, look_at_path};

use crate::args::{RunArgs, SelectionArgs};
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;
use crate::run::{is_selection_empty, name_pattern, open_trajectory, parse_own_name, select};

/// The order of checkpoints that were named one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceOrder {
    /// By step, if each has one.
    BySteps {
        /// The option that keeps the order given, if the command has one.
        keep_option: Option<&'static str>,
    },
    /// As they were given, oldest first.
    Given,
}

/// What a table calls a checkpoint.
pub(crate) fn label(source: &SourceRef) -> String {
    let name = || source.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    source.step.map_or_else(name, |step| format!("step {step}"))
}

/// The checkpoints that positional arguments and a selection mean, oldest first.
pub(crate) fn choose_checkpoints(
    inputs: &[PathBuf],
    (selection, run): (&SelectionArgs, &RunArgs),
    order: SourceOrder,
    world: &World<'_>,
    messages: &Messages,
) -> Result<Vec<SourceRef>, Error> {
    if let [only] = inputs {
        match look_at(only, run, world)? {
            Named::Run(path) | Named::Both(path) => {
                let trajectory = open_trajectory(&path, run, world, messages)?;
                return select(&trajectory, selection, messages);
            }
            Named::Checkpoint(_) if is_selection_empty(selection) => {}
            Named::Checkpoint(path) => {
                return Err(Error::usage_with_hint(
                    format!("`{}` is a checkpoint, so there is nothing to select from", path.display()),
                    "give the folder above it as the run, or leave out the selection",
                ));
            }
        }
    }
    if inputs.is_empty() {
        return Err(Error::usage_with_hint(
            "no run and no checkpoints were given",
            "name a run folder, or two or more checkpoints",
        ));
    }
    if !is_selection_empty(selection) {
        return Err(Error::usage("checkpoints were given one by one, so there is nothing left to select from"));
    }
    let pattern = name_pattern(run)?;
    let given = inputs.iter().map(|path| given_checkpoint(path, pattern.as_ref(), world));
    let given = agreeing_steps(given.collect::<Result<Vec<_>, _>>()?);
    Ok(in_order(given, |source| source, order, messages))
}

/// What an argument names, where a command takes a run or a checkpoint.
pub(crate) enum Named {
    Checkpoint(PathBuf),
    Run(PathBuf),
    /// A run folder that is also a checkpoint itself.
    Both(PathBuf),
}

/// Resolves an argument, and finds whether it is a checkpoint or a run.
pub(crate) fn look_at(path: &Path, run: &RunArgs, world: &World<'_>) -> Result<Named, Error> {
    let found = world.find(path)?;
    Ok(match look_at_path(&world.storage, &found, name_pattern(run)?.as_ref())? {
        PathKind::Checkpoint => Named::Checkpoint(world.find_checkpoint(path)?),
        PathKind::Run => Named::Run(found),
        PathKind::RunWithCheckpoint => Named::Both(found),
    })
}

/// A checkpoint that was named, and what its name counts: steps or epochs.
fn given_checkpoint(
    path: &Path,
    pattern: Option<&NamePattern>,
    world: &World<'_>,
) -> Result<(SourceRef, Option<NameCount>), Error> {
    let found = world.resolve_checkpoint(path)?;
    let name = parse_own_name(path, pattern).or_else(|| parse_own_name(&found, pattern));
    let step = name.as_ref().map(|name| name.step.0);
    let tokens = name.as_ref().and_then(|name| name.tokens).map(|tokens| tokens.tokens.0);
    Ok((SourceRef { path: found, step, tokens }, name.map(|name| name.counts)))
}

/// Drops epochs where other checkpoints have steps: epochs order checkpoints only among themselves.
fn agreeing_steps(given: Vec<(SourceRef, Option<NameCount>)>) -> Vec<SourceRef> {
    let has_steps = given.iter().any(|(_, counts)| *counts == Some(NameCount::Steps));
    let agree = |(source, counts): (SourceRef, Option<NameCount>)| match counts {
        Some(NameCount::Epochs) if has_steps => SourceRef { step: None, ..source },
        _ => source,
    };
    given.into_iter().map(agree).collect()
}

/// Notes the first two checkpoints at one step: they are from two runs or copies, and their steps do not say which is
/// older.
fn note_equal_steps<'a>(sources: impl Iterator<Item = &'a SourceRef>, messages: &Messages) {
    let mut known: BTreeMap<u64, &PathBuf> = BTreeMap::new();
    for source in sources {
        let Some(step) = source.step else { continue };
        let first = *known.entry(step).or_insert(&source.path);
        if *first != source.path {
            let name = |path: &PathBuf| display_name(&path.display().to_string());
            let (first, second) = (name(first), name(&source.path));
            messages.note(format!("`{first}` and `{second}` are both at step {step}: they count in the order given"));
            return;
        }
    }
}

/// Sorts checkpoints that were named one by one by step, and notes what may surprise the user.
fn in_order<T>(
    mut given: Vec<T>,
    source: impl Fn(&T) -> &SourceRef,
    order: SourceOrder,
    messages: &Messages,
) -> Vec<T> {
    let mut paths: Vec<&PathBuf> = given.iter().map(|one| &source(one).path).collect();
    paths.sort();
    if let Some(twice) = paths.windows(2).find(|pair| pair[0] == pair[1]) {
        messages.note(format!("`{}` is given more than once, and counts each time", twice[0].display()));
    }
    note_equal_steps(given.iter().map(&source), messages);
    let SourceOrder::BySteps { keep_option } = order else { return given };
    if let Some(without) = given.iter().map(&source).find(|source| source.step.is_none()) {
        let n_known = given.iter().filter(|one| source(one).step.is_some()).count();
        if n_known > 0 {
            let name = display_name(&without.path.display().to_string());
            messages.note(format!(
                "the step of `{name}` is not known, so the order given counts: the first is the oldest, the last the \
                 newest"
            ));
        }
        return given;
    }
    if given.is_sorted_by_key(|one| source(one).step) {
        return given;
    }
    given.sort_by_key(|one| source(one).step);
    let keep = keep_option.map_or_else(String::new, |option| format!(" (`{option}` keeps that)"));
    messages.note(format!("the checkpoints are taken by their steps, oldest first, not in the order given{keep}"));
    given
}

/// Checkpoints of `-m CKPT[:COEF]`, and their coefficients if they have any.
pub(crate) fn choose_models(
    models: &[String],
    run: &RunArgs,
    order: SourceOrder,
    world: &World<'_>,
    messages: &Messages,
) -> Result<(Vec<SourceRef>, Option<Vec<Ratio>>), Error> {
    let split: Vec<(PathBuf, Option<Ratio>)> =
        models.iter().map(|model| split_model(model, world)).collect::<Result<_, _>>()?;
    let pattern = name_pattern(run)?;
    let named = split.iter().map(|(path, _)| given_checkpoint(path, pattern.as_ref(), world));
    let named = agreeing_steps(named.collect::<Result<Vec<_>, _>>()?);
    let n_given = split.iter().filter(|(_, coefficient)| coefficient.is_some()).count();
    if n_given != 0 && n_given != split.len() {
        return Err(Error::usage_with_hint(
            format!("{n_given} of {} checkpoints have a coefficient", split.len()),
            "give one to all of them (`-m CKPT:COEF`), or to none",
        ));
    }
    let given: Vec<(SourceRef, Option<Ratio>)> =
        named.into_iter().zip(split).map(|(source, (_, coefficient))| (source, coefficient)).collect();
    let (sources, coefficients): (Vec<SourceRef>, Vec<Option<Ratio>>) =
        in_order(given, |(source, _)| source, order, messages).into_iter().unzip();
    Ok((sources, coefficients.into_iter().collect()))
}

/// Splits `PATH:COEF` at the last colon. If the whole text is a path that exists, there is no coefficient.
fn split_model(model: &str, world: &World<'_>) -> Result<(PathBuf, Option<Ratio>), Error> {
    let whole = PathBuf::from(model);
    let Some((path, text)) = model.rsplit_once(':').filter(|_| world.find(&whole).is_err()) else {
        return Ok((whole, None));
    };
    match text.parse() {
        Ok(coefficient) => Ok((PathBuf::from(path), Some(coefficient))),
        Err(_) if world.find(Path::new(path)).is_err() => Ok((whole, None)),
        Err(_) => Err(Error::usage_with_hint(
            format!("`-m {model}`: the coefficient `{text}` is not a number"),
            "write a decimal number or a fraction after the colon: `-m CKPT:0.5`, `-m CKPT:1/3`",
        )),
    }
}
