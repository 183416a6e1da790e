//! Pictures of how the parameters move along a run.

use thalweg_tensor::counted;

use super::axis::StepAxis;
use super::frame::Frame;
use super::scale::span_of;
use super::thin::thin_curve;
use super::{Anchor, Mark, Scale, Width, begin_chart, begin_rect, draw_label, draw_line, draw_segment, draw_stop};
use crate::markup::Markup;
use crate::record::GeometryRow;

/// Marks of one picture.
const MAX_MARKS: usize = 150;
/// Components whose shares are drawn.
const MAX_COMPONENTS: usize = 8;

/// Length of each displacement by the step at which it ends.
pub(crate) fn draw_displacements(geometry: &GeometryRow, width: Width) -> Markup {
    let steps = geometry.steps.iter().skip(1);
    let points: Vec<(u64, f64)> = steps.copied().zip(geometry.displacements.iter().copied()).collect();
    let [_, high] = span_of(points.iter().map(|point| point.1), 0.08);
    let picture = Curve { title: "length of a displacement", points: &points, range: [0.0, high], class: "merged" };
    draw_curve(&picture, width)
}

/// Cosine of each displacement with the next by the step between them.
pub(crate) fn draw_cosines(geometry: &GeometryRow, width: Width) -> Markup {
    let steps = geometry.steps.iter().skip(1);
    let cosines = steps.zip(&geometry.displacement_cosines);
    let points: Vec<(u64, f64)> = cosines.filter_map(|(step, cosine)| Some((*step, (*cosine)?))).collect();
    let [low, high] = span_of(points.iter().map(|point| point.1).chain([0.0]), 0.08);
    let title = "cosine with the next displacement";
    draw_curve(&Curve { title, points: &points, range: [low.max(-1.0), high.min(1.0)], class: "raw" }, width)
}

struct Curve<'a> {
    title: &'a str,
    points: &'a [(u64, f64)],
    range: [f64; 2],
    class: &'a str,
}

fn draw_curve(curve: &Curve<'_>, width: Width) -> Markup {
    let height = width.choose(150.0, 140.0);
    let description = format!("{} by step.", counted(curve.points.len(), "value"));
    let mut svg = begin_chart(width, height + 82.0, curve.title, &description);
    let axis = StepAxis::all(&[]);
    let first = curve.points.first().map_or(0.0, |point| point.0 as f64);
    let last = curve.points.last().map_or(1.0, |point| point.0 as f64);
    let frame = Frame::new(width, (width.choose(58.0, 52.0), 34.0, height), ([first, last], 6.0), curve.range);
    frame.draw_grid(&mut svg, curve.title);
    if frame.y.holds(0.0) && curve.range[0] < 0.0 {
        frame.draw_rule(&mut svg, "zero", frame.y.place(0.0));
    }
    let places: Vec<(f64, f64)> = curve
        .points
        .iter()
        .map(|(step, value)| frame.place(*step as f64, value.clamp(curve.range[0].min(curve.range[1]), f64::MAX)))
        .collect();
    draw_line(&mut svg, curve.class, &thin_curve(&places, width.choose(300, 120)));
    let every = curve.points.len().div_ceil(width.choose(MAX_MARKS, MAX_MARKS / 2)).max(1);
    for ((step, value), at) in curve.points.iter().zip(&places).step_by(every) {
        let title = format!("step {step}\n{}: {value:.5}", curve.title);
        draw_stop(&mut svg, Mark::Circle, curve.class, *at, 2.4, title);
    }
    if let Some(axis) = axis.first() {
        let ends = Frame { left: frame.left + 6.0, right: frame.right - 6.0, ..frame };
        axis.draw_ticks(&mut svg, &ends, frame.bottom, [first, last]);
    }
    svg
}

