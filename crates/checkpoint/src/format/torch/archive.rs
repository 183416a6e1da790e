//! The zip archives that torch.save writes: where each record is.
//!
//! Only the directory at the end is trusted, because sizes are recorded nowhere else. Nothing is unpacked, and no name
//! is ever used as a path. An archive may be a part of a file, as the chunks of a distributed checkpoint are.

use std::collections::BTreeMap;
use std::ops::Range;

use thalweg_storage::ReadAt;
use thalweg_tensor::display_name;

use crate::zip_directory::{ZipDirectory, ZipError, ZipRecord, read_at, refuse_reading, u32_at};

/// Folders of storages: PyTorch 1.4 and 1.5, which wrote archives only on request, used `tensors`.
const STORAGE_FOLDERS: [&str; 2] = ["data", "tensors"];
/// The newest version of the archive's own layout that PyTorch reads.
const MAX_VERSION: u64 = 10;
/// The longest small record, such as `byteorder`.
const MAX_WORD_BYTES: u64 = 64;

/// Why an archive is refused. The caller adds the path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The archive itself is broken.
    #[error(transparent)]
    Zip(#[from] ZipError),
    /// No `data.pkl`.
    #[error("it is a zip archive without a `data.pkl`, so PyTorch did not write it")]
    NoPickle,
    /// Several of them.
    #[error("the archive has {n_roots} records named `data.pkl`, so it is not clear which one to read")]
    SeveralPickles {
        /// How many.
        n_roots: usize,
    },
    /// A program, not only weights.
    #[error("it is a TorchScript archive, which holds a program, not a state dict")]
    TorchScript,
    /// A byte order that is not read.
    #[error("the archive's byte order is `{}`, but only `little` is supported", display_name(found))]
    ByteOrder {
        /// What the record says.
        found: String,
    },
    /// A layout newer than this reader.
    #[error(
        "the archive's layout has version `{}`, but the newest supported version is {MAX_VERSION}",
        display_name(found)
    )]
    Version {
        /// What the record says.
        found: String,
    },
    /// Written with `skip_data`.
    #[error("it was saved without data (`torch.serialization.skip_data`): its tensors would read as zeros")]
    WithoutData,
}

/// The directory of an archive.
#[derive(Debug)]
pub struct Archive {
    zip: ZipDirectory,
    /// The folder inside the archive that holds everything.
    root: Box<str>,
}

/// The data of a record, and where the archive holds its CRC-32 checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordSum {
    /// The bytes of the file that the sum is of.
    pub range: Range<u64>,
    /// Offsets in the file of the copies of the sum.
    pub places: Vec<u64>,
}

impl Archive {
    /// Reads the directory of the archive in these bytes of a file.
    ///
    /// # Errors
    /// An [`ArchiveError`] for anything that torch.save could not have written.
    pub fn open(file: &dyn ReadAt, window: Range<u64>) -> Result<Self, ArchiveError> {
        let zip = ZipDirectory::open(file, window)?;
        let root = find_root(&zip.records)?;
        let archive = Self { zip, root };
        archive.check_words(file)?;
        Ok(archive)
    }

    /// The pickle that says what the archive holds.
    ///
    /// # Errors
    /// If the record is not as torch.save writes it, or is longer than `limit_bytes`.
    pub fn read_pickle(&self, file: &dyn ReadAt, limit_bytes: u64) -> Result<Vec<u8>, ArchiveError> {
        self.read_record(file, "data.pkl", limit_bytes)?.ok_or(ArchiveError::NoPickle)
    }

    /// The bytes of the file that hold a storage; `None` if there is no such storage.
    ///
    /// # Errors
    /// If the record is not as torch.save writes it.
    pub fn find_storage(&self, file: &dyn ReadAt, key: &str) -> Result<Option<Range<u64>>, ArchiveError> {
        let names = STORAGE_FOLDERS.map(|folder| format!("{}/{folder}/{key}", self.root));
        let found = names.iter().find_map(|name| Some((name, self.zip.records.get(&**name)?)));
        found.map(|(name, record)| self.locate(file, name, record)).transpose()
    }

