//! Spikes of the step log, and the checkpoints that are proposed to resume from.

use thalweg_tensor::counted;

use super::run::write_training;
use crate::markup::Markup;
use crate::page::table::{Table, write_row};
use crate::record::SpikeRow;
use crate::study_view::StudyView;
use crate::svg::StepAxis;

/// Rows of the table, the latest ones.
const MAX_ROWS: usize = 100;

/// The spikes from which the run did not recover, and what to resume from.
pub(super) fn write_spikes(page: &mut Markup, view: &StudyView<'_>, axes: &[StepAxis]) {
    let record = view.record;
    if !view.needs_recovery() {
        return;
    }
    page.element("h2").filled("Spikes and where to resume");
    if record.training.len() > 1 {
        write_training(page, view, axes);
    }
    let unhealed: Vec<&SpikeRow> = record.spikes.iter().filter(|spike| spike.end.is_none()).collect();
    write_table(page, &unhealed);
    write_recovery(page, view);
}

/// Spikes from which the loss recovered by itself, which need no action.
pub(super) fn write_healed_spikes(page: &mut Markup, view: &StudyView<'_>) {
    let healed: Vec<&SpikeRow> = view.record.spikes.iter().filter(|spike| spike.end.is_some()).collect();
    if healed.is_empty() {
        return;
    }
    page.element("details").open();
    let spikes = counted(healed.len(), "spike");
    page.element("summary").filled(format!("{spikes} from which the training loss recovered by itself"));
    write_table(page, &healed);
    page.close();
}

fn write_table(page: &mut Markup, spikes: &[&SpikeRow]) {
    if spikes.is_empty() {
        return;
    }
    let columns = &["onset", "peak", "back at", "seen in"];
    Table { scroller: "Loss spikes", columns, ..Table::default() }.write(page, |page| {
        for spike in spikes.iter().rev().take(MAX_ROWS) {
            let end = spike.end.map_or_else(|| "did not recover".to_owned(), |end| end.to_string());
            write_row(
                page,
                [""; 2],
                format!("step {}", spike.onset),
                [spike.peak.to_string(), end, spike.signal.clone()],
            );
        }
    });
    if spikes.len() > MAX_ROWS {
        page.note(format!("{} earlier ones are in study.json.", spikes.len() - MAX_ROWS));
    }
}

fn write_recovery(page: &mut Markup, view: &StudyView<'_>) {
    let record = view.record;
    let mut steps = record.recovery.clone();
    steps.sort_unstable();
    let list: Vec<String> = steps.iter().map(u64::to_string).collect();
    let text = match list.as_slice() {
        [] => "No checkpoint is proposed to resume from.".to_owned(),
        [only] => format!("There is one checkpoint before the onset: resume from step {only}, unmerged."),
        many => format!("Proposed start point: the average of steps {}, before the onset.", many.join(", ")),
    };
    page.element("p").filled(text);
    if list.len() > 1 {
        page.element("p").attr("class", "command").filled("Make the start point");
        let run = thalweg_tensor::shell_path(&record.run_path);
        page.element("pre").filled(format!("thalweg merge {run} --steps {} -o start-point", list.join(",")));
    }
}
