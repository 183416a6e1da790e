//! OCDBT, the key-value store in which tensorstore keeps arrays: a manifest names the newest version of a B+tree, whose
//! nodes lie in data files, and whose leaves hold values or say where they are.
//!
//! Numbers are little-endian or LEB128. Nothing is allocated by a number that the bytes at hand do not bear out.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use thalweg_storage::Storage;
use thalweg_tensor::{display_name, to_index};

use super::stored::{Stored, Values, refuse};
use crate::Error;
use crate::error::{UnfinishedFault, storage_error};
use crate::index::check_file_name;
use crate::unpacked::open_zstd;

/// The file that names the newest version.
pub(super) const MANIFEST_NAME: &str = "manifest.ocdbt";
pub(super) const MANIFEST_MAGIC: u32 = 0x0cdb_3a2a;
pub(super) const NODE_MAGIC: u32 = 0x0cdb_20de;
/// The longest manifest and the longest node, as they are stored.
const MAX_BLOCK_BYTES: u64 = 128 << 20;
/// What a block may unpack to: this, and so much for each byte of it. Keys share beginnings, and descriptions of arrays
/// are alike, so real nodes unpack to some thirty times their length.
const UNPACKED_BYTES: u64 = 256 << 10;
const UNPACKED_RATIO: u64 = 300;
/// What the keys of a node may add up to, and so much for each stored byte of it.
const KEY_BYTES: usize = 256 << 10;
const KEY_RATIO: usize = 100;
/// The longest key and the longest path.
pub(super) const MAX_KEY_BYTES: usize = 4096;
/// Most values of a store.
const MAX_VALUES: usize = 1 << 22;

/// A file, relative to the store: what its own paths begin with, and the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DataFile {
    base: String,
    path: String,
}

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NodePlace {
    file: DataFile,
    offset: u64,
    len_bytes: u64,
    height: u8,
    /// What the keys below it begin with.
    prefix: Vec<u8>,
}

/// A value of a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LeafValue {
    Inline(Arc<[u8]>),
    InFile(DataFile, u64, u64),
}

/// What a node holds.
#[derive(Debug, PartialEq, Eq)]
enum Node {
    Leaf(Vec<(Vec<u8>, LeafValue)>),
    Interior(Vec<NodePlace>),
}

/// Reads the newest version of the store in a folder.
///
/// # Errors
/// `Layout` for a store that breaks the rules; `Unfinished` for data files that are missing or cut off; `Storage`.
pub(super) fn read_store(storage: &Arc<dyn Storage>, folder: &Path) -> Result<Values, Error> {
    let path = folder.join(MANIFEST_NAME);
    let bytes = storage.read_file(&path, MAX_BLOCK_BYTES).map_err(|error| storage_error(&path, error))?;
    let root = parse_manifest(&bytes).map_err(|reason| refuse(&path, reason))?;
    let mut values = Values::new();
    let mut seen = BTreeSet::new();
    let mut waiting: Vec<NodePlace> = root.into_iter().collect();
    while let Some(place) = waiting.pop() {
        let path = folder.join(&place.file.path);
        // Two references to one node would be an endless or an exponential tree.
        if !seen.insert((place.file.path.clone(), place.offset)) {
            return Err(refuse(&path, format!("the node at byte {} appears twice in the tree", place.offset)));
        }
        let block = read_block(storage, folder, &place)?;
        match parse_node(&block, &place)
            .map_err(|reason| refuse(&path, format!("node at byte {}: {reason}", place.offset)))?
        {
            Node::Interior(children) => waiting.extend(children),
            Node::Leaf(entries) => {
                for (key, value) in entries {
                    let key = String::from_utf8(key).map_err(|_| refuse(&path, "a key is not UTF-8".to_owned()))?;
                    let value = match value {
                        LeafValue::Inline(bytes) => Stored::Bytes(bytes),
                        LeafValue::InFile(file, offset, len_bytes) => {
                            Stored::Range { file: file.path, offset, len_bytes }
                        }
                    };
                    if values.insert(key.clone(), value).is_some() {
                        return Err(refuse(&path, format!("key `{}` appears twice in the store", display_name(&key))));
                    }
                }
            }
        }
        if values.len() > MAX_VALUES {
            return Err(refuse(&path, format!("the store has more than {MAX_VALUES} values")));
        }
    }
    Ok(values)
}

