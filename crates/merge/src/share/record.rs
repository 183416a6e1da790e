//! The record of a share that is done. It is written once everything that it speaks of is on the medium.

use serde::{Deserialize, Serialize};
use thalweg_storage::guard::OwnKind;
use thalweg_storage::publish::publish_file;
use thalweg_storage::{Error as StorageError, Storage};
use thalweg_tensor::digest::{DigestKind, ListHasher, bytes_digest};

use super::Share;
use super::names::ShareFile;
use crate::error::Error;
use crate::journal::{StageKey, UnitRecord};

const KIND: &str = "thalweg-share";
const VERSION: u32 = 1;
/// Such records have a few hundred bytes.
const MAX_BYTES: u64 = 1 << 16;

/// What a share leaves behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShareRecord {
    kind: String,
    version: u32,
    /// Name and version of the program that wrote it.
    pub(crate) tool: String,
    /// Its number, counted from 0.
    pub(crate) shard: usize,
    /// How many shares there are.
    pub(crate) shards: usize,
    /// Digest of the output's plan.
    pub(crate) plan_digest: String,
    /// Digest of the plan, the sources' sizes and times, and the number of shares.
    pub(crate) key_digest: String,
    /// Units of work that it did.
    pub(crate) n_units: usize,
    /// Digest of the list of the digests of what was written, unit by unit.
    pub(crate) digest: String,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    pub(crate) seconds: f64,
    pub(crate) peak_memory_bytes: Option<u64>,
    record_digest: Option<String>,
}

/// What a record says about a share's work.
pub(crate) struct ShareWork {
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    pub(crate) seconds: f64,
    pub(crate) peak_memory_bytes: Option<u64>,
}

fn digest_of_key(key: &StageKey) -> String {
    bytes_digest(DigestKind::Blake3, key).to_string()
}

/// Digest of the list of the digests of what was written. `units` are the records in the order of their numbers.
fn digest_of_units<'a>(units: impl Iterator<Item = &'a UnitRecord>) -> String {
    let mut list = ListHasher::new(DigestKind::Blake3);
    for unit in units {
        let subtrees = unit.parts.iter().flat_map(|part| &part.output_subtrees);
        let bytes: Vec<u8> = subtrees.flat_map(|subtree| subtree.0).collect();
        list.add_digest(&bytes_digest(DigestKind::Blake3, &bytes));
    }
    list.finish().to_string()
}

impl ShareRecord {
    pub(crate) fn new<'a>(
        share: Share,
        (plan_digest, key): (&str, &StageKey),
        units: impl ExactSizeIterator<Item = &'a UnitRecord>,
        work: &ShareWork,
        tool: &str,
    ) -> Self {
        Self {
            kind: KIND.to_owned(),
            version: VERSION,
            tool: tool.to_owned(),
            shard: share.index,
            shards: share.count,
            plan_digest: plan_digest.to_owned(),
            key_digest: digest_of_key(key),
            n_units: units.len(),
            digest: digest_of_units(units),
            bytes_read: work.bytes_read,
            bytes_written: work.bytes_written,
            seconds: work.seconds,
            peak_memory_bytes: work.peak_memory_bytes,
            record_digest: None,
        }
    }

    fn sealed_digest(&self) -> Option<String> {
        let bare = serde_json::to_vec(&Self { record_digest: None, ..self.clone() }).ok()?;
        Some(bytes_digest(DigestKind::Blake3, &bare).to_string())
    }

    /// Whether the journal of the share says what the record says.
    pub(crate) fn agrees_with<'a>(&self, units: impl ExactSizeIterator<Item = &'a UnitRecord>) -> bool {
        self.n_units == units.len() && self.digest == digest_of_units(units)
    }

    /// Writes the record, durably and whole or not at all.
    pub(crate) fn publish(mut self, storage: &dyn Storage, stage: &std::path::Path) -> Result<Self, Error> {
        self.record_digest = self.sealed_digest();
        let Some(share) = Share::new(self.shard, self.shards) else {
            return Err(Error::Bug { what: "a share has a number below the number of shares" });
        };
        let json = serde_json::to_vec_pretty(&self)
            .map_err(|error| Error::PlanInvalid { what: format!("the record cannot be written: {error}") })?;
        let kind = OwnKind::in_own_folder("the record of a share");
        publish_file(storage, &ShareFile::Record.path(stage, share), &json, kind)?;
        Ok(self)
    }

    /// The record of a share, if there is one, it is whole, and it is of this work.
    pub(crate) fn read(
        storage: &dyn Storage,
        stage: &std::path::Path,
        share: Share,
        key: &StageKey,
    ) -> Result<Option<Self>, Error> {
        let bytes = match storage.read_file(&ShareFile::Record.path(stage, share), MAX_BYTES) {
            Err(error) if error.is_not_found() => return Ok(None),
            Err(StorageError::TooLarge { .. } | StorageError::NotAFile { .. }) => return Ok(None),
            bytes => bytes?,
        };
        let Ok(record) = serde_json::from_slice::<Self>(&bytes) else { return Ok(None) };
        let is_ours = record.kind == KIND
            && record.version == VERSION
            && (record.shard, record.shards) == (share.index, share.count)
            && record.key_digest == digest_of_key(key)
            && record.record_digest.is_some()
            && record.record_digest == record.sealed_digest();
        Ok(is_ours.then_some(record))
    }
}
