//! The frame of a picture of a run: steps to the right.

use super::axis::StepAxis;
use super::frame::Frame;
use super::phases::Extent;

/// A picture's frame with the axis that places steps.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunFrame<'a> {
    pub(super) frame: Frame,
    pub(super) axis: &'a StepAxis,
    /// Values beyond these are drawn at the edge.
    pub(super) y_range: [f64; 2],
    pub(super) extent: Extent,
}

impl RunFrame<'_> {
    pub(super) fn x(&self, step: u64) -> f64 {
        self.frame.x.place(self.axis.value(step as f64))
    }

    /// Where a value is drawn, and whether it had to be moved to the edge.
    pub(super) fn place(&self, step: u64, value: f64) -> ((f64, f64), bool) {
        let [low, high] = self.y_range;
        let shown = value.clamp(low, high);
        ((self.x(step), self.frame.y.place(shown)), (shown - value).abs() > 0.0)
    }

    pub(super) fn holds(&self, x: f64) -> bool {
        x >= self.frame.left - 1.0 && x <= self.frame.right + 1.0
    }
}
