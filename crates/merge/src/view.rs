//! A source as the merge sees it: under the numbers of the layout, and in its element types.

use std::ops::Range;

use num_bigint::BigInt;
use thalweg_checkpoint::Checkpoint;
use thalweg_tensor::kernel::Simd;
use thalweg_tensor::kernel::{NonFinitePolicy, SumError, SumSpec, WeightedSum};
use thalweg_tensor::{AccessError, Dtype, DtypeClass, TensorCatalog, TensorSource, display_name, to_index};

/// The number in a source of each tensor of the layout; `None` where the source lacks it.
pub(crate) type Places = [Option<usize>];

/// A source under the numbers of the layout.
#[derive(Debug)]
pub struct SourceView<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) catalog: &'a TensorCatalog,
    pub(crate) places: Option<&'a Places>,
}

impl SourceView<'_> {
    fn place(&self, tensor_idx: usize) -> Option<usize> {
        self.places.map_or(Some(tensor_idx), |places| places.get(tensor_idx).copied().flatten())
    }

    /// The element types of a tensor in the source and in the layout.
    fn dtypes(&self, place: usize, tensor_idx: usize) -> Option<(Dtype, Dtype)> {
        let dtype = |catalog: &TensorCatalog, i: usize| catalog.entries().get(i).map(|entry| entry.dtype);
        dtype(self.checkpoint.catalog(), place).zip(dtype(self.catalog, tensor_idx))
    }

    fn fault(&self, tensor_idx: usize, what: &str) -> AccessError {
        let name = self.catalog.entries().get(tensor_idx).map(|entry| display_name(&entry.name));
        let message = format!("{what} `{}`", name.unwrap_or_default());
        AccessError { path: self.checkpoint.path().display().to_string(), message, source: None }
    }
}

impl TensorSource for SourceView<'_> {
    fn catalog(&self) -> &TensorCatalog {
        self.catalog
    }

    fn read_elements(&self, tensor_idx: usize, elements: Range<u64>, out: &mut [u8]) -> Result<(), AccessError> {
        let Some(place) = self.place(tensor_idx) else { return Err(self.fault(tensor_idx, "it has no tensor")) };
        let n_elements = elements.end.saturating_sub(elements.start);
        match self.dtypes(place, tensor_idx) {
            Some((stored, wanted)) if stored != wanted => {
                let mut narrow = vec![0; to_index(stored.bytes_of(n_elements).unwrap_or(0))];
                self.checkpoint.read_elements(place, elements, &mut narrow)?;
                widen(&narrow, (stored, wanted), out).ok_or_else(|| self.fault(tensor_idx, "it has another tensor"))
            }
            _ => self.checkpoint.read_elements(place, elements, out),
        }
    }

    fn stored_bytes(&self, tensor_idx: usize, elements: Range<u64>) -> u64 {
        self.place(tensor_idx).map_or(0, |place| self.checkpoint.stored_bytes(place, elements))
    }

    fn n_places(&self) -> Option<usize> {
        self.checkpoint.n_places()
    }

    fn will_read(&self, tensor_idx: usize, elements: Range<u64>) {
        self.place(tensor_idx).into_iter().for_each(|place| self.checkpoint.will_read(place, elements.clone()));
    }

    fn done_reading(&self, tensor_idx: usize, elements: Range<u64>) {
        self.place(tensor_idx).into_iter().for_each(|place| self.checkpoint.done_reading(place, elements.clone()));
    }
}

/// Whether a tensor of element type `stored` can be read as `wanted`, with every value kept.
pub(crate) fn can_be_read_as(stored: Dtype, wanted: Dtype) -> bool {
    stored == wanted || stored.class() == DtypeClass::Mergeable && wanted == Dtype::F64
}

fn widen(narrow: &[u8], (stored, wanted): (Dtype, Dtype), out: &mut [u8]) -> Option<()> {
    if !can_be_read_as(stored, wanted) {
        return None;
    }
    let sum = conversion(stored, wanted, Simd::Auto).ok()??;
    sum.sum_into(&[narrow], out).ok().map(|_| ())
}

/// The conversion between two element types; `None` if they are the same, or if the values are not numbers to convert.
pub(crate) fn conversion(from: Dtype, to: Dtype, simd: Simd) -> Result<Option<WeightedSum>, SumError> {
    if from == to || from.class() != DtypeClass::Mergeable {
        return Ok(None);
    }
    let one = BigInt::from(1);
    let spec = SumSpec { input: from, output: to, non_finite: NonFinitePolicy::Propagate, simd };
    WeightedSum::new(std::slice::from_ref(&one), &one, spec).map(Some)
}
