//! One forecast as a bar with its intervals, beside what is known.

use super::scale::span_of;
use super::{Mark, Scale, begin_bar, draw_mark, draw_segment};
use crate::markup::Markup;
use crate::record::ForecastRow;

/// Units across and up.
const SIZE: (f64, f64) = (300.0, 26.0);

/// Range that forecasts of one measure share.
pub(crate) fn forecast_range<'a>(forecasts: impl Iterator<Item = &'a ForecastRow>) -> [f64; 2] {
    let values = forecasts.flat_map(|one| {
        let ends = one.interval_95.into_iter().chain(one.interval_80);
        ends.chain([one.raw, one.imitation, one.value]).chain(one.truth)
    });
    span_of(values, 0.04)
}

/// Draws raw, imitation, both intervals, the forecast, and the truth where it is known.
pub(crate) fn draw_forecast_bar(one: &ForecastRow, range: [f64; 2], title: &str) -> Markup {
    let (width, height) = SIZE;
    let mut svg = begin_bar(SIZE, title);
    let x = Scale::new(range, [8.0, width - 8.0]);
    let middle = height / 2.0;
    for (class, interval) in [("band-95", one.interval_95), ("band-80", one.interval_80)] {
        draw_segment(&mut svg, class, interval.map(|end| x.place(end)), [middle; 2]);
    }
    draw_mark(&mut svg, Mark::Circle, "raw", (x.place(one.raw), middle), 4.0, title);
    draw_mark(&mut svg, Mark::Diamond, "merged", (x.place(one.imitation), middle), 3.6, title);
    draw_mark(&mut svg, Mark::Triangle, "forecast", (x.place(one.value), middle), 4.6, title);
    if let Some(truth) = one.truth {
        draw_mark(&mut svg, Mark::Square, "annealed", (x.place(truth), middle), 4.0, title);
    }
    svg
}
