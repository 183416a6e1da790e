//! The stream of pickles that torch.save wrote before PyTorch 1.6, and still writes when it is asked to.
//!
//! Five pickles, the fourth of which is the object, and then the bytes of each storage after its length.

use std::collections::BTreeMap;
use std::ops::Range;

use thalweg_storage::ReadAt;

use super::error::TorchError;
use super::tensor::read_storage;
use super::{MAX_PICKLE_BYTES, read_at, refuse_reading};
use crate::pickle::{NameList, Pickle, PickleLimits, parse_pickle};

/// The number that such a stream begins with.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
/// The version of the stream's layout.
const VERSION: i128 = 1001;
/// Bytes that are read at first to look for the end of a pickle.
const FIRST_BYTES: u64 = 1 << 20;

/// An opened stream: the object, and where the storages are.
#[derive(Debug)]
pub(super) struct LegacyStream {
    pub(super) pickle: Pickle,
    pub(super) storages: BTreeMap<Box<str>, Range<u64>>,
}

fn broken(reason: impl Into<String>) -> TorchError {
    TorchError::Stream { reason: reason.into() }
}

pub(super) fn open_stream(
    file: &dyn ReadAt,
    window: Range<u64>,
    lists: &[NameList],
) -> Result<LegacyStream, TorchError> {
    let mut cursor = window.start;
    let next = |cursor: &mut u64| -> Result<Pickle, TorchError> {
        let (pickle, n_bytes) = read_pickle_at(file, *cursor..window.end, lists)?;
        *cursor += n_bytes;
        Ok(pickle)
    };
    check_number(&next(&mut cursor)?, "its first pickle", MAGIC)?;
    check_number(&next(&mut cursor)?, "the version of its layout", VERSION)?;
    let system = next(&mut cursor)?;
    if system.root().get("little_endian").and_then(|is_little| is_little.as_bool()) != Some(true) {
        return Err(broken("it does not say that its numbers are little-endian, the only byte order supported"));
    }
    let pickle = next(&mut cursor)?;
    let keys = next(&mut cursor)?;
    if let Some(global) = pickle.root().opaque_name().filter(|_| pickle.persistent_ids().next().is_none()) {
        return Err(TorchError::Foreign { what: "the saved object", name: global.display() });
    }
    let storage_sizes = storage_sizes(&pickle)?;
    let mut storages = BTreeMap::new();
    for key in keys.root().items() {
        let key = key.as_text().ok_or_else(|| broken("the key of a storage is not a string"))?;
        let range = find_storage(file, key, cursor, window.end, &storage_sizes)?;
        cursor = range.end;
        if storages.insert(key.into(), range).is_some() {
            return Err(broken(format!("storage `{}` appears twice", thalweg_tensor::display_name(key))));
        }
    }
    Ok(LegacyStream { pickle, storages })
}

fn check_number(pickle: &Pickle, what: &'static str, wanted: i128) -> Result<(), TorchError> {
    let root = pickle.root();
    if let Some(global) = root.opaque_name() {
        return Err(TorchError::Foreign { what, name: global.display() });
    }
    match root.as_int() {
        Some(found) if found == wanted => Ok(()),
        Some(_) => Err(broken(format!("{what} is not the number that PyTorch writes"))),
        None => Err(broken(format!("{what} is {}, not a number", root.kind()))),
    }
}

/// Number of elements and of bytes of each storage that the object refers to.
fn storage_sizes(pickle: &Pickle) -> Result<BTreeMap<&str, (u64, u64)>, TorchError> {
    let mut known: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for id in pickle.persistent_ids() {
        let Ok(storage) = read_storage(id) else { continue };
        let Some(n_bytes) = storage.n_bytes() else { continue };
        let found = (storage.n_elements, n_bytes);
        if *known.entry(storage.key).or_insert(found) != found {
            let key = thalweg_tensor::display_name(storage.key);
            return Err(broken(format!("the object states two sizes for storage `{key}`")));
        }
    }
    Ok(known)
}

fn find_storage(
    file: &dyn ReadAt,
    key: &str,
    at: u64,
    end: u64,
    storage_sizes: &BTreeMap<&str, (u64, u64)>,
) -> Result<Range<u64>, TorchError> {
    const LENGTH_BYTES: u64 = 8;
    let shown = thalweg_tensor::display_name(key);
    let (n_elements, n_bytes) =
        storage_sizes.get(key).copied().ok_or_else(|| broken(format!("nothing refers to storage `{shown}`")))?;
    let cut = || TorchError::Archive(crate::ZipError::NoEnd.into());
    let start = at.checked_add(LENGTH_BYTES).filter(|start| *start <= end).ok_or_else(cut)?;
    let length = read_at(file, at, LENGTH_BYTES).map_err(refuse_reading)?;
    let found = length.try_into().map_or(-1, i64::from_le_bytes);
    if u64::try_from(found) != Ok(n_elements) {
        return Err(broken(format!("storage `{shown}` has {found} elements, {n_elements} expected")));
    }
    let range_end = start.checked_add(n_bytes).filter(|range_end| *range_end <= end);
    range_end.map(|range_end| start..range_end).ok_or_else(|| broken(format!("it ends inside storage `{shown}`")))
}

/// Reads the pickle that begins at the start of `range`, in longer and longer parts, because its length is not stated.
fn read_pickle_at(file: &dyn ReadAt, range: Range<u64>, lists: &[NameList]) -> Result<(Pickle, u64), TorchError> {
    let all_bytes = range.end.saturating_sub(range.start);
    let mut n_bytes = FIRST_BYTES.min(all_bytes);
    loop {
        let bytes = read_at(file, range.start, n_bytes).map_err(refuse_reading)?;
        match parse_pickle(&bytes, lists, &PickleLimits::default()) {
            Ok((pickle, n_bytes)) => return Ok((pickle, n_bytes as u64)),
            Err(error) if error.is_truncated() && n_bytes < all_bytes => {
                if n_bytes >= MAX_PICKLE_BYTES {
                    return Err(TorchError::PickleTooLong { limit_bytes: MAX_PICKLE_BYTES });
                }
                n_bytes = n_bytes.saturating_mul(8).min(MAX_PICKLE_BYTES).min(all_bytes);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
