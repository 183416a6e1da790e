//! A worker's part in sums that were prepared: it reads them and the newest source, and the others where that leaves an
//! element open.

use std::ops::Range;

use thalweg_tensor::{display_name, to_index};

use super::{Piece, Worker};
use crate::context::RunContext;
use crate::error::Error;
use crate::head::HeadReader;
use crate::part_hash::RunningHash;
use crate::tensor_stats::TensorStats;
use crate::unit::Part;

/// Where more than this share of a piece is open, all of it is summed from the sources.
const MANY_OPEN: usize = 8;

/// Buffers for prepared sums, and the hash of what was read of each in the part at hand.
#[derive(Default)]
pub(crate) struct HeadScratch {
    kept: Vec<u8>,
    open: Vec<Range<usize>>,
    hashes: Vec<Option<RunningHash>>,
}

impl Worker<'_> {
    pub(super) fn start_heads(&mut self, part: &Part) {
        let start = |head: &HeadReader<'_>| Some(head.place(part.tensor_idx)?.start_hash(part));
        self.heads.hashes = self.job.heads.iter().map(start).collect();
    }

    /// Compares all that was read of prepared sums in a part with what was written.
    pub(super) fn check_heads(&mut self, part: &Part) -> Result<(), Error> {
        for (head, hash) in self.job.heads.iter().zip(self.heads.hashes.drain(..)) {
            if let Some((place, hash)) = head.place(part.tensor_idx).zip(hash) {
                head.check(part, &place, hash)?;
            }
        }
        Ok(())
    }

    /// Fills `self.output` from a prepared sum and the last of `terms`.
    pub(super) fn finish_head(
        &mut self,
        k: usize,
        terms: &[usize],
        piece: &Piece<'_>,
        run: &RunContext<'_>,
    ) -> Result<TensorStats, Error> {
        const NOT_PREPARED: Error = Error::Bug { what: "a sum was not prepared" };
        let (input, output) = piece.dtypes(&self.job.combinations[k]);
        let head = self.job.heads.get(k).ok_or(NOT_PREPARED)?;
        let place = head.place(piece.tensor_idx).ok_or(NOT_PREPARED)?;
        let sum = self.prepared.sums.get(&(k, input, output)).ok_or(NOT_PREPARED)?;
        let newest = *terms.last().ok_or(NOT_PREPARED)?;
        let HeadScratch { kept, open, hashes } = &mut self.heads;
        kept.resize(piece.n_bytes(place.dtype), 0);
        head.read(&place, piece.elements.start, kept)?;
        if let Some(hash) = hashes.get_mut(k).and_then(Option::as_mut) {
            hash.update(kept);
        }
        self.output.resize(piece.n_bytes(output), 0);
        sum.finish_head_into((kept.as_slice(), self.inputs[newest].as_slice()), &mut self.output, open)
            .map_err(|_| NOT_PREPARED)?;
        let n_elements = to_index(piece.elements.end - piece.elements.start);
        let n_open: usize = open.iter().map(ExactSizeIterator::len).sum();
        // Such a range may also hold what is not finite or too large, which is judged with the whole piece in view.
        if n_open > n_elements / MANY_OPEN || !self.sum_open(k, terms, piece)? {
            self.read_terms(terms, piece)?;
            return self.sum(k, (terms, None), piece, run);
        }
        let mut stats = TensorStats::default();
        self.measure_distance(k, terms, (input, output), &mut stats)?;
        Ok(stats)
    }

    /// Sums the open ranges of a piece from their sources; false if one of them has no such sum.
    fn sum_open(&mut self, k: usize, terms: &[usize], piece: &Piece<'_>) -> Result<bool, Error> {
        let (input, output) = piece.dtypes(&self.job.combinations[k]);
        let Some(sum) = self.prepared.sums.get(&(k, input, output)) else { return Ok(false) };
        let (width_in, width_out) = (to_index(input.bytes().unwrap_or(1)), to_index(output.bytes().unwrap_or(1)));
        for range in &self.heads.open {
            let n_bytes = range.len() * width_in;
            let mut read = vec![0; terms.len() * n_bytes];
            let first = piece.elements.start + range.start as u64;
            for (&i, bytes) in terms.iter().zip(read.chunks_exact_mut(n_bytes)) {
                self.read_source(i, piece, first..first + range.len() as u64, bytes)?;
            }
            let sources: Vec<&[u8]> = read.chunks_exact(n_bytes).collect();
            let place = &mut self.output[range.start * width_out..range.end * width_out];
            if !sum.sum_into(&sources, place).is_ok_and(|counts| counts.n_non_finite == 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads a piece of all sources of a sum but the last, which is there.
    fn read_terms(&mut self, terms: &[usize], piece: &Piece<'_>) -> Result<(), Error> {
        let Some((_, older)) = terms.split_last() else { return Ok(()) };
        for &i in older {
            let mut bytes = std::mem::take(&mut self.inputs[i]);
            bytes.resize(piece.n_bytes(piece.entry.dtype), 0);
            self.read_source(i, piece, piece.elements.clone(), &mut bytes)?;
            self.inputs[i] = bytes;
        }
        Ok(())
    }

    fn read_source(&self, i: usize, piece: &Piece<'_>, elements: Range<u64>, bytes: &mut [u8]) -> Result<(), Error> {
        self.job.sources[i]
            .read_elements(piece.tensor_idx, elements, bytes)
            .map_err(|source| Error::Access { tensor: display_name(&piece.entry.name), source })
    }
}
