//! Ranks inside the rows of a tensor, for probabilities that follow them.
//!
//! A row is the last axis of a tensor, or a whole tensor with one axis. A piece may begin inside a row, so the rows
//! that it touches are read whole and sorted, one after the other.

use super::scan::{Scan, magnitude_bits, read_widened};
use super::table::Convention;
use crate::error::Error;
use thalweg_tensor::{TensorEntry, to_index};

/// The longest row that is sorted, in elements.
const MAX_ROW: u64 = 1 << 20;

/// Buffers for rows, and what they end in.
#[derive(Debug, Default)]
pub(crate) struct RowScratch {
    bytes: Vec<u8>,
    base: Vec<f64>,
    delta: Vec<f64>,
    order: Vec<u32>,
    /// For each element of the last piece, its rank in its row, ascending from 0, and the row's length.
    pub(crate) ranks: Vec<(u64, u64)>,
}

/// The probability that an element is kept: `rank` counts from 0, ascending, in a row of `n`.
#[expect(clippy::cast_precision_loss, reason = "ranks are below 2^20")]
pub(crate) fn keep_probability(convention: Convention, density: f64, epsilon: f64, (rank, n): (u64, u64)) -> f64 {
    match convention {
        Convention::Paper => {
            let descending = (n - 1 - rank) as f64;
            density + epsilon / 2.0 - epsilon / n as f64 * descending
        }
        Convention::Mergekit if n < 2 => density,
        Convention::Mergekit => density - epsilon + rank as f64 / (n - 1) as f64 * 2.0 * epsilon,
    }
}

fn row_length(entry: &TensorEntry) -> u64 {
    entry.shape.0.last().copied().unwrap_or(1).max(1)
}

impl RowScratch {
    /// Ranks of elements `first .. first + n` of an expert's delta.
    pub(crate) fn rank(
        &mut self,
        scan: &Scan<'_>,
        (tensor_idx, expert): (usize, usize),
        (first, n): (u64, usize),
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
        self.ranks.clear();
        let end = first + n as u64;
        for row_idx in first / row..end.div_ceil(row) {
            let elements = row_idx * row..(row_idx + 1) * row;
            let source = scan.sources[scan.experts[expert]];
            read_widened(source, (entry, tensor_idx), elements.clone(), &mut self.bytes, &mut self.delta)?;
            let base = scan.sources[scan.base];
            read_widened(base, (entry, tensor_idx), elements.clone(), &mut self.bytes, &mut self.base)?;
            let keys: Vec<u32> = self.delta.iter().zip(&self.base).map(|(x, b)| magnitude_bits(x - b)).collect();
            self.order.clear();
            self.order.extend((0_u32..).take(keys.len()));
            self.order.sort_by_key(|&i| keys[i as usize]);
            let mut ranks = vec![0; keys.len()];
            self.order.iter().zip(0_u64..).for_each(|(&i, rank)| ranks[i as usize] = rank);
            let wanted =
                to_index(first.max(elements.start) - elements.start)..to_index(end.min(elements.end) - elements.start);
            self.ranks.extend(ranks[wanted].iter().map(|&rank| (rank, row)));
        }
        Ok(())
    }
}
