//! `TensorSource` and `TensorSink`: what the sum reads from and writes to.
//!
//! A checkpoint on disk implements them, and so does a live model, so that the sum is written once.

use std::ops::Range;

use crate::TensorCatalog;

/// A read or write of tensor bytes that failed, with the file and the cause.
#[derive(Debug, thiserror::Error)]
#[error("`{path}`: {message}")]
pub struct AccessError {
    /// The file, or its replacement.
    pub path: String,
    /// What went wrong, in words, without the path.
    pub message: String,
    /// The cause, if there is one below.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Something that lists named tensors and yields the raw bytes of an element range.
pub trait TensorSource: Send + Sync {
    /// Names, dtypes and shapes, sorted by name.
    fn catalog(&self) -> &TensorCatalog;

    /// Reads the little-endian bytes of elements `elements` of tensor number `tensor_idx` into `out`.
    ///
    /// `out` is exactly as long as the range. Called from many threads at once.
    ///
    /// # Errors
    /// When the bytes cannot be had whole, or the source changed since it was opened.
    fn read_elements(&self, tensor_idx: usize, elements: Range<u64>, out: &mut [u8]) -> Result<(), AccessError>;

    /// Bytes that the source reads to yield a range of elements, over adjacent ranges as many as over both together.
    fn stored_bytes(&self, tensor_idx: usize, elements: Range<u64>) -> u64 {
        let entry = self.catalog().entries().get(tensor_idx);
        entry.and_then(|entry| entry.dtype.bytes_of(elements.end.saturating_sub(elements.start))).unwrap_or(0)
    }

    /// At how many places at most threads should read side by side, each in ascending order; `None` if any order is as
    /// good. What is compressed can only be read from its beginning.
    fn n_places(&self) -> Option<usize> {
        None
    }

    /// Says that these elements will be wanted soon, so that they can be fetched ahead.
    fn will_read(&self, _tensor_idx: usize, _elements: Range<u64>) {}

    /// Says that these elements will not be wanted again, so that caches can let go of them.
    fn done_reading(&self, _tensor_idx: usize, _elements: Range<u64>) {}
}

/// Something that takes the bytes of named tensors, in any order, each element once.
pub trait TensorSink: Send + Sync {
    /// Names, dtypes and shapes, sorted by name.
    fn catalog(&self) -> &TensorCatalog;

    /// Takes the little-endian bytes of elements of tensor number `tensor_idx`, from `first_element` on.
    ///
    /// # Errors
    /// When the bytes cannot be kept.
    fn write_elements(&self, tensor_idx: usize, first_element: u64, bytes: &[u8]) -> Result<(), AccessError>;
}
