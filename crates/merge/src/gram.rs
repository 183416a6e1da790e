//! The one inner-product pass: the Gram matrix of N checkpoints from one reading, tensor by tensor.
//!
//! Products are of differences from a reference checkpoint, so that small distances between large vectors keep
//! their digits. What the numbers mean is in `geometry`.

use thalweg_tensor::kernel::gram_into;
use thalweg_tensor::{TensorSource, display_name, to_index};

use crate::context::{RunContext, Stage};
use crate::error::Error;
use crate::memory::fit_piece;
use crate::memory::{Held, PieceSize};
use crate::merge_layout::MergeLayout;
use crate::tensor_class::TensorClass;
use crate::unit::{Part, UnitList};
use crate::workers::{OfPart, for_each_part};

/// Inner products of n checkpoints x_1..x_n about their last one: d_i = x_i - x_n.
#[derive(Debug, Clone, PartialEq)]
pub struct Gram {
    n_checkpoints: usize,
    /// <d_i, d_j> for i <= j < n, row by row; then <d_i, x_n> for i < n; then <x_n, x_n>.
    products: Vec<f64>,
}

impl Gram {
    /// All products zero.
    pub fn zero(n_checkpoints: usize) -> Self {
        let n = n_checkpoints.saturating_sub(1);
        Self { n_checkpoints, products: vec![0.0; n * (n + 1) / 2 + n + 1] }
    }

    /// Number of checkpoints, n.
    pub fn n_checkpoints(&self) -> usize {
        self.n_checkpoints
    }

    /// Adds the products of other tensors of the same checkpoints.
    pub fn add(&mut self, other: &Self) {
        debug_assert_eq!(self.n_checkpoints, other.n_checkpoints, "products of the same checkpoints");
        self.products.iter_mut().zip(&other.products).for_each(|(sum, term)| *sum += term);
    }

    fn upper(&self, i: usize, j: usize) -> f64 {
        let n = self.n_checkpoints - 1;
        let (i, j) = (i.min(j), i.max(j));
        // Row i begins after rows of n, n-1, .. n-i+1 products.
        let row_start = (0..i).map(|row| n - row).sum::<usize>();
        self.products[row_start + (j - i)]
    }

    /// <x_i - x_n, x_j - x_n>, 0-based; zero when either is the last.
    pub fn relative(&self, i: usize, j: usize) -> f64 {
        let n = self.n_checkpoints - 1;
        if i >= n || j >= n { 0.0 } else { self.upper(i, j) }
    }

    /// <x_i, x_j>, 0-based.
    pub fn inner(&self, i: usize, j: usize) -> f64 {
        self.relative(i, j) + self.with_last(i) + self.with_last(j) + self.norm_squared_of_last()
    }

    /// <x_i - x_n, x_n>.
    fn with_last(&self, i: usize) -> f64 {
        let n = self.n_checkpoints - 1;
        if i >= n { 0.0 } else { self.products[n * (n + 1) / 2 + i] }
    }

    fn norm_squared_of_last(&self) -> f64 {
        self.products.last().copied().unwrap_or(0.0)
    }

    /// Squared Euclidean distance of checkpoints i and j, 0-based.
    pub(crate) fn distance_squared(&self, i: usize, j: usize) -> f64 {
        not_negative(self.relative(i, i) - 2.0 * self.relative(i, j) + self.relative(j, j))
    }

    /// <x_b - x_a, x_d - x_c>: the product of two displacements, 0-based.
    pub(crate) fn displacement_product(&self, (a, b): (usize, usize), (c, d): (usize, usize)) -> f64 {
        self.relative(b, d) - self.relative(b, c) - self.relative(a, d) + self.relative(a, c)
    }
}

/// A sum of squares that rounding may have left below zero. NaN stays NaN, which `f64::max` would hide.
pub(crate) fn not_negative(square: f64) -> f64 {
    if square < 0.0 { 0.0 } else { square }
}

/// Inner products of each floating tensor; `None` for tensors that are not averaged.
///
/// `sources` are aligned with `layout`, oldest first; each byte is read once.
///
/// # Errors
/// When a source cannot be read whole; `Interrupted`.
pub fn gram(
    sources: &[&dyn TensorSource],
    layout: &MergeLayout,
    run: &RunContext<'_>,
) -> Result<Vec<Option<Gram>>, Error> {
    let entries = layout.catalog.entries();
    let is_wanted = |t: usize| matches!(layout.classes[t], TensorClass::Float | TensorClass::Router);
    let units = UnitList::cut(&layout.catalog, is_wanted, |t| entries[t].dtype.bytes().unwrap_or(1));
    let wanted_bytes: u64 = (0..entries.len()).filter(|&t| is_wanted(t)).map(|t| entries[t].n_bytes()).sum();
    let bytes_read = wanted_bytes * sources.len() as u64;
    // The products are kept for each part and for each tensor.
    let gram_bytes = (Gram::zero(sources.len()).products.len() as u64 * 8 + 96) * 2;
    let held = Held::live(sources.len()).bytes(&layout.catalog);
    let held = held.saturating_add(gram_bytes.saturating_mul(entries.len() as u64));
    let piece = fit_piece(layout, (sources.len(), 0), held, bytes_read, run)?;
    run.progress.begin(Stage::Geometry, bytes_read);
    let job = GramJob { sources, layout, units: &units, piece };
    let parts = job.run(run)?;
    Ok(sum_parts(parts, &units, entries.len(), sources.len()))
}

struct GramJob<'a> {
    sources: &'a [&'a dyn TensorSource],
    layout: &'a MergeLayout,
    units: &'a UnitList,
    piece: PieceSize,
}

impl GramJob<'_> {
    fn run(&self, run: &RunContext<'_>) -> Result<Vec<OfPart<Gram>>, Error> {
        let buffers = || vec![Vec::new(); self.sources.len()];
        for_each_part(run, self.units, &buffers, &|part, buffers| self.do_part(part, buffers, run))
    }

    fn do_part(&self, part: &Part, buffers: &mut [Vec<u8>], run: &RunContext<'_>) -> Result<Gram, Error> {
        let entry = &self.layout.catalog.entries()[part.tensor_idx];
        let mut gram = Gram::zero(self.sources.len());
        for elements in self.piece.pieces_of(part) {
            let n_bytes = to_index(entry.dtype.bytes_of(elements.end - elements.start).unwrap_or(0));
            for (source, buffer) in self.sources.iter().zip(buffers.iter_mut()) {
                buffer.resize(n_bytes, 0);
                source
                    .read_elements(part.tensor_idx, elements.clone(), buffer)
                    .map_err(|source| Error::Access { tensor: display_name(&entry.name), source })?;
            }
            let inputs: Vec<&[u8]> = buffers.iter().map(Vec::as_slice).collect();
            if let Some((last, others)) = inputs.split_last() {
                gram_into(entry.dtype, last, others, &mut gram.products);
            }
            run.progress.advance((n_bytes * self.sources.len()) as u64);
        }
        Ok(gram)
    }
}

/// Adds parts in their order, so that the sums do not depend on the threads.
fn sum_parts(parts: Vec<OfPart<Gram>>, units: &UnitList, n_tensors: usize, n: usize) -> Vec<Option<Gram>> {
    let mut sums: Vec<Option<Gram>> =
        (0..n_tensors).map(|t| (units.n_parts_of(t) > 0).then(|| Gram::zero(n))).collect();
    for (tensor_idx, _, gram) in parts {
        if let Some(sum) = &mut sums[tensor_idx] {
            sum.add(&gram);
        }
    }
    sums
}
