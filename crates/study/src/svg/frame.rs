//! Axes and grid around a picture's data.

use super::{Anchor, Scale, Width, draw_label};
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
        svg.element("line")
            .attr("class", class)
            .num("x1", self.left)
            .num("x2", self.right)
            .num("y1", y)
            .num("y2", y)
            .empty();
    }
}
