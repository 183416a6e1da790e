//! `thalweg mix validate`.

use std::fmt::Write;

use thalweg_study::mix::{Validation, read_trials, validate_proxies};
use thalweg_study::text::or_dash;

use crate::args::MixValidateArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::messages::document_of;

pub(super) fn run(args: &MixValidateArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let trials = read_trials(&*world.storage, &args.trials)?;
    let references = read_trials(&*world.storage, &args.references)?;
    let found = validate_proxies(&trials, &references, args.seed)?;
    Ok(world.answer(&document_of("thalweg-mix-validation", &found), &text(&found)))
}

fn text(found: &Validation) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} of {} references have a trial of the same mixture\n\n{:<32} {:>5} {:>7} {:>16} {:>5} {:>9} {:>9}",
        found.n_matched, found.n_references, "score", "n", "rho", "95 %", "top", "top rho", "recovery"
    );
    for row in &found.rows {
        let number = |value: Option<f64>| or_dash(value, |value| format!("{value:.3}"));
        let interval = or_dash(row.spearman_interval_95, |[low, high]| format!("{low:.2} to {high:.2}"));
        let _ = writeln!(
            text,
            "{:<32} {:>5} {:>7} {interval:>16} {:>5} {:>9} {:>9}",
            row.measure,
            row.n,
            number(row.spearman),
            row.n_top,
            number(row.top_quartile_spearman),
            number(row.recovery)
        );
    }
    let _ = writeln!(
        text,
        "rho: correlation of ranks; top: the best quarter of the references; recovery: mean of proxy over reference"
    );
    text
}
