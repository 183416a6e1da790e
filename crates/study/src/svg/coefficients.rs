//! The windows on a map: for each merge, which checkpoints it takes and how much of each.

use super::run::describe;
use super::scale::place_of;
use super::{Anchor, Scale, Width, begin_picture, draw_label};
use crate::markup::Markup;
use crate::report::{Report, Role, ScoredModel};
use crate::text::show_whole;
use crate::verdict::headline_merge;

/// Height of the bars of one merge.
const BARS: f64 = 26.0;
/// Most merges on the map.
const MAX_ROWS: usize = 24;

/// Draws one row of bars for each merge that ends with the headline's.
pub(crate) fn draw_windows(report: &Report, width: Width) -> Markup {
    let merges = merges_at_the_end(report);
    let row = BARS + width.choose(10.0, 26.0);
    #[expect(clippy::cast_precision_loss, reason = "a height on a page")]
    let rows = merges.len() as f64 * row;
    let mut svg = begin_picture(width, rows + 52.0, "Coefficients of each merge on the map of checkpoints");
    let left = width.choose(150.0, 12.0);
    let right = width.units() - 16.0;
    let first = merges.iter().filter_map(|model| model.merge.as_ref()?.sources.first()).map(|source| source.step).min();
    let last = merges.iter().map(|model| model.step).max().unwrap_or(1);
    let range = [place_of(first.unwrap_or(0)), place_of(last)];
    let steps = Scale::new(range, [left + 10.0, right - 10.0]);
    let n_slots = report.checkpoints.iter().filter(|&&step| steps.holds(place_of(step))).count().max(2);
    #[expect(clippy::cast_precision_loss, reason = "a width on a page")]
    let bar = ((right - left) / n_slots as f64 * 0.62).clamp(2.0, 22.0);
    for (i, model) in merges.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "a height on a page")]
        let base = (i + 1) as f64 * row;
        draw_row(&mut svg, report, model, Row { base, left, right, bar, steps, width });
    }
    draw_map(&mut svg, report, steps, rows + 10.0, width);
    svg
}

/// Merges that end where the headline's does, in the order of the record.
pub(crate) fn merges_at_the_end(report: &Report) -> Vec<&ScoredModel> {
    let Some(headline) = headline_merge(report) else { return Vec::new() };
    let same_end = report.models.iter().filter(|model| model.role == Role::Merged && model.step == headline.step);
    same_end.take(MAX_ROWS).collect()
}

struct Row {
    base: f64,
    left: f64,
    right: f64,
    bar: f64,
    steps: Scale,
    width: Width,
}

fn draw_row(svg: &mut Markup, report: &Report, model: &ScoredModel, row: Row) {
    let Some(merge) = &model.merge else { return };
    let is_headline = headline_merge(report).is_some_and(|headline| headline.name == model.name);
    let Row { base, left, right, bar, steps, width } = row;
    let class = if is_headline { "row-name chosen" } else { "row-name" };
    let name = format!("{} of {}", merge.scheme, merge.sources.len());
    match width {
        Width::Wide => draw_label(svg, class, Anchor::End, (left - 8.0, base - 6.0), &name),
        Width::Narrow => draw_label(svg, class, Anchor::Start, (left, base - BARS - 6.0), &name),
    }
    svg.element("line").attr("class", "grid").num("x1", left).num("x2", right).num("y1", base).num("y2", base).empty();
    // Each row has its own height scale: the shape is what is compared, and the title has the numbers.
    let largest = merge.sources.iter().map(|source| source.coefficient.abs()).fold(0.0, f64::max);
    let heights = Scale::new([0.0, largest.max(1e-12)], [0.0, BARS - 2.0]);
    svg.element("g").open();
    svg.element("title").filled(describe(report, model));
    for source in &merge.sources {
        let height = heights.place(source.coefficient.abs()).max(0.5);
        let is_negative = source.coefficient < 0.0;
        let class = match (is_negative, is_headline) {
            (true, _) => "bar negative",
            (false, true) => "bar chosen",
            (false, false) => "bar",
        };
        let title = format!(
            "step {}, {} tokens\ncoefficient {:.6}",
            source.step,
            show_whole(report.tokens_at(source.step)),
            source.coefficient
        );
        svg.element("rect")
            .attr("class", class)
            .num("x", steps.place(place_of(source.step)) - bar / 2.0)
            .num("y", base - height)
            .num("width", bar)
            .num("height", height)
            .titled(title);
    }
    svg.close();
}

/// Every raw checkpoint as a tick, with some of their steps.
fn draw_map(svg: &mut Markup, report: &Report, steps: Scale, y: f64, width: Width) {
    let shown: Vec<u64> = report.checkpoints.iter().copied().filter(|&step| steps.holds(place_of(step))).collect();
    let every = shown.len().div_ceil(width.choose(10, 4)).max(1);
    for (i, &step) in shown.iter().rev().enumerate() {
        let x = steps.place(place_of(step));
        svg.element("line").attr("class", "map").num("x1", x).num("x2", x).num("y1", y).num("y2", y + 6.0).empty();
        if i % every == 0 {
            draw_label(svg, "tick", Anchor::Middle, (x, y + 20.0), &show_whole(report.tokens_at(step)));
            draw_label(svg, "tick faint", Anchor::Middle, (x, y + 34.0), &step.to_string());
        }
    }
    if width == Width::Wide {
        let x = steps.place(place_of(shown.first().copied().unwrap_or(0))) - 34.0;
        draw_label(svg, "axis", Anchor::End, (x, y + 20.0), "tokens");
        draw_label(svg, "axis faint", Anchor::End, (x, y + 34.0), "step");
    }
}
