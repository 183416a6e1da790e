//! Which bytes of a file are those of tensors.

use std::ops::Range;

use thalweg_tensor::{Piece, TensorEntry};

/// The bytes of a file from the first to the last element of a piece.
fn span_of(entry: &TensorEntry, piece: &Piece) -> Range<u64> {
    let n_bytes = piece.n_spanned(&entry.shape).and_then(|n| entry.dtype.bytes_of(n)).unwrap_or(0);
    piece.offset..piece.offset.saturating_add(n_bytes)
}

/// The spans of all pieces in a file, sorted and joined. Pieces with strides are left out unless `with_strided`.
pub(crate) fn spans_in<'a>(
    entries: impl IntoIterator<Item = &'a TensorEntry>,
    file_idx: u32,
    with_strided: bool,
) -> Vec<Range<u64>> {
    spans_of_pieces(entries, file_idx, |piece| with_strided || piece.strides().is_none())
}

/// The spans of the pieces with strides in a file, sorted and joined.
pub(crate) fn strided_spans<'a>(entries: impl IntoIterator<Item = &'a TensorEntry>, file_idx: u32) -> Vec<Range<u64>> {
    spans_of_pieces(entries, file_idx, |piece| piece.strides().is_some())
}

fn spans_of_pieces<'a>(
    entries: impl IntoIterator<Item = &'a TensorEntry>,
    file_idx: u32,
    is_taken: impl Fn(&Piece) -> bool,
) -> Vec<Range<u64>> {
    let pieces = entries.into_iter().flat_map(|entry| entry.pieces.iter().map(move |piece| (entry, piece)));
    let taken = pieces.filter(|(_, piece)| piece.file_idx == file_idx && is_taken(piece));
    let mut spans: Vec<Range<u64>> = taken.map(|(entry, piece)| span_of(entry, piece)).collect();
    spans.retain(|span| !span.is_empty());
    spans.sort_by_key(|span| (span.start, span.end));
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(spans.len());
    for span in spans {
        match joined.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => joined.push(span),
        }
    }
    joined
}