    /// The records that have a CRC-32 checksum, and where it is: in the directory, and before or after the data.
    ///
    /// # Errors
    /// If a record is not as torch.save writes it.
    pub fn record_sums(&self, file: &dyn ReadAt) -> Result<Vec<RecordSum>, ArchiveError> {
        /// A record with this flag has its sum after the data.
        const SUM_FOLLOWS: u16 = 1 << 3;
        let mut sums = Vec::new();
        for (name, record) in self.zip.records.iter().filter(|(_, record)| record.crc != 0) {
            let range = self.locate(file, name, record)?;
            let mut places = vec![self.zip.window.end + record.crc_place];
            let header_place = self.zip.window.start + record.header_offset + 14;
            let mut holds_sum = |place: u64, mark: &[u8]| -> Result<(), ArchiveError> {
                let n_bytes = mark.len() as u64 + 4;
                if place + n_bytes > self.zip.window.end {
                    return Ok(());
                }
                let found = read_at(file, place, n_bytes).map_err(refuse_reading)?;
                if found.starts_with(mark) && u32_at(&found, mark.len()) == record.crc {
                    places.push(place + mark.len() as u64);
                }
                Ok(())
            };
            holds_sum(header_place, &[])?;
            if record.flags & SUM_FOLLOWS != 0 {
                holds_sum(range.end, b"PK\x07\x08")?;
            }
            sums.push(RecordSum { range, places });
        }
        Ok(sums)
    }

    fn check_words(&self, file: &dyn ReadAt) -> Result<(), ArchiveError> {
        let inside = |name: &str| format!("{}/{name}", self.root);
        let code = inside("code/");
        if self.zip.records.contains_key(&*inside("constants.pkl"))
            || self.zip.records.keys().any(|name| name.starts_with(&code))
        {
            return Err(ArchiveError::TorchScript);
        }
        if let Some(word) = self.read_record(file, "byteorder", MAX_WORD_BYTES)?
            && word.trim_ascii() != b"little"
        {
            return Err(ArchiveError::ByteOrder { found: String::from_utf8_lossy(&word).into_owned() });
        }
        if let Some(word) = self.read_record(file, "version", MAX_WORD_BYTES)? {
            let text = String::from_utf8_lossy(&word);
            if !text.trim().parse().is_ok_and(|version: u64| version <= MAX_VERSION) {
                return Err(ArchiveError::Version { found: text.into_owned() });
            }
        }
        let folders = STORAGE_FOLDERS.map(|folder| inside(&format!("{folder}/")));
        let has_sum = |name: &str| self.zip.records.get(name).is_some_and(|record| record.crc != 0);
        let is_storage = |name: &str| folders.iter().any(|folder| name.starts_with(&**folder));
        let mut storages =
            self.zip.records.iter().filter(|(name, record)| is_storage(name) && record.len_bytes > 0).peekable();
        // A writer that omits checksums also omits the one of the pickle.
        if has_sum(&inside("data.pkl")) && storages.peek().is_some() && storages.all(|(_, record)| record.crc == 0) {
            return Err(ArchiveError::WithoutData);
        }
        Ok(())
    }

    fn read_record(&self, file: &dyn ReadAt, name: &str, limit_bytes: u64) -> Result<Option<Vec<u8>>, ArchiveError> {
        let name = format!("{}/{name}", self.root);
        let Some(record) = self.zip.records.get(&*name) else {
            return Ok(None);
        };
        if record.len_bytes > limit_bytes {
            let reason = format!("has {} bytes, more than the limit of {limit_bytes}", record.len_bytes);
            return Err(ZipError::Record { name, reason }.into());
        }
        let Range { start, end } = self.locate(file, &name, record)?;
        Ok(Some(read_at(file, start, end - start).map_err(refuse_reading)?))
    }

    /// The bytes of a record in the file.
    fn locate(&self, file: &dyn ReadAt, name: &str, record: &ZipRecord) -> Result<Range<u64>, ArchiveError> {
        if record.flags & ZipRecord::ENCRYPTED == 0 && (record.method != 0 || record.packed_bytes != record.len_bytes) {
            let reason = "is compressed, which torch.save never does".to_owned();
            return Err(ZipError::Record { name: name.to_owned(), reason }.into());
        }
        Ok(self.zip.locate(file, name, record)?)
    }
}

/// The folder that holds `data.pkl`.
fn find_root(records: &BTreeMap<Box<str>, ZipRecord>) -> Result<Box<str>, ArchiveError> {
    let mut roots = records.keys().filter_map(|name| name.strip_suffix("/data.pkl")).filter(|root| !root.contains('/'));
    match (roots.next(), roots.count()) {
        (Some(root), 0) => Ok(root.into()),
        (Some(_), n_more) => Err(ArchiveError::SeveralPickles { n_roots: n_more + 1 }),
        (None, _) => Err(ArchiveError::NoPickle),
    }
}
