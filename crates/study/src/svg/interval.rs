//! A gain with its interval as a bar, one row of the table of gains.

use super::{Mark, Scale, draw_mark};
use crate::markup::Markup;
use crate::record::GainRow;

/// Units across.
const WIDTH: f64 = 300.0;
/// Units up.
const HEIGHT: f64 = 22.0;

/// Range of gains that all rows share, with zero in it.
pub(crate) fn gain_range(gains: impl Iterator<Item = GainRow>) -> [f64; 2] {
    let ends = gains.flat_map(|gain| {
        let [low, high] = gain.interval_95.unwrap_or([gain.value; 2]);
        [low, high, gain.value]
    });
    super::scale::span_of(ends.chain([0.0]), 0.04)
}

/// Draws zero, the interval and the gain; without a gain only zero, which is the baseline.
pub(crate) fn draw_interval(gain: Option<GainRow>, range: [f64; 2], class: &str, title: &str) -> Markup {
    let mut svg = Markup::new();
    svg.element("svg")
        .attr("xmlns", "http://www.w3.org/2000/svg")
        .attr("class", "interval")
        .attr("viewBox", format!("0 0 {WIDTH} {HEIGHT}"))
        .attr("role", "img")
        .attr("aria-label", title.replace('\n', ", "))
        .open();
    svg.element("title").filled(title);
    let x = Scale::new(range, [6.0, WIDTH - 6.0]);
    let middle = HEIGHT / 2.0;
    let zero = x.place(0.0);
    svg.element("line").attr("class", "zero").num("x1", zero).num("x2", zero).num("y1", 0.0).num("y2", HEIGHT).empty();
    if let Some(gain) = gain {
        let mut stroke = |x1: f64, x2: f64, y1: f64, y2: f64| {
            let class = format!("error {class}");
            svg.element("line").attr("class", class).num("x1", x1).num("x2", x2).num("y1", y1).num("y2", y2).empty();
        };
        if let Some(interval) = gain.interval_95 {
            let [low, high] = interval.map(|end| x.place(end));
            stroke(low, high, middle, middle);
            stroke(low, low, middle - 4.0, middle + 4.0);
            stroke(high, high, middle - 4.0, middle + 4.0);
        }
        let mark = if class.contains("annealed") { Mark::Square } else { Mark::Diamond };
        draw_mark(&mut svg, mark, class, (x.place(gain.value), middle), 4.0, title);
    } else {
        draw_mark(&mut svg, Mark::Circle, class, (zero, middle), 4.0, title);
    }
    svg
}