fn read_block(storage: &Arc<dyn Storage>, folder: &Path, place: &NodePlace) -> Result<Vec<u8>, Error> {
    let path = folder.join(&place.file.path);
    if place.len_bytes > MAX_BLOCK_BYTES {
        let reason = format!("a node has {} bytes, more than the limit of {MAX_BLOCK_BYTES}", place.len_bytes);
        return Err(refuse(&path, reason));
    }
    let unfinished = |fault| Error::Unfinished { path: folder.to_owned(), faults: vec![fault] };
    let file = storage.open_file(&path).map_err(|error| match error.is_not_found() {
        true => unfinished(UnfinishedFault::MissingShard { file: place.file.path.clone() }),
        false => Error::Storage(error),
    })?;
    let found_bytes = file.info().len_bytes;
    let end = place.offset.checked_add(place.len_bytes).filter(|end| *end <= found_bytes);
    if end.is_none() {
        let wanted_bytes = place.offset.saturating_add(place.len_bytes);
        return Err(unfinished(UnfinishedFault::ShortShard {
            file: place.file.path.clone(),
            wanted_bytes,
            found_bytes,
        }));
    }
    let mut bytes = vec![0; to_index(place.len_bytes)];
    file.read_exact_at(place.offset, &mut bytes)?;
    Ok(bytes)
}

/// The root of the newest version; none if the store is empty.
fn parse_manifest(bytes: &[u8]) -> Result<Option<NodePlace>, String> {
    let body = unwrap_block(bytes, MANIFEST_MAGIC)?;
    let mut body = Bytes { rest: &body };
    body.take(16)?;
    match body.varint()? {
        0 => {}
        kind => return Err(format!("its manifest is of kind {kind}, but only single manifests (0) are supported")),
    }
    let (_max_inline, _max_node) = (body.varint()?, body.varint()?);
    body.take(1)?;
    match body.varint()? {
        0 => {}
        1 => drop(body.take(4)?),
        method => return Err(format!("its nodes are compressed by method {method}, but only zstd (1) is supported")),
    }
    let files = body.data_files("", bytes.len())?;
    let n = body.count()?;
    let _generations = body.varints(n)?;
    let heights = body.take(n)?.to_vec();
    let (ids, offsets, lengths) = (body.varints(n)?, body.varints(n)?, body.varints(n)?);
    let [_n_keys, _tree_bytes, _value_bytes] = [body.varints(n)?, body.varints(n)?, body.varints(n)?];
    body.take(n.checked_mul(8).ok_or("it has too many versions")?)?;
    let Some(last) = n.checked_sub(1) else {
        return Err("its manifest lists no version of the data".to_owned());
    };
    // An empty tree has no root.
    if lengths[last] == 0 || offsets[last] == u64::MAX {
        return Ok(None);
    }
    let file = file_of(&files, ids[last])?;
    Ok(Some(NodePlace {
        file,
        offset: offsets[last],
        len_bytes: lengths[last],
        height: heights[last],
        prefix: Vec::new(),
    }))
}

fn file_of(files: &[DataFile], id: u64) -> Result<DataFile, String> {
    files.get(to_index(id)).cloned().ok_or_else(|| format!("it refers to file number {id} of {}", files.len()))
}

