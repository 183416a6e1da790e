//! Pictures as inline SVG: scales and marks, and one file for each picture.
//!
//! A picture is drawn twice, for a wide and for a narrow page, because text in a scaled picture cannot be read on a
//! phone. Colours are classes of the page's style sheet, so that light and dark are decided there.

mod coefficients;
mod frame;
mod interval;
mod lengths;
mod run;
mod scale;
mod thin;

pub(crate) use coefficients::draw_windows;
pub(crate) use interval::{draw_interval, gain_range};
pub(crate) use lengths::{SCHEME_CLASSES, draw_lengths, schemes_at_the_end};
pub(crate) use run::{Extent, draw_run};
pub(crate) use scale::Scale;

use crate::markup::Markup;

/// For which page a picture is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    /// A desktop.
    Wide,
    /// A phone.
    Narrow,
}

impl Width {
    /// Units of the picture, which are pixels where there is room.
    pub(crate) fn units(self) -> f64 {
        match self {
            Self::Wide => 960.0,
            Self::Narrow => 358.0,
        }
    }

    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Wide => "wide",
            Self::Narrow => "narrow",
        }
    }

    pub(crate) fn choose<T>(self, wide: T, narrow: T) -> T {
        match self {
            Self::Wide => wide,
            Self::Narrow => narrow,
        }
    }
}

/// Begins a picture of the given height.
pub(crate) fn begin_picture(width: Width, height: f64, label: &str) -> Markup {
    let mut svg = Markup::new();
    let view = format!("0 0 {} {height:.0}", width.units());
    svg.element("svg")
        .attr("xmlns", "http://www.w3.org/2000/svg")
        .attr("class", width.class())
        .attr("viewBox", view)
        .attr("role", "img")
        .attr("aria-label", label)
        .open();
    svg
}

/// Shapes differ as well as colours, so that neither alone carries the meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Circle,
    Diamond,
    Square,
}

/// A mark with a title to hover over.
pub(crate) fn draw_mark(svg: &mut Markup, mark: Mark, class: &str, at: (f64, f64), radius: f64, title: &str) {
    let (x, y) = at;
    let class = format!("mark {class}");
    match mark {
        Mark::Circle => {
            svg.element("circle").attr("class", class).num("cx", x).num("cy", y).num("r", radius).titled(title)
        }
        Mark::Diamond => {
            let corners = [(0.0, -1.35), (1.35, 0.0), (0.0, 1.35), (-1.35, 0.0)];
            let points = corners.map(|(dx, dy)| format!("{:.2},{:.2}", x + dx * radius, y + dy * radius)).join(" ");
            svg.element("polygon").attr("class", class).attr("points", points).titled(title)
        }
        Mark::Square => svg
            .element("rect")
            .attr("class", class)
            .num("x", x - radius)
            .num("y", y - radius)
            .num("width", 2.0 * radius)
            .num("height", 2.0 * radius)
            .titled(title),
    };
}

/// A line through points.
pub(crate) fn draw_line(svg: &mut Markup, class: &str, points: &[(f64, f64)]) {
    use std::fmt::Write;
    if points.len() < 2 {
        return;
    }
    let mut text = String::with_capacity(points.len() * 14);
    for (x, y) in points {
        let separator = if text.is_empty() { "" } else { " " };
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}{},{}", crate::markup::Coordinate(*x), crate::markup::Coordinate(*y));
    }
    svg.element("polyline").attr("class", format!("line {class}")).attr("points", text).empty();
}

/// Text at a place.
pub(crate) fn draw_label(svg: &mut Markup, class: &str, anchor: Anchor, at: (f64, f64), text: &str) {
    svg.element("text")
        .attr("class", class)
        .attr("text-anchor", anchor.name())
        .num("x", at.0)
        .num("y", at.1)
        .filled(text);
}

/// Which end of a text stands at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Middle => "middle",
            Self::End => "end",
        }
    }
}
