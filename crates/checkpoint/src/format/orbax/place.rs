//! Which folder of an Orbax or levanter checkpoint holds the arrays, and whether its save has finished.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use thalweg_storage::{FolderEntry, Storage};

use super::ocdbt::MANIFEST_NAME;
use super::store::{PROCESS_START, read_values};
use super::stored::refuse;
use super::tree::TREE_NAME;
use crate::Error;
use crate::error::UnfinishedFault;
use crate::format::Place;
use crate::format::key_fault::KeyFault;
use crate::format::model_key::{Level, choose_branch};

/// What a step says of itself.
pub(super) const STEP_METADATA_NAME: &str = "_CHECKPOINT_METADATA";
/// What Orbax writes last where folders cannot be renamed; newer versions write it everywhere.
pub(super) const COMMIT_NAME: &str = "commit_success.txt";
/// In the name of a folder that is being saved.
const TEMPORARY: &str = ".orbax-checkpoint-tmp";
/// What levanter writes last.
pub(super) const LEVANTER_NAME: &str = "metadata.json";
/// The folder of levanter's model.
pub(super) const LEVANTER_FOLDER: &str = "model";
/// What Orbax and MaxText call the item of a checkpoint that has only one.
const USUAL_ITEMS: [&str; 2] = ["default", "items"];
/// What the items of training loops are called that give them names.
const NAMED_ITEMS: [&str; 3] = ["params", "state", "train_state"];
/// A step's description is small.
const MAX_METADATA_BYTES: u64 = 16 << 20;

/// The folder of arrays, relative to the checkpoint's.
#[derive(Debug)]
pub(super) struct Item {
    /// Empty for the folder itself; otherwise with a slash at its end.
    pub(super) prefix: String,
    pub(super) path: PathBuf,
    pub(super) entries: Vec<FolderEntry>,
}

impl Item {
    /// The name of its folder; empty for the folder itself.
    pub(super) fn name(&self) -> &str {
        self.prefix.trim_end_matches('/')
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| &*entry.name)
    }

    pub(super) fn has(&self, wanted: &str) -> bool {
        self.names().any(|name| name == wanted)
    }
}

/// The item that is read, and those beside it.
#[derive(Debug)]
pub(super) struct FoundItem {
    pub(super) item: Item,
    /// The key below the item.
    pub(super) key: Option<String>,
    /// Whether the item was chosen by its name, which is then the first part of the key that is read.
    pub(super) is_named: bool,
    /// The other items with arrays.
    pub(super) others: Vec<Item>,
}

impl FoundItem {
    fn only(item: Item, key: Option<&str>) -> Self {
        Self { item, key: key.map(str::to_owned), is_named: false, others: Vec::new() }
    }

    /// The rest of a key that begins with the name of the only item, as it does where there are others: an output may
    /// have no others. `None` for other keys.
    pub(super) fn key_below_only_item(&self) -> Option<Option<&str>> {
        if self.is_named || self.item.name().is_empty() {
            return None;
        }
        key_below(self.key.as_deref()?, self.item.name())
    }
}

/// The rest of a key that begins with the name of an item; `None` for other keys.
fn key_below<'a>(key: &'a str, item: &str) -> Option<Option<&'a str>> {
    match key.strip_prefix(item)? {
        "" => Some(None),
        rest => rest.strip_prefix('.').map(Some),
    }
}

/// The item of a checkpoint that was opened, by the name of one of its files.
///
/// # Errors
/// `Storage`.
pub(super) fn opened_item(storage: &Arc<dyn Storage>, root: &Path, file_name: &str) -> Result<Item, Error> {
    let whole = Item { prefix: String::new(), path: root.to_owned(), entries: storage.list_folder(root)? };
    match file_name.split_once('/') {
        Some((name, _)) if !holds_arrays(&whole) && !whole.has(LEVANTER_NAME) => {
            let path = root.join(name);
            Ok(Item { prefix: format!("{name}/"), entries: storage.list_folder(&path)?, path })
        }
        _ => Ok(whole),
    }
}

/// Finds the folder that holds the arrays, by the key if its first part is the name of an item.
///
/// # Errors
/// `Unfinished` for a save that was not committed; `TreeKey` for several items; `NotACheckpoint`; `Storage`.
pub(super) fn find_item(storage: &Arc<dyn Storage>, place: &Place, key: Option<&str>) -> Result<FoundItem, Error> {
    let Place::Folder { path, entries } = place else {
        let found = "it is one file of an Orbax checkpoint".to_owned();
        let converter = Some("give the folder that contains it");
        return Err(Error::NotACheckpoint { path: place.path().to_owned(), found, converter });
    };
    let whole = Item { prefix: String::new(), path: path.clone(), entries: entries.clone() };
    check_committed(storage, &whole)?;
    if holds_arrays(&whole) {
        return Ok(FoundItem::only(whole, key));
    }
    if whole.has(LEVANTER_NAME) {
        check_levanter(storage, &whole)?;
        return Ok(FoundItem::only(whole, key));
    }
    let mut items = Vec::new();
    for name in place.folder_names() {
        let folder = path.join(name);
        let item = Item { prefix: format!("{name}/"), entries: storage.list_folder(&folder)?, path: folder };
        if holds_arrays(&item) {
            check_committed(storage, &item)?;
            items.push(item);
        }
    }
    match items.len() {
        0 if whole.has(LEVANTER_FOLDER) && has_plain_arrays(storage, path)? => {
            let fault = UnfinishedFault::NotCommitted { file: LEVANTER_NAME.to_owned() };
            Err(Error::Unfinished { path: path.clone(), faults: vec![fault] })
        }
        0 => {
            let found = "its folders hold no Orbax or levanter arrays".to_owned();
            Err(Error::NotACheckpoint { path: path.clone(), found, converter: None })
        }
        1 => Ok(FoundItem::only(items.swap_remove(0), key)),
        _ => choose_item(items, key).map_err(|source| Error::TreeKey { path: path.clone(), source: Box::new(source) }),
    }
}

