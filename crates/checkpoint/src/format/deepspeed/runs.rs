//! Tensors put together from runs of elements in the files of several ranks.

use thalweg_tensor::{Dtype, Piece, Shape, TensorEntry, display_name};

use super::super::flat::pieces_of_run;
use super::Opened;
use crate::Error;
use crate::pickle::Value;

/// Names and shapes of the parameters of each group, in storage order.
pub(super) type Groups = Vec<Vec<(String, Shape)>>;

/// Where a run of elements of one parameter is in one rank's file.
pub(super) struct Run {
    pub(super) file_idx: u32,
    /// Byte of its first element.
    pub(super) offset: u64,
    pub(super) n_elements: u64,
}

/// The name and the shape of a parameter; `None` if they are not in the form that DeepSpeed writes.
pub(super) fn read_shape(name: Value<'_>, shape: Value<'_>) -> Option<(String, Shape)> {
    let sizes = shape.items().map(Value::as_u64).collect::<Option<Vec<u64>>>()?;
    let shape = Shape::new(sizes);
    shape.n_elements().and_then(|n| Dtype::F32.bytes_of(n))?;
    Some((name.as_text()?.to_owned(), shape))
}

/// A tensor assembled from consecutive runs, in the order of the ranks.
pub(super) fn entry_of_runs(
    first: &Opened,
    name: &str,
    (dtype, shape): (Dtype, &Shape),
    runs: &[Run],
) -> Result<TensorEntry, Error> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut n_held = 0;
    for run in runs {
        let end = n_held + run.n_elements;
        pieces.extend(pieces_of_run(shape, dtype, (n_held, end), run.file_idx, run.offset));
        n_held = end;
    }
    let entry = TensorEntry::of_pieces(name.into(), dtype, shape.clone(), pieces);
    entry.map_err(|fault| {
        let wanted = shape.n_elements().unwrap_or(0);
        let name = display_name(name);
        first.broken(format!("the ranks hold {n_held} of {wanted} elements of parameter `{name}`: {fault}"))
    })
}