/// Checkpoints in the plane of the first two components.
pub(crate) fn draw_plane(geometry: &GeometryRow, width: Width) -> Markup {
    let height = width.choose(330.0, 280.0);
    let description = format!("{} checkpoints in the plane of the first two components.", geometry.plane.len());
    let mut svg = begin_chart(width, height + 76.0, "Plane of the first two components", &description);
    let along = |i: usize| span_of(geometry.plane.iter().map(|point| point[i]), 0.06);
    let frame = Frame::new(width, (width.choose(66.0, 56.0), 34.0, height), (along(0), 0.0), along(1));
    frame.draw_grid(&mut svg, "second component");
    let (ticks, decimals) = frame.x.ticks(width.choose(9, 5));
    for value in ticks {
        let at = (frame.x.place(value), frame.bottom + 17.0);
        draw_label(&mut svg, "tick", Anchor::Middle, at, &format!("{value:.decimals$}"));
    }
    draw_label(&mut svg, "axis", Anchor::End, (frame.right, frame.bottom + 34.0), "first component");
    let every = geometry.plane.len().div_ceil(600).max(1);
    let places: Vec<(f64, f64)> = geometry.plane.iter().map(|[a, b]| frame.place(*a, *b)).collect();
    let path: Vec<(f64, f64)> = places.iter().copied().step_by(every).chain(places.last().copied()).collect();
    draw_line(&mut svg, "path", &path);
    let every = places.len().div_ceil(width.choose(MAX_MARKS, MAX_MARKS / 2)).max(1);
    let last = places.len().saturating_sub(1);
    for (i, (at, step)) in places.iter().zip(&geometry.steps).enumerate() {
        let is_end = i == 0 || i == last;
        if i % every != 0 && !is_end {
            continue;
        }
        let (class, radius) = match i {
            0 => ("outside", 4.6),
            _ if i == last => ("raw", 4.6),
            _ => ("raw small", 2.4),
        };
        draw_stop(&mut svg, Mark::Circle, class, *at, radius, format!("step {step}"));
        if is_end {
            let right_half = at.0 > width.units() - 110.0;
            let (anchor, dx) = if right_half { (Anchor::End, -8.0) } else { (Anchor::Start, 8.0) };
            draw_label(&mut svg, "plane-name", anchor, (at.0 + dx, at.1 - 7.0), &format!("step {step}"));
        }
    }
    svg
}

/// Shares of components beside those of a random walk.
pub(crate) fn draw_shares(shares: &[f64], of_walk: &[f64], width: Width) -> Markup {
    let n = shares.len().clamp(1, MAX_COMPONENTS);
    let row = 34.0;
    let rows = n as f64 * row;
    let description = "Two bars per component: this run and a random walk.";
    let mut svg = begin_chart(width, rows + 8.0, "Share of each component", description);
    let (left, right) = (width.choose(104.0, 34.0), width.units() - 60.0);
    let most = shares.iter().chain(of_walk).copied().filter(|s| s.is_finite());
    let x = Scale::new([0.0, most.fold(1e-9, f64::max)], [left, right]);
    for (i, share) in shares.iter().take(n).enumerate() {
        let y = i as f64 * row + 6.0;
        let name = width.choose(format!("component {}", i + 1), (i + 1).to_string());
        draw_label(&mut svg, "tick", Anchor::End, (left - 8.0, y + 17.0), &name);
        let walk = of_walk.get(i);
        for (share, class, dy) in [(Some(share), "share merged", 0.0), (walk, "share raw", 13.0)] {
            let Some(share) = share else { continue };
            let bar = (x.place(*share) - left).clamp(0.0, right - left);
            begin_rect(&mut svg, class, (left, y + dy), (bar, 11.0)).empty();
            let label = format!("{:.1} %", share * 100.0);
            draw_label(&mut svg, "tick faint", Anchor::Start, (left + bar + 5.0, y + dy + 9.5), &label);
        }
    }
    svg
}

/// A bar in a table's cell, from zero on.
pub(crate) fn draw_bar(value: f64, range: [f64; 2]) -> Markup {
    let mut svg = Markup::new();
    svg.element("svg")
        .attr("xmlns", "http://www.w3.org/2000/svg")
        .attr("class", "cell-bar")
        .attr("viewBox", "0 0 120 10")
        .attr("aria-hidden", "true")
        .open();
    let x = Scale::new(range, [0.0, 120.0]);
    let [a, b] = [0.0, value].map(|end| x.place(end).clamp(0.0, 120.0));
    let class = if value < 0.0 { "share negative" } else { "share merged" };
    begin_rect(&mut svg, class, (a.min(b), 1.0), ((b - a).abs(), 8.0)).empty();
    if range[0] < 0.0 {
        draw_segment(&mut svg, "grid", [a; 2], [0.0, 10.0]);
    }
    svg
}
