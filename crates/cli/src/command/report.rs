//! `thalweg report`: the page of a study, made again from its record.

use std::path::Path;

use serde_json::json;
use thalweg_storage::publish::publish_file;
use thalweg_study::Report;
use thalweg_study::demo::{PAGE_NAME, REPORT_NAME};
use thalweg_study::page::render_page;
use thalweg_study::summary::summary_text;

use crate::args::ReportArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;

/// The largest record that is read.
const MAX_REPORT_BYTES: u64 = 256 << 20;

pub(crate) fn run(args: &ReportArgs, world: &World<'_>, messages: &Messages) -> Result<Outcome, Error> {
    let path = args.path.join(REPORT_NAME);
    let bytes = match world.storage.read_file(&path, MAX_REPORT_BYTES) {
        Err(error) if error.is_not_found() => {
            return Err(Error::usage_with_hint(
                format!("`{}` holds no `{REPORT_NAME}`", args.path.display()),
                "give the folder of a demo or a study; `thalweg demo` makes one",
            ));
        }
        read => read?,
    };
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::usage(format!("`{}` is not a report: it is not UTF-8 text", path.display())))?;
    let report = Report::from_json(&text)?;
    let page = args.out.clone().unwrap_or_else(|| args.path.join(PAGE_NAME));
    publish_file(&*world.storage, &page, render_page(&report).as_bytes())?;
    messages.json(&document(&report, Some(&page)));
    messages.text(&format!("{}\nThe page is `{}`.\n", summary_text(&report), page.display()));
    Ok(Outcome::Done)
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
