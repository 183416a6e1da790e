//! A gain with its interval as a bar, one row of the table of gains.

use super::{Mark, Scale, begin_bar, draw_mark, draw_segment};
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
    let mut svg = begin_bar((WIDTH, HEIGHT), title);
    let x = Scale::new(range, [6.0, WIDTH - 6.0]);
    let middle = HEIGHT / 2.0;
    let zero = x.place(0.0);
    draw_segment(&mut svg, "zero", [zero; 2], [0.0, HEIGHT]);
    if let Some(gain) = gain {
        if let Some(interval) = gain.interval_95 {
            let class = format!("error {class}");
            let [low, high] = interval.map(|end| x.place(end));
            draw_segment(&mut svg, &class, [low, high], [middle; 2]);
            for end in [low, high] {
                draw_segment(&mut svg, &class, [end; 2], [middle - 4.0, middle + 4.0]);
            }
        }
        let mark = if class.contains("annealed") { Mark::Square } else { Mark::Diamond };
        draw_mark(&mut svg, mark, class, (x.place(gain.value), middle), 4.0, title);
    } else {
        draw_mark(&mut svg, Mark::Circle, class, (zero, middle), 4.0, title);
    }
    svg
}
