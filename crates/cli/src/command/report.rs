//! `thalweg report`: the page of a demo or a study, made again from its record.

use std::path::Path;

use serde_json::json;
use thalweg_storage::publish::publish_file;
use thalweg_study::attachment::read_attachment;
use thalweg_study::compare_runs::{ComparedRun, RunComparison, RunForecasts, compare_runs};
use thalweg_study::forecast_items::read_items;
use thalweg_study::page::render_study_with;
use thalweg_study::read_study::{StudyFiles, find_studies_below, find_study, read_study};
use thalweg_study::record::StudyRecord;
use thalweg_study::study_answer::answer_text;
use thalweg_study::study_summary::summary_text;
use thalweg_study::table::{TABLE_FILE, TABLE_NAME, to_csv};
use thalweg_study::write_study::{PAGE_FILE, PAGE_NAME};
use thalweg_tensor::counted;
use thalweg_trajectory::check_new_document;

use crate::args::ReportArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::messages::document_of;
use crate::options::show_gain;

pub(crate) fn run(args: &ReportArgs, world: &World<'_>) -> Result<Outcome, Error> {
    if find_study(&*world.storage, &args.path)?.is_none() {
        let below = find_studies_below(&*world.storage, &args.path)?;
        if !below.is_empty() {
            return compare(args, &below, world);
        }
    }
    let study = read_study(&*world.storage, &args.path)?;
    let attachments =
        args.with.iter().map(|path| read_attachment(&*world.storage, path)).collect::<Result<Vec<_>, _>>()?;
    let page = args.out.clone().unwrap_or_else(|| args.path.join(PAGE_NAME));
    // The table is written beside the record, wherever the page goes.
    let table = args.path.join(TABLE_NAME);
    check_new_document(&world.storage, &page, PAGE_FILE)?;
    publish_file(&*world.storage, &table, to_csv(&study).as_bytes(), TABLE_FILE)?;
    publish_file(&*world.storage, &page, render_study_with(&study, &attachments).as_bytes(), PAGE_FILE)?;
    let summary = summary_text(&study);
    let text = format!("{summary}\nThe page is `{}`, the table `{}`.\n", page.display(), table.display());
    Ok(world.answer(&study_document(&study, &page, &table), &text))
}

/// How the runs of several studies compare if all were annealed.
fn compare(args: &ReportArgs, below: &[(String, StudyFiles)], world: &World<'_>) -> Result<Outcome, Error> {
    if let Some(file) = args.with.first() {
        let hint = "leave out `--with`, or give the folder of one study";
        return Err(Error::usage_with_hint(format!("a comparison has no page for `{}`", file.display()), hint));
    }
    if args.out.is_some() {
        let hint = "leave out `--out` to print the comparison, or give the folder of one study";
        return Err(Error::usage_with_hint("several studies cannot be written as a single page", hint));
    }
    let mut runs = Vec::new();
    for (name, _) in below {
        runs.push(RunForecasts::of(name, &read_study(&*world.storage, &args.path.join(name))?));
    }
    let items_of = |name: &str, end_step: u64| read_items(&*world.storage, &args.path.join(name), end_step);
    let found = compare_runs(&runs, &items_of);
    let mut text: String = found.iter().map(comparison_text).collect();
    if found.is_empty() {
        let n = counted(below.len(), "study");
        text = format!("{n}: no two have forecasts of the same anneal at equal tokens (`watch --forecast`)\n");
    }
    world.answer(&document_of("thalweg-comparison", &json!({"comparisons": found})), &text);
    Ok(Outcome::when(!found.is_empty()))
}

fn comparison_text(one: &RunComparison) -> String {
    let mut text = format!("{} {}, if annealed at {} {}\n", one.task, one.measure, one.at, one.unit);
    for ComparedRun { name, value, interval_95: [low, high], gain_over_best, n_paired_items, verdict } in &one.runs {
        let gain = gain_over_best.map_or_else(String::new, |gain| format!("  {}", show_gain(gain)));
        let items = n_paired_items.map_or_else(String::new, |n| format!(", {} paired", counted(n, "item")));
        text.push_str(&format!("  {name:<24} {value:>9.4}  95 %: {low:.4} to {high:.4}{gain}  {verdict}{items}\n"));
    }
    text
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
