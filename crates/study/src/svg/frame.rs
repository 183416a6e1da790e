//! Axes and grid around a picture's data.

use super::{Anchor, Scale, Width, draw_label, draw_segment};
use crate::markup::Markup;

/// The rectangle of the data, with its scales.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) left: f64,
    pub(crate) right: f64,
    pub(crate) top: f64,
    pub(crate) bottom: f64,
    pub(crate) x: Scale,
    pub(crate) y: Scale,
    pub(crate) width: Width,
}

impl Frame {
    /// A frame of this height, from `left` and `top` to the picture's right edge; the data begin and end `inset` units
    /// within it.
    pub(crate) fn new(
        width: Width,
        (left, top, height): (f64, f64, f64),
        (x_range, inset): ([f64; 2], f64),
        y_range: [f64; 2],
    ) -> Self {
        let (right, bottom) = (width.units() - width.choose(22.0, 12.0), top + height);
        let (x, y) = (Scale::new(x_range, [left + inset, right - inset]), Scale::new(y_range, [bottom, top]));
        Self { left, right, top, bottom, x, y, width }
    }

    pub(crate) fn place(&self, x: f64, y: f64) -> (f64, f64) {
        (self.x.place(x), self.y.place(y))
    }

    /// Horizontal lines with their values on the left.
    pub(crate) fn draw_grid(&self, svg: &mut Markup, title: &str) {
        let (ticks, decimals) = self.y.ticks(self.width.choose(7, 5));
        for value in ticks {
            let y = self.y.place(value);
            self.draw_rule(svg, "grid", y);
            draw_label(svg, "tick", Anchor::End, (self.left - 7.0, y + 4.0), &format!("{value:.decimals$}"));
        }
        draw_label(svg, "axis", Anchor::Start, (self.width.choose(2.0, 0.0), self.top - 12.0), title);
    }

    /// A horizontal line through the data.
    pub(crate) fn draw_rule(&self, svg: &mut Markup, class: &str, y: f64) {
        draw_segment(svg, class, [self.left, self.right], [y; 2]);
    }

    /// A tick of a horizontal axis at `bottom`, with its label below.
    pub(crate) fn draw_tick(&self, svg: &mut Markup, (x, bottom): (f64, f64), text: &str) {
        draw_segment(svg, "grid", [x; 2], [bottom, bottom + 4.0]);
        let (anchor, x) = if x > self.right - 14.0 { (Anchor::End, self.right) } else { (Anchor::Middle, x) };
        draw_label(svg, "tick", anchor, (x, bottom + 17.0), text);
    }
}
