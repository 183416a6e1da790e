//! From names to checkpoints: one run with a selection, or checkpoints by name, oldest first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thalweg_merge::Ratio;
use thalweg_merge::plan::SourceRef;
use thalweg_tensor::{display_name, part_of, shell_word};
use thalweg_trajectory::layout::NameCount;
use thalweg_trajectory::{NamePattern, PathKind, look_at_path};

use super::own_name::parse_own_name;
use super::{Resolver, RunOptions, Selection};
use crate::Error;

/// The order of checkpoints that were named one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceOrder {
    /// By step, if each has one.
    BySteps {
        /// The option that keeps the order given, if the command has one.
        keep_option: Option<&'static str>,
    },
    /// As they were given, oldest first.
    Given,
}

/// What a table calls a checkpoint.
pub fn label(source: &SourceRef) -> String {
    let name = || source.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    source.step.map_or_else(name, |step| format!("step {step}"))
}

/// The checkpoints that names and a selection mean, oldest first.
///
/// # Errors
/// `Request` where they do not fit together; those of opening a run and finding checkpoints.
pub fn choose_checkpoints(
    inputs: &[PathBuf],
    (selection, run): (&Selection, &RunOptions),
    order: SourceOrder,
    resolver: &Resolver<'_>,
) -> Result<Vec<SourceRef>, Error> {
    if let [only] = inputs {
        match look_at(only, run, resolver)? {
            (PathKind::Run | PathKind::RunWithCheckpoint, path) => {
                let trajectory = resolver.open_run(&path, run)?;
                return resolver.select(&trajectory, selection);
            }
            (PathKind::Checkpoint, _) if selection.is_empty() => {}
            (PathKind::Checkpoint, path) => {
                // Several files under unknown names are neither.
                if let Err(Error::Trajectory(error @ thalweg_trajectory::Error::NotARun { .. })) =
                    resolver.open_run(&path, run)
                {
                    return Err(error.into());
                }
                return Err(Error::request_with_hint(
                    format!("`{}` is a checkpoint, so there is nothing to select from", path.display()),
                    "give the folder above it as the run, or leave out the selection",
                ));
            }
        }
    }
    if inputs.is_empty() {
        return Err(Error::request_with_hint(
            "no run and no checkpoints were given",
            "name a run folder, or two or more checkpoints",
        ));
    }
    refuse_selection(selection)?;
    run.refuse_for_checkpoints()?;
    let pattern = run.name_pattern()?;
    let given = inputs.iter().map(|path| given_checkpoint(path, pattern.as_ref(), resolver));
    let given = agreeing_steps(given.collect::<Result<Vec<_>, _>>()?);
    Ok(in_order(given, |source| source, order, resolver))
}

/// Checkpoints that are named one by one are not selected from.
pub(super) fn refuse_selection(selection: &Selection) -> Result<(), Error> {
    match selection.is_empty() {
        true => Ok(()),
        false => Err(Error::request_with_hint(
            "checkpoints were given one by one, so there is nothing left to select from",
            "leave out the selection; to select from a run, name one run folder alone",
        )),
    }
}

/// Resolves a name, and finds whether it is a checkpoint or a run.
///
/// # Errors
/// `Trajectory` where it is neither; `Storage`.
pub fn look_at(path: &Path, run: &RunOptions, resolver: &Resolver<'_>) -> Result<(PathKind, PathBuf), Error> {
    let found = resolver.find(path)?;
    let kind = look_at_path(&resolver.cx.storage, &found, run.name_pattern()?.as_ref())?;
    let path = if kind == PathKind::Checkpoint { resolver.find_checkpoint(path)? } else { found };
    Ok((kind, path))
}

/// A checkpoint that was named, and what its name counts: steps or epochs.
fn given_checkpoint(
    path: &Path,
    pattern: Option<&NamePattern>,
    resolver: &Resolver<'_>,
) -> Result<(SourceRef, Option<NameCount>), Error> {
    let found = resolver.resolve_checkpoint(path).map_err(|error| as_coefficient(path, resolver).unwrap_or(error))?;
    let name = parse_own_name(path, pattern).or_else(|| parse_own_name(&found, pattern));
    let Some(name) = name else {
        // A conversion has another name, and its receipt knows the step.
        let step = resolver.copied_step(&found, pattern);
        return Ok((SourceRef { path: found, step, tokens: None }, step.map(|_| NameCount::Steps)));
    };
    let tokens = name.tokens.map(|tokens| tokens.tokens.0);
    Ok((SourceRef { path: found, step: Some(name.step.0), tokens }, Some(name.counts)))
}

/// The error for a path that is a checkpoint with a coefficient behind it, which only `-m` takes.
fn as_coefficient(path: &Path, resolver: &Resolver<'_>) -> Option<Error> {
    let text = path.to_str()?;
    let (checkpoint, coefficient) = text.rsplit_once(':')?;
    coefficient.parse::<Ratio>().ok()?;
    resolver.find_checkpoint(Path::new(checkpoint)).ok()?;
    Some(Error::request_with_hint(
        format!("`{text}` does not exist"),
        format!("a coefficient needs `-m`: `-m {}`", shell_word(text)),
    ))
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
pub(crate) fn note_equal_steps<'a>(sources: impl Iterator<Item = &'a SourceRef>, resolver: &Resolver<'_>) {
    let mut known: BTreeMap<u64, &PathBuf> = BTreeMap::new();
    for source in sources {
        let Some(step) = source.step else { continue };
        let first = *known.entry(step).or_insert(&source.path);
        if *first != source.path {
            let name = |path: &PathBuf| display_name(&path.display().to_string());
            let (first, second) = (name(first), name(&source.path));
            resolver.note(format!("`{first}` and `{second}` are both at step {step}: they count in the order given"));
            return;
        }
    }
}

