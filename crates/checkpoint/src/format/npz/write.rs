//! Lays out an archive of NumPy arrays: one file, nothing deflated.

use std::sync::Arc;

use thalweg_tensor::TensorCatalog;

use super::header::{descr_of, write_header};
use super::{ARRAY_END, FILE_NAME};
use crate::Error;
use crate::format::torch::write::place_whole;
use crate::frame_builder::FrameBuilder;
use crate::layout::{LayoutEntry, OutputLayout, check_entries, unwritable};
use crate::zip_layout::{Member, ZipLayout};

/// Most bytes of a name in a zip archive, with its ending.
const MAX_NAME_BYTES: usize = 0xffff;

/// Lays out an output for `numpy.load`: `model.npz`, with the arrays in the order of their names. Elements of BF16 have
/// the type `<V2`, as ml_dtypes leaves them there.
///
/// # Errors
/// `NothingToWrite`; `UnwritableTensor` for a name that appears twice or is too long, for impossible sizes, and for
/// element types that NumPy does not have.
///
/// # Example
/// ```
/// use thalweg_checkpoint::{LayoutEntry, layout_npz};
/// use thalweg_tensor::{Dtype, Shape};
///
/// let entry = |name: &str| LayoutEntry { name: name.into(), dtype: Dtype::F32, shape: Shape::new([2]) };
/// let layout = layout_npz(&[entry("a"), entry("b")])?;
/// assert_eq!(layout.files()[0].name, "model.npz");
/// # Ok::<(), thalweg_checkpoint::Error>(())
/// ```
pub fn layout_npz(entries: &[LayoutEntry]) -> Result<OutputLayout, Error> {
    let mut sorted: Vec<&LayoutEntry> = entries.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let sizes = check_entries(&sorted)?;
    let mut frame = FrameBuilder::default();
    let mut archive = ZipLayout::new(&mut frame, "");
    let mut placed = Vec::with_capacity(sorted.len());
    for ((tensor_idx, entry), &len_bytes) in sorted.iter().enumerate().zip(&sizes) {
        let descr = descr_of(entry.dtype);
        let descr = descr.ok_or_else(|| unwritable(&entry.name, "NumPy has no arrays of its element type"))?;
        let name = format!("{}{ARRAY_END}", entry.name);
        if name.len() > MAX_NAME_BYTES {
            return Err(unwritable(&entry.name, "its name is too long for a zip archive"));
        }
        let head = write_header(descr, &entry.shape);
        let offset = archive.tensor(&name, Member { head: &head, tensor_idx, len_bytes });
        placed.push(place_whole(entry, 0, offset));
    }
    archive.end();
    let files = vec![frame.finish(FILE_NAME.to_owned())];
    let catalog = TensorCatalog::new(placed).map_err(|name| unwritable(&name, "its name appears twice"))?;
    Ok(OutputLayout::new(files, Arc::new(catalog), Vec::new()))
}
