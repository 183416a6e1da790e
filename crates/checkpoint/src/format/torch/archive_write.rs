//! Lays out the zip archives that torch.save writes, byte for byte as PyTorch 2.15 does.
//!
//! Only the identity of the archive differs, which PyTorch computes from sums of the tensors and no reader uses.

use crate::frame_builder::FrameBuilder;
use crate::zip_layout::{ALIGNMENT, Member, ZipLayout};

/// The folder of a chunk of a distributed checkpoint.
pub(crate) const CHUNK_ROOT: &str = "archive";

/// A tensor of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredTensor {
    /// Position in the catalog.
    pub(crate) tensor_idx: usize,
    /// Its length.
    pub(crate) len_bytes: u64,
}

/// Lays out an archive whose pickle mentions storages `0`, `1` ... with these tensors, and returns where each begins in
/// the file.
pub(crate) fn lay_archive(
    frame: &mut FrameBuilder,
    root: &str,
    pickle: &[u8],
    tensors: impl IntoIterator<Item = StoredTensor>,
) -> Vec<u64> {
    let mut archive = ZipLayout::new(frame, &format!("{root}/"));
    archive.known("data.pkl", pickle);
    archive.known(".format_version", b"1");
    archive.known(".storage_alignment", ALIGNMENT.to_string().as_bytes());
    archive.known("byteorder", b"little");
    let lay = |(number, tensor): (usize, StoredTensor)| {
        let StoredTensor { tensor_idx, len_bytes } = tensor;
        archive.tensor(&format!("data/{number}"), Member { head: &[], tensor_idx, len_bytes })
    };
    let offsets = tensors.into_iter().enumerate().map(lay).collect();
    archive.known("version", b"3\n");
    archive.known(".data/serialization_id", identity_of(pickle).as_bytes());
    archive.end();
    offsets
}

/// Forty digits that depend on the names, types and shapes.
fn identity_of(pickle: &[u8]) -> String {
    format!("{:020}{:020}", pickle.len(), crc32fast::hash(pickle))
}
