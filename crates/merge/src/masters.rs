//! Copies of the parameters that a merge would not reach, such as the masters of an optimizer. A trainer that resumed
//! from an output with them would go back to the newest source at its first step.
//!
//! A tensor is a copy if its values in the newest source are those of a parameter, whatever its name; or if it is part
//! of the training state and has a name that optimizers give to copies.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use thalweg_checkpoint::{Checkpoint, KeyKind, ReadOptions, is_master_name, is_moment_name, is_optimizer_state};
use thalweg_storage::Storage;
use thalweg_tensor::digest::{Digest, DigestKind, bytes_digest};
use thalweg_tensor::kernel::Simd;
use thalweg_tensor::{Dtype, DtypeClass, TensorEntry, TensorSource, display_name, to_index};

use crate::error::Error;
use crate::kept_tensors::{KeptTensors, Overlap, UnmergedTensor};
use crate::view::conversion;

/// What Megatron-Core calls the copies in its buckets, which hold many parameters each.
const BUCKET_NAME: &str = ".param";
/// A beginning of fewer elements proves nothing.
const MIN_HEAD_ELEMENTS: u64 = 8;
/// Most lengths of beginnings that a tensor is compared with, the longest first, so that no checkpoint takes long.
const MAX_HEAD_LENGTHS: usize = 64;
/// Elements that are compared at the beginning of a tensor, and as many from its middle on.
const SAMPLE_ELEMENTS: u64 = 4096;

/// The first copy of parameters in the files of `newest` that a merge which is read as `reading` says does not write.
///
/// Reads the headers of all files that an output keeps, and samples of tensors that may be copies.
///
/// # Errors
/// When the checkpoint cannot be opened again, or a parameter cannot be read.
pub fn unreached_masters(
    storage: &Arc<dyn Storage>,
    newest: &Checkpoint,
    reading: &ReadOptions,
) -> Result<Option<String>, Error> {
    find_master(&KeptTensors::look(storage, newest, reading)?)
}

/// The first copy of parameters among tensors that are not merged.
pub(crate) fn find_master(kept: &KeptTensors<'_>) -> Result<Option<String>, Error> {
    let apart: Vec<&UnmergedTensor> =
        kept.unmerged.iter().filter(|one| may_hold_params(kept.entry(one), one)).collect();
    if let Some(named) = apart.iter().find(|one| is_named_so(kept, one)) {
        return Ok(Some(display_name(&named.path)));
    }
    let unknown: Vec<&UnmergedTensor> = apart.into_iter().filter(|one| !is_known_moment(&one.path)).collect();
    let params = ParamSamples::read(kept, &unknown)?;
    Ok(unknown.into_iter().find(|one| params.have(kept, one)).map(|one| display_name(&one.path)))
}

/// Whether a tensor that is not merged may hold parameters that a trainer resumes from.
fn may_hold_params(entry: &TensorEntry, tensor: &UnmergedTensor) -> bool {
    // An average is a model beside the model: a trainer does not resume its parameters from it.
    tensor.overlap == Overlap::None
        && tensor.kind != KeyKind::Average
        && entry.dtype.class() == DtypeClass::Mergeable
        && entry.n_elements() > 1
}

/// Whether a tensor has the name of a copy: anywhere in training state, elsewhere only as the key itself.
fn is_named_so(kept: &KeptTensors<'_>, one: &UnmergedTensor) -> bool {
    let name = &*kept.entry(one).name;
    let key = name.split_once('.').map_or("", |(key, _)| key);
    one.kind == KeyKind::State && (is_master_name(name) || name.ends_with(BUCKET_NAME)) || is_master_name(key)
}

/// Whether a name is that of an average over gradients, whose values are never those of a parameter.
fn is_known_moment(path: &str) -> bool {
    path.split('.').any(is_moment_name)
}

/// Digests of the samples of parameters.
struct ParamSamples {
    dtypes: BTreeSet<Dtype>,
    /// By element type and number of elements of the parameter.
    whole: BTreeMap<(Dtype, u64), BTreeSet<String>>,
    /// Of the beginnings of parameters, by element type and number of elements of the sample: one of them begins a
    /// tensor that holds several parameters one after the other.
    heads: BTreeMap<(Dtype, u64), BTreeSet<String>>,
}

impl ParamSamples {
    /// Reads what can be compared with one of these tensors.
    fn read(kept: &KeptTensors<'_>, with: &[&UnmergedTensor]) -> Result<Self, Error> {
        let mut samples = Self { dtypes: BTreeSet::new(), whole: BTreeMap::new(), heads: BTreeMap::new() };
        let lengths: BTreeSet<u64> = with.iter().map(|one| kept.entry(one).n_elements()).collect();
        let flat = with.iter().map(|one| kept.entry(one)).filter(|entry| entry.shape.0.len() == 1);
        let longest_flat = flat.map(TensorEntry::n_elements).max().unwrap_or(0);
        let newest = kept.newest;
        for (t, entry) in newest.catalog().entries().iter().enumerate() {
            let n = entry.n_elements();
            let (is_whole, is_head) = (lengths.contains(&n), (MIN_HEAD_ELEMENTS..longest_flat).contains(&n));
            let is_param = entry.dtype.class() == DtypeClass::Mergeable && !is_optimizer_state(&entry.name);
            if !is_param || n < 2 || !is_whole && !is_head {
                continue;
            }
            let dtype = entry.dtype;
            let [head, middle] = read_sample(newest, t, n)?;
            if is_head && let Some(digest) = digest_of(&head, dtype) {
                samples.heads.entry((dtype, n.min(SAMPLE_ELEMENTS))).or_default().insert(digest);
            }
            if is_whole && let Some(digest) = digest_of(&[head, middle].concat(), dtype) {
                samples.whole.entry((dtype, n)).or_default().insert(digest);
            }
            samples.dtypes.insert(dtype);
        }
        Ok(samples)
    }

