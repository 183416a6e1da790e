//! Values by item of the merges behind forecasts, kept beside a watcher's record: runs are compared item by item.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thalweg_eval::TaskScores;
use thalweg_storage::Storage;
use thalweg_storage::publish::publish_file;

use crate::Error;
use crate::document::DocumentKind;
use crate::evaluator::ModelScores;

/// Folder of the values, in a watcher's folder.
const ITEMS_NAME: &str = "forecast-items";
const ITEMS: DocumentKind = DocumentKind::new("values by item of a forecast", "thalweg-forecast-items", 1);
/// A million items in all.
const MAX_ITEMS_BYTES: u64 = 128 << 20;

#[derive(Serialize, Deserialize)]
struct ItemsDocument {
    kind: String,
    version: u64,
    end_step: u64,
    tasks: Vec<TaskScores>,
}

fn items_path(folder: &Path, end_step: u64) -> PathBuf {
    folder.join(ITEMS_NAME).join(format!("step{end_step:07}.json"))
}

/// The tasks of a model that have values by item, each once.
pub(crate) fn items_of(scores: &ModelScores) -> Vec<Arc<TaskScores>> {
    let mut found: Vec<Arc<TaskScores>> = Vec::new();
    for task in scores.tasks.iter().filter_map(|task| task.items.as_ref()) {
        if !found.iter().any(|known| Arc::ptr_eq(known, task)) {
            found.push(Arc::clone(task));
        }
    }
    found
}

/// Keeps the values of the merge behind the forecast at `end_step`.
///
/// # Errors
/// `Storage`.
pub(crate) fn publish_items(
    storage: &dyn Storage,
    folder: &Path,
    (end_step, tasks): (u64, &[Arc<TaskScores>]),
) -> Result<(), Error> {
    if tasks.is_empty() {
        return Ok(());
    }
    // How long it took says nothing about the model.
    let tasks = tasks.iter().map(|task| TaskScores { seconds: 0.0, ..TaskScores::clone(task) }).collect();
    let document = ItemsDocument { kind: ITEMS.kind.to_owned(), version: ITEMS.version, end_step, tasks };
    let text = serde_json::to_vec(&document).map_err(Error::Unwritable)?;
    storage.create_folder(&folder.join(ITEMS_NAME))?;
    Ok(publish_file(storage, &items_path(folder, end_step), &text, ITEMS.file())?)
}

/// The values of the merge behind the forecast at `end_step`; nothing where none can be read.
pub fn read_items(storage: &dyn Storage, folder: &Path, end_step: u64) -> Vec<TaskScores> {
    let bytes = storage.read_file(&items_path(folder, end_step), MAX_ITEMS_BYTES);
    let document = bytes.ok().and_then(|bytes| ITEMS.parse::<ItemsDocument>(&bytes).ok());
    let mut tasks = document.filter(|one| one.end_step == end_step).map(|one| one.tasks).unwrap_or_default();
    // A file may say anything.
    tasks.retain(|task| {
        let n = task.items.len();
        task.measures.iter().all(|values| values.numerators.len() == n && values.denominators.len() == n)
    });
    tasks
}
