//! A study as a short table for a terminal: raw, the best window of each scheme, annealed, and the answer.

use std::fmt::Write;

use crate::record::{ScoreRow, StudyRecord, TrialRow};
use crate::study_answer::answer_text;
use crate::study_view::{Metric, StudyView, gain_word};

/// The rows behind the answer, and the answer itself.
pub fn summary_text(record: &StudyRecord) -> String {
    let view = StudyView::new(record);
    let mut text = String::new();
    if let Some(metric) = view.metrics.first().copied() {
        write_table(&mut text, &view, metric);
    }
    text.push_str(&answer_text(record));
    text.push('\n');
    text
}

fn write_table(text: &mut String, view: &StudyView<'_>, metric: Metric<'_>) {
    let trials = view.at_the_end(metric);
    let end = trials.first().map_or_else(|| view.last_step(), |one| one.trial.end_step);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}", metric.label());
    let _ = writeln!(text, "{:<30} {:>10} {:>12}   95 % interval", "model", "score", "gain");
    for raw in view.record.raws.iter().filter(|raw| raw.step == end) {
        write_row(text, &format!("raw, step {end}"), metric.find(&raw.scores));
    }
    let mut best: Vec<&TrialRow> = Vec::new();
    // Ranked by what decided, so that the first of each scheme is its best.
    for (_, trial, _) in view.ranked(metric) {
        if trial.end_step == end && !best.iter().any(|known| known.scheme == trial.scheme) {
            best.push(trial);
        }
    }
    for trial in best {
        let mark = if view.is_chosen(trial) { " *" } else { "" };
        let name = format!("{} of {}, step {end}{mark}", trial.scheme, trial.n_checkpoints);
        write_row(text, &name, metric.find(&trial.scores));
    }
    for annealed in view.record.annealed.iter().filter(|one| one.step == end) {
        write_row(text, &format!("annealed, step {end}"), metric.find(&annealed.scores));
    }
    text.push('\n');
}

fn write_row(text: &mut String, name: &str, score: Option<&ScoreRow>) {
    let Some(score) = score else { return };
    let gain = score.gain.map_or_else(
        || format!("{:>12}", "-"),
        |gain| {
            let interval =
                gain.interval_95.map_or_else(String::new, |[low, high]| format!("   {low:+.4} to {high:+.4}"));
            format!("{:>+12.4}{interval}  {}", gain.value, gain_word(gain))
        },
    );
    let _ = writeln!(text, "{name:<30} {:>10.4} {gain}", score.value);
}
