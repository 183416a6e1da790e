//! The steps that the files of a checkpoint of DeepSpeed say: those of one save agree.

use std::sync::Arc;

use thalweg_storage::Storage;
use thalweg_tensor::{Dtype, display_name};

use super::super::stated_step::{StatedStep, compare_step, step_in_name};
use super::super::torch::tensor::{Found, read_tensor};
use super::{Opened, RankFiles, broken, groups_of_state, place_of};
use crate::error::storage_error;
use crate::format::OpenFile;
use crate::pickle::Value;
use crate::{Error, Note};

/// How DeepSpeed names the folder of a step.
const FOLDER_START: &str = "global_step";

/// What an optimizer counts, and its file.
#[derive(Debug, Clone)]
pub(super) struct Count {
    pub(super) step: f64,
    file: OpenFile,
}

/// Checks that the optimizers of all ranks are at the same step, and returns it. A file of another save, left by an
/// interrupted save or a wrong copy, has the same names and shapes.
pub(super) fn check_steps(ranks: &[Opened]) -> Result<Option<Count>, Error> {
    let mut known = None;
    for rank in ranks {
        let Some(step) = optimizer_step(rank)? else { continue };
        check_same_count(&mut known, Some(Count { step, file: rank.file.clone() }))?;
    }
    Ok(known)
}

/// Checks that a count is the known one, which it becomes if there is none.
pub(super) fn check_same_count(known: &mut Option<Count>, found: Option<Count>) -> Result<(), Error> {
    let Some(found) = found else { return Ok(()) };
    let first = known.get_or_insert_with(|| found.clone());
    if found.step.to_bits() == first.step.to_bits() {
        return Ok(());
    }
    let (name, wanted, found_step) = (display_name(&first.file.name), first.step, found.step);
    let reason = format!("its optimizer is at step {found_step}, but that of `{name}` is at step {wanted}");
    Err(broken(&found.file.path, reason))
}

/// Checks that two files of the module's state are at the same step.
pub(super) fn check_same_step(first: &Opened, other: &Opened) -> Result<(), Error> {
    match (model_steps(first), model_steps(other)) {
        (Some((step, _)), Some((found, _))) if found != step => {
            let first = display_name(&first.file.name);
            Err(other.broken(format!("it is from step {found}, but `{first}` is from step {step}")))
        }
        _ => Ok(()),
    }
}

/// The optimizer's step count of a rank, if the state has one: a number, or an F32 tensor of one element.
fn optimizer_step(rank: &Opened) -> Result<Option<f64>, Error> {
    let Some(params) = groups_of_state(rank)? else { return Ok(None) };
    let first = params.entries().next().map(|(_, state)| state).or_else(|| params.items().next());
    let Some(step) = first.and_then(|first| first.get("step")) else { return Ok(None) };
    if let Some(step) = step.as_u64().map(|step| step as f64).or_else(|| step.as_float()) {
        return Ok(Some(step));
    }
    let Ok(Found::Tensor(spec)) = read_tensor(step) else { return Ok(None) };
    if spec.dtype != Dtype::F32 || spec.shape.n_elements() != Some(1) {
        return Ok(None);
    }
    // A count that torch keeps as a tensor: opening reads these four bytes.
    let mut bytes = [0; 4];
    let read = rank.file.reader.read_exact_at(place_of(rank, &spec)?, &mut bytes);
    read.map_err(|error| storage_error(&rank.file.path, error))?;
    Ok(Some(f32::from_le_bytes(bytes).into()))
}

/// The steps that a file of the module's state says: all of them, and those of them that the optimizer left out because
/// gradients had overflowed.
fn model_steps(model: &Opened) -> Option<(u64, u64)> {
    let number = |key| model.root().get(key).and_then(Value::as_u64);
    Some((number("global_steps")?, number("skipped_steps").unwrap_or(0)))
}

/// Compares the steps of the files of the module's state with each other, the optimizer's count and the name of the
/// folder. Without a count, that of the first rank is read where it decides.
///
/// # Errors
/// `Layout` for a file of another save.
pub(super) fn note_step(
    storage: &Arc<dyn Storage>,
    files: &RankFiles,
    model: &Opened,
    optimizer_step: Option<f64>,
) -> Result<Option<Note>, Error> {
    let Some((step, n_skipped)) = model_steps(model) else { return Ok(None) };
    // Under ZeRO-3 each rank has such a file.
    for name in files.model.values().filter(|name| **name != model.file.name) {
        check_same_step(model, &Opened::open(storage, &files.path(name), name)?)?;
    }
    let name_step = step_in_name(&files.folder, &[FOLDER_START]);
    let counted = match optimizer_step {
        None if name_step.is_some_and(|named| named != step) => first_count(storage, files)?,
        known => known,
    };
    let is_counted = |count: f64| (count - step as f64).abs() < 0.5;
    let counted = counted.map(|count| if is_counted(count) { count } else { count + n_skipped as f64 });
    let stated = StatedStep { file: model.file.name.clone(), step };
    compare_step(&stated, name_step, counted).map_err(|reason| broken(&files.folder, reason))
}

fn first_count(storage: &Arc<dyn Storage>, files: &RankFiles) -> Result<Option<f64>, Error> {
    let Some(name) = files.optimizer.values().next() else { return Ok(None) };
    optimizer_step(&Opened::open(storage, &files.path(name), name)?)
}
