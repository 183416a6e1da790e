//! `thalweg report`: the page of a demo or a study, made again from its record.

use std::path::{Path, PathBuf};

use serde_json::json;
use thalweg_storage::guard::check_document;
use thalweg_storage::publish::publish_file;
use thalweg_study::Report;
use thalweg_study::demo::{PAGE_NAME, REPORT_NAME};
use thalweg_study::page::{render_page, render_study};
use thalweg_study::record::{STUDY_NAME, StudyRecord};
use thalweg_study::study_answer::answer_text;
use thalweg_study::summary::summary_text;
use thalweg_study::table::{TABLE_FILE, TABLE_NAME, to_csv};
use thalweg_study::write_study::PAGE_FILE;

use crate::args::ReportArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;

/// The largest record that is read.
const MAX_REPORT_BYTES: u64 = 256 << 20;

pub(crate) fn run(args: &ReportArgs, world: &World<'_>, messages: &Messages) -> Result<Outcome, Error> {
    let record = find_record(&args.path, world)?;
    let folder = record.path.parent().unwrap_or(Path::new(""));
    let page = args.out.clone().unwrap_or_else(|| folder.join(PAGE_NAME));
    let text = String::from_utf8(record.bytes)
        .map_err(|_| Error::usage(format!("`{}` is not a report: it is not UTF-8 text", record.path.display())))?;
    match record.kind {
        RecordKind::Demo => {
            let report = Report::from_json(&text)?;
            publish_file(&*world.storage, &page, render_page(&report).as_bytes(), PAGE_FILE)?;
            messages.json(&document(&report, Some(&page)));
            messages.text(&format!("{}\nThe page is `{}`.\n", summary_text(&report), page.display()));
        }
        RecordKind::Study => {
            let study = StudyRecord::from_json(&text)?;
            // The table is written beside the record, wherever the page goes.
            let table = folder.join(TABLE_NAME);
            check_document(&*world.storage, &page, PAGE_FILE)?;
            publish_file(&*world.storage, &table, to_csv(&study).as_bytes(), TABLE_FILE)?;
            publish_file(&*world.storage, &page, render_study(&study).as_bytes(), PAGE_FILE)?;
            messages.json(&study_document(&study, &page, &table));
            let answer = answer_text(&study);
            messages.text(&format!("{answer}\n\nThe page is `{}`, the table `{}`.\n", page.display(), table.display()));
        }
    }
    Ok(Outcome::Done)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RecordKind {
    Demo,
    Study,
}

struct FoundRecord {
    kind: RecordKind,
    path: PathBuf,
    bytes: Vec<u8>,
}

/// The record in a folder: of a demo or of a study, but not of both, whose pages have one name.
fn find_record(folder: &Path, world: &World<'_>) -> Result<FoundRecord, Error> {
    let read = |kind: RecordKind, name: &str| {
        let path = folder.join(name);
        match world.storage.read_file(&path, MAX_REPORT_BYTES) {
            Err(error) if error.is_not_found() => Ok(None),
            read => read.map(|bytes| Some(FoundRecord { kind, path, bytes })),
        }
    };
    match (read(RecordKind::Demo, REPORT_NAME)?, read(RecordKind::Study, STUDY_NAME)?) {
        (Some(found), None) | (None, Some(found)) => Ok(found),
        (None, None) => Err(Error::usage_with_hint(
            format!("`{}` holds neither `{REPORT_NAME}` nor `{STUDY_NAME}`", folder.display()),
            "give the folder of a demo (`thalweg demo` makes one) or of a study (`thalweg sweep --suite` makes one)",
        )),
        (Some(_), Some(_)) => Err(Error::usage_with_hint(
            format!("`{}` holds both `{REPORT_NAME}` and `{STUDY_NAME}`, whose pages have one name", folder.display()),
            "move one of them to another folder",
        )),
    }
}

/// What a study found, without its curves and scores, and where page and table are.
fn study_document(study: &StudyRecord, page: &Path, table: &Path) -> serde_json::Value {
    json!({
        "kind": "thalweg-study-summary",
        "version": 1,
        "page": page,
        "table": table,
        "title": study.title,
        "answer": answer_text(study),
        "n_raws": study.raws.len(),
        "n_trials": study.trials.len(),
        "choice": study.choice,
        "proposal": study.proposal,
        "forecasts": study.forecasts,
        "recovery": study.recovery,
        "cost": study.cost,
    })
}

/// The record without its curves, and where the page is.
pub(crate) fn document(report: &Report, page: Option<&Path>) -> serde_json::Value {
    let mut document = json!({
        "kind": "thalweg-report-summary",
        "version": 1,
        "page": page,
        "seed": report.seed,
        "baseline": report.baseline,
        "choice": report.choice,
        "models": report.models,
        "gains": report.gains,
    });
    // Windows and digests are in the record; here they would hide the scores.
    for model in document["models"].as_array_mut().into_iter().flatten() {
        if let Some(model) = model.as_object_mut() {
            model.remove("digest");
        }
    }
    document
}
