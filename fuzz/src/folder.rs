//! An input as a folder of files: text that names the files, and what is in each.
//!
//! A line `== NAME` begins a file, and the bytes after it are its content. Containers whose numbers would hide their
//! content from a search are built here: `x.pt//data.pkl` is a record of the archive `x.pt`, and
//! `x.safetensors//header` is the header of a file whose data are as long as the header wants. `x//manifest` and
//! `x//node` are the bodies of parts of an OCDBT store, which get their lengths and sums.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use thalweg_checkpoint::format::safetensors::{HeaderError, parse_header};
use thalweg_storage::{MemoryStorage, Storage};

use crate::zip::{self, ZipRecord};

/// Where the folder of an input is.
pub(crate) const FOLDER: &str = "/run/checkpoint";

const MARK: &[u8] = b"== ";
const NEXT_MARK: &[u8] = b"\n== ";
/// Files beyond these are left out, so that an input of many names is not slower than one of many tensors.
const MAX_FILES: usize = 64;
const MAX_NAME_BYTES: usize = 200;
/// Most data that a header gets.
const MAX_DATA_BYTES: u64 = 64 << 10;

/// The disk that holds the folder.
pub(crate) fn folder_of(input: &[u8]) -> MemoryStorage {
    let storage = MemoryStorage::new();
    storage.create_folder(Path::new(FOLDER)).unwrap();
    for (name, content) in files_of(input) {
        let path = Path::new(FOLDER).join(name);
        let Some(parent) = path.parent() else { continue };
        // A file may have the name of a folder; whichever is first stays.
        let made = storage.create_folder(parent).and_then(|()| storage.create_file(&path, content.len() as u64));
        if let Ok(file) = made {
            file.write_all_at(0, &content).unwrap();
        }
    }
    storage
}

fn files_of(input: &[u8]) -> Vec<(&str, Vec<u8>)> {
    let mut plain = Vec::new();
    let mut archives: BTreeMap<&str, Vec<ZipRecord<'_>>> = BTreeMap::new();
    let mut order = Vec::new();
    for (name, content) in parts_of(input) {
        match name.split_once("//") {
            None => plain.push((name, content.to_vec())),
            Some((file, "header")) if file.ends_with(".safetensors") => {
                plain.push((file, safetensors_of(content)));
            }
            Some((file, "manifest")) => plain.push((file, block_of(0x0cdb_3a2a, content))),
            Some((file, "node")) => plain.push((file, block_of(0x0cdb_20de, content))),
            Some((file, record)) => {
                archives.entry(file).or_default().push(ZipRecord { name: record, content });
                order.push(file);
            }
        }
    }
    let mut seen = BTreeSet::new();
    let built = order.into_iter().filter(|file| seen.insert(*file));
    plain.extend(built.map(|file| (file, zip::archive_of(&archives[file]))));
    plain
}

fn parts_of(input: &[u8]) -> Vec<(&str, &[u8])> {
    let mut parts = Vec::new();
    let mut rest = input.strip_prefix(MARK);
    while let Some(part) = rest.filter(|_| parts.len() < MAX_FILES) {
        let end = find(part, NEXT_MARK);
        let own = &part[..end.unwrap_or(part.len())];
        rest = end.map(|end| &part[end + NEXT_MARK.len()..]);
        let Some(line_end) = own.iter().position(|byte| *byte == b'\n') else { continue };
        if let Ok(name) = std::str::from_utf8(&own[..line_end])
            && is_name(name)
        {
            parts.push((name, &own[line_end + 1..]));
        }
    }
    parts
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Names that a disk can hold, below the folder. Control characters in paths are escaped where paths are printed.
fn is_name(name: &str) -> bool {
    let file = name.split_once("//").map_or(name, |(file, _)| file);
    name.len() <= MAX_NAME_BYTES
        && !name.contains(char::is_control)
        && file.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// A part of an OCDBT store with this body, which is not packed.
fn block_of(magic: u32, body: &[u8]) -> Vec<u8> {
    let len_bytes = (4 + 8 + 2 + body.len() + 4) as u64;
    let mut bytes = [&magic.to_be_bytes(), &len_bytes.to_le_bytes()[..], &[0, 0], body].concat();
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// A safetensors file with this header; no two bytes of its data near each other are the same.
fn safetensors_of(header: &[u8]) -> Vec<u8> {
    let n_data = match parse_header(header, 0) {
        Err(HeaderError::TruncatedData { wanted_bytes, .. }) => wanted_bytes.min(MAX_DATA_BYTES),
        _ => 0,
    };
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.extend((0..n_data).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]));
    file
}
