//! `thalweg law`: how the loss falls with the number of merged models.

use std::fmt::Write;

use thalweg_study::law::{
    Axis, FormRow, LawQuestion, MergeLaw, PredictionRow, ThreePointRow, fit_merge_law, read_curve_file,
};
use thalweg_study::text::or_dash;
use thalweg_tensor::counted;

use crate::args::{LawArgs, LawCommand, LawMergeArgs};
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::messages::document_of;
use crate::options::show_figures;

/// The most resamples: a bootstrap needs no more.
const MAX_RESAMPLES: u32 = 100_000;

pub(crate) fn run(args: &LawArgs, world: &World<'_>) -> Result<Outcome, Error> {
    match &args.what {
        LawCommand::Merge(args) => run_merge(args, world),
        LawCommand::Curve(args) => super::law_curve::run(args, world),
    }
}

fn run_merge(args: &LawMergeArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let question = question(args)?;
    let curve = read_curve_file(&*world.storage, &args.curve)?;
    let law = fit_merge_law(&curve, &question)?;
    world.answer(&document_of("thalweg-merge-law", &law), &text(&law));
    law.warnings.iter().for_each(|warning| world.note(warning));
    Ok(Outcome::when(law.refusal.is_none()))
}

fn question(args: &LawMergeArgs) -> Result<LawQuestion, Error> {
    let points = match args.points.as_slice() {
        [] => None,
        [a, b, c] => Some([*a, *b, *c]),
        points => {
            let what = format!("`--points` takes three numbers of models, but {} are given", points.len());
            return Err(Error::usage_with_hint(what, "write them as `--points 1,2,4`"));
        }
    };
    if args.resamples > MAX_RESAMPLES {
        return Err(Error::usage(format!("`--resamples {}` is more than {MAX_RESAMPLES}", args.resamples)));
    }
    Ok(LawQuestion {
        axis: if args.checkpoints { Axis::Checkpoints } else { Axis::Experts },
        predict: args.predict.clone(),
        target: args.target,
        within: args.within,
        least_gain: args.least_gain,
        pool: args.pool,
        points,
        n_billions: args.size,
        n_resamples: args.resamples,
        seed: args.seed,
    })
}

fn text(law: &MergeLaw) -> String {
    let mut text = String::new();
    let models = match law.axis {
        Axis::Experts => "experts",
        Axis::Checkpoints => "checkpoints",
    };
    // Writing to a String cannot fail.
    if let Some(refusal) = &law.refusal {
        let _ = writeln!(text, "no law: {refusal}\n");
    }
    let size = law.n_billions.map_or_else(String::new, |n| format!(", {} parameters", show_billions(n)));
    let _ = writeln!(text, "loss of k merged {models}: {}{size}", law.formula);
    let line = |name: &str, value: f64, interval: Option<[f64; 2]>| {
        format!("  {name:<6} {:>9.4}  {}\n", unsigned_zero(value), or_dash(interval, show_interval))
    };
    text.push_str(&line("L_inf", law.l_inf, law.l_inf_interval_95));
    text.push_str(&line("A", law.a, law.a_interval_95));
    text.push_str(&line("b", law.b, law.b_interval_95));
    if let Some(d) = law.d {
        let _ = writeln!(text, "  {:<6} {d:>9.6}", "D");
    }
    let drawn = law.bootstrap.as_ref().map_or_else(String::new, |one| {
        let resamples = counted(one.n_resamples, "resample");
        format!("; intervals: 95 %, {resamples} of {}", one.over)
    });
    let _ = writeln!(text, "  R2     {:>9.4}{drawn}", law.r2);
    text.push_str(&points(law));
    text.push_str(&forms(&law.forms));
    if !law.predictions.is_empty() {
        text.push_str("\nforecast\n");
        law.predictions.iter().for_each(|row| text.push_str(&prediction(row)));
    }
    text.push_str(&law.three_point.as_ref().map_or_else(String::new, three_point));
    text.push_str(&outlook(law));
    text.push_str(&tables(law));
    text
}

/// A number that rounds to zero, without a sign.
fn unsigned_zero(value: f64) -> f64 {
    if value.abs() < 5e-5 { 0.0 } else { value }
}

fn show_interval([low, high]: [f64; 2]) -> String {
    format!("{low:.4} to {high:.4}")
}

fn points(law: &MergeLaw) -> String {
    let mut text =
        format!("\n{:>5} {:>7} {:>9} {:>9} {:>9} {:>12}\n", "k", "merges", "loss", "sd", "law", "next gains");
    for point in &law.points {
        let gain = law.marginal.iter().find(|row| row.k == point.k).map(|row| row.gain);
        let (sd, gain) = (or_dash(point.sd, |sd| format!("{sd:.4}")), or_dash(gain, |gain| format!("{gain:.4}")));
        let _ = writeln!(
            text,
            "{:>5} {:>7} {:>9.4} {sd:>9} {:>9.4} {gain:>12}",
            point.k, point.n_merges, point.loss, point.fitted
        );
    }
    text
}

