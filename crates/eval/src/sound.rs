//! Refuses to score a model whose parameters are not all finite: its accuracy could look normal.

use std::path::Path;

use rayon::prelude::*;
use thalweg_model::Model;
use thalweg_tensor::TensorSource;
use thalweg_tensor::finite::{NonFiniteKind, find_non_finite};

use crate::Error;

/// Reads all of a checkpoint and checks that every element is finite; `path` names it in messages.
///
/// For checkpoints that another program scores.
///
/// # Errors
/// `NonFiniteParams`; `Access` if it cannot be read.
pub fn check_sound(path: &Path, source: &dyn TensorSource) -> Result<(), Error> {
    let Some(found) = find_non_finite(source)? else { return Ok(()) };
    let tensor = source.catalog().entries().get(found.tensor_idx).map_or("", |entry| &*entry.name);
    let (tensor, kind) = (tensor.to_owned(), found.kind.name());
    Err(Error::NonFiniteParams { path: path.to_owned(), tensor, element_idx: found.element_idx, kind })
}

/// As [`check_sound`], for a model in memory.
pub(crate) fn check_sound_model(path: &Path, model: &Model<f32>) -> Result<(), Error> {
    for spec in model.layout().specs() {
        let params = &model.params()[spec.range.clone()];
        if are_finite(params) {
            continue;
        }
        let Some(element_idx) = params.iter().position(|param| !param.is_finite()) else { continue };
        let kind = if params[element_idx].is_nan() { NonFiniteKind::Nan } else { NonFiniteKind::Infinity };
        let (tensor, element_idx, kind) = (spec.name.clone(), element_idx as u64, kind.name());
        return Err(Error::NonFiniteParams { path: path.to_owned(), tensor, element_idx, kind });
    }
    Ok(())
}

/// Looks at all numbers, by all threads: they are expected to be finite.
fn are_finite(numbers: &[f32]) -> bool {
    const PIECE: usize = 1 << 16;
    const INFINITY: u32 = f32::INFINITY.to_bits();
    let largest = |piece: &[f32]| piece.iter().fold(0, |largest, number| number.abs().to_bits().max(largest));
    numbers.par_chunks(PIECE).all(|piece| largest(piece) < INFINITY)
}