fn parse_node(bytes: &[u8], place: &NodePlace) -> Result<Node, String> {
    let body = unwrap_block(bytes, NODE_MAGIC)?;
    let mut body = Bytes { rest: &body };
    let height = body.take(1)?[0];
    if height != place.height {
        return Err(format!("its height is {height}, but {} is expected", place.height));
    }
    let files = body.data_files(&place.file.base, bytes.len())?;
    let n = body.count()?;
    let prefix_lengths = body.varints(n.saturating_sub(1))?;
    let suffix_lengths = body.varints(n)?;
    let common_lengths = if height > 0 { body.varints(n)? } else { Vec::new() };
    let mut keys = Keys::new(bytes.len());
    for i in 0..n {
        let shared = if i == 0 { 0 } else { prefix_lengths[i - 1] };
        keys.add(shared, suffix_lengths[i], &mut body)?;
    }
    let key = |key: &[u8]| [&*place.prefix, key].concat();
    if height > 0 {
        let (ids, offsets, lengths) = (body.varints(n)?, body.varints(n)?, body.varints(n)?);
        let mut children = Vec::with_capacity(n);
        for (i, own) in keys.list.iter().enumerate() {
            let common = own.get(..to_index(common_lengths[i])).ok_or("a common prefix is longer than its key")?;
            let (file, offset, len_bytes) = (file_of(&files, ids[i])?, offsets[i], lengths[i]);
            children.push(NodePlace { file, offset, len_bytes, height: height - 1, prefix: key(common) });
        }
        return Ok(Node::Interior(children));
    }
    let lengths = body.varints(n)?;
    let kinds = body.take(n)?.to_vec();
    if let Some(kind) = kinds.iter().find(|kind| **kind > 1) {
        return Err(format!("a value is of kind {kind}, but only 0 and 1 are supported"));
    }
    let n_in_files = kinds.iter().filter(|kind| **kind == 1).count();
    let (ids, offsets) = (body.varints(n_in_files)?, body.varints(n_in_files)?);
    let mut places = ids.into_iter().zip(offsets);
    let mut entries = Vec::with_capacity(n);
    for ((own, len_bytes), kind) in keys.list.iter().zip(lengths).zip(kinds) {
        let value = match (kind, places.next_if_needed(kind)) {
            (1, Some((id, offset))) => LeafValue::InFile(file_of(&files, id)?, offset, len_bytes),
            _ => LeafValue::Inline(body.take(to_index(len_bytes))?.into()),
        };
        entries.push((key(own), value));
    }
    Ok(Node::Leaf(entries))
}

/// Takes from a list only where a value is in a file.
trait NextIfNeeded: Iterator {
    fn next_if_needed(&mut self, kind: u8) -> Option<Self::Item>;
}

impl<T: Iterator> NextIfNeeded for T {
    fn next_if_needed(&mut self, kind: u8) -> Option<T::Item> {
        if kind == 1 { self.next() } else { None }
    }
}

