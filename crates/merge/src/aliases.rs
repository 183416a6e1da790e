//! Tensors that share bytes in the files that an output is made like, such as tied weights and views: the bytes can
//! hold only one result. So what is shared must be shared in every source, and treated alike.

use thalweg_checkpoint::{Checkpoint, OutputLayout, is_optimizer_state};
use thalweg_tensor::{Piece, TensorEntry, display_name};

use crate::error::Error;
use crate::format_error::FormatError;
use crate::merge_layout::MergeLayout;
use crate::newest::newest_open;
use crate::open_source::OpenSource;
use crate::plan::OutputPlan;

/// Refuses an output in which tensors with different results would have the same bytes.
///
/// # Errors
/// `FormatError::SharedBytes`; `Access` if a source cannot say where its tensors are.
pub(crate) fn check_aliases(
    output: &OutputPlan,
    laid_out: &OutputLayout,
    layout: &MergeLayout,
    sources: &[OpenSource],
) -> Result<(), Error> {
    let entries = laid_out.catalog().entries();
    let pairs = shared_pairs(entries);
    if pairs.is_empty() {
        return Ok(());
    }
    let newest = newest_open(output, sources);
    let fail = |pair: [usize; 2], reason: String| {
        let path = |t: usize| {
            newest.map_or_else(|| entries[t].name.to_string(), |source| path_in(&source.checkpoint, &entries[t]))
        };
        let [a, b] = pair.map(|t| display_name(&path(t)));
        Err(FormatError::SharedBytes { a, b, reason }.into())
    };
    for &pair in &pairs {
        if layout.classes[pair[0]] != layout.classes[pair[1]] {
            return fail(pair, "one of them is averaged and the other is not".to_owned());
        }
    }
    for planned in &output.sources {
        let Some(source) = sources.iter().find(|source| source.path == planned.path) else { continue };
        let opened = source.checkpoint.opened_entries()?;
        for &pair in &pairs {
            let in_source = pair.map(|t| find(&source.checkpoint, &opened, &entries[t].name));
            let is_same = in_source[0]
                .zip(in_source[1])
                .is_some_and(|found| relation(pair.map(|t| &entries[t])) == relation([found.0, found.1]));
            if !is_same {
                let subject = if pair[0] == pair[1] { "its elements" } else { "they" };
                let path = source.path.display();
                return fail(pair, format!("in `{path}` {subject} do not share them in the same way"));
            }
        }
    }
    Ok(())
}

/// The path of a merged tensor in the files of its checkpoint, with the key that was removed from its name. Names that
/// begin with a file have no key.
pub(crate) fn path_in(checkpoint: &Checkpoint, entry: &TensorEntry) -> String {
    let findings = checkpoint.findings();
    match findings.key.as_deref().filter(|_| findings.n_ranks == 0 && !is_optimizer_state(&entry.name)) {
        Some(key) if key != "." => format!("{key}.{}", entry.name),
        _ => entry.name.to_string(),
    }
}

fn find<'a>(checkpoint: &Checkpoint, opened: &'a [TensorEntry], name: &str) -> Option<&'a TensorEntry> {
    checkpoint.catalog().find(name).and_then(|t| opened.get(t))
}

/// How two tensors lie in one file, wherever in it they begin; `None` if either is in several pieces.
fn relation(pair: [&TensorEntry; 2]) -> Option<(bool, i128, [Vec<u64>; 2])> {
    let [[a], [b]] = pair.map(|entry| &*entry.pieces) else { return None };
    let strides = |piece: &Piece| piece.strides().map(<[u64]>::to_vec).unwrap_or_default();
    Some((a.file_idx == b.file_idx, i128::from(b.offset) - i128::from(a.offset), [strides(a), strides(b)]))
}

/// The bytes of each piece of a tensor from its first to its last element: number of the file, start and end.
pub(crate) fn spans_of(entry: &TensorEntry) -> impl Iterator<Item = (u32, u64, u64)> + '_ {
    entry.pieces.iter().filter_map(|piece| {
        let n_bytes = entry.dtype.bytes_of(piece.n_spanned(&entry.shape)?)?;
        (n_bytes > 0).then(|| (piece.file_idx, piece.offset, piece.offset.saturating_add(n_bytes)))
    })
}

/// Pairs of tensors that have bytes in common, enough of them to link all that do; a tensor that repeats its own
/// elements is a pair with itself.
fn shared_pairs(entries: &[TensorEntry]) -> Vec<[usize; 2]> {
    let repeats = |entry: &TensorEntry, piece: &Piece| {
        piece.extent(&entry.shape).iter().product::<u64>() > piece.n_spanned(&entry.shape).unwrap_or(0)
    };
    let (mut pairs, mut spans) = (Vec::new(), Vec::new());
    for (t, entry) in entries.iter().enumerate() {
        pairs.extend(entry.pieces.iter().filter(|piece| repeats(entry, piece)).map(|_| [t, t]));
        spans.extend(spans_of(entry).map(|(file_idx, start, end)| (file_idx, start, end, t)));
    }
    spans.sort_unstable();
    let mut widest: Option<(u32, u64, usize)> = None;
    for (file_idx, start, end, t) in spans {
        match widest {
            Some((file, last, other)) if file == file_idx && start < last => {
                if other != t {
                    pairs.push([other, t]);
                }
                if end > last {
                    widest = Some((file_idx, end, t));
                }
            }
            _ => widest = Some((file_idx, end, t)),
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use thalweg_tensor::{Dtype, Shape};

    use super::*;

    fn entry(name: &str, offset: u64, dims: &[u64], strides: Option<&[u64]>) -> TensorEntry {
        let shape = Shape::new(dims);
        let piece = Piece::whole(0, offset);
        let piece =
            strides.map_or_else(|| piece.clone(), |strides| piece.clone().with_strides(&shape, strides).unwrap());
        TensorEntry { name: name.into(), dtype: Dtype::F32, shape, pieces: Box::new([piece]) }
    }

    #[track_caller]
    fn check_pairs(entries: &[TensorEntry], expected: &[[usize; 2]]) {
        assert_eq!(shared_pairs(entries), expected);
    }

    #[test]
    fn neighbours_share_nothing_and_views_are_linked_to_what_holds_them() {
        check_pairs(&[entry("a", 0, &[4], None), entry("b", 16, &[4], None), entry("c", 32, &[0], None)], &[]);
        check_pairs(&[entry("a", 0, &[4], None), entry("b", 0, &[4], None)], &[[0, 1]]);
        let views = [entry("a", 0, &[8], None), entry("b", 4, &[2], None), entry("c", 28, &[1], None)];
        check_pairs(&views, &[[0, 1], [0, 2]]);
        check_pairs(&[entry("a", 0, &[2, 4], Some(&[0, 1])), entry("b", 16, &[1], None)], &[[0, 0]]);
        check_pairs(&[entry("a", 0, &[2, 2], Some(&[2, 1])), entry("b", 4, &[2], Some(&[2]))], &[[0, 1]]);
    }
}
