//! The values of an Orbax checkpoint by their keys, whether in an OCDBT store or in plain files.

use std::path::Path;
use std::sync::Arc;

use thalweg_storage::{FileKind, Storage};

use super::ocdbt::{MANIFEST_NAME, read_store};
use super::stored::{Stored, Values, refuse};
use crate::Error;

/// Deepest nesting of folders of plain files.
const MAX_DEPTH: usize = 32;
/// Most plain files of a checkpoint.
const MAX_FILES: usize = 1 << 20;
/// Folders of an OCDBT store; the last two where Orbax keeps values and nodes apart.
const STORE_FOLDERS: [&str; 3] = ["d", "ocdbt_data", "ocdbt_meta"];
/// Beginning of the folders in which each process writes its part of a store.
pub(super) const PROCESS_START: &str = "ocdbt.process_";
/// Where Orbax describes the chunks of arrays.
const DESCRIPTIONS: &str = "array_metadatas";

/// Lists the values in a folder.
///
/// # Errors
/// As [`read_store`]; `Layout` for folders that are nested too deep or hold too many files.
pub(super) fn read_values(storage: &Arc<dyn Storage>, folder: &Path, has_manifest: bool) -> Result<Values, Error> {
    if has_manifest { read_store(storage, folder) } else { list_files(storage, folder) }
}

fn list_files(storage: &Arc<dyn Storage>, folder: &Path) -> Result<Values, Error> {
    let mut values = Values::new();
    let mut waiting = vec![(String::new(), 0)];
    while let Some((prefix, depth)) = waiting.pop() {
        for entry in storage.list_folder(&folder.join(&prefix))? {
            let name = format!("{prefix}{}", entry.name);
            let is_other = depth == 0 && (entry.name == DESCRIPTIONS || is_of_store(&entry.name));
            match entry.kind {
                FileKind::Folder if is_other => {}
                FileKind::Folder if depth >= MAX_DEPTH => {
                    return Err(refuse(folder, format!("its folders are nested more than {MAX_DEPTH} deep")));
                }
                FileKind::Folder => waiting.push((format!("{name}/"), depth + 1)),
                FileKind::File if depth > 0 => {
                    let range = Stored::Range { file: name.clone(), offset: 0, len_bytes: entry.len_bytes };
                    values.insert(name, range);
                }
                _ => {}
            }
        }
        if values.len() > MAX_FILES {
            return Err(refuse(folder, format!("it has more than {MAX_FILES} files")));
        }
    }
    Ok(values)
}

/// The content of a small value.
///
/// # Errors
/// `Layout` for a value that is longer than `limit_bytes`; `Storage`.
pub(super) fn read_value(
    storage: &Arc<dyn Storage>,
    folder: &Path,
    value: &Stored,
    limit_bytes: u64,
) -> Result<Vec<u8>, Error> {
    let found_bytes = value.len_bytes();
    match value {
        Stored::Bytes(bytes) => Ok(bytes.to_vec()),
        Stored::Range { file, .. } if found_bytes > limit_bytes => {
            let reason =
                format!("a description of an array has {found_bytes} bytes, more than the limit of {limit_bytes}");
            Err(refuse(&folder.join(file), reason))
        }
        Stored::Range { file, offset, len_bytes } => {
            let reader = storage.open_file(&folder.join(file))?;
            let end = offset.checked_add(*len_bytes).filter(|end| *end <= reader.info().len_bytes);
            if end.is_none() {
                return Err(refuse(&folder.join(file), "it ends before a description of an array".to_owned()));
            }
            Ok(crate::zip_directory::read_at(&*reader, *offset, *len_bytes)?)
        }
    }
}

/// Whether a path in a folder with an OCDBT store is a file of that store.
pub(super) fn is_of_store(path: &str) -> bool {
    let first = path.split('/').next().unwrap_or(path);
    path == MANIFEST_NAME || STORE_FOLDERS.contains(&first) || first.starts_with(PROCESS_START)
}

/// Whether a folder holds the manifest of a store.
pub(super) fn has_manifest<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    names.any(|name| name == MANIFEST_NAME)
}
