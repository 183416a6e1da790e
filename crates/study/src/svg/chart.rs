//! Charts of what other commands found: lines, marks with errors, areas and rules over one axis.

use super::frame::Frame;
use super::scale::span_of;
use super::{Anchor, Mark, Scale, Width, begin_chart, draw_area, draw_label, draw_line, draw_segment, draw_stop};
use crate::markup::Markup;
use crate::text::show_count;

/// Marks of one series that are drawn: more are a smear.
const MAX_MARKS: usize = 300;

/// What an axis of places is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChartAxis {
    /// Straight, with round numbers.
    Plain,
    /// Straight, with counts such as `1.5M`.
    Counts,
    /// Each doubling takes the same room; the places of marks are its numbers.
    Doubling,
}

/// A chart before it is drawn.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chart {
    /// What it shows, for readers who cannot see it.
    pub(crate) label: String,
    /// The words at the top of the vertical axis.
    pub(crate) y_title: String,
    /// The words below the horizontal axis.
    pub(crate) x_title: &'static str,
    pub(crate) axis: ChartAxis,
    /// The values at the bottom and the top; found, if left out.
    pub(crate) y_range: Option<[f64; 2]>,
    pub(crate) series: Vec<Series>,
    /// Lines across: name, class and value. One that is outside the range of the series is left out.
    pub(crate) rules: Vec<(String, &'static str, f64)>,
}

/// What belongs together: it has one colour and one entry in the key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Series {
    /// Its entry in the key; none if it is empty.
    pub(crate) name: String,
    /// The class of its line and marks.
    pub(crate) class: &'static str,
    pub(crate) mark: Option<Mark>,
    pub(crate) has_line: bool,
    pub(crate) points: Vec<ChartPoint>,
    /// An area around it: place, low, high.
    pub(crate) area: Vec<[f64; 3]>,
}

/// A mark, or a corner of a line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChartPoint {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// Ends of its error bar.
    pub(crate) range: Option<[f64; 2]>,
    /// What is said about it.
    pub(crate) title: String,
    /// A hollow mark is beside the line: the line does not go through it.
    pub(crate) is_hollow: bool,
}

impl ChartPoint {
    pub(crate) fn new(x: f64, y: f64, title: String) -> Self {
        Self { x, y, range: None, title, is_hollow: false }
    }

    /// With an error bar of this length to both sides.
    pub(crate) fn with_error(self, error: Option<f64>) -> Self {
        Self { range: error.map(|error| [self.y - error, self.y + error]), ..self }
    }
}

impl Series {
    pub(crate) fn new(name: impl Into<String>, class: &'static str, points: Vec<ChartPoint>) -> Self {
        Self { name: name.into(), class, mark: None, has_line: false, points, area: Vec::new() }
    }

    pub(crate) fn with_line(self) -> Self {
        Self { has_line: true, ..self }
    }

    pub(crate) fn with_marks(self, mark: Mark) -> Self {
        Self { mark: Some(mark), ..self }
    }
}

impl ChartAxis {
    /// Where a value is before it is scaled.
    fn place(self, x: f64) -> f64 {
        if self == Self::Doubling { x.max(1e-12).log2() } else { x }
    }
}

/// Draws a chart.
pub(crate) fn draw_chart(chart: &Chart, width: Width) -> Markup {
    let height = width.choose(300.0, 230.0);
    let n_marks: usize = chart.series.iter().filter(|one| one.mark.is_some()).map(|one| one.points.len()).sum();
    let description = format!("{} against {}; {n_marks} marks.", chart.y_title, chart.x_title);
    let mut svg = begin_chart(width, height + 82.0, &chart.label, &description);
    let xs = chart.series.iter().flat_map(|one| {
        let areas = one.area.iter().map(|[x, _, _]| *x);
        one.points.iter().map(|point| point.x).chain(areas)
    });
    let x_range = span_of(xs.map(|x| chart.axis.place(x)), 0.02);
    let y_range = chart.y_range.unwrap_or_else(|| span_of(chart.series.iter().flat_map(values_of), 0.08));
    let frame = Frame::new(width, (width.choose(66.0, 56.0), 34.0, height), (x_range, 4.0), y_range);
    frame.draw_grid(&mut svg, &chart.y_title);
    draw_axis(&mut svg, chart, &frame, x_range);
    draw_rules(&mut svg, chart, &frame);
    for series in &chart.series {
        draw_interval_area(&mut svg, series, chart.axis, &frame);
    }
    for series in &chart.series {
        draw_series(&mut svg, series, chart.axis, &frame);
    }
    svg
}

