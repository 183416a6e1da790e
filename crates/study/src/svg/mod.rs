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
pub(crate) use lengths::{SCHEME_CLASSES, chart_of_lengths};
pub(crate) use phases::Extent;
pub(crate) use scale::Scale;
pub(crate) use study_marks::{describe_forecast, describe_trial};
pub(crate) use study_run::{RunPicture, draw_study_run, end_from};

use crate::markup::{Coordinate, Element, Markup};

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
    begin_svg(width.class(), (width.units(), height), "img", label)
}

/// Begins a picture whose marks can be reached by keyboard; `description` says what it shows.
pub(crate) fn begin_chart(width: Width, height: f64, label: &str, description: &str) -> Markup {
    let mut svg = begin_svg(&format!("chart {}", width.class()), (width.units(), height), "group", label);
    svg.element("desc").filled(description);
    svg
}

/// Begins a bar of a row of a table; `title` says what it shows.
fn begin_bar(size: (f64, f64), title: &str) -> Markup {
    let mut svg = begin_svg("interval", size, "img", &title.replace('\n', ", "));
    svg.element("title").filled(title);
    svg
}

fn begin_svg(class: &str, (width, height): (f64, f64), role: &str, label: &str) -> Markup {
    let mut svg = Markup::new();
    svg.element("svg")
        .attr("xmlns", "http://www.w3.org/2000/svg")
        .attr("class", class)
        .attr("viewBox", format!("0 0 {width} {height:.0}"))
        .attr("role", role)
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
        Mark::Square => return begin_rect(svg, &class, (x - radius, y - radius), (2.0 * radius, 2.0 * radius)),
        Mark::Diamond => &[(0.0, -1.35), (1.35, 0.0), (0.0, 1.35), (-1.35, 0.0)],
        Mark::Triangle => &[(0.0, -1.4), (1.3, 1.0), (-1.3, 1.0)],
        Mark::Flag => &[(0.0, 1.4), (1.3, -1.0), (-1.3, -1.0)],
    };
    let points: Vec<String> =
        corners.iter().map(|(dx, dy)| format!("{:.2},{:.2}", x + dx * radius, y + dy * radius)).collect();
    svg.element("polygon").attr("class", class).attr("points", points.join(" "))
}

/// A mark with a title that the keyboard reaches too.
fn draw_stop(svg: &mut Markup, mark: Mark, class: &str, at: (f64, f64), radius: f64, title: impl std::fmt::Display) {
    begin_mark(svg, mark, class, at, radius).attr("tabindex", "-1").titled(title);
}

/// A rectangle that still takes attributes.
fn begin_rect<'a>(svg: &'a mut Markup, class: &str, (x, y): (f64, f64), (width, height): (f64, f64)) -> Element<'a> {
    svg.element("rect").attr("class", class).num("x", x).num("y", y).num("width", width).num("height", height)
}

/// A straight line between two ends.
fn draw_segment(svg: &mut Markup, class: &str, [x1, x2]: [f64; 2], [y1, y2]: [f64; 2]) {
    svg.element("line").attr("class", class).num("x1", x1).num("x2", x2).num("y1", y1).num("y2", y2).empty();
}

/// An area with these corners.
fn draw_area(svg: &mut Markup, class: &str, corners: impl Iterator<Item = (f64, f64)>) {
    svg.element("polygon").attr("class", class).attr("points", show_places(corners)).empty();
}

/// A line through points.
pub(crate) fn draw_line(svg: &mut Markup, class: &str, points: &[(f64, f64)]) {
    if points.len() > 1 {
        let line = svg.element("polyline").attr("class", format!("line {class}"));
        line.attr("points", show_places(points.iter().copied())).empty();
    }
}

fn show_places(places: impl Iterator<Item = (f64, f64)>) -> String {
    places.map(|(x, y)| format!("{},{}", Coordinate(x), Coordinate(y))).collect::<Vec<_>>().join(" ")
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
