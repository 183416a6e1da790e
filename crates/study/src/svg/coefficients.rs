//! The windows on a map: for each merge, which checkpoints it takes and how much of each.

use super::study_marks::describe_trial;
use super::{Anchor, Scale, Width, begin_picture, begin_rect, draw_label, draw_segment};
use crate::markup::Markup;
use crate::study_view::{EndTrial, StudyView};
use crate::text::show_whole;

/// Height of the bars of one merge.
const BARS: f64 = 26.0;

/// Draws one row of bars for each merge; all end at one step.
pub(crate) fn draw_windows(view: &StudyView<'_>, trials: &[EndTrial<'_>], width: Width) -> Markup {
    let row = BARS + width.choose(10.0, 26.0);
    let rows = trials.len() as f64 * row;
    let mut svg = begin_picture(width, rows + 52.0, "Coefficients of each merge on the map of checkpoints");
    let left = width.choose(150.0, 12.0);
    let right = width.units() - 16.0;
    let first = trials.iter().filter_map(|one| one.trial.sources.first()).map(|source| source.step).min();
    let last = trials.first().map_or(1, |one| one.trial.end_step);
    let steps = Scale::new([first.unwrap_or(0) as f64, last as f64], [left + 10.0, right - 10.0]);
    let checkpoints: Vec<u64> =
        view.record.checkpoints.iter().map(|one| one.step).filter(|&step| steps.holds(step as f64)).collect();
    let bar = ((right - left) / checkpoints.len().max(2) as f64 * 0.62).clamp(2.0, 22.0);
    for (i, one) in trials.iter().enumerate() {
        let base = (i + 1) as f64 * row;
        draw_row(&mut svg, view, one, Row { base, left, right, bar, steps, width });
    }
    draw_map(&mut svg, view, &checkpoints, (steps, rows + 10.0), width);
    svg
}

struct Row {
    base: f64,
    left: f64,
    right: f64,
    bar: f64,
    steps: Scale,
    width: Width,
}

fn draw_row(svg: &mut Markup, view: &StudyView<'_>, one: &EndTrial<'_>, row: Row) {
    let is_chosen = view.is_chosen(one.trial);
    let Row { base, left, right, bar, steps, width } = row;
    let class = if is_chosen { "row-name chosen" } else { "row-name" };
    let name = format!("{} of {}", one.trial.scheme, one.trial.n_checkpoints);
    match width {
        Width::Wide => draw_label(svg, class, Anchor::End, (left - 8.0, base - 6.0), &name),
        Width::Narrow | Width::Any => draw_label(svg, class, Anchor::Start, (left, base - BARS - 6.0), &name),
    }
    draw_segment(svg, "grid", [left, right], [base; 2]);
    // Each row has its own height scale: the shape is what is compared, and the title has the numbers.
    let largest = one.trial.sources.iter().map(|source| source.coefficient.abs()).fold(0.0, f64::max);
    let heights = Scale::new([0.0, largest.max(1e-12)], [0.0, BARS - 2.0]);
    svg.element("g").open();
    svg.element("title").filled(describe_trial(one.trial, one.score));
    for source in &one.trial.sources {
        let height = heights.place(source.coefficient.abs()).max(0.5);
        let class = match (source.coefficient < 0.0, is_chosen) {
            (true, _) => "bar negative",
            (false, true) => "bar chosen",
            (false, false) => "bar",
        };
        let x = steps.place(source.step as f64) - bar / 2.0;
        let rect = begin_rect(svg, class, (x, base - height), (bar, height));
        match width {
            Width::Wide => rect.titled(format!("step {}\ncoefficient {:.6}", source.step, source.coefficient)),
            // A phone has no pointer.
            Width::Narrow | Width::Any => rect.empty(),
        };
    }
    svg.close();
}

/// Every raw checkpoint as a tick, with some of their steps, and their tokens where these are known.
fn draw_map(svg: &mut Markup, view: &StudyView<'_>, shown: &[u64], (steps, y): (Scale, f64), width: Width) {
    let every = shown.len().div_ceil(width.choose(10, 4)).max(1);
    // More ticks than this would be a bar.
    let every_tick = shown.len().div_ceil(width.choose(120, 40)).max(1);
    for (i, &step) in shown.iter().rev().enumerate() {
        if i % every_tick > 0 && i % every > 0 {
            continue;
        }
        let x = steps.place(step as f64);
        draw_segment(svg, "map", [x; 2], [y, y + 6.0]);
        if i % every == 0 {
            draw_label(svg, "tick", Anchor::Middle, (x, y + 20.0), &step.to_string());
            if let Some(tokens) = view.tokens_at(step) {
                draw_label(svg, "tick faint", Anchor::Middle, (x, y + 34.0), &show_whole(tokens));
            }
        }
    }
    // Without checkpoints there is nothing to name.
    if let (Width::Wide, Some(&first)) = (width, shown.first()) {
        let x = steps.place(first as f64) - 34.0;
        draw_label(svg, "axis", Anchor::End, (x, y + 20.0), "step");
        draw_label(svg, "axis faint", Anchor::End, (x, y + 34.0), "tokens");
    }
}
