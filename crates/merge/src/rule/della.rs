//! Ranks inside the rows of a tensor, for probabilities that follow them.
//!
//! A row is the last axis of a tensor, or a whole tensor with one axis. A piece may begin inside a row, so the rows
//! that it touches are read whole and sorted, one after the other.

use std::ops::Range;

use super::scan::{Scan, read_widened};
use super::table::Convention;
use crate::error::Error;
use thalweg_tensor::kernel::magnitude_bits;
use thalweg_tensor::{TensorEntry, to_index};

/// The longest row that is sorted, in elements.
const MAX_ROW: u64 = 1 << 20;

/// How the probabilities of an expert's elements follow their ranks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ByRank {
    pub(crate) convention: Convention,
    pub(crate) density: f64,
    pub(crate) epsilon: f64,
}

/// Buffers for rows, and the last row that was sorted.
#[derive(Debug, Default)]
pub(crate) struct RowRanks {
    bytes: Vec<u8>,
    base: Vec<f64>,
    delta: Vec<f64>,
    order: Vec<u32>,
    /// Tensor, expert and row whose probabilities `row` has: pieces that follow each other share a row.
    known: Option<(usize, usize, u64)>,
    row: Vec<f64>,
}

impl ByRank {
    /// The probability that an element is kept: `rank` counts from 0, ascending, in a row of `n`.
    #[expect(clippy::cast_precision_loss, reason = "ranks are below 2^20")]
    fn probability(self, (rank, n): (usize, usize)) -> f64 {
        let Self { convention, density, epsilon } = self;
        match convention {
            Convention::Paper => {
                let descending = (n - 1 - rank) as f64;
                density + epsilon / 2.0 - epsilon / n as f64 * descending
            }
            Convention::Mergekit if n < 2 => density,
            Convention::Mergekit => density - epsilon + rank as f64 / (n - 1) as f64 * 2.0 * epsilon,
        }
    }
}

fn row_length(entry: &TensorEntry) -> u64 {
    entry.shape.0.last().copied().unwrap_or(1).max(1)
}

impl RowRanks {
    /// Puts the probabilities of some elements of an expert's delta into `probabilities`.
    pub(crate) fn find_probabilities(
        &mut self,
        scan: &Scan<'_>,
        (tensor_idx, expert): (usize, usize),
        elements: Range<u64>,
        (by_rank, probabilities): (ByRank, &mut Vec<f64>),
    ) -> Result<(), Error> {
        let entry = &scan.layout.catalog.entries()[tensor_idx];
        let row = row_length(entry);
        if row > MAX_ROW {
            return Err(Error::RowTooLong {
                tensor: thalweg_tensor::display_name(&entry.name),
                n_elements: row,
                max_elements: MAX_ROW,
            });
        }
        probabilities.clear();
        for row_idx in elements.start / row..elements.end.div_ceil(row) {
            let of_row = row_idx * row..(row_idx + 1) * row;
            if self.known != Some((tensor_idx, expert, row_idx)) {
                self.known = None;
                self.sort_row(scan, (tensor_idx, expert), of_row.clone(), by_rank)?;
                self.known = Some((tensor_idx, expert, row_idx));
            }
            let (first, end) = (elements.start.max(of_row.start), elements.end.min(of_row.end));
            probabilities.extend(&self.row[to_index(first - of_row.start)..to_index(end - of_row.start)]);
        }
        Ok(())
    }

    fn sort_row(
        &mut self,
        scan: &Scan<'_>,
        (tensor_idx, expert): (usize, usize),
        elements: Range<u64>,
        by_rank: ByRank,
    ) -> Result<(), Error> {
        let entry = (&scan.layout.catalog.entries()[tensor_idx], tensor_idx);
        read_widened(scan.sources[scan.experts[expert]], entry, elements.clone(), &mut self.bytes, &mut self.delta)?;
        read_widened(scan.sources[scan.base], entry, elements, &mut self.bytes, &mut self.base)?;
        let keys: Vec<u32> = self.delta.iter().zip(&self.base).map(|(x, b)| magnitude_bits(x - b)).collect();
        self.order.clear();
        self.order.extend((0_u32..).take(keys.len()));
        self.order.sort_by_key(|&i| keys[i as usize]);
        self.row.resize(keys.len(), 0.0);
        for (rank, &i) in self.order.iter().enumerate() {
            self.row[i as usize] = by_rank.probability((rank, keys.len()));
        }
        Ok(())
    }
}
