//! Window length against score: one line for each scheme, raw and annealed as rules across.

use super::frame::Frame;
use super::scale::span_of;
use super::study_marks::describe_trial;
use super::{Anchor, Mark, Scale, Width, begin_picture, draw_label, draw_line, draw_mark};
use crate::markup::Markup;
use crate::study_view::{EndTrial, Metric, StudyView};

/// Classes of the schemes' lines, in the order in which schemes appear.
pub(crate) const SCHEME_CLASSES: [&str; 6] = ["scheme-1", "scheme-2", "scheme-3", "scheme-4", "scheme-5", "scheme-6"];

/// Draws the score over the number of checkpoints, on a doubling axis, for merges that end at one step.
pub(crate) fn draw_lengths(
    view: &StudyView<'_>,
    metric: Metric<'_>,
    (trials, schemes): (&[EndTrial<'_>], &[&str]),
    width: Width,
) -> Markup {
    let height = width.choose(300.0, 250.0);
    let mut svg = begin_picture(width, height + 70.0, "Window length against score");
    let left = width.choose(58.0, 46.0);
    let right = width.units() - width.choose(110.0, 62.0);
    let top = 30.0;
    let end = trials.first().map_or(0, |one| one.trial.end_step);
    let raw = view.record.raws.iter().find(|raw| raw.step == end).and_then(|raw| metric.find(&raw.scores));
    let annealed = view.record.annealed.iter().find(|one| one.step == end).and_then(|one| metric.find(&one.scores));
    let values = trials.iter().map(|one| one.score.value);
    let values = values.chain(raw.map(|score| score.value)).chain(annealed.map(|score| score.value));
    let lengths = || trials.iter().map(|one| place_of_length(one.trial.n_checkpoints));
    let (shortest, longest) = (lengths().fold(f64::INFINITY, f64::min), lengths().fold(0.0, f64::max));
    let x = Scale::new([shortest, longest], [left + 8.0, right - 8.0]);
    let y = Scale::new(span_of(values, 0.08), [top + height, top]);
    let frame = Frame { left, right, top, bottom: top + height, x, y, width };
    frame.draw_grid(&mut svg, &metric.label());
    for (score, class, name) in [(raw, "raw", "raw"), (annealed, "annealed", "annealed")] {
        let Some(score) = score else { continue };
        let y = frame.y.place(score.value);
        frame.draw_rule(&mut svg, &format!("rule {class}"), y);
        draw_label(&mut svg, &format!("end-name {class}"), Anchor::Start, (right + 5.0, y + 4.0), name);
    }
    draw_length_axis(&mut svg, &frame, trials);
    for (scheme, class) in schemes.iter().zip(SCHEME_CLASSES) {
        let mut of_scheme: Vec<&EndTrial<'_>> = trials.iter().filter(|one| one.trial.scheme == *scheme).collect();
        of_scheme.sort_by_key(|one| one.trial.n_checkpoints);
        let place = |one: &EndTrial<'_>| frame.place(place_of_length(one.trial.n_checkpoints), one.score.value);
        let points: Vec<(f64, f64)> = of_scheme.iter().map(|one| place(one)).collect();
        draw_line(&mut svg, class, &points);
        for (one, at) in of_scheme.iter().zip(points) {
            draw_mark(&mut svg, Mark::Diamond, class, at, 3.6, &describe_trial(one.trial, one.score));
        }
    }
    svg
}

fn draw_length_axis(svg: &mut Markup, frame: &Frame, trials: &[EndTrial<'_>]) {
    let mut lengths: Vec<usize> = trials.iter().map(|one| one.trial.n_checkpoints).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let mut free_from = f64::NEG_INFINITY;
    for length in lengths {
        let x = frame.x.place(place_of_length(length));
        if x >= free_from {
            draw_label(svg, "tick", Anchor::Middle, (x, frame.bottom + 17.0), &length.to_string());
            free_from = x + 18.0;
        }
    }
    draw_label(svg, "axis", Anchor::Start, (frame.left, frame.bottom + 34.0), "checkpoints in the window");
}

fn place_of_length(n_checkpoints: usize) -> f64 {
    (n_checkpoints.max(1) as f64).log2()
}
