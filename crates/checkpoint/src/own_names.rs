//! Names of the files by which outputs and stages are known.

use std::path::Path;

use thalweg_storage::Storage;

/// Name of the receipt in an output folder. Its presence makes the output a checkpoint, and marks it as a merge.
pub const RECEIPT_NAME: &str = "thalweg.json";

/// Name of the journal in a stage.
pub const JOURNAL_NAME: &str = "thalweg-journal";

/// Name of the lock in a stage, which keeps two processes from it. Shares of a merge have journals of other names.
pub const LOCK_NAME: &str = "thalweg-lock";

/// Whether a folder is an output that a merge has not finished, whatever the folder is called.
pub fn is_unfinished_output(storage: &dyn Storage, folder: &Path) -> bool {
    [JOURNAL_NAME, LOCK_NAME].iter().any(|name| storage.file_info(&folder.join(name)).is_ok())
}
