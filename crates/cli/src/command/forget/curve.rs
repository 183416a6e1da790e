//! `thalweg forget curve`.

use std::fmt::Write;

use thalweg_eval::recall::RecallMeasure;
use thalweg_storage::Storage;
use thalweg_study::forget::{CurveTable, ForgetArm, forget_curve, read_schedule, read_scores};
use thalweg_study::text::or_dash;
use thalweg_tensor::display_name;

use super::score::{measure_cells, measure_heads};
use crate::args::ForgetCurveArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::messages::document_of;
use crate::options::{named_path, show_signed_range};

pub(super) fn run(args: &ForgetCurveArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let curve = forget_curve(&arms(args, &*world.storage)?)?;
    Ok(world.answer(&document_of("thalweg-forget-curve", &curve), &text(&curve)))
}

/// The scores that are named, with the schedules of those that have the names of their policies.
fn arms(args: &ForgetCurveArgs, storage: &dyn Storage) -> Result<Vec<ForgetArm>, Error> {
    let named = |text: &String| {
        let (name, path) = named_path("--arm", text, "control=scores.json")?;
        let record = read_scores(storage, &path)?;
        Ok(ForgetArm { name: Some(name), path, record, schedule: None })
    };
    let mut arms = args.arm.iter().map(named).collect::<Result<Vec<_>, Error>>()?;
    if let Some(path) = &args.scores {
        let record = read_scores(storage, path)?;
        arms.push(ForgetArm { name: None, path: path.clone(), record, schedule: None });
    }
    let mut names: Vec<&String> = arms.iter().filter_map(|arm| arm.name.as_ref()).collect();
    names.sort();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        let what = format!("two arms are named `{}`", display_name(pair[0]));
        return Err(Error::usage_with_hint(what, "give each `--arm` another name"));
    }
    for path in &args.schedule {
        let schedule = read_schedule(storage, path)?;
        let policy = display_name(&schedule.policy);
        let Some(arm) = arms.iter_mut().find(|arm| arm.name.as_ref() == Some(&schedule.policy)) else {
            let what = format!("`{}` is a schedule of `{policy}`, but no arm has that name", path.display());
            return Err(Error::usage_with_hint(what, format!("name its scores by `--arm {policy}=SCORES.json`")));
        };
        arm.schedule = Some(schedule);
    }
    Ok(arms)
}

fn text(curve: &CurveTable) -> String {
    let arm_width = curve.rows.iter().filter_map(|row| row.arm.as_ref()).map(String::len).max().unwrap_or(0);
    let arm = |name: &str| if arm_width == 0 { String::new() } else { format!("{name:<arm_width$}  ") };
    let arm_of = |name: Option<&String>| arm(&display_name(name.map_or("", String::as_str)));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}{:>10}  {:<10}{}", arm(""), "step", "model", measure_heads());
    for row in &curve.rows {
        let model = row.window.as_deref().unwrap_or("raw");
        let cells = measure_cells(|measure| row.values.get(measure.name()).copied(), row.retention);
        let place = row.replay.map_or_else(String::new, |place| format!("  {place}"));
        let _ = writeln!(text, "{}{:>10}  {model:<10}{cells}{place}", arm_of(row.arm.as_ref()), row.step);
    }
    if !curve.forgotten.is_empty() {
        let _ = writeln!(text, "\nlast checkpoint minus first, over the same items (95 %)");
        for row in &curve.forgotten {
            let change = &row.change;
            let interval =
                change.interval_95.map_or_else(String::new, |range| format!("  {}", show_signed_range(range)));
            let (arm, measure) = (arm_of(row.arm.as_ref()), title(&change.measure));
            let _ = writeln!(text, "  {arm}{measure:<9} {:+.4}{interval}", change.difference);
        }
    }
    text.push_str(&merges(curve, &arm_of));
    text
}

/// What tables call a measure.
fn title(name: &str) -> &'static str {
    RecallMeasure::ALL.iter().find(|one| one.name() == name).map_or("", |one| one.title())
}

fn merges(curve: &CurveTable, arm_of: &dyn Fn(Option<&String>) -> String) -> String {
    let mut text = String::new();
    if curve.merges.is_empty() {
        return text;
    }
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "\n{}{:<12} {:<9} {:>5} {:>12} {:>6} {:>6} {:>14}",
        arm_of(None),
        "merge",
        "measure",
        "ends",
        "minus newest",
        "above",
        "below",
        "minus its mean"
    );
    for row in &curve.merges {
        let over = or_dash(row.mean_over_checkpoints, |value| format!("{value:+.4}"));
        let _ = writeln!(
            text,
            "{}{:<12} {:<9} {:>5} {:>+12.4} {:>6} {:>6} {over:>14}",
            arm_of(row.arm.as_ref()),
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
    text
}
