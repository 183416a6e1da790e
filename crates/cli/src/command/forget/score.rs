//! `thalweg forget score`.

use std::fmt::Write;

use thalweg_eval::recall::{RecallMeasure, read_probes};
use thalweg_storage::publish::publish_file;
use thalweg_study::forget::{
    ForgetModelRow, ForgetOptions, ForgetRecord, ForgetRequest, PairedRow, SCORES, TypeRow, score_models, score_outputs,
};
use thalweg_study::text::or_dash;
use thalweg_tensor::{counted, display_name, shell_path};
use thalweg_trajectory::check_new_document;

use super::probe_options;
use crate::args::ForgetScoreArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::{SUMMING_MEMORY_BYTES, World};
use crate::meter::ScoringMeter;
use crate::options::show_cost;

pub(super) fn run(args: &ForgetScoreArgs, world: &World<'_>) -> Result<Outcome, Error> {
    if let Some(out) = &args.out {
        check_new_document(&world.storage, out, SCORES.file())?;
    }
    if let Some(outputs) = &args.outputs {
        let probes = read_probes(&*world.storage, &args.probes)?;
        let recalled_by = args.recalled_by.as_ref().map(|name| name.to_string_lossy());
        return finish(args, score_outputs(outputs, &probes, recalled_by.as_deref(), &*world.storage)?, world);
    }
    let resolver = world.resolver();
    let request = ForgetRequest {
        inputs: args.inputs.clone(),
        run: args.run.options.clone(),
        windows: args.windows.clone(),
        ends: args.ends.clone(),
    };
    let models = resolver.forget_models(&request)?;
    let probes = read_probes(&*world.storage, &args.probes)?;
    let tokens = probe_options(args.tokens, probes.options)?;
    let n_models = models.len() + usize::from(args.recalled_by.is_some());
    let meter = ScoringMeter::new(world.messages, n_models, "models");
    let options = ForgetOptions {
        tokens,
        tokenizer: args.tokenizer.clone(),
        recalled_by: args.recalled_by.clone(),
        on_score: &mut |n_done, name| meter.show(n_done, Some(name)),
    };
    let (cx, eval) = (world.quiet_context(SUMMING_MEMORY_BYTES), world.quiet_eval_context());
    let record = score_models(&models, &probes, options, (&resolver, &cx, &eval))?;
    finish(args, record, world)
}

/// Writes and shows a record.
fn finish(args: &ForgetScoreArgs, mut record: ForgetRecord, world: &World<'_>) -> Result<Outcome, Error> {
    if let Some(out) = &args.out {
        let bytes = serde_json::to_vec(&record).unwrap_or_default();
        publish_file(&*world.storage, out, &bytes, SCORES.file())?;
    }
    record.models.iter_mut().for_each(|model| model.items.clear());
    Ok(world.answer(&serde_json::to_value(&record).unwrap_or_default(), &text(args, &record)))
}

fn text(args: &ForgetScoreArgs, record: &ForgetRecord) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let recalled =
        record.recalled_by.as_ref().map_or_else(String::new, |by| format!(" that `{}` recalls", by.display()));
    let _ = writeln!(
        text,
        "{} of {} entities in {}{recalled}; prompts of {} tokens, {} decoded\n",
        record.n_kept,
        record.n_probes,
        counted(record.n_samples, "sample"),
        record.prompt_tokens,
        record.decode_tokens
    );
    let width = record.models.iter().map(|model| model.name.len()).max().unwrap_or(0).max(5);
    let _ = writeln!(text, "{:<width$}{}", "model", measure_heads());
    for model in &record.models {
        let cells = measure_cells(|measure| model.value(measure), model.retention);
        let _ = writeln!(text, "{:<width$}{cells}", model.name);
    }
    types(&mut text, record);
    let merges: Vec<&ForgetModelRow> = record.models.iter().filter(|model| !model.over_newest.is_empty()).collect();
    if !merges.is_empty() {
        let _ = writeln!(text, "\nmerge minus its newest checkpoint (95 %)");
        merges.iter().for_each(|model| differences(&mut text, (&model.name, width), &model.over_newest));
    }
    let last = record.models.iter().rev().find(|model| model.window.is_none() && !model.since_first.is_empty());
    if let Some(last) = last {
        let _ = writeln!(text, "\nlast checkpoint minus {} (95 %)", record.models[0].name);
        differences(&mut text, (&last.name, width), &last.since_first);
    }
    let cost = &record.cost;
    let _ = writeln!(text, "\nscored {}", show_cost(&counted(cost.n_evaluations, "model"), cost));
    if let Some(out) = &args.out {
        let _ = writeln!(text, "next: `thalweg forget curve {}`", shell_path(out));
    }
    text
}

/// M_ex by type of entity, where there are several.
fn types(text: &mut String, record: &ForgetRecord) {
    let Some(first) = record.models.first().filter(|model| !model.types.is_empty()) else { return };
    let width = record.models.iter().map(|model| model.name.len()).max().unwrap_or(0).max(16);
    let m_ex = |row: &TypeRow| row.measures.iter().find(|one| one.measure == RecallMeasure::Ex.name()).cloned();
    let _ = write!(text, "\n{:<width$}", "M_ex by type");
    for row in &first.types {
        let n = m_ex(row).map_or(0, |one| one.n);
        let name = if row.entity_type.is_empty() { "none" } else { &row.entity_type };
        let _ = write!(text, "  {} ({n})", display_name(name));
    }
    text.push('\n');
    for model in &record.models {
        let _ = write!(text, "{:<width$}", model.name);
        for row in &model.types {
            let _ = write!(text, "  {}", or_dash(m_ex(row), |one| show(RecallMeasure::Ex, one.value)));
        }
        text.push('\n');
    }
}

/// The differences of M_ex, M_in and both perplexities, one line for each model.
fn differences(text: &mut String, (name, width): (&str, usize), rows: &[PairedRow]) {
    let _ = write!(text, "{name:<width$}");
    for measure in
        [RecallMeasure::Ex, RecallMeasure::In, RecallMeasure::PerplexityOfEntities, RecallMeasure::Perplexity]
    {
        let Some(row) = rows.iter().find(|row| row.measure == measure.name()) else { continue };
        let interval = row.interval_95.map_or_else(String::new, |[low, high]| format!(" ({low:+.3} to {high:+.3})"));
        let _ = write!(text, "  {} {:+.3}{interval}", measure.title(), row.difference);
    }
    let _ = writeln!(text);
}

/// The heads of the columns of all measures, and of retention.
pub(super) fn measure_heads() -> String {
    let titles = RecallMeasure::ALL.iter().map(|measure| measure.title()).chain(["retention"]);
    titles.map(|title| format!(" {title:>9}")).collect()
}

/// The cells below them.
pub(super) fn measure_cells(value: impl Fn(RecallMeasure) -> Option<f64>, retention: Option<f64>) -> String {
    let cells = RecallMeasure::ALL.iter().map(|measure| or_dash(value(*measure), |value| show(*measure, value)));
    let cells = cells.chain([or_dash(retention, |share| format!("{share:.3}"))]);
    cells.map(|cell| format!(" {cell:>9}")).collect()
}

/// A value of a measure: shares with four digits, perplexities with two.
fn show(measure: RecallMeasure, value: f64) -> String {
    if measure.higher_is_better() { format!("{value:.4}") } else { format!("{value:.2}") }
}
