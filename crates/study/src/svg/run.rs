//! Loss along the run: training, raw checkpoints, merges and the annealed fork on one axis, the learning rate below.

use super::frame::Frame;
use super::scale::{place_of, span_of};
use super::thin::thin_curve;
use super::{Anchor, Mark, Scale, Width, begin_picture, draw_label, draw_line, draw_mark};
use crate::markup::Markup;
use crate::report::{PhaseName, Report, Role, ScoredModel, Split, TrainingPoint};
use crate::text::show_whole;
use crate::verdict::headline_merge;

/// How much of the run a picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// From the first step.
    Whole,
    /// From the window and the fork on.
    End,
}

/// Height of the learning-rate strip.
pub(super) const STRIP: f64 = 34.0;

/// Draws the run as far as `extent` says.
pub(crate) fn draw_run(report: &Report, extent: Extent, width: Width) -> Markup {
    let label = match extent {
        Extent::Whole => "Loss along the run",
        Extent::End => "Loss at the end of the run",
    };
    let data_height = width.choose(330.0, 260.0);
    let mut svg = begin_picture(width, data_height + STRIP + 92.0, label);
    let steps = step_range(report, extent);
    let clip = format!("clip-{}-{}", width.class(), if extent == Extent::Whole { "whole" } else { "end" });
    let left = width.choose(58.0, 52.0);
    let right = width.units() - width.choose(14.0, 6.0);
    let top = 34.0;
    let x = Scale::new(steps.map(place_of), [left, right]);
    let y = Scale::new(loss_range(report, extent, steps), [top + data_height, top]);
    let frame = Frame { left, right, top, bottom: top + data_height, x, y, width };
    draw_phases(&mut svg, report, &frame);
    frame.draw_grid(&mut svg, "nats a token");
    svg.element("clipPath").attr("id", &clip).open();
    let (w, h) = (right - left + 12.0, data_height + 12.0);
    svg.element("rect").num("x", left - 6.0).num("y", top - 6.0).num("width", w).num("height", h).empty();
    svg.close();
    svg.element("g").attr("clip-path", format!("url(#{clip})")).open();
    if extent == Extent::Whole {
        draw_training(&mut svg, report, &frame);
    }
    draw_models(&mut svg, report, &frame);
    svg.close();
    draw_strip(&mut svg, report, &frame);
    frame.draw_step_axis(&mut svg, frame.bottom + STRIP + 10.0, report.tokens_per_step);
    svg
}

fn step_range(report: &Report, extent: Extent) -> [u64; 2] {
    let last = report.last_step();
    if extent == Extent::Whole {
        return [0, last];
    }
    let window = headline_merge(report).and_then(|model| model.merge.as_ref());
    let first_source = window.and_then(|merge| merge.sources.first()).map(|source| source.step);
    let fork = report.anneal.as_ref().map(|anneal| anneal.fork_step);
    let from = first_source.into_iter().chain(fork).min().unwrap_or(last / 2);
    // A tenth of the stretch before it shows where things came from.
    [from.saturating_sub(last.saturating_sub(from) / 8), last]
}

/// Held-out losses decide the range: training loss is noise around them and may leave the picture.
fn loss_range(report: &Report, extent: Extent, [from, to]: [u64; 2]) -> [f64; 2] {
    // The first tenth of a run falls so far that everything after it would be flat.
    let from = if extent == Extent::Whole { from.max(to / 10) } else { from };
    let scored = report.models.iter().filter(|model| model.step >= from && model.step <= to);
    span_of(scored.filter_map(|model| model.score(Split::Test)).map(|score| score.nll_nats), 0.08)
}

fn draw_phases(svg: &mut Markup, report: &Report, frame: &Frame) {
    for span in &report.phases {
        let (name, class) = phase_words(span.phase);
        draw_phase(svg, frame, (name, class), [span.from_step, span.to_step], place_of);
    }
    if let Some(anneal) = &report.anneal {
        let name = format!("anneal forked ({})", anneal.curve);
        draw_phase(svg, frame, (&name, "phase annealing"), [anneal.fork_step, anneal.end_step], place_of);
    }
}

/// Name and class of a phase.
pub(super) fn phase_words(phase: PhaseName) -> (&'static str, &'static str) {
    match phase {
        PhaseName::Warmup => ("warmup", "phase warmup"),
        PhaseName::Stable => ("stable", "phase stable"),
        PhaseName::Anneal => ("anneal", "phase annealing"),
    }
}

/// The shading of one phase, and its name where there is room; `value_at` takes a step to the axis.
pub(super) fn draw_phase(
    svg: &mut Markup,
    frame: &Frame,
    (name, class): (&str, &str),
    steps: [u64; 2],
    value_at: impl Fn(u64) -> f64,
) {
    let [from, to] = steps.map(|step| frame.x.place(value_at(step)).clamp(frame.left, frame.right));
    if to - from < 1.0 {
        return;
    }
    let height = frame.bottom + STRIP + 10.0 - frame.top;
    let title = format!("{name}: steps {} to {}", steps[0], steps[1]);
    svg.element("rect")
        .attr("class", class)
        .num("x", from)
        .num("y", frame.top)
        .num("width", to - from)
        .num("height", height)
        .titled(title);
    // About 6 units a letter: a name that does not fit is left to the title.
    #[expect(clippy::cast_precision_loss, reason = "a width on a page")]
    let fits = |name: &str| name.chars().count() as f64 * 6.5 + 8.0 < to - from;
    let short = name.split(' ').next().unwrap_or(name);
    let shown = if fits(name) { name } else { short };
    let at_end = class.ends_with("annealing");
    let (anchor, x) = if at_end { (Anchor::End, to - 4.0) } else { (Anchor::Start, from + 4.0) };
    if fits(shown) {
        draw_label(svg, "phase-name", anchor, (x, frame.top + 13.0), shown);
    }
}