/// Everything that the vertical axis must hold.
fn values_of(series: &Series) -> impl Iterator<Item = f64> {
    let of_points = series.points.iter().flat_map(|point| {
        let [low, high] = point.range.unwrap_or([point.y; 2]);
        [point.y, low, high]
    });
    of_points.chain(series.area.iter().flat_map(|[_, low, high]| [*low, *high]))
}

fn draw_axis(svg: &mut Markup, chart: &Chart, frame: &Frame, range: [f64; 2]) {
    let bottom = frame.bottom;
    if chart.axis == ChartAxis::Doubling {
        let of_marks = chart.series.iter().filter(|one| one.mark.is_some()).flat_map(|one| &one.points);
        let mut places: Vec<f64> = of_marks.map(|point| point.x).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        let mut free_from = f64::NEG_INFINITY;
        for place in places {
            let x = frame.x.place(chart.axis.place(place));
            if x >= free_from {
                frame.draw_tick(svg, (x, bottom), &show_count(place));
                free_from = x + 24.0;
            }
        }
    } else {
        let (ticks, decimals) = Scale::new(range, [0.0, 1.0]).ticks(frame.width.choose(9, 4));
        for value in ticks {
            let text = match chart.axis {
                ChartAxis::Counts => show_count(value),
                _ => format!("{value:.decimals$}"),
            };
            frame.draw_tick(svg, (frame.x.place(value), bottom), &text);
        }
    }
    draw_label(svg, "axis", Anchor::End, (frame.right, bottom + 34.0), chart.x_title);
}

fn draw_rules(svg: &mut Markup, chart: &Chart, frame: &Frame) {
    let mut taken = places_of(chart, frame);
    for (name, class, value) in chart.rules.iter().filter(|(.., value)| frame.y.holds(*value)) {
        let y = frame.y.place(*value);
        frame.draw_rule(svg, &format!("rule {class}"), y);
        // About 6 units a letter.
        let length = name.chars().count() as f64 * 6.0;
        let is_free = |at: &f64| {
            let is_inside = |(x, [high, low]): &(f64, [f64; 2])| {
                (at - 6.0..=at + length + 6.0).contains(x) && *low > y - 16.0 && *high < y
            };
            !taken.iter().any(is_inside)
        };
        let right = frame.right - 4.0 - length;
        let all = [right, frame.left + 4.0, (frame.left + right) / 2.0];
        let at = all.into_iter().find(is_free).unwrap_or(right);
        draw_label(svg, "rule-name", Anchor::Start, (at, y - 5.0), name);
        taken.extend([0.0, 0.5, 1.0].map(|part| (at + part * length, [y - 15.0, y - 4.0])));
    }
}

/// Where marks, their bars and corners of lines are drawn, from top to bottom, for labels to keep clear of.
fn places_of(chart: &Chart, frame: &Frame) -> Vec<(f64, [f64; 2])> {
    let points = chart.series.iter().flat_map(|one| &one.points);
    let place = |point: &ChartPoint| {
        let [low, high] = point.range.unwrap_or([point.y; 2]);
        let (x, high) = frame.place(chart.axis.place(point.x), high);
        (x, [high - 4.0, frame.y.place(low) + 4.0])
    };
    points.map(place).collect()
}

fn draw_interval_area(svg: &mut Markup, series: &Series, axis: ChartAxis, frame: &Frame) {
    if series.area.len() < 2 {
        return;
    }
    let high = series.area.iter().map(|[x, _, high]| frame.place(axis.place(*x), *high));
    let low = series.area.iter().rev().map(|[x, low, _]| frame.place(axis.place(*x), *low));
    draw_area(svg, &format!("area-95 {}", series.class), high.chain(low));
}

fn draw_series(svg: &mut Markup, series: &Series, axis: ChartAxis, frame: &Frame) {
    // A value beyond a given range is drawn at its edge.
    let [low, high] = [frame.bottom, frame.top];
    let place = |x: f64, y: f64| {
        let (x, y) = frame.place(axis.place(x), y);
        (x, y.clamp(high, low))
    };
    if series.has_line {
        let line = series.points.iter().filter(|point| !point.is_hollow);
        draw_line(svg, series.class, &line.map(|point| place(point.x, point.y)).collect::<Vec<_>>());
    }
    let Some(mark) = series.mark else { return };
    let every = series.points.len().div_ceil(MAX_MARKS).max(1);
    for point in series.points.iter().step_by(every) {
        if let Some([from, to]) = point.range {
            let ((x, from), (_, to)) = (place(point.x, from), place(point.x, to));
            draw_segment(svg, &format!("error {}", series.class), [x; 2], [from, to]);
        }
        let hollow = if point.is_hollow { " hollow" } else { "" };
        let at = place(point.x, point.y);
        draw_stop(svg, mark, &format!("{}{hollow}", series.class), at, 3.4, &point.title);
    }
}

