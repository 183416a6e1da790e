//! `thalweg report`: the page of a demo or a study, made again from its record.

use std::path::Path;

use serde_json::json;
use thalweg_storage::publish::publish_file;
use thalweg_study::page::render_study;
use thalweg_study::read_study::read_study;
use thalweg_study::record::StudyRecord;
use thalweg_study::study_answer::answer_text;
use thalweg_study::study_summary::summary_text;
use thalweg_study::table::{TABLE_FILE, TABLE_NAME, to_csv};
use thalweg_study::write_study::{PAGE_FILE, PAGE_NAME};
use thalweg_trajectory::check_new_document;

use crate::args::ReportArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;

pub(crate) fn run(args: &ReportArgs, world: &World<'_>, messages: &Messages) -> Result<Outcome, Error> {
    let study = read_study(&*world.storage, &args.path)?;
    let page = args.out.clone().unwrap_or_else(|| args.path.join(PAGE_NAME));
    // The table is written beside the record, wherever the page goes.
    let table = args.path.join(TABLE_NAME);
    check_new_document(&world.storage, &page, PAGE_FILE)?;
    publish_file(&*world.storage, &table, to_csv(&study).as_bytes(), TABLE_FILE)?;
    publish_file(&*world.storage, &page, render_study(&study).as_bytes(), PAGE_FILE)?;
    messages.json(&study_document(&study, &page, &table));
    let summary = summary_text(&study);
    messages.text(&format!("{summary}\nThe page is `{}`, the table `{}`.\n", page.display(), table.display()));
    Ok(Outcome::Done)
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
