//! Learning-rate phases behind a picture of the run, and the rates below it.

use thalweg_trajectory::Phase;

use super::frame::Frame;
use super::thin::thin_curve;
use super::{Anchor, Scale, begin_rect, draw_label, draw_line};
use crate::markup::Markup;

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

/// Name and class of a phase.
pub(super) fn phase_words(phase: Phase) -> (&'static str, &'static str) {
    match phase {
        Phase::Warmup => ("warmup", "phase warmup"),
        Phase::Stable => ("stable", "phase stable"),
        Phase::Anneal => ("anneal", "phase annealing"),
    }
}

/// A phase of the learning rate that a picture shows.
#[derive(Debug, Clone)]
pub(super) struct ShownPhase {
    name: String,
    class: &'static str,
    steps: [u64; 2],
    /// Its ends in the picture.
    from: f64,
    to: f64,
}

impl ShownPhase {
    /// A phase of which a part is in the frame; `value_at` takes a step to the axis.
    pub(super) fn new(
        frame: &Frame,
        (name, class): (String, &'static str),
        steps: [u64; 2],
        value_at: impl Fn(u64) -> f64,
    ) -> Option<Self> {
        let [from, to] = steps.map(|step| frame.x.place(value_at(step)).clamp(frame.left, frame.right));
        (to - from >= 1.0).then_some(Self { name, class, steps, from, to })
    }
}

/// The shading of one phase.
pub(super) fn shade_phase(svg: &mut Markup, frame: &Frame, phase: &ShownPhase) {
    let ShownPhase { name, class, steps, from, to } = phase;
    let size = (to - from, frame.bottom + STRIP + 10.0 - frame.top);
    let title = format!("{name}: steps {} to {}", steps[0], steps[1]);
    begin_rect(svg, class, (*from, frame.top), size).titled(title);
}

/// The name of a phase where there is room. Drawn after the data, which would strike it out.
pub(super) fn name_phase(svg: &mut Markup, frame: &Frame, phase: &ShownPhase) {
    let ShownPhase { name, class, from, to, .. } = phase;
    // About 6 units a letter: a name that does not fit is left to the title.
    let fits = |name: &str| name.chars().count() as f64 * 6.5 + 8.0 < to - from;
    let short = name.split(' ').next().unwrap_or(name);
    let shown = if fits(name) { name.as_str() } else { short };
    let at_end = class.ends_with("annealing");
    let (anchor, x) = if at_end { (Anchor::End, to - 4.0) } else { (Anchor::Start, from + 4.0) };
    if fits(shown) {
        draw_label(svg, "phase-name", anchor, (x, frame.top + 13.0), shown);
    }
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
    for (class, points) in curves {
        let places = points.iter().map(|(x, rate)| (frame.x.place(*x), scale.place(*rate)));
        let visible: Vec<(f64, f64)> = places.filter(|(x, _)| *x >= frame.left && *x <= frame.right + 0.5).collect();
        draw_line(svg, class, &thin_curve(&visible, 120));
    }
    draw_label(svg, "phase-name", Anchor::Start, (frame.left + 44.0, bottom - 5.0), "learning rate");
}
