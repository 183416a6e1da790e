//! Writes a range of elements into pieces: the reverse of reading, with the same cuts.

use std::ops::Range;

use thalweg_tensor::{Piece, TensorEntry, to_index};

use super::{GATHER_SCRATCH_BYTES, ReadBytes, Target, with_scratch};

/// Writes bytes at an offset in the file that holds a piece.
pub(crate) type WriteBytes<'a, E> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), E>;

/// Writes a share from its places in `bytes`, which holds the elements from `first_element` on.
///
/// A piece with strides is read too, so that the bytes between its elements stay as they are. Only one thread at a time
/// may write to such a piece's file.
pub(crate) fn write_share<E>(
    entry: &TensorEntry,
    piece: &Piece,
    positions: Range<u64>,
    first_element: u64,
    bytes: &[u8],
    (read, write): (ReadBytes<'_, E>, WriteBytes<'_, E>),
) -> Result<(), E> {
    let width = entry.dtype.bytes().unwrap_or(1);
    let target = Target { shape: &entry.shape, piece, width, first_element };
    match piece.strides() {
        None => target.write_rows(positions, bytes, write),
        Some(strides) => target.write_strided(strides, positions, bytes, (read, write)),
    }
}

impl Target<'_> {
    /// Writes a row-major box: a range of its positions is one run in the file.
    fn write_rows<E>(&self, positions: Range<u64>, bytes: &[u8], write: WriteBytes<'_, E>) -> Result<(), E> {
        let byte_of = |position: u64| self.piece.offset + position * self.width;
        with_scratch(|scratch| {
            let mut at = positions.start;
            while at < positions.end {
                let run_end = self.end_of_run(at).min(positions.end);
                if run_end == positions.end || (run_end - at) * self.width >= GATHER_SCRATCH_BYTES {
                    let (from, n_bytes) = (self.out_byte(at), to_index((run_end - at) * self.width));
                    write(byte_of(at), &bytes[from..from + n_bytes])?;
                    at = run_end;
                    continue;
                }
                let (first, end) = (at, positions.end.min(at + GATHER_SCRATCH_BYTES / self.width));
                let mut n_filled = 0;
                while at < end {
                    let run_end = self.end_of_run(at).min(end);
                    let (from, n_bytes) = (self.out_byte(at), to_index((run_end - at) * self.width));
                    scratch[n_filled..n_filled + n_bytes].copy_from_slice(&bytes[from..from + n_bytes]);
                    (n_filled, at) = (n_filled + n_bytes, run_end);
                }
                write(byte_of(first), &scratch[..n_filled])?;
            }
            Ok(())
        })
    }

    /// Writes a box with strides: reads each window of the file, puts the elements in and writes it back.
    fn write_strided<E>(
        &self,
        strides: &[u64],
        positions: Range<u64>,
        bytes: &[u8],
        (read, write): (ReadBytes<'_, E>, WriteBytes<'_, E>),
    ) -> Result<(), E> {
        let width = to_index(self.width);
        self.visit_strided(strides, positions, &mut |window, runs, first| {
            read(first, window)?;
            for run in runs {
                let to = to_index(run.file_byte - first);
                let step = to_index(run.out_stride) * width;
                let elements = window[to..to + to_index(run.n) * width].chunks_exact_mut(width);
                for (element, at) in elements.zip((to_index(run.out_element) * width..).step_by(step)) {
                    element.copy_from_slice(&bytes[at..at + width]);
                }
            }
            write(first, window)
        })
    }
}
