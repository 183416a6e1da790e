//! `thalweg forget curve`.

use std::fmt::Write;

use thalweg_eval::recall::RecallMeasure;
use thalweg_study::forget::{CurveTable, forget_curve, read_scores};

use super::score::show;
use crate::args::ForgetCurveArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::messages::{Messages, document_of};
use crate::options::{or_dash, show_signed_range};

pub(super) fn run(args: &ForgetCurveArgs, world: &World<'_>, messages: &Messages) -> Result<Outcome, Error> {
    let record = read_scores(&*world.storage, &args.scores)?;
    let curve = forget_curve(&record)?;
    messages.json(&document_of("thalweg-forget-curve", &curve));
    messages.text(&text(&curve));
    Ok(Outcome::Done)
}

fn text(curve: &CurveTable) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(text, "{:>10}  {:<10}", "step", "model");
    RecallMeasure::ALL.iter().for_each(|measure| {
        let _ = write!(text, " {:>9}", measure.title());
    });
    let _ = writeln!(text, " {:>9}", "retention");
    for row in &curve.rows {
        let _ = write!(text, "{:>10}  {:<10}", row.step, row.window.as_deref().unwrap_or("raw"));
        for measure in RecallMeasure::ALL {
            let value = row.values.get(measure.name());
            let _ = write!(text, " {:>9}", or_dash(value, |value| show(measure, *value)));
        }
        let _ = writeln!(text, " {:>9}", or_dash(row.retention, |share| format!("{share:.3}")));
    }
    let title = |name: &str| RecallMeasure::ALL.iter().find(|one| one.name() == name).map_or("", |one| one.title());
    if !curve.forgotten.is_empty() {
        let _ = writeln!(text, "\nlast checkpoint minus first, over the same items (95 %)");
        for row in &curve.forgotten {
            let interval = row.interval_95.map_or_else(String::new, |range| format!("  {}", show_signed_range(range)));
            let _ = writeln!(text, "  {:<9} {:+.4}{interval}", title(&row.measure), row.difference);
        }
    }
    if !curve.merges.is_empty() {
        let _ = writeln!(
            text,
            "\n{:<12} {:<9} {:>5} {:>12} {:>6} {:>6} {:>14}",
            "merge", "measure", "ends", "minus newest", "above", "below", "minus its mean"
        );
        for row in &curve.merges {
            let over = or_dash(row.mean_over_checkpoints, |value| format!("{value:+.4}"));
            let _ = writeln!(
                text,
                "{:<12} {:<9} {:>5} {:>+12.4} {:>6} {:>6} {over:>14}",
                row.window,
                title(&row.measure),
                row.n_ends,
                row.mean_difference,
                row.n_above,
                row.n_below
            );
        }
        let _ = writeln!(
            text,
            "minus newest: mean difference from the newest checkpoint of the window; above, below: ends at which its 95 %\n\
             interval excludes zero; minus its mean: difference from the mean of the window's own checkpoints"
        );
    }
    text
}
