//! A checkpoint with block-scaled weights, seen without quantisation: F64 tensors that hold each product exactly, and
//! no scales.
//!
//! Formats deliver the codes; the products are made here, above all formats.

use std::ops::Range;
use std::sync::Arc;

use thalweg_tensor::{AccessError, Dtype, TensorCatalog, TensorEntry, display_name, to_index};

use super::Checkpoint;
use crate::CatalogCache;
use crate::block_scaled::{BlockScaled, ScaledWeight};

/// What is listed in place of the stored tensors.
#[derive(Debug)]
pub(crate) struct Dequantised {
    /// The tensors as they are seen. Their pieces are those of the codes: they only order the work.
    pub(crate) catalog: Arc<TensorCatalog>,
    /// For each of them, what is stored.
    stored: Box<[Stored]>,
    pub(crate) block: [u64; 2],
    pub(crate) n_weights: usize,
}

/// What a tensor is made of, by positions in the stored catalog.
#[derive(Debug, Clone, Copy)]
enum Stored {
    Plain(usize),
    Scaled(ScaledWeight),
}

impl Dequantised {
    pub(crate) fn new(stored: &TensorCatalog, found: &BlockScaled, cache: &CatalogCache) -> Option<Self> {
        let entries = stored.entries();
        let mut places: Vec<Option<Stored>> = (0..entries.len()).map(|i| Some(Stored::Plain(i))).collect();
        for weight in &found.weights {
            places[weight.codes] = Some(Stored::Scaled(*weight));
            places[weight.scales] = None;
        }
        let seen = entries.iter().zip(&places).filter_map(|(entry, place)| match (*place)? {
            Stored::Plain(_) => Some(entry.clone()),
            Stored::Scaled(_) => Some(TensorEntry { dtype: Dtype::F64, ..entry.clone() }),
        });
        // The names are a part of those of a catalog, in the same order.
        let catalog = TensorCatalog::new(seen.collect()).ok()?;
        let stored = places.into_iter().flatten().collect();
        Some(Self { catalog: cache.share(catalog), stored, block: found.block, n_weights: found.weights.len() })
    }

    /// Whether tensor `tensor_idx` holds products.
    pub(crate) fn is_product(&self, tensor_idx: usize) -> bool {
        matches!(self.stored.get(tensor_idx), Some(Stored::Scaled(_)))
    }

    /// Position of the tensor that is stored: of the codes, for a product.
    pub(crate) fn position(&self, tensor_idx: usize) -> usize {
        match self.stored.get(tensor_idx) {
            Some(Stored::Plain(stored)) => *stored,
            Some(Stored::Scaled(weight)) => weight.codes,
            // A number that no catalog has: the reader refuses it.
            None => usize::MAX,
        }
    }

    pub(crate) fn read(
        &self,
        checkpoint: &Checkpoint,
        tensor_idx: usize,
        elements: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), AccessError> {
        let Some(Stored::Scaled(weight)) = self.stored.get(tensor_idx) else {
            return checkpoint.read_stored(self.position(tensor_idx), elements, out);
        };
        let n_elements = to_index(elements.end.saturating_sub(elements.start));
        if out.len() != n_elements.saturating_mul(8) {
            let message = format!("{n_elements} products cannot be read into a buffer of {} bytes", out.len());
            return Err(AccessError { path: checkpoint.path().display().to_string(), message, source: None });
        }
        checkpoint.read_stored(weight.codes, elements.clone(), &mut out[n_elements * 7..])?;
        weight.grid.multiply(elements, out, |wanted, scales| read_scales(checkpoint, weight.scales, wanted, scales))
    }

    /// Bytes of codes, and the share of the scales that belongs to them.
    pub(crate) fn stored_bytes(&self, stored: &TensorCatalog, tensor_idx: usize, elements: &Range<u64>) -> u64 {
        let entry_of = |i: usize| stored.entries().get(i);
        let up_to = |n: u64| -> Option<u64> {
            let codes = entry_of(self.position(tensor_idx))?.dtype.bytes_of(n)?;
            let Some(Stored::Scaled(weight)) = self.stored.get(tensor_idx) else { return Some(codes) };
            let (all, scales) = (entry_of(weight.codes)?.n_elements().max(1), entry_of(weight.scales)?.n_bytes());
            let share = u128::from(scales) * u128::from(n) / u128::from(all);
            Some(codes + u64::try_from(share).ok()?)
        };
        up_to(elements.end).zip(up_to(elements.start)).map_or(0, |(end, start)| end.saturating_sub(start))
    }
}

fn read_scales(
    checkpoint: &Checkpoint,
    scales_idx: usize,
    wanted: Range<u64>,
    scales: &mut Vec<f64>,
) -> Result<(), AccessError> {
    let fail = |message| AccessError { path: checkpoint.path().display().to_string(), message, source: None };
    let entry = checkpoint.stored_catalog().entries().get(scales_idx);
    let entry = entry.ok_or_else(|| fail(format!("there is no tensor with index {scales_idx}")))?;
    let mut bytes = vec![0; to_index(entry.dtype.bytes_of(wanted.end - wanted.start).unwrap_or(0))];
    checkpoint.read_stored(scales_idx, wanted.clone(), &mut bytes)?;
    let single = |bits: [u8; 4]| f64::from(f32::from_le_bytes(bits));
    scales.extend(match entry.dtype {
        Dtype::Bf16 => bytes.as_chunks().0.iter().map(|&[low, high]| single([0, 0, low, high])).collect::<Vec<_>>(),
        _ => bytes.as_chunks().0.iter().map(|&bits| single(bits)).collect(),
    });
    match scales.iter().position(|scale| !scale.is_finite()) {
        None => Ok(()),
        Some(at) => {
            let (name, scale) = (display_name(&entry.name), scales[at]);
            Err(fail(format!(
                "scale {} of `{name}` is {scale}, so the weights of its block are unknown",
                wanted.start + at as u64
            )))
        }
    }
}
