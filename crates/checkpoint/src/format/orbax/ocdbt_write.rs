//! Writes what `ocdbt` reads: the one leaf that lists all values of a store, and the manifest that names it. Neither is
//! compressed, so that both are the same bytes each time.

use std::collections::BTreeMap;

use thalweg_tensor::digest::{DigestKind, bytes_digest};

use super::ocdbt::{MANIFEST_MAGIC, NODE_MAGIC};

/// Most values of a store that is written: tensorstore takes no more in a node.
pub(super) const MAX_WRITTEN_VALUES: usize = 1 << 20;
/// The longest value that lies in the leaf itself; Orbax sets the same.
pub(super) const MAX_INLINE_BYTES: usize = 1024;
/// The longest node, as Orbax says it in the manifest. It bounds only what tensorstore writes.
const MAX_NODE_BYTES: u64 = 100_000_000;
/// The number of versions that a manifest holds, as a power of two; tensorstore's default.
const ARITY_LOG2: u8 = 4;

/// A value of a store that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WrittenValue {
    /// In the leaf.
    Inline(Vec<u8>),
    /// In a data file.
    InFile {
        /// Which of the files.
        file_idx: usize,
        /// Where it begins.
        offset: u64,
        /// Its length.
        len_bytes: u64,
    },
}

/// The leaf of a store with these values, of which some lie in these files.
pub(super) fn write_leaf(files: &[String], values: &BTreeMap<String, WrittenValue>) -> Vec<u8> {
    let mut body = vec![0];
    put_files(&mut body, files);
    put_number(&mut body, values.len() as u64);
    let keys: Vec<&str> = values.keys().map(String::as_str).collect();
    let shared = shared_lengths(&keys);
    shared.iter().skip(1).for_each(|n| put_number(&mut body, *n as u64));
    keys.iter().zip(&shared).for_each(|(key, n)| put_number(&mut body, (key.len() - n) as u64));
    keys.iter().zip(&shared).for_each(|(key, n)| body.extend(&key.as_bytes()[*n..]));
    for value in values.values() {
        put_number(
            &mut body,
            match value {
                WrittenValue::Inline(bytes) => bytes.len() as u64,
                WrittenValue::InFile { len_bytes, .. } => *len_bytes,
            },
        );
    }
    body.extend(values.values().map(|value| u8::from(matches!(value, WrittenValue::InFile { .. }))));
    let places = || {
        values.values().filter_map(|value| match value {
            WrittenValue::Inline(_) => None,
            WrittenValue::InFile { file_idx, offset, .. } => Some((*file_idx as u64, *offset)),
        })
    };
    places().for_each(|(file, _)| put_number(&mut body, file));
    places().for_each(|(_, offset)| put_number(&mut body, offset));
    for value in values.values() {
        if let WrittenValue::Inline(bytes) = value {
            body.extend(bytes);
        }
    }
    block(NODE_MAGIC, &body)
}

/// The manifest of a store whose leaf is alone in its file.
pub(super) fn write_manifest(file: &str, leaf: &[u8], values: &BTreeMap<String, WrittenValue>) -> Vec<u8> {
    // The identity of the store, which tensorstore draws at random.
    let mut body = bytes_digest(DigestKind::Blake3, leaf).to_bytes()[..16].to_vec();
    body.push(0);
    put_number(&mut body, MAX_INLINE_BYTES as u64);
    put_number(&mut body, MAX_NODE_BYTES);
    body.extend([ARITY_LOG2, 0]);
    put_files(&mut body, &[file.to_owned()]);
    let in_files = values.values().map(|value| match value {
        WrittenValue::Inline(_) => 0,
        WrittenValue::InFile { len_bytes, .. } => *len_bytes,
    });
    let n_in_files = in_files.fold(0_u64, u64::saturating_add);
    // One version: number 1, a root of height 0, in the first file from byte 0 on.
    for number in [1, 1, 0, 0, 0, leaf.len() as u64, values.len() as u64, leaf.len() as u64, n_in_files] {
        put_number(&mut body, number);
    }
    // The time of the commit is left out: the same merge is the same bytes.
    body.extend([0; 8]);
    // No older versions elsewhere.
    body.push(0);
    block(MANIFEST_MAGIC, &body)
}

/// The table of files.
fn put_files(body: &mut Vec<u8>, files: &[String]) {
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let shared = shared_lengths(&files);
    put_number(body, files.len() as u64);
    shared.iter().skip(1).for_each(|n| put_number(body, *n as u64));
    files.iter().zip(&shared).for_each(|(file, n)| put_number(body, (file.len() - n) as u64));
    // Paths have no base.
    body.extend(files.iter().map(|_| 0));
    files.iter().zip(&shared).for_each(|(file, n)| body.extend(&file.as_bytes()[*n..]));
}

/// How many bytes each name has in common with the one before it.
fn shared_lengths(names: &[&str]) -> Vec<usize> {
    let common = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let before = std::iter::once("").chain(names.iter().copied());
    before.zip(names).map(|(before, name)| common(before, name)).collect()
}

/// A number in groups of seven bits, the lowest first.
fn put_number(body: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        body.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    body.push(number.to_le_bytes()[0]);
}

/// A block: magic number, length, version 0, no compression, the body and a sum.
fn block(magic: u32, body: &[u8]) -> Vec<u8> {
    const AROUND_BYTES: usize = 4 + 8 + 2 + 4;
    let len_bytes = (AROUND_BYTES + body.len()) as u64;
    let mut bytes = [&magic.to_be_bytes(), &len_bytes.to_le_bytes()[..], &[0, 0], body].concat();
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use thalweg_storage::{MemoryStorage, Storage};

    use super::super::ocdbt::{MANIFEST_NAME, read_store};
    use super::super::stored::Stored;
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let files: Vec<String> = (0..3).map(|n| format!("d/{n:032x}")).collect();
        let mut values = BTreeMap::new();
        for n in 0..300_u64 {
            let place = WrittenValue::InFile { file_idx: usize::from(n > 200), offset: n << 30, len_bytes: n + 1 };
            values.insert(format!("params.layer.{n}/.zarray"), WrittenValue::Inline(n.to_string().into_bytes()));
            values.insert(format!("params.layer.{n}/0.0"), place);
        }
        let leaf = write_leaf(&files[..2], &values);
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        storage.create_folder(Path::new("/s/d")).unwrap();
        for (name, bytes) in [(&*files[2], &leaf), (MANIFEST_NAME, &write_manifest(&files[2], &leaf, &values))] {
            let file = storage.create_file(&Path::new("/s").join(name), bytes.len() as u64).unwrap();
            file.write_all_at(0, bytes).unwrap();
        }
        let found = read_store(&storage, Path::new("/s")).unwrap();
        assert!(found.keys().eq(values.keys()));
        for (key, value) in &values {
            match (value, &found[key]) {
                (WrittenValue::Inline(bytes), Stored::Bytes(found)) => assert_eq!(bytes[..], found[..]),
                (
                    WrittenValue::InFile { file_idx, offset, len_bytes },
                    Stored::Range { file, offset: at, len_bytes: n },
                ) => {
                    assert_eq!((&files[*file_idx], offset, len_bytes), (file, at, n));
                }
                other => panic!("{key}: {other:?}"),
            }
        }
    }
}
