//! A study's folder: the record, and the table and page that are made from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_storage::Storage;
use thalweg_storage::guard::{OwnKind, check_file};
use thalweg_storage::publish::publish_file;
use thalweg_trajectory::check_outside_checkpoints;

use crate::Error;
use crate::page::render_study;
use crate::record::{STUDY, STUDY_NAME, StudyRecord};
use crate::table::{TABLE_FILE, TABLE_NAME, to_csv};

/// The page, in a study's folder.
pub const PAGE_NAME: &str = "report.html";
/// How a page of thalweg is recognised before it is replaced.
pub const PAGE_FILE: OwnKind<'_> = OwnKind::text("a page of this program", "name=\"generator\" content=\"thalweg");

/// Checks that [`write_study`] may write into `folder`, before the work whose outcome it writes.
///
/// # Errors
/// `Trajectory` if the folder is or lies in a checkpoint; `Storage` if a file there is not ours to replace.
pub fn check_study_folder(storage: &Arc<dyn Storage>, folder: &Path) -> Result<(), Error> {
    check_outside_checkpoints(storage, &folder.join(STUDY_NAME))?;
    check_files(&**storage, folder)
}

fn check_files(storage: &dyn Storage, folder: &Path) -> Result<(), Error> {
    let files = [(STUDY_NAME, STUDY.file()), (TABLE_NAME, TABLE_FILE), (PAGE_NAME, PAGE_FILE)];
    Ok(files.into_iter().try_for_each(|(name, kind)| check_file(storage, &folder.join(name), kind, &[]))?)
}

/// Writes `study.json`, `study.csv` and `report.html` into `folder`, which exists, and returns the page's path.
///
/// Each is replaced whole, and only by its own kind. The record comes first, so that after a crash the other two can be
/// made from it again.
///
/// # Errors
/// `Unwritable` where the record cannot be written as JSON; `Storage`.
pub fn write_study(storage: &dyn Storage, folder: &Path, record: &StudyRecord) -> Result<PathBuf, Error> {
    check_files(storage, folder)?;
    publish_file(storage, &folder.join(STUDY_NAME), record.to_json()?.as_bytes(), STUDY.file())?;
    publish_file(storage, &folder.join(TABLE_NAME), to_csv(record).as_bytes(), TABLE_FILE)?;
    let page = folder.join(PAGE_NAME);
    publish_file(storage, &page, render_study(record).as_bytes(), PAGE_FILE)?;
    Ok(page)
}
