//! `thalweg report`: the page of a demo or a study, made again from its record.

use std::path::Path;

use serde_json::json;
use thalweg_storage::guard::check_document;
use thalweg_storage::publish::publish_file;
use thalweg_study::page::render_study;
use thalweg_study::record::{STUDY_NAME, StudyRecord};
use thalweg_study::study_answer::answer_text;
use thalweg_study::study_summary::summary_text;
use thalweg_study::table::{TABLE_FILE, TABLE_NAME, to_csv};
use thalweg_study::write_study::{PAGE_FILE, PAGE_NAME};

use crate::args::ReportArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;

/// The largest record that is read.
const MAX_RECORD_BYTES: u64 = 256 << 20;

pub(crate) fn run(args: &ReportArgs, world: &World<'_>, messages: &Messages) -> Result<Outcome, Error> {
    let study = read_record(&args.path, world)?;
    let page = args.out.clone().unwrap_or_else(|| args.path.join(PAGE_NAME));
    // The table is written beside the record, wherever the page goes.
    let table = args.path.join(TABLE_NAME);
    check_document(&*world.storage, &page, PAGE_FILE)?;
    publish_file(&*world.storage, &table, to_csv(&study).as_bytes(), TABLE_FILE)?;
    publish_file(&*world.storage, &page, render_study(&study).as_bytes(), PAGE_FILE)?;
    messages.json(&study_document(&study, &page, &table));
    let summary = summary_text(&study);
    messages.text(&format!("{summary}\nThe page is `{}`, the table `{}`.\n", page.display(), table.display()));
    Ok(Outcome::Done)
}

fn read_record(folder: &Path, world: &World<'_>) -> Result<StudyRecord, Error> {
    let path = folder.join(STUDY_NAME);
    let bytes = match world.storage.read_file(&path, MAX_RECORD_BYTES) {
        Err(error) if error.is_not_found() => {
            return Err(Error::usage_with_hint(
                format!("`{}` holds no `{STUDY_NAME}`", folder.display()),
                "give the folder of a demo (`thalweg demo` makes one) or of a study (`thalweg sweep --suite` makes one)",
            ));
        }
        read => read?,
    };
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::usage(format!("`{}` is not a record: it is not UTF-8 text", path.display())))?;
    Ok(StudyRecord::from_json(&text)?)
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
