//! What the files that an output keeps hold beside the tensors that the merge writes: tensors that share bytes with
//! those, which would change with them, and tensors elsewhere, among which `masters` looks for copies of the
//! parameters.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use thalweg_checkpoint::{Checkpoint, KeyKind, ReadOptions, is_frozen_share, open_other_copy, open_whole};
use thalweg_storage::Storage;
use thalweg_tensor::{TensorEntry, display_name, to_index};

use crate::aliases::{path_in, spans_of};
use crate::error::Error;
use crate::format_error::FormatError;
use crate::moments::state_class;
use crate::output_kind::OptimizerPolicy;
use crate::tensor_class::TensorClass;

/// A tensor that the merge does not write, in one of the files that an output keeps.
#[derive(Debug, Clone)]
pub(crate) struct UnmergedTensor {
    /// The opened file or folder that holds it.
    pub(crate) opened_idx: usize,
    /// Its number there.
    pub(crate) tensor_idx: usize,
    /// Its path there, after the name of its file if that holds none of the merged tensors.
    pub(crate) path: String,
    /// What its path leads to.
    pub(crate) kind: KeyKind,
    /// Whether it shares bytes with a written tensor.
    pub(crate) overlap: Overlap,
}

/// Which bytes of a tensor the merge writes, as those of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overlap {
    /// None of its bytes are written.
    None,
    /// It has the elements, shape and element type of this written tensor: another name for it.
    Alias(usize),
    /// Some of its bytes are those of this written tensor.
    Partial(usize),
}

/// The tensors in the files of a checkpoint that an output keeps.
#[derive(Debug)]
pub(crate) struct KeptTensors<'a> {
    pub(crate) newest: &'a Checkpoint,
    /// Everything that the files hold.
    pub(crate) opened: Vec<Checkpoint>,
    /// What the merge writes.
    written: Vec<TensorEntry>,
    pub(crate) unmerged: Vec<UnmergedTensor>,
}

impl<'a> KeptTensors<'a> {
    /// Lists the tensors. Reads headers only.
    pub(crate) fn look(
        storage: &Arc<dyn Storage>,
        newest: &'a Checkpoint,
        reading: &ReadOptions,
    ) -> Result<Self, Error> {
        let other = open_other_copy(storage, newest, reading)?;
        let opened = open_whole(storage, newest)?;
        let mut numbers = BTreeMap::new();
        let policy = if reading.optimizer { OptimizerPolicy::Average } else { OptimizerPolicy::Newest };
        let mut written = renumbered(newest, &mut numbers);
        written.retain(|entry| state_class(entry, policy) != Some(TensorClass::OptimizerState));
        if let Some(other) = &other {
            let mut copies = renumbered(other, &mut numbers);
            let shape = |name: &str| newest.catalog().find(name).map(|t| &newest.catalog().entries()[t].shape);
            copies.retain(|copy| shape(&copy.name) == Some(&copy.shape));
            written.extend(copies);
        }
        let mut unmerged = Vec::new();
        let mut map = WrittenMap::new(&written);
        // What is packed has other offsets each time that it is opened. Names are whole paths there.
        let written_names: BTreeSet<&str> = written.iter().map(|entry| &*entry.name).collect();
        let is_packed = newest.unpack_bytes() > 0;
        for (opened_idx, whole) in opened.iter().enumerate() {
            let is_own = whole.files().iter().any(|file| newest.files().iter().any(|own| own.path == file.path));
            let entries = renumbered(whole, &mut numbers);
            for tensor_idx in naming_order(newest, &entries) {
                let entry = &entries[tensor_idx];
                let overlap = match is_packed {
                    true => (!written_names.contains(&*entry.name)).then_some(Overlap::None),
                    false => map.place(entry),
                };
                let Some(overlap) = overlap else { continue };
                // A share is written with its parameter, but for its padding.
                if matches!(overlap, Overlap::Partial(merged) if is_frozen_share(&entry.name, &written[merged].name)) {
                    continue;
                }
                let (path, kind) = name_of(whole, is_own, &entry.name);
                unmerged.push(UnmergedTensor { opened_idx, tensor_idx, path, kind, overlap });
            }
        }
        Ok(Self { newest, opened, written, unmerged })
    }

    /// The entry of a tensor.
    pub(crate) fn entry(&self, tensor: &UnmergedTensor) -> &TensorEntry {
        &self.opened[tensor.opened_idx].catalog().entries()[tensor.tensor_idx]
    }

    /// Paths of the tensors that are other names of merged ones, and change with them.
    ///
    /// # Errors
    /// `SharedBytes` for a tensor that would change in part, and for training state that would change.
    pub(crate) fn other_names(&self) -> Result<Vec<String>, FormatError> {
        let mut names = Vec::new();
        for tensor in &self.unmerged {
            let merged = match tensor.overlap {
                Overlap::None => continue,
                Overlap::Alias(_) if tensor.kind != KeyKind::State => {
                    names.push(tensor.path.clone());
                    continue;
                }
                Overlap::Alias(merged) | Overlap::Partial(merged) => merged,
            };
            return Err(FormatError::SharedBytes {
                a: display_name(&path_in(self.newest, &self.written[merged])),
                b: display_name(&tensor.path),
                reason: "the other one is not merged".to_owned(),
            });
        }
        Ok(names)
    }
}

/// The path of a tensor, and what it leads to.
fn name_of(whole: &Checkpoint, is_own: bool, name: &str) -> (String, KeyKind) {
    if is_own {
        return (name.to_owned(), KeyKind::of(name));
    }
    let file = whole.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let kind = Some(KeyKind::of(&file)).filter(|kind| *kind != KeyKind::Model);
    (format!("{file}: {name}"), kind.unwrap_or_else(|| KeyKind::of(name)))
}

