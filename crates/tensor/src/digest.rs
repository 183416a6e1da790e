//! Digests of tensor bytes, taken piece by piece on bytes that are in the cache anyway.
//!
//! A tensor is cut into subtrees of 1 MiB, so that workers hash ranges independently and a stage can
//! keep what it hashed. With BLAKE3 the result equals the plain hash of the tensor's bytes. XXH3 finds
//! accidents, not attacks. Nothing here reads files.

use std::fmt;
use std::str::FromStr;

use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::{Dtype, Shape, to_index};

/// Bytes of a tensor that are hashed together: a power of two, as BLAKE3's tree asks for.
pub const SUBTREE_BYTES: u64 = 1 << 20;

/// Which hash a digest is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DigestKind {
    /// BLAKE3: finds accidents and attacks.
    Blake3,
    /// XXH3, 128 bits: finds accidents only.
    Xxh3,
}

impl DigestKind {
    /// `blake3` or `xxh3`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Xxh3 => "xxh3",
        }
    }
}

/// The digest of a tensor, a file or a checkpoint. Shown as `blake3:` or `xxh3:` and hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    kind: DigestKind,
    bytes: [u8; 32],
}

impl Digest {
    /// What it was made with.
    pub fn kind(self) -> DigestKind {
        self.kind
    }

    /// The bytes; those of XXH3 fill the first 16.
    pub fn to_bytes(self) -> [u8; 32] {
        self.bytes
    }
}

impl FromStr for Digest {
    type Err = DigestFormError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, digits) = match text.split_once(':') {
            Some(("blake3", digits)) if digits.len() == 64 => (DigestKind::Blake3, digits),
            Some(("xxh3", digits)) if digits.len() == 32 => (DigestKind::Xxh3, digits),
            _ => return Err(DigestFormError),
        };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            *byte = digit(pair[0]).zip(digit(pair[1])).map(|(high, low)| high << 4 | low).ok_or(DigestFormError)?;
        }
        Ok(Self { kind, bytes })
    }
}

/// A text that is not a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is `blake3:` or `xxh3:` and hexadecimal digits")]
pub struct DigestFormError;

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_bytes = match self.kind {
            DigestKind::Blake3 => 32,
            DigestKind::Xxh3 => 16,
        };
        write!(f, "{}:", self.kind.name())?;
        self.bytes[..n_bytes].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What is kept of one hashed subtree until its tensor is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubtreeDigest(pub [u8; 32]);

/// Number of subtrees of a tensor of `tensor_bytes` bytes: at least one.
pub(crate) fn n_subtrees(tensor_bytes: u64) -> u64 {
    tensor_bytes.div_ceil(SUBTREE_BYTES).max(1)
}

/// Hashes the bytes of one subtree, in order.
#[derive(Debug)]
pub struct SubtreeHasher {
    state: State,
    /// A tensor of one subtree is hashed as a whole: its chaining value is the root.
    is_whole_tensor: IsWholeTensor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IsWholeTensor {
    Yes,
    No,
}

enum State {
    Blake3(Box<blake3::Hasher>),
    Xxh3(Box<Xxh3>),
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blake3(_) => "Blake3",
            Self::Xxh3(_) => "Xxh3",
        })
    }
}

