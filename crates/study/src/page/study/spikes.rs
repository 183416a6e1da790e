//! Spikes of the step log, and the checkpoints that are proposed to resume from.

use super::run::write_training;
use super::write_columns;
use crate::markup::Markup;
use crate::study_view::{StudyView, shell_word};
use crate::svg::StepAxis;

/// Rows of the table, the latest ones.
const MAX_ROWS: usize = 100;

pub(super) fn write_spikes(page: &mut Markup, view: &StudyView<'_>, axes: &[StepAxis]) {
    let record = view.record;
    if record.spikes.is_empty() && record.recovery.is_empty() {
        return;
    }
    page.element("h2").filled("Spikes and where to resume");
    if record.training.len() > 1 {
        write_training(page, view, axes);
    }
    if !record.spikes.is_empty() {
        page.element("div").attr("class", "scroll").open();
        page.element("table").open();
        write_columns(page, &["onset", "peak", "back at", "seen in"]);
        page.element("tbody").open();
        for spike in record.spikes.iter().rev().take(MAX_ROWS) {
            page.element("tr").open();
            page.element("th").attr("scope", "row").filled(format!("step {}", spike.onset));
            let end = spike.end.map_or_else(|| "did not come back".to_owned(), |end| end.to_string());
            for cell in [spike.peak.to_string(), end, spike.signal.clone()] {
                page.element("td").filled(cell);
            }
            page.close();
        }
        for _ in 0..3 {
            page.close();
        }
        if record.spikes.len() > MAX_ROWS {
            let text = format!("{} earlier ones are in study.json.", record.spikes.len() - MAX_ROWS);
            page.element("p").attr("class", "note").filled(text);
        }
    }
    write_recovery(page, view);
}

fn write_recovery(page: &mut Markup, view: &StudyView<'_>) {
    let record = view.record;
    let mut steps = record.recovery.clone();
    steps.sort_unstable();
    let list: Vec<String> = steps.iter().map(u64::to_string).collect();
    let text = match list.as_slice() {
        [] => "No checkpoint is proposed to resume from.".to_owned(),
        [only] => format!("One checkpoint lies before the latest onset: resume from step {only}, unmerged."),
        many => format!("Proposed start point: the average of steps {}, before the latest onset.", many.join(", ")),
    };
    page.element("p").filled(text);
    if list.len() > 1 {
        page.element("p").attr("class", "command").filled("The start point again");
        let run = shell_word(&record.run_path);
        page.element("pre").filled(format!("thalweg merge {run} --steps {} -o start-point", list.join(",")));
    }
}