fn draw_training(svg: &mut Markup, report: &Report, frame: &Frame) {
    let curve = |points: &[TrainingPoint]| -> Vec<(f64, f64)> {
        let places = points.iter().map(|point| frame.place(place_of(point.step), point.nll_nats));
        let visible: Vec<(f64, f64)> =
            places.filter(|(x, _)| *x >= frame.left - 20.0 && *x <= frame.right + 20.0).collect();
        thin_curve(&visible, frame.width.choose(420, 170))
    };
    draw_line(svg, "training", &curve(&report.training));
    if let Some(anneal) = &report.anneal {
        draw_line(svg, "training annealed", &curve(&anneal.training));
    }
}

/// Lines first and marks on top: raw, annealed from the fork on, then merges.
fn draw_models(svg: &mut Markup, report: &Report, frame: &Frame) {
    let place =
        |model: &ScoredModel| model.score(Split::Test).map(|score| frame.place(place_of(model.step), score.nll_nats));
    let raw = report.of_role(Role::Raw);
    let mut annealed = report.of_role(Role::Annealed);
    let fork = report.anneal.as_ref().and_then(|anneal| raw.iter().find(|model| model.step == anneal.fork_step));
    if let (Some(fork), false) = (fork, annealed.is_empty()) {
        annealed.insert(0, fork);
    }
    let rolling = rolling_merges(report);
    for (class, models) in [("raw", &raw), ("annealed", &annealed), ("merged", &rolling)] {
        let points: Vec<(f64, f64)> = models.iter().filter_map(|model| place(model)).collect();
        draw_line(svg, class, &points);
    }
    let marked = raw.iter().chain(annealed.iter().filter(|model| model.role == Role::Annealed)).chain(&rolling);
    for model in marked {
        let Some(at) = place(model) else { continue };
        if at.0 < frame.left - 6.0 || at.0 > frame.right + 6.0 {
            continue;
        }
        let (mark, class, radius) = match model.role {
            Role::Raw => (Mark::Circle, "raw", 3.0),
            Role::Merged => (Mark::Diamond, "merged", 3.6),
            Role::Annealed => (Mark::Square, "annealed", 3.2),
        };
        draw_mark(svg, mark, class, at, radius, &describe(report, model));
    }
}

/// The headline's merge, and merges of the same form at other steps.
fn rolling_merges(report: &Report) -> Vec<&ScoredModel> {
    let form = |model: &ScoredModel| {
        model.merge.as_ref().map(|merge| (merge.scheme.clone(), merge.sources.len(), merge.interval_steps))
    };
    let wanted = headline_merge(report).and_then(form);
    let merged = report.of_role(Role::Merged).into_iter();
    merged.filter(|model| wanted.is_some() && form(model) == wanted).collect()
}

/// What is shown when one points at a model.
pub(crate) fn describe(report: &Report, model: &ScoredModel) -> String {
    let mut text = format!("{}\nstep {}, {} tokens", model.name, model.step, show_whole(report.tokens_at(model.step)));
    for score in &model.scores {
        text.push_str(&format!(
            "\n{} loss {:.4} ± {:.4} nats a token, {:.4} bits a byte",
            score.split.name(),
            score.nll_nats,
            score.standard_error,
            score.bits_per_byte
        ));
    }
    if let Some(merge) = &model.merge {
        let steps: Vec<String> =
            merge.sources.iter().map(|source| format!("{} × {:.3}", source.step, source.coefficient)).collect();
        text.push_str(&format!("\n{} of steps {}", merge.scheme, steps.join(", ")));
    }
    text
}

/// The learning rate, as a share of its peak.
fn draw_strip(svg: &mut Markup, report: &Report, frame: &Frame) {
    let curve = |points: &[TrainingPoint]| -> Vec<(f64, f64)> {
        points.iter().map(|point| (place_of(point.step), point.learning_rate)).collect()
    };
    let mut curves = vec![("rate", curve(&report.training))];
    curves.extend(report.anneal.iter().map(|anneal| ("rate annealed", curve(&anneal.training))));
    draw_rates(svg, frame, &curves);
}

/// Learning rates below the data: class and points of each curve, as values of the axis and rates.
pub(super) fn draw_rates(svg: &mut Markup, frame: &Frame, curves: &[(&str, Vec<(f64, f64)>)]) {
    let peak = curves.iter().flat_map(|(_, points)| points).map(|point| point.1).fold(0.0, f64::max);
    if peak <= 0.0 {
        return;
    }
    let bottom = frame.bottom + STRIP + 8.0;
    let scale = Scale::new([0.0, peak], [bottom, frame.bottom + 14.0]);
    frame.draw_rule(svg, "grid", bottom);
    draw_label(
        svg,
        "axis faint",
        Anchor::Start,
        (f64::midpoint(frame.left, frame.right) - 40.0, bottom - 5.0),
        "learning rate",
    );
    for (class, points) in curves {
        let places = points.iter().map(|(x, rate)| (frame.x.place(*x), scale.place(*rate)));
        let visible: Vec<(f64, f64)> = places.filter(|(x, _)| *x >= frame.left && *x <= frame.right + 0.5).collect();
        draw_line(svg, class, &thin_curve(&visible, 120));
    }
}
