//! Pictures as inline SVG: scales and marks, and one file for each picture.
//!
//! A picture is drawn twice, for a wide and for a narrow page, because text in a scaled picture cannot be read on a
//! phone. Colours are classes of the page's style sheet, so that light and dark are decided there.

mod axis;
mod chart;
mod coefficients;
mod forecast_bar;
mod frame;
mod geometry;
mod interval;
mod lengths;
mod phases;
mod run_frame;
mod scale;
mod study_marks;
mod study_run;
mod thin;

pub(crate) use axis::StepAxis;
pub(crate) use chart::{Chart, ChartAxis, ChartPoint, RangeRow, Series, draw_chart, draw_ranges};
pub(crate) use coefficients::draw_windows;
pub(crate) use forecast_bar::{draw_forecast_bar, forecast_range};
pub(crate) use geometry::{draw_bar, draw_cosines, draw_displacements, draw_plane, draw_shares};
pub(crate) use interval::{draw_interval, gain_range};
pub(crate) use lengths::{SCHEME_CLASSES, draw_lengths};
pub(crate) use phases::Extent;
pub(crate) use scale::Scale;
pub(crate) use study_marks::{describe_forecast, describe_trial};
pub(crate) use study_run::{RunPicture, draw_study_run, end_from};

use crate::markup::{Element, Markup};

/// For which page a picture is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    /// A desktop.
    Wide,
    /// A phone.
    Narrow,
    /// Any: a small picture, of which a desktop has several in a row.
    Any,
}

impl Width {
    /// Units of the picture, which are pixels where there is room.
    pub(crate) fn units(self) -> f64 {
        match self {
            Self::Wide => 960.0,
            Self::Narrow | Self::Any => 358.0,
        }
    }

    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Wide => "wide",
            Self::Narrow => "narrow",
            Self::Any => "any",
        }
    }

    pub(crate) fn choose<T>(self, wide: T, narrow: T) -> T {
        match self {
            Self::Wide => wide,
            Self::Narrow | Self::Any => narrow,
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

/// Begins a picture whose marks can be reached by keyboard; `description` says what it shows.
pub(crate) fn begin_chart(width: Width, height: f64, label: &str, description: &str) -> Markup {
    let mut svg = Markup::new();
    svg.element("svg")
        .attr("xmlns", "http://www.w3.org/2000/svg")
        .attr("class", format!("chart {}", width.class()))
        .attr("viewBox", format!("0 0 {} {height:.0}", width.units()))
        .attr("role", "group")
        .attr("aria-label", label)
        .open();
    svg.element("desc").filled(description);
    svg
}

/// Shapes differ as well as colours, so that neither alone carries the meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Circle,
    Diamond,
    Square,
    /// Point upwards.
    Triangle,
    /// Point downwards.
    Flag,
}

/// A mark with a title to hover over.
pub(crate) fn draw_mark(svg: &mut Markup, mark: Mark, class: &str, at: (f64, f64), radius: f64, title: &str) {
    begin_mark(svg, mark, class, at, radius).titled(title);
}

/// A mark that still takes attributes.
pub(crate) fn begin_mark<'a>(svg: &'a mut Markup, mark: Mark, class: &str, at: (f64, f64), radius: f64) -> Element<'a> {
    let (x, y) = at;
    let class = format!("mark {class}");
    let corners: &[(f64, f64)] = match mark {
        Mark::Circle => return svg.element("circle").attr("class", class).num("cx", x).num("cy", y).num("r", radius),
        Mark::Square => {
            let rect = svg.element("rect").attr("class", class).num("x", x - radius).num("y", y - radius);
            return rect.num("width", 2.0 * radius).num("height", 2.0 * radius);
        }
        Mark::Diamond => &[(0.0, -1.35), (1.35, 0.0), (0.0, 1.35), (-1.35, 0.0)],
        Mark::Triangle => &[(0.0, -1.4), (1.3, 1.0), (-1.3, 1.0)],
        Mark::Flag => &[(0.0, 1.4), (1.3, -1.0), (-1.3, -1.0)],
    };
    let points: Vec<String> =
        corners.iter().map(|(dx, dy)| format!("{:.2},{:.2}", x + dx * radius, y + dy * radius)).collect();
    svg.element("polygon").attr("class", class).attr("points", points.join(" "))
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

/// Which end of a text is at its place.
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
