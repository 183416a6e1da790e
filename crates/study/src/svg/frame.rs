//! Axes and grid around a picture's data.

use super::{Anchor, Scale, Width, draw_label};
use crate::markup::Markup;
use crate::text::show_count;

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

    /// Steps below the data, and the tokens behind them.
    pub(crate) fn draw_step_axis(&self, svg: &mut Markup, bottom: f64, tokens_per_step: u64) {
        #[expect(clippy::cast_precision_loss, reason = "places on a page")]
        let per_step = tokens_per_step as f64;
        let (ticks, _) = self.x.ticks(self.width.choose(9, 4));
        for step in ticks.into_iter().filter(|step| *step >= 0.0) {
            let x = self.x.place(step);
            let line = svg.element("line").attr("class", "grid").num("x1", x).num("x2", x);
            line.num("y1", bottom).num("y2", bottom + 4.0).empty();
            // A label in the middle of the last tick would be cut off.
            let (anchor, x) = if x > self.right - 12.0 { (Anchor::End, self.right) } else { (Anchor::Middle, x) };
            draw_label(svg, "tick", anchor, (x, bottom + 17.0), &show_count(step * per_step));
            draw_label(svg, "tick faint", anchor, (x, bottom + 31.0), &format!("{step:.0}"));
        }
        let at = |line: f64| (self.left - 12.0, bottom + line);
        draw_label(svg, "axis", Anchor::End, at(17.0), "tokens");
        draw_label(svg, "axis faint", Anchor::End, at(31.0), "step");
    }
}