/// The body of a block: unpacked, and known to have the sum that the block ends with.
fn unwrap_block(bytes: &[u8], magic: u32) -> Result<Vec<u8>, String> {
    const SUM_BYTES: usize = 4;
    let (content, sum) = bytes.split_at_checked(bytes.len().saturating_sub(SUM_BYTES)).ok_or("it is cut short")?;
    let mut rest = Bytes { rest: content };
    if rest.take(4)? != magic.to_be_bytes() {
        return Err("it does not begin like a part of an OCDBT store".to_owned());
    }
    if rest.take(8)? != (bytes.len() as u64).to_le_bytes() {
        return Err("its length differs from the one that it states".to_owned());
    }
    if sum != crc32c::crc32c(content).to_le_bytes() {
        return Err("its CRC-32C does not match".to_owned());
    }
    match rest.varint()? {
        0 => {}
        version => return Err(format!("its version is {version}, but only 0 is supported")),
    }
    match rest.varint()? {
        0 => Ok(rest.rest.to_vec()),
        1 => unpack(rest.rest),
        method => Err(format!("it is compressed by method {method}, but only zstd (1) is supported")),
    }
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>, String> {
    let limit_bytes = UNPACKED_BYTES + UNPACKED_RATIO * packed.len() as u64;
    let broken = |error: &dyn std::fmt::Display| format!("it cannot be decompressed: {error}");
    let (decoder, _) = open_zstd(packed, limit_bytes).map_err(|error| broken(&error))?;
    let mut body = Vec::new();
    decoder.take(limit_bytes + 1).read_to_end(&mut body).map_err(|error| broken(&error))?;
    if body.len() as u64 > limit_bytes {
        return Err(format!("its {} bytes decompress to more than {limit_bytes}", packed.len()));
    }
    Ok(body)
}

/// Keys that share beginnings.
struct Keys {
    list: Vec<Vec<u8>>,
    left_bytes: usize,
}

impl Keys {
    fn new(stored_bytes: usize) -> Self {
        Self { list: Vec::new(), left_bytes: KEY_BYTES + KEY_RATIO * stored_bytes }
    }

    /// Adds a key that has its beginning in common with the one before it.
    fn add(&mut self, shared: u64, n_suffix: u64, suffixes: &mut Bytes<'_>) -> Result<(), String> {
        let before = self.list.last().map_or(&[][..], |key| key);
        let shared = before.get(..to_index(shared)).ok_or("a key shares more bytes than the key before it has")?;
        let key = [shared, suffixes.take(to_index(n_suffix))?].concat();
        if key.len() > MAX_KEY_BYTES {
            return Err(format!("a key has {} bytes, more than the limit of {MAX_KEY_BYTES}", key.len()));
        }
        self.left_bytes =
            self.left_bytes.checked_sub(key.len()).ok_or("its keys are longer than those that tensorstore writes")?;
        self.list.push(key);
        Ok(())
    }
}

/// Bytes that are read from their beginning.
struct Bytes<'a> {
    rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or("it is cut short")?;
        self.rest = rest;
        Ok(taken)
    }

    /// A number in groups of seven bits, the lowest first.
    fn varint(&mut self) -> Result<u64, String> {
        let mut number = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("a number has more than 64 bits".to_owned())
    }

    /// A number of things that each take a byte at least.
    fn count(&mut self) -> Result<usize, String> {
        let n = self.varint()?;
        if n > self.rest.len() as u64 {
            return Err(format!("it lists {n} entries in {} bytes", self.rest.len()));
        }
        Ok(to_index(n))
    }

    fn varints(&mut self, n: usize) -> Result<Vec<u64>, String> {
        if n > self.rest.len() {
            return Err("it is cut short".to_owned());
        }
        (0..n).map(|_| self.varint()).collect()
    }

    /// The table of files; paths begin with `base`, that of the file that holds the table.
    fn data_files(&mut self, base: &str, stored_bytes: usize) -> Result<Vec<DataFile>, String> {
        let n = self.count()?;
        let prefix_lengths = self.varints(n.saturating_sub(1))?;
        let (suffix_lengths, base_lengths) = (self.varints(n)?, self.varints(n)?);
        let mut paths = Keys::new(stored_bytes);
        for i in 0..n {
            let shared = if i == 0 { 0 } else { prefix_lengths[i - 1] };
            paths.add(shared, suffix_lengths[i], self)?;
        }
        let mut files = Vec::with_capacity(n);
        for (path, n_base) in paths.list.into_iter().zip(base_lengths) {
            let path = String::from_utf8(path).map_err(|_| "the name of a file is not UTF-8")?;
            let own = path.get(..to_index(n_base)).ok_or("the prefix of a path is longer than the path")?;
            let file = DataFile { base: format!("{base}{own}"), path: format!("{base}{path}") };
            check_file_name(&file.path)
                .map_err(|fault| format!("it names the file `{}`, {fault}", display_name(&file.path)))?;
            files.push(file);
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use thalweg_storage::MemoryStorage;

    use super::*;

    fn varint(mut number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while number >= 0x80 {
            bytes.push((number & 0x7f).to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        bytes.push(number.to_le_bytes()[0]);
        bytes
    }

    fn varints(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|number| varint(*number)).collect()
    }

    /// A block that is not packed.
    fn block(magic: u32, body: &[u8]) -> Vec<u8> {
        let len_bytes = (4 + 8 + 2 + body.len() + 4) as u64;
        let mut bytes = [&magic.to_be_bytes(), &len_bytes.to_le_bytes()[..], &[0, 0], body].concat();
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// A table of one file.
    fn table(base: &str, name: &str) -> Vec<u8> {
        let path = format!("{base}{name}");
        [varints(&[1, path.len() as u64, base.len() as u64]), path.into_bytes()].concat()
    }

    fn manifest(files: &[u8], height: u8, offset: u64, len_bytes: u64) -> Vec<u8> {
        let config = [&[7; 16][..], &varints(&[0, 1024, 1 << 20]), &[4], &varint(1), &[1, 0, 0, 0]].concat();
        let version = [varints(&[1, 1]), vec![height], varints(&[0, offset, len_bytes, 1, 1, 1]), vec![0; 8]].concat();
        block(MANIFEST_MAGIC, &[&config, files, &version, &varint(0)[..]].concat())
    }

    /// A leaf with one value inside and one in a file.
    fn leaf(files: &[u8]) -> Vec<u8> {
        let keys = [varints(&[2, 1, 2, 1]), b"axy".to_vec()].concat();
        let values = [varints(&[3, 5]), vec![0, 1], varints(&[0, 40]), b"one".to_vec()].concat();
        block(NODE_MAGIC, &[&[0], files, &keys, &values].concat())
    }

    fn interior(files: &[u8], height: u8, offset: u64, len_bytes: u64) -> Vec<u8> {
        let keys = [varints(&[1, 2, 1]), b"pz".to_vec()].concat();
        block(NODE_MAGIC, &[&[height], files, &keys, &varints(&[0, offset, len_bytes, 1, 1, 1])].concat())
    }

    fn read(files: &[(&str, Vec<u8>)]) -> Result<Values, String> {
        let storage = MemoryStorage::new();
        for (name, bytes) in files {
            let path = Path::new("/s").join(name);
            storage.create_folder(path.parent().unwrap()).unwrap();
            storage.create_file(&path, bytes.len() as u64).unwrap().write_all_at(0, bytes).unwrap();
        }
        let storage: Arc<dyn Storage> = Arc::new(storage);
        read_store(&storage, Path::new("/s")).map_err(|error| error.to_string())
    }

    #[test]
    fn paths_are_relative_to_the_file_that_names_them() {
        let leaf = leaf(&table("deep/", "e"));
        let top = manifest(&table("p/", "d"), 0, 3, leaf.len() as u64);
        let data = [&[0; 3], &leaf[..]].concat();
        let values = read(&[(MANIFEST_NAME, top), ("p/d", data)]).unwrap();
        assert_eq!(values["ax"], Stored::Bytes(b"one"[..].into()));
        assert_eq!(values["ay"], Stored::Range { file: "p/deep/e".to_owned(), offset: 40, len_bytes: 5 });
    }

    #[test]
    fn keys_below_an_inner_node_begin_with_what_they_share() {
        let leaf = leaf(&table("", "e"));
        let inner = interior(&table("", "d"), 1, 0, leaf.len() as u64);
        let top = manifest(&table("", "d"), 1, leaf.len() as u64, inner.len() as u64);
        let values = read(&[(MANIFEST_NAME, top), ("d", [leaf, inner].concat())]).unwrap();
        assert_eq!(values.keys().collect::<Vec<_>>(), ["pax", "pay"]);
    }

    #[test]
    fn trees_that_no_writer_makes_are_refused() {
        let whole = leaf(&table("", "e"));
        let with = |files: &[u8], height, offset, len_bytes, data: &[u8]| {
            read(&[(MANIFEST_NAME, manifest(files, height, offset, len_bytes)), ("d", data.to_vec())]).unwrap_err()
        };
        let n = whole.len() as u64;
        for (name, reason) in [
            ("/etc/passwd", "path"),
            ("../d", ""),
            ("a//d", ""),
            ("x\0", ""),
            ("x\u{1b}c", "control character"),
            ("a\\d", ""),
        ] {
            let said = with(&table("", name), 0, 0, n, &whole);
            assert!(said.contains("it names the file `") && said.contains(reason), "{said}");
        }
        assert!(with(&table("../", "d"), 0, 0, n, &whole).contains("it names the file `../d`"));
        assert!(with(&table("", "gone"), 0, 0, n, &whole).contains("shard `gone` is missing"));
        assert!(with(&table("", "d"), 0, 1, n, &whole).contains("ends at byte"));
        assert!(with(&table("", "d"), 0, u64::MAX - 1, n, &whole).contains("ends at byte"));
        assert!(with(&table("", "d"), 0, 0, u64::MAX, &whole).contains("more than the"));
        assert!(with(&table("", "d"), 3, 0, n, &whole).contains("its height is 0, but 3 is expected"));
        // An inner node that leads to itself has the height of none.
        let inner = interior(&table("", "d"), 1, 0, 57);
        assert!(with(&table("", "d"), 1, 0, inner.len() as u64, &inner).contains("twice"), "{}", inner.len());
        let empty = varint(0);
        assert!(with(&empty, 0, 0, n, &whole).contains("file number 0 of 0"));
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_an_error() {
        let leaf = leaf(&table("", "e"));
        let top = manifest(&table("", "d"), 0, 0, leaf.len() as u64);
        for n in 0..top.len() {
            let mut changed = top.clone();
            changed[n] ^= 1;
            assert!(parse_manifest(&changed).is_err() && parse_manifest(&top[..n]).is_err(), "{n}");
        }
        for n in 0..leaf.len() {
            let mut changed = leaf.clone();
            changed[n] ^= 0x80;
            assert!(read(&[(MANIFEST_NAME, top.clone()), ("d", changed)]).is_err(), "{n}");
        }
    }

    #[test]
    fn numbers_are_not_believed() {
        for body in [
            varint(u64::MAX),
            varints(&[3, 1]),
            varints(&[1, u64::MAX, 0]),
            varints(&[2, 9, 1, 1, 0, 0]),
            vec![0xff; 40],
        ] {
            let node = block(NODE_MAGIC, &[&[0][..], &body].concat());
            let top = manifest(&table("", "d"), 0, 0, node.len() as u64);
            assert!(read(&[(MANIFEST_NAME, top), ("d", node)]).is_err(), "{body:?}");
        }
        // A thousand keys that share a long beginning.
        let mut keys = varint(1000);
        keys.extend(varints(&[4000; 999]));
        keys.extend(varint(4000));
        keys.extend(varints(&[0; 999]));
        keys.extend([b'k'; 4000]);
        let node = block(NODE_MAGIC, &[&[0, 0][..], &keys].concat());
        let top = manifest(&table("", "d"), 0, 0, node.len() as u64);
        let said = read(&[(MANIFEST_NAME, top), ("d", node)]).unwrap_err();
        assert!(said.contains("longer than those that tensorstore writes"), "{said}");
        // 128 KiB of zeros in each block of four bytes.
        let block_header = ((128 << 10) << 3 | 2_u32).to_le_bytes();
        let frame = [&b"\x28\xb5\x2f\xfd\x00\x58"[..], &[&block_header[..3], &[0]].concat().repeat(40)].concat();
        let said = unpack(&frame).unwrap_err();
        assert!(said.contains("decompress"), "{said}");
    }
}