/// Chooses among several items as among the keys of a state: the one that the key names, the usual one, or the only
/// one that can be the model.
fn choose_item(mut items: Vec<Item>, key: Option<&str>) -> Result<FoundItem, KeyFault> {
    let names: Vec<String> = items.iter().map(|item| item.name().to_owned()).collect();
    let below = |name: &String| Some(key_below(key?, name)?.map(str::to_owned));
    let named = names.iter().enumerate().find_map(|(position, name)| below(name).map(|rest| (position, rest)));
    let usual = || names.iter().position(|name| USUAL_ITEMS.contains(&&**name));
    let (position, key, is_named) = match (named, usual()) {
        (Some((position, rest)), _) => (position, rest, true),
        (None, Some(usual)) => (usual, key.map(str::to_owned), false),
        (None, None) => {
            let level = Level { branches: &names, n_direct: 0, depth: 0, was_named: false };
            let several = || KeyFault::SeveralKeys { keys: names.clone() };
            (choose_branch(level)?.ok_or_else(several)?, key.map(str::to_owned), true)
        }
    };
    let item = items.swap_remove(position);
    Ok(FoundItem { item, key, is_named, others: items })
}

/// Whether there are arrays in folders below, which is all that levanter writes before its marker.
fn has_plain_arrays(storage: &Arc<dyn Storage>, path: &Path) -> Result<bool, Error> {
    let values = read_values(storage, path, false)?;
    Ok(values.keys().any(|key| key.ends_with("/.zarray") || key.ends_with("/zarr.json")))
}

/// Whether a folder is an item with arrays: a store, a description of a tree, or arrays beside it.
fn holds_arrays(item: &Item) -> bool {
    item.has(TREE_NAME) || item.has(MANIFEST_NAME) || item.names().any(|name| name.starts_with(PROCESS_START))
}

/// Checks the markers of a finished save.
fn check_committed(storage: &Arc<dyn Storage>, item: &Item) -> Result<(), Error> {
    let unfinished = |fault| Error::Unfinished { path: item.path.clone(), faults: vec![fault] };
    let not_committed = |file: &str| unfinished(UnfinishedFault::NotCommitted { file: file.to_owned() });
    let is_temporary = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(TEMPORARY));
    if item.path.ancestors().take(2).any(is_temporary) {
        return Err(not_committed(COMMIT_NAME));
    }
    // Each process writes its part of a store; the manifest that joins them comes after all.
    if item.names().any(|name| name.starts_with(PROCESS_START)) && !item.has(MANIFEST_NAME) {
        return Err(unfinished(UnfinishedFault::MissingShard { file: MANIFEST_NAME.to_owned() }));
    }
    if item.has(COMMIT_NAME) || !item.has(STEP_METADATA_NAME) {
        return Ok(());
    }
    let path = item.path.join(STEP_METADATA_NAME);
    let bytes = storage.read_file(&path, MAX_METADATA_BYTES)?;
    let json: Value =
        serde_json::from_slice(&bytes).map_err(|error| refuse(&path, format!("it is not JSON: {error}")))?;
    // Versions that do not write the time have no such key.
    match json.get("commit_timestamp_nsecs") {
        Some(Value::Null) => Err(not_committed(COMMIT_NAME)),
        _ => Ok(()),
    }
}

/// Checks that levanter's description, its marker of a finished save, was written and not only created.
fn check_levanter(storage: &Arc<dyn Storage>, item: &Item) -> Result<(), Error> {
    let bytes = storage.read_file(&item.path.join(LEVANTER_NAME), MAX_METADATA_BYTES)?;
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(_) => Ok(()),
        Err(_) => {
            let fault = UnfinishedFault::NotCommitted { file: LEVANTER_NAME.to_owned() };
            Err(Error::Unfinished { path: item.path.clone(), faults: vec![fault] })
        }
    }
}

/// Whether a place is a checkpoint of Orbax or levanter, by its names.
pub(super) fn is_ours(place: &Place) -> bool {
    let has = |wanted: &str| place.file_names().any(|name| name == wanted);
    let has_folder = |wanted: &str| place.folder_names().any(|name| name == wanted);
    let is_marked = [STEP_METADATA_NAME, TREE_NAME, MANIFEST_NAME, COMMIT_NAME].iter().any(|name| has(name));
    let mut items = USUAL_ITEMS.iter().chain(&NAMED_ITEMS);
    let is_bare = place.file_names().next().is_none() && place.folder_names().count() <= 8;
    is_marked
        || has(LEVANTER_NAME) && has_folder(LEVANTER_FOLDER)
        || place.folder_names().any(|name| name.starts_with(PROCESS_START))
        || is_bare && (items.any(|item| has_folder(item)) || has_folder(LEVANTER_FOLDER))
}
