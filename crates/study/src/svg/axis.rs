//! The same picture by steps, by tokens and by time: where a step is on each axis.

use super::frame::Frame;
use super::{Anchor, Scale, draw_label};
use crate::markup::Markup;
use crate::record::CheckpointRow;
use crate::text::show_count;

/// What an axis counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AxisKind {
    /// Optimizer steps.
    Steps,
    /// Training tokens.
    Tokens,
    /// Seconds since training began.
    Seconds,
}

impl AxisKind {
    /// The name in the page's buttons and attributes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Steps => "steps",
            Self::Tokens => "tokens",
            Self::Seconds => "time",
        }
    }
}

/// An axis as knots from steps to its values, straight between them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StepAxis {
    pub(crate) kind: AxisKind,
    /// Rising in both, at least two unless the axis is that of steps.
    knots: Vec<(f64, f64)>,
}

impl StepAxis {
    /// The axis of steps, then those of tokens and time where the checkpoints tell them.
    pub(crate) fn all(checkpoints: &[CheckpointRow]) -> Vec<Self> {
        let tokens = |row: &CheckpointRow| row.tokens.map(|tokens| tokens as f64);
        let known = [
            Self::from_knots(AxisKind::Tokens, checkpoints, tokens),
            Self::from_knots(AxisKind::Seconds, checkpoints, |row| row.seconds),
        ];
        let steps = Self { kind: AxisKind::Steps, knots: Vec::new() };
        std::iter::once(steps).chain(known.into_iter().flatten()).collect()
    }

    fn from_knots(
        kind: AxisKind,
        checkpoints: &[CheckpointRow],
        value: impl Fn(&CheckpointRow) -> Option<f64>,
    ) -> Option<Self> {
        let mut knots = vec![(0.0, 0.0)];
        for row in checkpoints {
            let (step, value) = (row.step as f64, value(row)?);
            let &(last_step, last_value) = knots.last()?;
            // A clock that runs backwards gives no axis; step 0 is where every axis begins.
            if step > last_step && value > last_value && value.is_finite() {
                knots.push((step, value));
            } else if step > 0.0 {
                return None;
            }
        }
        (knots.len() > 1).then_some(Self { kind, knots })
    }

    /// The value of a step; beyond what is known the last pace continues.
    pub(crate) fn value(&self, step: f64) -> f64 {
        let [.., before, last] = self.knots.as_slice() else { return step };
        let i = self.knots.partition_point(|knot| knot.0 < step);
        let (a, b) = match i {
            0 => (self.knots[0], self.knots[1]),
            i if i < self.knots.len() => (self.knots[i - 1], self.knots[i]),
            _ => (*before, *last),
        };
        a.1 + (step - a.0) / (b.0 - a.0) * (b.1 - a.1)
    }

    /// Whether a picture by this axis differs from one by `other` in its ticks only: less than half a unit of a page.
    pub(crate) fn has_places_of(&self, other: &Self, last_step: f64) -> bool {
        let share = |axis: &Self, step: f64| axis.value(step) / axis.value(last_step);
        let steps = self.knots.iter().chain(&other.knots).map(|knot| knot.0).filter(|step| *step <= last_step);
        steps.into_iter().all(|step| (share(self, step) - share(other, step)).abs() < 5e-4)
    }

    /// Ticks with their labels below the data; `range` holds the values at the frame's ends.
    pub(crate) fn draw_ticks(&self, svg: &mut Markup, frame: &Frame, bottom: f64, range: [f64; 2]) {
        let (unit, name) = self.unit(range[1]);
        let scale = Scale::new(range.map(|value| value / unit), [frame.left, frame.right]);
        let (ticks, decimals) = scale.ticks(frame.width.choose(9, 4));
        for value in ticks.into_iter().filter(|value| *value >= 0.0) {
            let x = scale.place(value);
            let text = match self.kind {
                AxisKind::Steps => format!("{value:.0}"),
                AxisKind::Tokens => show_count(value),
                AxisKind::Seconds => format!("{value:.decimals$}"),
            };
            frame.draw_tick(svg, (x, bottom), &text);
        }
        draw_label(svg, "axis", Anchor::End, (frame.right, bottom + 33.0), name);
    }

    fn unit(&self, most: f64) -> (f64, &'static str) {
        match self.kind {
            AxisKind::Steps => (1.0, "steps"),
            AxisKind::Tokens => (1.0, "training tokens"),
            AxisKind::Seconds if most > 4.0 * 86_400.0 => (86_400.0, "days of training"),
            AxisKind::Seconds if most > 2.0 * 3_600.0 => (3_600.0, "hours of training"),
            AxisKind::Seconds if most > 180.0 => (60.0, "minutes of training"),
            AxisKind::Seconds => (1.0, "seconds of training"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: &[(u64, u64, f64)]) -> Vec<CheckpointRow> {
        let row = |&(step, tokens, seconds)| CheckpointRow { step, tokens: Some(tokens), seconds: Some(seconds) };
        values.iter().map(row).collect()
    }

    #[test]
    fn a_step_lies_between_its_neighbours_and_the_last_pace_goes_on() {
        let axes = StepAxis::all(&rows(&[(100, 1_000, 10.0), (200, 2_000, 40.0)]));
        assert_eq!(axes.iter().map(|axis| axis.kind.name()).collect::<Vec<_>>(), ["steps", "tokens", "time"]);
        let time: Vec<f64> = [0.0, 50.0, 150.0, 200.0, 300.0].map(|step| axes[2].value(step)).to_vec();
        assert_eq!(time, [0.0, 5.0, 25.0, 40.0, 70.0]);
        assert!(axes[1].has_places_of(&axes[0], 200.0), "tokens grow with steps");
        assert!(!axes[2].has_places_of(&axes[0], 200.0), "the second half took longer");
    }

    #[test]
    fn a_clock_that_runs_backwards_or_is_unknown_gives_no_axis() {
        assert_eq!(StepAxis::all(&rows(&[(100, 1_000, 10.0), (200, 2_000, 5.0)])).len(), 2);
        let mut unknown = rows(&[(100, 1_000, 10.0), (200, 2_000, 50.0)]);
        unknown[1].tokens = None;
        assert_eq!(
            StepAxis::all(&unknown).iter().map(|axis| axis.kind).collect::<Vec<_>>(),
            [AxisKind::Steps, AxisKind::Seconds]
        );
        assert_eq!(StepAxis::all(&[]).len(), 1);
    }
}