/// A row of [`draw_ranges`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RangeRow {
    pub(crate) name: String,
    /// Its thick bar.
    pub(crate) range: [f64; 2],
    /// Marks on it: shape, class, value, and what is said about it.
    pub(crate) marks: Vec<(Mark, &'static str, f64, String)>,
}

/// Ranges of shares by name, one below the other, with marks.
pub(crate) fn draw_ranges(rows: &[RangeRow], label: &str, width: Width) -> Markup {
    let row_height = width.choose(30.0, 42.0);
    let bottom = rows.iter().fold(12.0, |bottom, _| bottom + row_height);
    let description = format!("{} ranges of shares.", rows.len());
    let mut svg = begin_chart(width, bottom + 26.0, label, &description);
    let (left, right) = (width.choose(170.0, 14.0), width.units() - 24.0);
    let ends = rows.iter().flat_map(|row| row.marks.iter().map(|mark| mark.2).chain(row.range));
    let most = ends.filter(|end| end.is_finite()).fold(0.1, f64::max);
    let x = Scale::new([0.0, most], [left, right]);
    let (ticks, decimals) = x.ticks(width.choose(10, 5));
    for value in ticks {
        let at = x.place(value);
        draw_segment(&mut svg, "grid", [at; 2], [8.0, bottom + 4.0]);
        draw_label(&mut svg, "tick", Anchor::Middle, (at, bottom + 18.0), &format!("{value:.decimals$}"));
    }
    let mut base = 8.0;
    for row in rows {
        base += row_height;
        let middle = base - width.choose(12.0, 10.0);
        let name: String = row.name.chars().take(width.choose(24, 40)).collect();
        match width {
            Width::Wide => draw_label(&mut svg, "row-name", Anchor::End, (left - 10.0, middle + 4.0), &name),
            _ => draw_label(&mut svg, "row-name", Anchor::Start, (left, middle - 12.0), &name),
        }
        draw_segment(&mut svg, "band-80", row.range.map(|end| x.place(end)), [middle; 2]);
        for (mark, class, value, title) in &row.marks {
            draw_stop(&mut svg, *mark, class, (x.place(*value), middle), 4.0, title);
        }
    }
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(axis: ChartAxis, points: &[(f64, f64)]) -> Chart {
        let points = points.iter().map(|(x, y)| ChartPoint::new(*x, *y, format!("{x}, {y}")).with_error(Some(0.1)));
        Chart {
            label: "A chart".to_owned(),
            y_title: "loss".to_owned(),
            x_title: "models",
            axis,
            y_range: None,
            series: vec![Series::new("law", "merged", points.collect()).with_line().with_marks(Mark::Circle)],
            rules: vec![("base".to_owned(), "raw", 2.0), ("elsewhere".to_owned(), "raw", 9.0)],
        }
    }

    #[test]
    fn a_chart_has_its_line_marks_errors_and_the_rules_within_its_range() {
        for width in [Width::Wide, Width::Narrow, Width::Any] {
            let svg = draw_chart(&chart(ChartAxis::Doubling, &[(1.0, 2.5), (2.0, 2.0), (4.0, 1.8)]), width).finish();
            assert_eq!(svg.matches("<circle").count(), 3);
            assert_eq!(svg.matches("class=\"error merged\"").count(), 3);
            assert_eq!(svg.matches("<polyline").count(), 1);
            assert!(svg.contains(">base<") && !svg.contains(">elsewhere<"), "{svg}");
            assert!([">1<", ">2<", ">4<"].iter().all(|tick| svg.contains(tick)), "{svg}");
        }
    }

    #[test]
    fn a_chart_of_nothing_or_of_one_point_is_drawn() {
        for points in [&[][..], &[(1.0, 2.0)], &[(0.0, 0.0), (0.0, 0.0)]] {
            for axis in [ChartAxis::Plain, ChartAxis::Counts, ChartAxis::Doubling] {
                let svg = draw_chart(&chart(axis, points), Width::Wide).finish();
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }

    #[test]
    fn a_hollow_mark_is_not_on_the_line() {
        let mut chart = chart(ChartAxis::Plain, &[(1.0, 2.0), (2.0, 1.0), (3.0, 2.0)]);
        chart.series[0].points[1].is_hollow = true;
        let svg = draw_chart(&chart, Width::Wide).finish();
        let line = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!((line.split(' ').count(), svg.matches("hollow").count()), (2, 1));
    }
}