/// Notes that the order given counts, because some checkpoint has no step and others have one.
pub(crate) fn note_unknown_step<'a>(sources: impl Iterator<Item = &'a SourceRef> + Clone, resolver: &Resolver<'_>) {
    let Some(without) = sources.clone().find(|source| source.step.is_none()) else { return };
    if sources.clone().any(|source| source.step.is_some()) {
        let name = display_name(&without.path.display().to_string());
        resolver.note(format!(
            "the step of `{name}` is unknown, so the order given is used: the first is the oldest, the last the newest"
        ));
    }
}

/// Sorts checkpoints that were named one by one by step, and notes what may surprise the user.
fn in_order<T>(
    mut given: Vec<T>,
    source: impl Fn(&T) -> &SourceRef,
    order: SourceOrder,
    resolver: &Resolver<'_>,
) -> Vec<T> {
    let mut paths: Vec<&PathBuf> = given.iter().map(|one| &source(one).path).collect();
    paths.sort();
    if let Some(twice) = paths.windows(2).find(|pair| pair[0] == pair[1]) {
        resolver.note(format!("`{}` is given more than once, and counts each time", twice[0].display()));
    }
    note_equal_steps(given.iter().map(&source), resolver);
    let SourceOrder::BySteps { keep_option } = order else { return given };
    note_unknown_step(given.iter().map(&source), resolver);
    if given.iter().any(|one| source(one).step.is_none()) {
        return given;
    }
    if given.is_sorted_by_key(|one| source(one).step) {
        return given;
    }
    given.sort_by_key(|one| source(one).step);
    let keep = keep_option.map_or_else(String::new, |option| format!(" (`{option}` keeps that)"));
    resolver.note(format!("the checkpoints are ordered by step, oldest first, not in the order given{keep}"));
    given
}

/// A checkpoint that is named by itself, and what it is multiplied by if that is given too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenModel {
    /// Its path or name.
    pub path: PathBuf,
    /// Its coefficient; given to all models of a request or to none.
    pub coefficient: Option<Ratio>,
}

/// The checkpoints of models, and their coefficients if they have any.
pub(super) fn choose_models(
    models: &[GivenModel],
    run: &RunOptions,
    order: SourceOrder,
    resolver: &Resolver<'_>,
) -> Result<(Vec<SourceRef>, Option<Vec<Ratio>>), Error> {
    run.refuse_for_checkpoints()?;
    let pattern = run.name_pattern()?;
    let named = models.iter().map(|model| given_checkpoint(&model.path, pattern.as_ref(), resolver));
    let named = agreeing_steps(named.collect::<Result<Vec<_>, _>>()?);
    let n_given = models.iter().filter(|model| model.coefficient.is_some()).count();
    if n_given != 0 && n_given != models.len() {
        return Err(Error::request_with_hint(
            format!(
                "{} {} a coefficient",
                part_of(n_given, models.len(), "checkpoint"),
                if n_given == 1 { "has" } else { "have" }
            ),
            "give one to all of them (`-m CKPT:COEF`), or to none",
        ));
    }
    let coefficients = models.iter().map(|model| model.coefficient.clone());
    let given: Vec<(SourceRef, Option<Ratio>)> = named.into_iter().zip(coefficients).collect();
    let (sources, coefficients): (Vec<SourceRef>, Vec<Option<Ratio>>) =
        in_order(given, |(source, _)| source, order, resolver).into_iter().unzip();
    Ok((sources, coefficients.into_iter().collect()))
}

impl Resolver<'_> {
    /// A model that was named by itself.
    ///
    /// # Errors
    /// `Request` for what is said about a run; those of finding checkpoints.
    pub fn lone_model(&self, path: &Path, run: &RunOptions) -> Result<SourceRef, Error> {
        run.refuse_for_checkpoints()?;
        Ok(given_checkpoint(path, run.name_pattern()?.as_ref(), self)?.0)
    }

    /// Models that were named one by one and count alike, in the order given.
    ///
    /// # Errors
    /// `Request` for coefficients; those of finding checkpoints.
    pub fn equal_models(&self, models: &[GivenModel], run: &RunOptions) -> Result<Vec<SourceRef>, Error> {
        if models.is_empty() {
            return Ok(Vec::new());
        }
        match choose_models(models, run, SourceOrder::Given, self)? {
            (sources, None) => Ok(sources),
            (_, Some(_)) => Err(Error::request_with_hint(
                "the models are merged by their plain mean, but some have coefficients",
                "name each as `-m CKPT`, without a colon and a number",
            )),
        }
    }

    /// Splits `PATH:COEF` at the last colon. If the whole text is a path that exists, there is no coefficient.
    ///
    /// # Errors
    /// `Request` for a coefficient that is not a number.
    pub fn parse_model(&self, text: &str) -> Result<GivenModel, Error> {
        let whole = || GivenModel { path: PathBuf::from(text), coefficient: None };
        let Some((path, coefficient)) = text.rsplit_once(':').filter(|_| self.find(Path::new(text)).is_err()) else {
            return Ok(whole());
        };
        match coefficient.parse() {
            Ok(coefficient) => Ok(GivenModel { path: PathBuf::from(path), coefficient: Some(coefficient) }),
            Err(_) if self.find(Path::new(path)).is_err() => Ok(whole()),
            Err(_) => Err(Error::request_with_hint(
                format!("`-m {text}`: the coefficient `{coefficient}` is not a number"),
                "write a decimal number or a fraction after the colon: `-m CKPT:0.5`, `-m CKPT:1/3`",
            )),
        }
    }
}
