//! A study's folder: the record, and the table and page that are made from it.

use std::path::{Path, PathBuf};

use thalweg_storage::Storage;
use thalweg_storage::publish::publish_file;

use crate::Error;
use crate::demo::PAGE_NAME;
use crate::page::render_study;
use crate::record::{STUDY_NAME, StudyRecord};
use crate::table::{TABLE_NAME, to_csv};

/// Writes `study.json`, `study.csv` and `report.html` into `folder`, which exists, and returns the page's path.
///
/// Each is replaced whole. The record comes first, so that after a crash the other two can be made from it again.
///
/// # Errors
/// `ReportForm` where the record cannot be written as JSON; `Storage`.
pub fn write_study(storage: &dyn Storage, folder: &Path, record: &StudyRecord) -> Result<PathBuf, Error> {
    publish_file(storage, &folder.join(STUDY_NAME), record.to_json()?.as_bytes())?;
    publish_file(storage, &folder.join(TABLE_NAME), to_csv(record).as_bytes())?;
    let page = folder.join(PAGE_NAME);
    publish_file(storage, &page, render_study(record).as_bytes())?;
    Ok(page)
}
