//! The path that a mistyped one most likely means.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use thalweg_storage::{Storage, is_address};
use thalweg_tensor::nearest_name;

/// Names of a folder that are compared: a larger one is not searched.
const MAX_NAMES: usize = 10_000;

/// The existing path whose names differ from those of `missing` by typing errors at most.
///
/// Only for a path that the user typed: a file that another one names is not missing by a typing error. Object stores
/// are not searched.
pub(crate) fn nearest_path(storage: &dyn Storage, missing: &Path) -> Option<PathBuf> {
    let is_typed = |word: OsString| word.to_string_lossy().contains(&*missing.to_string_lossy());
    if is_address(missing) || !std::env::args_os().skip(1).any(is_typed) {
        return None;
    }
    let mut near = PathBuf::new();
    for component in missing.components() {
        let next = near.join(component);
        near = match component {
            Component::Normal(name) if storage.file_info(&next).is_err() => {
                let folder = if near.as_os_str().is_empty() { Path::new(".") } else { &near };
                let names: Vec<String> =
                    storage.list_folder(folder).ok()?.into_iter().map(|entry| entry.name).collect();
                let found = nearest_name(name.to_str()?, names.iter().take(MAX_NAMES).map(String::as_str))?;
                near.join(found)
            }
            _ => next,
        };
    }
    (near != missing && storage.file_info(&near).is_ok()).then_some(near)
}
