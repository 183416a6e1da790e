//! What is in a store, as one listing of a prefix tells it, for as long as that is trusted.
//!
//! A run of 50 checkpoints with 30 shards each is asked about thousands of times while a merge is planned; one listing
//! in pages of 1000 names answers all of it. A listing is trusted for a few seconds, and no longer than until this
//! process writes to the store. Bytes are never read by it alone: every read names the version of the object.

use std::collections::{BTreeMap, BTreeSet};

use object_store::ObjectMeta;

use super::key::{UPLOAD_MARKER, is_within, join_key, number_of};
use crate::{FileInfo, FileKind, FolderEntry};

/// How long a listing is trusted.
pub(super) const TRUSTED_SECONDS: f64 = 10.0;
/// A prefix with more objects is not listed whole, but folder by folder.
pub(super) const MAX_LISTED: usize = 50_000;

/// An object as the store describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) len_bytes: u64,
    pub(super) modified_ns: i128,
    /// The version's name. Two equal ones mean equal bytes.
    pub(super) e_tag: Option<String>,
}

impl Object {
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        let modified_ns = meta.last_modified.timestamp_nanos_opt().map_or(0, i128::from);
        Self { len_bytes: meta.size, modified_ns, e_tag: meta.e_tag.as_deref().map(normal_tag) }
    }

    pub(super) fn info(&self, key: &str) -> FileInfo {
        let tag = self.e_tag.as_deref().map_or(0, |tag| number_of(tag.as_bytes()));
        FileInfo {
            kind: FileKind::File,
            len_bytes: self.len_bytes,
            modified_ns: self.modified_ns,
            // Half of the bits, so that it is never taken for a time that some program may subtract from.
            changed_ns: i128::from(tag >> 1),
            id: (number_of(key.as_bytes()), tag),
        }
    }
}

/// What is at a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    File(Object),
    Folder,
    /// A folder whose upload has not ended: not there for anyone who reads.
    Unfinished,
    Nothing,
}

impl Found {
    pub(super) fn info(&self, key: &str) -> Option<FileInfo> {
        match self {
            Self::File(object) => Some(object.info(key)),
            Self::Folder => Some(folder_info(key)),
            Self::Unfinished | Self::Nothing => None,
        }
    }
}

pub(super) fn folder_info(key: &str) -> FileInfo {
    let id = (number_of(key.as_bytes()), 0);
    FileInfo { kind: FileKind::Folder, len_bytes: 0, modified_ns: 0, changed_ns: 0, id }
}

/// Stores write a tag with or without quotes, the same one differently in listings and in answers.
fn normal_tag(tag: &str) -> String {
    let (weak, tag) = match tag.strip_prefix("W/") {
        Some(tag) => ("W/", tag),
        None => ("", tag),
    };
    format!("{weak}\"{}\"", tag.trim_matches('"'))
}

/// All objects below a prefix, or one object.
#[derive(Debug, Default)]
pub(super) struct Listing {
    objects: BTreeMap<String, Object>,
    pub(super) taken_seconds: f64,
}

impl Listing {
    pub(super) fn new(objects: impl IntoIterator<Item = (String, Object)>, taken_seconds: f64) -> Self {
        Self { objects: objects.into_iter().collect(), taken_seconds }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Whether an object is in the folder `key` or below it.
    fn is_folder(&self, key: &str) -> bool {
        let inside = join_key(key, "");
        key.is_empty() || self.objects.range(inside.clone()..).next().is_some_and(|(next, _)| next.starts_with(&inside))
    }

    /// Whether `key` is, or is in, a folder whose upload has not ended.
    fn is_unfinished(&self, key: &str) -> bool {
        let is_marked = |folder: &str| self.objects.contains_key(&join_key(folder, UPLOAD_MARKER));
        key.match_indices('/').any(|(at, _)| is_marked(&key[..at])) || is_marked(key)
    }

    pub(super) fn find(&self, key: &str) -> Found {
        if self.is_unfinished(key) {
            return Found::Unfinished;
        }
        match self.objects.get(key) {
            // An empty object with the name of a folder is how some programs make one.
            Some(object) if object.len_bytes > 0 || !self.is_folder(key) => Found::File(object.clone()),
            _ if self.is_folder(key) => Found::Folder,
            _ => Found::Nothing,
        }
    }

    /// The names in a folder, sorted, without folders whose upload has not ended.
    pub(super) fn children(&self, folder: &str) -> Vec<FolderEntry> {
        let inside = join_key(folder, "");
        let mut entries = Vec::new();
        let mut from = inside.clone();
        while let Some((key, object)) = self.objects.range(from.clone()..).next() {
            let Some(rest) = key.strip_prefix(&inside) else { break };
            let (name, is_below) = match rest.split_once('/') {
                Some((name, _)) => (name, true),
                None => (rest, false),
            };
            if is_below {
                if !self.is_unfinished(&join_key(folder, name)) {
                    entries.push(FolderEntry { name: name.to_owned(), kind: FileKind::Folder, len_bytes: 0 });
                }
                // `0` follows `/`: the next name is after all that this folder holds.
                from = format!("{inside}{name}0");
            } else {
                if !name.is_empty() && (object.len_bytes > 0 || !self.is_folder(key)) {
                    let len_bytes = object.len_bytes;
                    entries.push(FolderEntry { name: name.to_owned(), kind: FileKind::File, len_bytes });
                }
                from = format!("{key}\0");
            }
        }
        crate::storage::sort_entries(&mut entries);
        entries
    }
}

/// The listings of one store.
#[derive(Debug, Default)]
pub(super) struct Listings {
    whole: BTreeMap<String, Listing>,
    /// Folders that hold too much to be listed whole.
    large: BTreeSet<String>,
    /// Their names alone, and when they were listed.
    names: BTreeMap<String, (f64, Vec<FolderEntry>)>,
}

/// Which listing answers for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cover {
    /// That of this prefix.
    Fresh(String),
    /// That of this prefix, once it is taken again.
    Stale(String),
    /// None.
    Unknown,
}

