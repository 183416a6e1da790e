//! Files of ranks in folders: `model/pp_00/tp_00/sdp_00.pt`, `tp_rank_00_pp_rank_000/model_weights.ckpt`.

use std::path::Path;
use std::sync::Arc;

use thalweg_storage::{FileKind, FolderEntry, Storage};

use super::super::{Format, FormatContent, Place};
use super::file_names::is_saved_name;
use super::ranks::{MODEL_FOLDER, RankFiles, is_rank_name};
use super::{FORMAT_NAME, open_ranks};
use crate::state_names::is_state_name;
use crate::{CatalogCache, Error, ReadOptions};

/// Deepest nesting of folders of ranks.
const MAX_DEPTH: usize = 4;

/// torch.save files in folders that are named after ranks, or in a folder `model`.
#[derive(Debug, Clone, Copy)]
pub struct RankFolders;

impl Format for RankFolders {
    fn name(&self) -> &'static str {
        FORMAT_NAME
    }

    fn marks(&self) -> &'static [&'static str] {
        &["model/pp_00/tp_00/sdp_00.pt", "pp_00/tp_00/sdp_00.pt"]
    }

    fn stores_elements_once(&self) -> bool {
        true
    }

    fn is_certain(&self, place: &Place) -> bool {
        self.recognises(place)
    }

    fn recognises(&self, place: &Place) -> bool {
        place.folder_names().any(|name| name == MODEL_FOLDER || is_rank_name(name))
    }

    fn confirms(&self, storage: &dyn Storage, place: &Place) -> Result<bool, Error> {
        Ok(find_files(storage, place)?.is_some())
    }

    fn open(
        &self,
        storage: &Arc<dyn Storage>,
        place: &Place,
        options: &ReadOptions,
        cache: &CatalogCache,
    ) -> Result<FormatContent, Error> {
        match find_files(&**storage, place)? {
            Some(files) => open_ranks(storage, place.path(), files, options, cache),
            None => {
                let found = "its folders hold no files of ranks".to_owned();
                Err(Error::NotACheckpoint { path: place.path().to_owned(), found, converter: None })
            }
        }
    }
}

/// The files of ranks in the folders of a place, or in its folder of the model.
fn find_files(storage: &dyn Storage, place: &Place) -> Result<Option<RankFiles>, Error> {
    let Place::Folder { path, entries } = place else { return Ok(None) };
    let mut files = Vec::new();
    list_files(storage, (path, ""), entries, 0, &mut files)?;
    if files.is_empty() && entries.iter().any(|entry| is_folder(entry, MODEL_FOLDER)) {
        let inner = path.join(MODEL_FOLDER);
        let entries = storage.list_folder(&inner)?;
        list_files(storage, (&inner, &format!("{MODEL_FOLDER}/")), &entries, 0, &mut files)?;
    }
    Ok(RankFiles::find(files.iter().map(String::as_str)))
}

fn is_folder(entry: &FolderEntry, name: &str) -> bool {
    entry.kind == FileKind::Folder && entry.name == name
}

/// Lists the torch.save files in a folder and in its folders of ranks, with what their names begin with.
fn list_files(
    storage: &dyn Storage,
    (folder, prefix): (&Path, &str),
    entries: &[FolderEntry],
    depth: usize,
    files: &mut Vec<String>,
) -> Result<(), Error> {
    let is_saved = |entry: &&FolderEntry| {
        entry.kind == FileKind::File && is_saved_name(&entry.name) && !is_state_name(&entry.name)
    };
    // Also those of other names, beside which a rank's are not the whole model.
    files.extend(entries.iter().filter(is_saved).map(|entry| format!("{prefix}{}", entry.name)));
    if depth == MAX_DEPTH {
        return Ok(());
    }
    for entry in entries.iter().filter(|entry| entry.kind == FileKind::Folder && is_rank_name(&entry.name)) {
        let path = folder.join(&entry.name);
        let inner = storage.list_folder(&path)?;
        list_files(storage, (&path, &format!("{prefix}{}/", entry.name)), &inner, depth + 1, files)?;
    }
    Ok(())
}