/// The tensors of a checkpoint, whose pieces count files by one list for several checkpoints.
fn renumbered(checkpoint: &Checkpoint, numbers: &mut BTreeMap<PathBuf, u32>) -> Vec<TensorEntry> {
    let mut of_files = Vec::with_capacity(checkpoint.files().len());
    for file in checkpoint.files() {
        let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        of_files.push(*numbers.entry(file.path.clone()).or_insert(next));
    }
    let mut entries = checkpoint.catalog().entries().to_vec();
    for piece in entries.iter_mut().flat_map(|entry| entry.pieces.iter_mut()) {
        piece.file_idx = of_files.get(to_index(piece.file_idx.into())).copied().unwrap_or(u32::MAX);
    }
    entries
}

/// Positions of tensors, those first that are what the merge writes if several have the same elements: what is under
/// the key of the model, then training state, then the rest.
fn naming_order(newest: &Checkpoint, entries: &[TensorEntry]) -> Vec<usize> {
    let key = newest.findings().key.as_ref().map(|key| format!("{key}."));
    let rank = |name: &str| match (&key, KeyKind::of(name)) {
        (Some(key), _) if name.starts_with(&**key) => 0,
        (None, KeyKind::Model) => 0,
        (_, KeyKind::State) => 1,
        _ => 2,
    };
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_cached_key(|&t| rank(&entries[t].name));
    order
}

/// Finds the written tensors by their places.
struct WrittenMap<'a> {
    written: &'a [TensorEntry],
    /// By file and start of the first piece, those that are not yet known by their own name.
    by_start: BTreeMap<(u32, u64), Vec<(usize, bool)>>,
    /// Spans sorted by file and start; each with the end of the span that reaches furthest up to it, and its tensor.
    spans: Vec<(u32, u64, u64, usize)>,
}

impl<'a> WrittenMap<'a> {
    fn new(written: &'a [TensorEntry]) -> Self {
        let (mut by_start, mut spans) = (BTreeMap::<_, Vec<_>>::new(), Vec::new());
        for (t, entry) in written.iter().enumerate() {
            if let Some(first) = entry.pieces.first() {
                by_start.entry((first.file_idx, first.offset)).or_default().push((t, false));
            }
            spans.extend(spans_of(entry).map(|(file_idx, start, end)| (file_idx, start, end, t)));
        }
        spans.sort_unstable();
        for i in 1..spans.len() {
            let (before, (file_idx, _, end, _)) = (spans[i - 1], spans[i]);
            if before.0 == file_idx && before.2 > end {
                (spans[i].2, spans[i].3) = (before.2, before.3);
            }
        }
        Self { written, by_start, spans }
    }

    /// Where a tensor overlap; `None` if it is a written tensor itself.
    fn place(&mut self, entry: &TensorEntry) -> Option<Overlap> {
        let first = entry.pieces.first()?;
        let is_same = |t: usize| {
            let written = &self.written[t];
            (written.dtype, &written.shape, &written.pieces) == (entry.dtype, &entry.shape, &entry.pieces)
        };
        let mut same = None;
        for (t, is_known) in self.by_start.get_mut(&(first.file_idx, first.offset)).into_iter().flatten() {
            if is_same(*t) {
                if !*is_known {
                    *is_known = true;
                    return None;
                }
                same = Some(Overlap::Alias(*t));
            }
        }
        let partial = || spans_of(entry).find_map(|span| self.partial(span)).map_or(Overlap::None, Overlap::Partial);
        Some(same.unwrap_or_else(partial))
    }

    fn partial(&self, (file_idx, start, end): (u32, u64, u64)) -> Option<usize> {
        let after = self.spans.partition_point(|span| (span.0, span.1) < (file_idx, end));
        let last = self.spans[..after].last()?;
        (last.0 == file_idx && last.2 > start).then_some(last.3)
    }
}

#[cfg(test)]
mod tests {
    use thalweg_tensor::{Dtype, Piece, Shape};

    use super::*;

    fn entry(file_idx: u32, offset: u64, n: u64) -> TensorEntry {
        let pieces = [Piece::whole(file_idx, offset)].into();
        TensorEntry {
            name: format!("{file_idx}.{offset}.{n}").into(),
            dtype: Dtype::F32,
            shape: Shape::new([n]),
            pieces,
        }
    }

    #[test]
    fn tensors_are_written_ones_aliases_of_them_or_overlap_them_in_part_or_not_at_all() {
        // The second overlap within the first; the third is another name of the fourth and written, too.
        let written = [entry(0, 0, 16), entry(0, 8, 2), entry(1, 0, 4), entry(1, 0, 4)];
        let mut map = WrittenMap::new(&written);
        for (file_idx, offset, n, expected) in [
            (0, 0, 16, None),
            (0, 0, 16, Some(Overlap::Alias(0))),
            (0, 8, 2, None),
            (1, 0, 4, None),
            (1, 0, 4, None),
            (1, 0, 4, Some(Overlap::Alias(3))),
            (1, 0, 2, Some(Overlap::Partial(3))),
            // After the end of the inner one and within the outer one.
            (0, 40, 1, Some(Overlap::Partial(0))),
            (0, 60, 2, Some(Overlap::Partial(0))),
            (0, 64, 1, Some(Overlap::None)),
            (1, 16, 1, Some(Overlap::None)),
            (2, 0, 16, Some(Overlap::None)),
        ] {
            assert_eq!(map.place(&entry(file_idx, offset, n)), expected, "{file_idx} {offset} {n}");
        }
        let empty = TensorEntry { shape: Shape::new([0]), ..entry(0, 0, 1) };
        assert_eq!(map.place(&empty), Some(Overlap::None));
    }
}
