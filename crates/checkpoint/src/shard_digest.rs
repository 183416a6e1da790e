//! The digest of a shard, as receipts record it.

use thalweg_tensor::Digest;
use thalweg_tensor::digest::{DigestKind, ListHasher, bytes_digest};

/// The digest of a shard: over the digest of its header (with the 8 bytes of its length) and the digests of its
/// tensors in the order of their bytes. So no byte has to be hashed twice, and every byte of the file counts.
pub fn shard_digest<'a>(kind: DigestKind, header: &[u8], tensors: impl IntoIterator<Item = &'a Digest>) -> Digest {
    let mut list = ListHasher::new(kind);
    list.add_digest(&bytes_digest(kind, header));
    tensors.into_iter().for_each(|digest| list.add_digest(digest));
    list.finish()
}