impl Listings {
    pub(super) fn cover(&self, key: &str, now_seconds: f64) -> Cover {
        // The longest prefix is the one that was listed for this part.
        let mut prefix = Some(key);
        while let Some(folder) = prefix {
            if let Some(listing) = self.whole.get(folder) {
                let is_fresh = now_seconds - listing.taken_seconds < TRUSTED_SECONDS;
                return if is_fresh { Cover::Fresh(folder.to_owned()) } else { Cover::Stale(folder.to_owned()) };
            }
            prefix = super::key::parent_key(folder);
        }
        Cover::Unknown
    }

    pub(super) fn get(&self, prefix: &str) -> Option<&Listing> {
        self.whole.get(prefix)
    }

    pub(super) fn put(&mut self, prefix: &str, listing: Listing) {
        // What was listed below it is older.
        self.whole.retain(|known, _| !is_within(known, prefix));
        self.whole.insert(prefix.to_owned(), listing);
    }

    pub(super) fn is_large(&self, prefix: &str) -> bool {
        self.large.contains(prefix)
    }

    pub(super) fn note_large(&mut self, prefix: &str) {
        self.large.insert(prefix.to_owned());
    }

    pub(super) fn names(&self, folder: &str, now_seconds: f64) -> Option<Vec<FolderEntry>> {
        let (taken_seconds, entries) = self.names.get(folder)?;
        (now_seconds - taken_seconds < TRUSTED_SECONDS).then(|| entries.clone())
    }

    pub(super) fn put_names(&mut self, folder: &str, entries: &[FolderEntry], now_seconds: f64) {
        self.names.insert(folder.to_owned(), (now_seconds, entries.to_vec()));
    }

    /// What this process writes makes every listing of the store old.
    pub(super) fn clear(&mut self) {
        self.whole.clear();
        self.names.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(keys: &[&str]) -> Listing {
        let object = |key: &&str| {
            let len_bytes = if key.ends_with("empty") { 0 } else { 1 };
            ((*key).to_owned(), Object { len_bytes, modified_ns: 0, e_tag: None })
        };
        Listing::new(keys.iter().map(object), 0.0)
    }

    fn names(listing: &Listing, folder: &str) -> Vec<String> {
        listing.children(folder).into_iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn folders_are_what_keys_are_below() {
        let all = listing(&["run/a-b", "run/a/x", "run/a/y/z", "run/a.b", "run/b", "other"]);
        assert_eq!(names(&all, ""), ["other", "run"]);
        assert_eq!(names(&all, "run"), ["a", "a-b", "a.b", "b"]);
        assert_eq!(names(&all, "run/a"), ["x", "y"]);
        assert_eq!(all.find("run/a"), Found::Folder);
        assert_eq!(all.find("run/a/y/z").info("run/a/y/z").unwrap().kind, FileKind::File);
        assert_eq!(all.find("run/a-"), Found::Nothing);
        assert_eq!(all.find(""), Found::Folder);
    }

    #[test]
    fn an_empty_object_that_stands_for_a_folder_is_one() {
        let all = listing(&["run/empty", "run/empty/x", "alone-empty"]);
        assert_eq!(all.find("run/empty"), Found::Folder);
        assert_eq!(names(&all, "run"), ["empty"]);
        assert!(matches!(all.find("alone-empty"), Found::File(_)));
    }

    #[test]
    fn an_unfinished_upload_is_not_there() {
        let all = listing(&["runs/out/model.safetensors", "runs/out/thalweg-upload.json", "runs/done/x"]);
        assert_eq!(all.find("runs/out"), Found::Unfinished);
        assert_eq!(all.find("runs/out/model.safetensors"), Found::Unfinished);
        assert_eq!(names(&all, "runs"), ["done"]);
    }

    #[test]
    fn a_listing_answers_for_what_is_below_it_and_for_a_while() {
        let mut listings = Listings::default();
        listings.put("run", listing(&["run/a"]));
        assert_eq!(listings.cover("run/a/b", 1.0), Cover::Fresh("run".to_owned()));
        assert_eq!(listings.cover("run/a", TRUSTED_SECONDS + 1.0), Cover::Stale("run".to_owned()));
        assert_eq!(listings.cover("runs", 1.0), Cover::Unknown);
        listings.clear();
        assert_eq!(listings.cover("run/a", 1.0), Cover::Unknown);
    }

    #[test]
    fn tags_with_and_without_quotes_are_the_same() {
        assert_eq!(normal_tag("0x8D"), normal_tag("\"0x8D\""));
        assert_ne!(normal_tag("W/\"a\""), normal_tag("\"a\""));
    }
}
