//! How the work is cut: units of about 1 MiB a source, which any thread may do in any order.
//!
//! A cut depends on the tensors alone, never on threads or memory, so that a journal of finished units
//! means the same thing to the next process.

use std::ops::Range;

use thalweg_tensor::digest::SUBTREE_BYTES;
use thalweg_tensor::{Dtype, TensorCatalog, to_index};

use crate::merge_layout::MergeLayout;
use crate::plan::OutputDtype;

/// Elements whose partial statistics are kept together; a piece is a multiple of it.
pub(crate) const BLOCK_ELEMENTS: u64 = 4096;

/// Tensors smaller than a unit are done together, up to this many.
const MAX_PARTS: usize = 256;

/// A range of elements of one tensor. Its ends are multiples of whole subtrees, but for the tensor's own end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) tensor_idx: usize,
    /// Number of this part within its tensor.
    pub(crate) part_idx: usize,
    pub(crate) elements: Range<u64>,
}

/// The whole work as a list of units.
#[derive(Debug)]
pub(crate) struct UnitList {
    parts: Vec<Part>,
    units: Vec<Range<usize>>,
    n_parts: Vec<usize>,
}

impl UnitList {
    /// Cuts the tensors of a merge for which `wanted` holds, so that a part fills whole subtrees of its input and of
    /// each output. `dtypes` are the element types that the outputs want.
    pub(crate) fn of_merge(layout: &MergeLayout, wanted: &dyn Fn(usize) -> bool, dtypes: &[OutputDtype]) -> Self {
        let entries = layout.catalog.entries();
        Self::cut(&layout.catalog, wanted, |t| {
            let outputs = dtypes.iter().map(|&dtype| layout.output_dtype(t, dtype));
            outputs.chain([entries[t].dtype]).filter_map(Dtype::bytes).min().unwrap_or(1)
        })
    }

    /// Cuts the tensors of `catalog` for which `wanted` holds, in the order of their bytes.
    ///
    /// `min_element_bytes` is the smallest element size among a tensor's inputs and outputs: a part then
    /// fills whole subtrees on each side.
    pub(crate) fn cut(
        catalog: &TensorCatalog,
        wanted: impl Fn(usize) -> bool,
        min_element_bytes: impl Fn(usize) -> u64,
    ) -> Self {
        let entries = catalog.entries();
        let mut order: Vec<usize> = (0..entries.len()).filter(|&i| wanted(i)).collect();
        order.sort_by_key(|&i| entries[i].pieces.first().map(|piece| (piece.file_idx, piece.offset)));
        let mut list = Self { parts: Vec::new(), units: Vec::new(), n_parts: vec![0; entries.len()] };
        let mut open = 0..0;
        let mut open_bytes = 0;
        for tensor_idx in order {
            let n_elements = entries[tensor_idx].n_elements();
            let per_part = (SUBTREE_BYTES / min_element_bytes(tensor_idx).max(1)).max(1);
            let n_parts = to_index(n_elements.div_ceil(per_part).max(1));
            list.n_parts[tensor_idx] = n_parts;
            for part_idx in 0..n_parts {
                let first = part_idx as u64 * per_part;
                let elements = first..n_elements.min(first + per_part);
                let part_bytes = entries[tensor_idx].dtype.bytes_of(elements.end - elements.start).unwrap_or(0);
                if open_bytes + part_bytes > SUBTREE_BYTES || open.end - open.start >= MAX_PARTS {
                    list.close(&mut open, &mut open_bytes);
                }
                list.parts.push(Part { tensor_idx, part_idx, elements });
                open.end = list.parts.len();
                open_bytes += part_bytes;
            }
        }
        list.close(&mut open, &mut open_bytes);
        list
    }

    fn close(&mut self, open: &mut Range<usize>, open_bytes: &mut u64) {
        if open.start < open.end {
            self.units.push(open.clone());
        }
        *open = self.parts.len()..self.parts.len();
        *open_bytes = 0;
    }

    pub(crate) fn len(&self) -> usize {
        self.units.len()
    }

    /// The parts of unit `unit_idx`.
    pub(crate) fn parts(&self, unit_idx: usize) -> &[Part] {
        &self.parts[self.units[unit_idx].clone()]
    }

    /// Number of parts that tensor `tensor_idx` was cut into; 0 if it is not part of the work.
    pub(crate) fn n_parts_of(&self, tensor_idx: usize) -> usize {
        self.n_parts[tensor_idx]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_tensor::{Piece, Shape, TensorEntry};

    fn catalog(lengths: &[u64]) -> TensorCatalog {
        let mut offset = 0;
        let entries = lengths.iter().enumerate().map(|(i, &n)| {
            let entry = TensorEntry {
                name: format!("t{i:04}").into(),
                dtype: Dtype::Bf16,
                shape: Shape::new([n]),
                pieces: [Piece::whole(0, offset)].into(),
            };
            offset += 2 * n;
            entry
        });
        TensorCatalog::new(entries.collect()).unwrap()
    }

    #[test]
    fn parts_cover_every_tensor_once_and_break_at_subtrees() {
        let lengths = [3, 0, 524_288, 524_289, 1_700_000, 1];
        let list = UnitList::cut(&catalog(&lengths), |_| true, |_| 2);
        let mut next = vec![0; lengths.len()];
        let mut seen = vec![0; lengths.len()];
        for unit in 0..list.len() {
            for part in list.parts(unit) {
                assert_eq!(part.elements.start, next[part.tensor_idx]);
                assert_eq!(part.part_idx, seen[part.tensor_idx]);
                assert_eq!(part.elements.start * 2 % SUBTREE_BYTES, 0);
                next[part.tensor_idx] = part.elements.end;
                seen[part.tensor_idx] += 1;
            }
        }
        assert_eq!(next, lengths);
        assert!((0..lengths.len()).all(|i| seen[i] == list.n_parts_of(i)));
    }

    #[test]
    fn small_tensors_share_a_unit_and_a_unit_has_a_bound() {
        let list = UnitList::cut(&catalog(&[10; 1000]), |_| true, |_| 2);
        assert_eq!(list.len(), 1000usize.div_ceil(MAX_PARTS));
    }
}