fn forms(forms: &[FormRow]) -> String {
    let mut text = format!("\n{:<28} {:>9} {:>8} {:>9}\n", "form", "L_inf", "R2", "AICc");
    for row in forms {
        let aicc = or_dash(row.delta_aicc, |delta| format!("{delta:+.1}"));
        let bound = row.at_bound.map_or_else(String::new, |end| format!("  at the bound {}", show_figures(end)));
        let _ = writeln!(text, "{:<28} {:>9.4} {:>8.4} {aicc:>9}{bound}", row.formula, row.l_inf, row.r2);
    }
    text
}

fn prediction(row: &PredictionRow) -> String {
    let loss = or_dash(row.loss, |loss| format!("{loss:.4}"));
    let interval = row.interval_95.map_or_else(String::new, |interval| format!("  {}", show_interval(interval)));
    let measured = row.measured.map_or_else(String::new, |measured| format!("  measured {measured:.4}"));
    let reason = row.reason.as_ref().map_or_else(String::new, |reason| format!("  ({reason})"));
    format!("  k = {:<4} {loss:>9}{interval}{measured}{reason}\n", row.k)
}

fn three_point(row: &ThreePointRow) -> String {
    let [a, b, c] = row.k;
    let Some(law) = row.law else { return String::new() };
    let mut text = format!(
        "\nfrom k = {a}, {b}, {c} alone: L_inf {:.4}, A {:.4}, b {:.3} (r = {:.3}, of {:.3} to {:.3})\n",
        law.l_inf, law.a, law.b, row.r, row.r_domain[0], row.r_domain[1]
    );
    for one in &row.predictions {
        let measured = one.measured.zip(one.error);
        let measured =
            measured.map_or_else(String::new, |(measured, error)| format!("  measured {measured:.4} ({error:+.4})"));
        let _ = writeln!(text, "  k = {:<4} {:>9.4}{measured}", one.k, one.loss);
    }
    text
}

fn outlook(law: &MergeLaw) -> String {
    let mut text = String::new();
    if let Some(reach) = law.reach {
        let _ = writeln!(
            text,
            "\nall {} reach {:.4}, {:.4} above the floor; {} give 80 % of the gain from one to all, {} give 90 %",
            reach.pool, reach.loss, reach.above_floor, reach.k80, reach.k90
        );
    }
    for target in &law.targets {
        let _ = match (target.k, &target.reason) {
            (Some(k), _) => {
                let pool = if target.within_pool == Some(false) { ", more than there are" } else { "" };
                writeln!(text, "a loss of {:.4} takes {}{pool}", target.target, counted(k, "expert"))
            }
            (None, reason) => {
                writeln!(text, "no number of experts reaches {:.4}: {}", target.target, reason.as_deref().unwrap_or(""))
            }
        };
    }
    if let Some(stop) = law.stop {
        let _ = writeln!(text, "stop at {}: the next gains less than {}", counted(stop.k, "expert"), stop.least_gain);
    }
    if let Some(optimum) = law.optimum {
        let ks = || law.points.iter().map(|point| point.k);
        let (first, last) = (ks().min().unwrap_or(0), ks().max().unwrap_or(0));
        let outside = match (f64::from(first)..=f64::from(last)).contains(&optimum) {
            true => String::new(),
            false => format!("; it is outside the measured range k = {first} to {last}"),
        };
        let _ =
            writeln!(text, "\nbest number of checkpoints: {optimum:.1} (sqrt(A/D) - b; this form is ours){outside}");
    }
    text
}

fn tables(law: &MergeLaw) -> String {
    let mut text = String::new();
    if !law.domains.is_empty() {
        let _ = writeln!(text, "\n{:<28} {:>9} {:>9} {:>8} {:>8}", "domain", "L_inf", "A", "b", "R2");
        for row in &law.domains {
            let bound = if row.at_bound.is_some() { "  at its bound" } else { "" };
            let _ = writeln!(
                text,
                "{:<28} {:>9.4} {:>9.4} {:>8.3} {:>8.4}{bound}",
                row.domain, row.l_inf, row.a, row.b, row.r2
            );
        }
    }
    if !law.sizes.is_empty() {
        let _ = writeln!(text, "\n{:<12} {:>9} {:>9} {:>8} {:>8} {:>9}", "size", "L_inf", "A", "b", "R2", "to target");
        for row in &law.sizes {
            let needed = or_dash(row.k_for_target, |k| format!("{k}"));
            let size = format!("{}B", row.n_billions);
            let _ = writeln!(
                text,
                "{size:<12} {:>9.4} {:>9.4} {:>8.3} {:>8.4} {needed:>9}",
                row.l_inf, row.a, row.b, row.r2
            );
        }
    }
    if let Some(joint) = law.joint {
        let _ = writeln!(
            text,
            "all sizes: {:.4} + {:.4} N^-{:.3} + {:.4} N^-{:.3} / (k + {:.3}), N in billions, R2 {:.4}",
            joint.l_star, joint.b_size, joint.beta, joint.a0, joint.gamma, joint.b, joint.r2
        );
    }
    text
}

/// A number of parameters in billions, in the unit that suits it.
fn show_billions(n: f64) -> String {
    match n {
        n if n >= 1.0 => format!("{n}B"),
        n if n >= 1e-3 => format!("{}M", show_figures(n * 1e3)),
        n => format!("{}k", show_figures(n * 1e6)),
    }
}