impl SubtreeHasher {
    /// A hasher for subtree number `subtree_idx` of a tensor of `tensor_bytes` bytes.
    pub fn new(kind: DigestKind, subtree_idx: u64, tensor_bytes: u64) -> Self {
        let is_whole_tensor = if n_subtrees(tensor_bytes) == 1 { IsWholeTensor::Yes } else { IsWholeTensor::No };
        let state = match kind {
            DigestKind::Blake3 => {
                let mut hasher = Box::new(blake3::Hasher::new());
                if is_whole_tensor == IsWholeTensor::No {
                    hasher.set_input_offset(subtree_idx * SUBTREE_BYTES);
                }
                State::Blake3(hasher)
            }
            DigestKind::Xxh3 => State::Xxh3(Box::default()),
        };
        Self { state, is_whole_tensor }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Blake3(hasher) => {
                hasher.update(bytes);
            }
            State::Xxh3(hasher) => hasher.update(bytes),
        }
    }

    /// The subtree's digest.
    pub fn finish(self) -> SubtreeDigest {
        match (self.state, self.is_whole_tensor) {
            (State::Blake3(hasher), IsWholeTensor::Yes) => SubtreeDigest(*hasher.finalize().as_bytes()),
            (State::Blake3(hasher), IsWholeTensor::No) => SubtreeDigest(hasher.finalize_non_root()),
            (State::Xxh3(hasher), _) => SubtreeDigest(widen(hasher.digest128())),
        }
    }
}

fn widen(value: u128) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&value.to_be_bytes());
    bytes
}

/// The digest of a tensor of `tensor_bytes` bytes from all its subtrees, in order.
///
/// # Example
/// ```
/// use thalweg_tensor::digest::{DigestKind, SubtreeHasher, tensor_digest};
/// let mut hasher = SubtreeHasher::new(DigestKind::Blake3, 0, 3);
/// hasher.update(b"abc");
/// let digest = tensor_digest(DigestKind::Blake3, &[hasher.finish()], 3);
/// assert!(digest.to_string().starts_with("blake3:6437b3ac38465133"));
/// ```
pub fn tensor_digest(kind: DigestKind, subtrees: &[SubtreeDigest], tensor_bytes: u64) -> Digest {
    debug_assert_eq!(subtrees.len() as u64, n_subtrees(tensor_bytes), "each subtree appears once");
    let bytes = match (kind, subtrees) {
        (_, [only]) => only.0,
        (DigestKind::Blake3, _) => merge_root(subtrees, tensor_bytes),
        (DigestKind::Xxh3, _) => {
            let joined: Vec<u8> = subtrees.iter().flat_map(|subtree| subtree.0[..16].iter().copied()).collect();
            widen(xxh3_128(&joined))
        }
    };
    Digest { kind, bytes }
}

fn merge_root(subtrees: &[SubtreeDigest], len_bytes: u64) -> [u8; 32] {
    let (left, right, left_bytes) = split_subtrees(subtrees, len_bytes);
    let (left, right) = (chaining_value(left, left_bytes), chaining_value(right, len_bytes - left_bytes));
    *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
}

fn chaining_value(subtrees: &[SubtreeDigest], len_bytes: u64) -> ChainingValue {
    if let [only] = subtrees {
        return only.0;
    }
    let (left, right, left_bytes) = split_subtrees(subtrees, len_bytes);
    merge_subtrees_non_root(
        &chaining_value(left, left_bytes),
        &chaining_value(right, len_bytes - left_bytes),
        Mode::Hash,
    )
}

fn split_subtrees(subtrees: &[SubtreeDigest], len_bytes: u64) -> (&[SubtreeDigest], &[SubtreeDigest], u64) {
    let left_bytes = left_subtree_len(len_bytes);
    let n_left = to_index(left_bytes / SUBTREE_BYTES).min(subtrees.len());
    let (left, right) = subtrees.split_at(n_left);
    (left, right, left_bytes)
}

/// Builds the digest of a list: of the tensors of a checkpoint, or of the parts of a file.
#[derive(Debug)]
pub struct ListHasher {
    kind: DigestKind,
    state: State,
}

impl ListHasher {
    /// An empty list.
    pub fn new(kind: DigestKind) -> Self {
        let state = match kind {
            DigestKind::Blake3 => State::Blake3(Box::default()),
            DigestKind::Xxh3 => State::Xxh3(Box::default()),
        };
        Self { kind, state }
    }

    fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Blake3(hasher) => {
                hasher.update(bytes);
            }
            State::Xxh3(hasher) => hasher.update(bytes),
        }
    }

    /// Adds a digest.
    pub fn add_digest(&mut self, digest: &Digest) {
        self.update(&digest.bytes);
    }

    /// Adds a tensor: lengths before texts, so that no two lists share an encoding.
    pub fn add_tensor(&mut self, name: &str, dtype: Dtype, shape: &Shape, digest: &Digest) {
        self.update(&(name.len() as u64).to_le_bytes());
        self.update(name.as_bytes());
        self.update(&(dtype.name().len() as u64).to_le_bytes());
        self.update(dtype.name().as_bytes());
        self.update(&(shape.0.len() as u64).to_le_bytes());
        shape.0.iter().for_each(|dim| self.update(&dim.to_le_bytes()));
        self.add_digest(digest);
    }

    /// The digest of what was added, in the order of adding.
    pub fn finish(self) -> Digest {
        let bytes = match self.state {
            State::Blake3(hasher) => *hasher.finalize().as_bytes(),
            State::Xxh3(hasher) => widen(hasher.digest128()),
        };
        Digest { kind: self.kind, bytes }
    }
}

/// The digest of bytes that are whole in memory: a header, a side file.
pub fn bytes_digest(kind: DigestKind, bytes: &[u8]) -> Digest {
    let bytes = match kind {
        DigestKind::Blake3 => *blake3::hash(bytes).as_bytes(),
        DigestKind::Xxh3 => widen(xxh3_128(bytes)),
    };
    Digest { kind, bytes }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "test data wraps on purpose")]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_back_and_no_other_text_does() {
        for kind in [DigestKind::Blake3, DigestKind::Xxh3] {
            let digest = bytes_digest(kind, b"some bytes");
            let text = digest.to_string();
            assert_eq!(text.parse(), Ok(digest));
            assert_eq!(text[..text.len() - 1].parse::<Digest>(), Err(DigestFormError));
            assert!(text.replace(':', "-").parse::<Digest>().is_err());
        }
        assert!(format!("xxh3:{}", "g".repeat(32)).parse::<Digest>().is_err());
        assert!(format!("sha1:{}", "0".repeat(64)).parse::<Digest>().is_err());
    }

    fn digest_in_subtrees(kind: DigestKind, bytes: &[u8]) -> Digest {
        let len = bytes.len() as u64;
        let subtrees: Vec<_> = (0..n_subtrees(len))
            .map(|i| {
                let mut hasher = SubtreeHasher::new(kind, i, len);
                let start = (i * SUBTREE_BYTES) as usize;
                let end = bytes.len().min(start + SUBTREE_BYTES as usize);
                bytes[start..end].chunks(65536).for_each(|piece| hasher.update(piece));
                hasher.finish()
            })
            .collect();
        tensor_digest(kind, &subtrees, len)
    }

    #[test]
    fn blake3_of_subtrees_equals_the_plain_hash_for_every_tree_shape() {
        let mib = SUBTREE_BYTES as usize;
        let bytes: Vec<u8> = (0..5 * mib + 77).map(|i| (i * 31 + i / 997) as u8).collect();
        for len in [0, 1, 1024, mib - 1, mib, mib + 1, 2 * mib, 3 * mib, 3 * mib + 5, 4 * mib, 5 * mib + 77] {
            let expected = bytes_digest(DigestKind::Blake3, &bytes[..len]);
            assert_eq!(digest_in_subtrees(DigestKind::Blake3, &bytes[..len]), expected, "{len} bytes");
        }
    }

    #[test]
    fn one_changed_byte_changes_either_digest() {
        let mut bytes = vec![7u8; 3 << 20];
        for kind in [DigestKind::Blake3, DigestKind::Xxh3] {
            let before = digest_in_subtrees(kind, &bytes);
            bytes[2 << 20] ^= 1;
            assert_ne!(digest_in_subtrees(kind, &bytes), before);
            bytes[2 << 20] ^= 1;
        }
    }
}
