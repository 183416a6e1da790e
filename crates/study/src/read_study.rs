//! Which folder can be shown as a page, and the study that it holds: written by a command, or kept by a watcher.

use std::path::Path;

use thalweg_storage::{FileInfo, FileKind, Storage, text_of};

use crate::Error;
use crate::record::{STUDY_NAME, StudyRecord};
use crate::watch::{RECORD_NAME, RUN_FACTS_NAME, read_watch_record, study_of_watch};

/// The largest record that is read.
const MAX_RECORD_BYTES: u64 = 256 << 20;
/// Studies of one folder.
const MAX_STUDIES: usize = 500;

/// The files that a folder's study is made from, as they are now. Two equal values mean the same study.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudyFiles {
    study: Option<FileInfo>,
    watch: Option<FileInfo>,
    run: Option<FileInfo>,
}

/// Looks for the record of a study in a folder; `None` if there is none.
///
/// A record that is a link to a file elsewhere counts as missing.
///
/// # Errors
/// `Storage`.
pub fn find_study(storage: &dyn Storage, folder: &Path) -> Result<Option<StudyFiles>, Error> {
    let look = |name: &str| -> Result<Option<FileInfo>, Error> {
        let path = folder.join(name);
        let info = match storage.file_info(&path) {
            Ok(info) => info,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let is_record = info.kind == FileKind::File && storage.link_target(&path)?.is_none();
        Ok(is_record.then_some(info))
    };
    let found = StudyFiles { study: look(STUDY_NAME)?, watch: look(RECORD_NAME)?, run: look(RUN_FACTS_NAME)? };
    let is_any = found.study.is_some() || found.watch.is_some() || found.run.is_some();
    Ok(is_any.then_some(found))
}

/// The studies in the folders of a folder, by name; links, which may lead elsewhere, are left out.
///
/// # Errors
/// `Storage`.
pub fn find_studies_below(storage: &dyn Storage, folder: &Path) -> Result<Vec<(String, StudyFiles)>, Error> {
    let mut found = Vec::new();
    for entry in storage.list_folder(folder)? {
        let path = folder.join(&entry.name);
        if entry.kind != FileKind::Folder || storage.link_target(&path)?.is_some() {
            continue;
        }
        found.extend(find_study(storage, &path)?.map(|files| (entry.name, files)));
        if found.len() == MAX_STUDIES {
            break;
        }
    }
    Ok(found)
}

/// The study in a folder: `study.json`, or the record of a watcher.
///
/// # Errors
/// `Request` where there is none; `ReportForm` and `ReportKind` where it is not one; `Storage`.
pub fn read_study(storage: &dyn Storage, folder: &Path) -> Result<StudyRecord, Error> {
    let Some(found) = find_study(storage, folder)? else {
        return Err(Error::request_with_hint(
            format!("`{}` holds no `{STUDY_NAME}` and no `{RECORD_NAME}`", folder.display()),
            "give the folder of a demo (`thalweg demo` makes one), of a study (`thalweg sweep --suite` makes one) or of a \
             watcher (`thalweg watch` keeps one)",
        ));
    };
    if found.study.is_some() {
        return read_record(storage, &folder.join(STUDY_NAME));
    }
    let run = found.run.map(|_| read_record(storage, &folder.join(RUN_FACTS_NAME))).transpose()?;
    let rows = match found.watch {
        Some(_) => read_watch_record(storage, &folder.join(RECORD_NAME))?,
        None => Vec::new(),
    };
    Ok(study_of_watch(&rows, run))
}

pub(crate) fn read_record(storage: &dyn Storage, path: &Path) -> Result<StudyRecord, Error> {
    let bytes = storage.read_file(path, MAX_RECORD_BYTES)?;
    let text = text_of(bytes).map_err(|_| {
        Error::request_with_hint(
            format!("`{}` is not the record of a study: it is not UTF-8 text", path.display()),
            "rerun the command that made it",
        )
    })?;
    StudyRecord::from_json(&text).map_err(|error| error.in_file(path))
}