    /// Whether one of the parameters has the values of a tensor, rounded to its element type.
    fn have(&self, kept: &KeptTensors<'_>, one: &UnmergedTensor) -> bool {
        let entry = kept.entry(one);
        let n = entry.n_elements();
        // Another model of the same element type is not what a trainer computes with; a wider one may be its masters.
        let mut dtypes = self
            .dtypes
            .iter()
            .filter(|dtype| one.kind == KeyKind::State || dtype.bits() < entry.dtype.bits())
            .peekable();
        if dtypes.peek().is_none() {
            return false;
        }
        // What cannot be read is not a plain copy; the merge copies its bytes as they are.
        let Ok([head, middle]) = read_sample(&kept.opened[one.opened_idx], one.tensor_idx, n) else { return false };
        let sample = [&*head, &*middle].concat();
        for &dtype in dtypes {
            let Some(values) = rounded(&sample, entry.dtype, dtype) else { continue };
            let has = |known: &BTreeMap<(Dtype, u64), BTreeSet<String>>, n: u64, values: &[u8]| {
                let digest = digest_of(values, dtype);
                digest.is_some_and(|digest| known.get(&(dtype, n)).is_some_and(|known| known.contains(&digest)))
            };
            if self.whole.contains_key(&(dtype, n)) && has(&self.whole, n, &values) {
                return true;
            }
            let lengths = self.heads.range((dtype, 0)..=(dtype, n.min(SAMPLE_ELEMENTS))).rev().take(MAX_HEAD_LENGTHS);
            let mut lengths = lengths.map(|((_, length), _)| *length);
            let begins = |length: u64| {
                let n_bytes = to_index(dtype.bytes_of(length).unwrap_or(0));
                values.get(..n_bytes).is_some_and(|values| has(&self.heads, length, values))
            };
            if entry.shape.0.len() == 1 && lengths.any(begins) {
                return true;
            }
        }
        false
    }
}

/// The first elements of a tensor, and those from its middle on where they are others.
fn read_sample(checkpoint: &Checkpoint, tensor_idx: usize, n_elements: u64) -> Result<[Vec<u8>; 2], Error> {
    let entry = &checkpoint.catalog().entries()[tensor_idx];
    let read = |elements: Range<u64>| {
        let n_bytes = entry.dtype.bytes_of(elements.end - elements.start).unwrap_or(0);
        let mut bytes = vec![0; to_index(n_bytes)];
        let access = checkpoint.read_elements(tensor_idx, elements, &mut bytes);
        access.map(|()| bytes).map_err(|source| Error::Access { tensor: display_name(&entry.name), source })
    };
    let head = n_elements.min(SAMPLE_ELEMENTS);
    let middle = head.max(n_elements / 2);
    Ok([read(0..head)?, read(middle..n_elements.min(middle + SAMPLE_ELEMENTS))?])
}

/// Values in another element type, correctly rounded; `None` if they do not fit.
fn rounded(values: &[u8], from: Dtype, to: Dtype) -> Option<Vec<u8>> {
    let Some(sum) = conversion(from, to, Simd::Portable).ok()? else { return (from == to).then(|| values.to_vec()) };
    let n_elements = values.len() as u64 / from.bytes()?;
    let mut out = vec![0; to_index(to.bytes_of(n_elements)?)];
    sum.sum_into(&[values], &mut out).ok()?;
    Some(out)
}

/// Digest of values, in which both zeros are one; `None` if all are equal, which proves nothing: norms begin as ones.
fn digest_of(values: &[u8], dtype: Dtype) -> Option<String> {
    let width = to_index(dtype.bytes()?);
    let mut values = values.to_vec();
    for element in values.chunks_exact_mut(width) {
        if let Some((0x80, rest)) = element.split_last().map(|(last, rest)| (*last, rest))
            && rest.iter().all(|byte| *byte == 0)
        {
            element.fill(0);
        }
    }
    let first = values.get(..width)?.to_vec();
    let is_constant = values.chunks_exact(width).all(|element| element == first);
    let digest: Digest = bytes_digest(DigestKind::Blake3, &values);
    (!is_constant).then(|| digest.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn samples_are_equal_by_value_and_prove_nothing_if_all_elements_are() {
        let digest = |values: &[f32]| digest_of(&f32s(values), Dtype::F32);
        assert!(digest(&[0.0, 1.0]).is_some());
        assert_eq!(digest(&[0.0, 1.0]), digest(&[-0.0, 1.0]));
        assert_ne!(digest(&[0.0, 1.0]), digest(&[0.0, -1.0]));
        for constant in [&[][..], &[1.0], &[1.0, 1.0], &[0.0, -0.0]] {
            assert_eq!(digest(constant), None, "{constant:?}");
        }
    }

    #[test]
    fn values_are_rounded_to_nearest_even_and_not_beyond_the_range() {
        // bfloat16 has 8 bits of significand: 1 + 1/256 is a tie, which goes to the even neighbour.
        let values = f32s(&[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -2.5]);
        let expected = [0x80, 0x3f, 0x82, 0x3f, 0x20, 0xc0];
        assert_eq!(rounded(&values, Dtype::F32, Dtype::Bf16).unwrap(), expected);
        assert_eq!(rounded(&values, Dtype::F32, Dtype::F32).unwrap(), values);
        assert_eq!(rounded(&f32s(&[1e6]), Dtype::F32, Dtype::F16), None);
        assert_eq!(rounded(&[1, 2], Dtype::U8, Dtype::F16), None);
    }
}
