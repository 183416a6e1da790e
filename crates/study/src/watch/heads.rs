//! Sums of what the next windows will have, prepared between two checkpoints: the merge that a new checkpoint brings
//! reads them instead of all older checkpoints.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use thalweg_merge::context::RunContext;
use thalweg_merge::head::WindowHead;
use thalweg_merge::plan::{MergePlan, OutputPlan};
use thalweg_merge::prepare_head::{HeadOutcome, prepare_head};
use thalweg_merge::seen::SeenSource;
use thalweg_storage::{Storage, Unwatched};

use crate::Error;

/// Folder of the sums, in a watcher's folder.
const HEADS_NAME: &str = "prepared";
/// How often the run is listed meanwhile, so that a new checkpoint does not wait.
const LIST_SECONDS: f64 = 0.5;

/// What became of the sum that a window of the next checkpoint needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedSums {
    /// The scheme.
    pub scheme: String,
    /// Checkpoints in the window.
    pub n_checkpoints: usize,
    /// What became of it.
    pub outcome: HeadOutcome,
}

/// Where the sum of a window is described: the same for all ends.
fn head_path(window: &OutputPlan, folder: &Path) -> PathBuf {
    let scheme: String =
        window.scheme.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    folder.join(HEADS_NAME).join(format!("n{}-{scheme}.json", window.sources.len()))
}

/// The sums that may serve these outputs.
pub(super) fn open_heads(outputs: &[OutputPlan], folder: &Path, cx: &RunContext<'_>) -> Vec<WindowHead> {
    let mut paths: Vec<PathBuf> = outputs.iter().map(|output| head_path(output, folder)).collect();
    paths.sort_unstable();
    paths.dedup();
    paths.iter().filter_map(|path| WindowHead::open(path, &*cx.storage)).collect()
}

/// Removes all sums; whether there were any.
pub(super) fn drop_heads(folder: &Path, storage: &dyn Storage) -> Result<bool, Error> {
    let heads = folder.join(HEADS_NAME);
    let Ok(entries) = storage.list_folder(&heads) else { return Ok(false) };
    let is_sums = |name: &str| Path::new(name).extension().is_some_and(|end| end == "sums");
    let sums: Vec<String> = entries.into_iter().map(|entry| entry.name).filter(|name| is_sums(name)).collect();
    sums.iter().try_for_each(|name| storage.remove(&heads.join(name)))?;
    Ok(!sums.is_empty())
}

/// Prepares the sums of the windows after `windows`, until `run` has another entry.
pub(super) fn prepare_heads(
    (windows, seen): (&[OutputPlan], &[SeenSource]),
    (run, folder): (&Path, &Path),
    cx: &RunContext<'_>,
) -> Result<Vec<PreparedSums>, Error> {
    let storage = &*cx.storage;
    let count = || storage.count_entries(run).ok();
    let (before, last_look) = (count(), Mutex::new(cx.host.elapsed_seconds()));
    let is_wanted = || {
        let Ok(mut last) = last_look.try_lock() else { return true };
        let now = cx.host.elapsed_seconds();
        if now - *last < LIST_SECONDS {
            return true;
        }
        *last = now;
        count() == before
    };
    if !windows.is_empty() {
        storage.create_folder(&folder.join(HEADS_NAME))?;
    }
    // Notes about these checkpoints came with the merge before.
    let silent = RunContext { progress: &Unwatched, ..cx.clone() };
    let mut found = Vec::new();
    for window in windows {
        let plan = MergePlan { seen_sources: seen.to_vec(), ..MergePlan::new(vec![window.clone()])? };
        let outcome = prepare_head(&plan, &head_path(window, folder), &is_wanted, &silent)?;
        let (scheme, n_checkpoints) = (window.scheme.clone(), window.sources.len());
        found.push(PreparedSums { scheme, n_checkpoints, outcome });
        if outcome == HeadOutcome::Abandoned {
            break;
        }
    }
    Ok(found)
}
