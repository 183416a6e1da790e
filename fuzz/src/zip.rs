//! Zip archives as torch.save writes them, made here so that a search need not find offsets and lengths by chance; and
//! what must hold for any directory of an archive.

use std::ops::Range;
use std::sync::Arc;

use thalweg_checkpoint::format::torch::archive::{Archive, ArchiveError};

use crate::check_message;
use crate::header::MemoryFile;

const ENTRY: &[u8] = b"PK\x01\x02";
const ENTRY_BYTES: usize = 46;
const LOCATOR: &[u8] = b"PK\x06\x07";
const LOCATOR_BYTES: usize = 20;

/// A record of an archive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ZipRecord<'a> {
    /// Name below the archive's own folder.
    pub(crate) name: &'a str,
    /// Its bytes.
    pub(crate) content: &'a [u8],
}

/// An archive of these records, stored as they are.
pub(crate) fn archive_of(records: &[ZipRecord<'_>]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for record in records {
        let name = format!("a/{}", record.name);
        let len = u32::try_from(record.content.len()).unwrap().to_le_bytes();
        let offset = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let n_name = u16::try_from(name.len()).unwrap().to_le_bytes();
        // Version, flags, method, time, date, checksum, both lengths, length of the name. No reader compares the
        // checksum; 0 in all storages would say that they were not written.
        let fields = [&[0; 10][..], &1_u32.to_le_bytes(), &len, &len, &n_name, &[0, 0]].concat();
        directory.extend_from_slice(&[ENTRY, &[0, 0], &fields, &[0; 10], &offset, name.as_bytes()].concat());
        bytes.extend_from_slice(&[b"PK\x03\x04", &*fields, name.as_bytes(), record.content].concat());
    }
    with_end(&bytes, &directory, records.len())
}

/// Records, directory, and the short form of the end.
fn with_end(records: &[u8], directory: &[u8], n_entries: usize) -> Vec<u8> {
    let n_entries = u16::try_from(n_entries).unwrap().to_le_bytes();
    let len = u32::try_from(directory.len()).unwrap().to_le_bytes();
    let offset = u32::try_from(records.len()).unwrap().to_le_bytes();
    [records, directory, b"PK\x05\x06", &[0; 4], &n_entries, &n_entries, &len, &offset, &[0, 0]].concat()
}

/// Records, directory, and the 64-bit form of the end.
fn with_large_end(records: &[u8], directory: &[u8], n_entries: usize) -> Vec<u8> {
    let number = |n: usize| (n as u64).to_le_bytes();
    let n_entries = number(n_entries);
    let large = [b"PK\x06\x06", &[0; 20][..], &n_entries, &n_entries, &number(directory.len()), &number(records.len())];
    let locator = [LOCATOR, &[0; 4], &number(records.len() + directory.len()), &[0; 4]];
    let small = [b"PK\x05\x06", &[0; 4][..], &[0xff; 12], &[0, 0]];
    [records, directory, &large.concat(), &locator.concat(), &small.concat()].concat()
}

/// The input as records and a directory, which begins at the first entry; the end is made to fit.
///
/// An archive is the same with either form of its end, and wherever in a file it is. Records lie before the directory.
pub(crate) fn check_directory(input: &[u8]) {
    let at = input.windows(ENTRY.len()).position(|window| window == ENTRY).unwrap_or(input.len());
    let (records, directory) = input.split_at(at);
    let names = names_in(directory);
    if names.len() >= 0xffff {
        return;
    }
    let small = with_end(records, directory, names.len());
    let read = Read::of(&small, 0, &names, records.len());
    // A directory may itself end as the 64-bit form does.
    let is_large = directory.len().checked_sub(LOCATOR_BYTES).is_some_and(|at| directory[at..].starts_with(LOCATOR));
    if is_large {
        return;
    }
    assert_eq!(Read::of(&with_large_end(records, directory, names.len()), 0, &names, records.len()), read);
    assert_eq!(Read::of(&[&[7; 13], &*small].concat(), 13, &names, records.len()), read);
}

/// The names of the entries, as far as the lengths fit.
fn names_in(directory: &[u8]) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = directory;
    while rest.starts_with(ENTRY) && rest.len() >= ENTRY_BYTES {
        let length = |at: usize| usize::from(u16::from_le_bytes([rest[at], rest[at + 1]]));
        let name = rest.get(ENTRY_BYTES..ENTRY_BYTES + length(28));
        names.push(name.and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default());
        rest = rest.get(ENTRY_BYTES + length(28) + length(30) + length(32)..).unwrap_or_default();
    }
    names
}

/// What an archive turned out to hold; places count from its start.
#[derive(Debug, PartialEq)]
enum Read {
    Refused(ArchiveError),
    Opened { pickle: Result<Vec<u8>, ArchiveError>, storages: Vec<Result<Option<Range<u64>>, ArchiveError>> },
}

impl Read {
    fn of(bytes: &[u8], start: u64, names: &[&str], n_records: usize) -> Self {
        let file = MemoryFile(Arc::from(bytes));
        let archive = match Archive::open(&file, start..bytes.len() as u64) {
            Ok(archive) => archive,
            Err(error) => {
                check_message(&error);
                return Self::Refused(error);
            }
        };
        let pickle = archive.read_pickle(&file, 1 << 20).inspect_err(check_message);
        assert!(pickle.as_ref().map_or(0, Vec::len) <= n_records);
        let keys = names.iter().filter_map(|name| name.split('/').nth(2));
        let storages = keys.map(|key| {
            let found = archive.find_storage(&file, key).inspect_err(check_message)?;
            Ok(found.map(|found| {
                assert!(start <= found.start && found.start <= found.end && found.end <= start + n_records as u64);
                found.start - start..found.end - start
            }))
        });
        Self::Opened { pickle, storages: storages.collect() }
    }
}
