//! Window length against loss: one line for each scheme, raw and annealed as rules across.

use super::coefficients::merges_at_the_end;
use super::frame::Frame;
use super::run::describe;
use super::scale::span_of;
use super::{Anchor, Mark, Scale, Width, begin_picture, draw_label, draw_line, draw_mark};
use crate::markup::Markup;
use crate::report::{Report, ScoredModel, Split};
use crate::verdict::annealed_model;

/// Classes of the schemes' lines, in the order in which schemes appear.
pub(crate) const SCHEME_CLASSES: [&str; 6] = ["scheme-1", "scheme-2", "scheme-3", "scheme-4", "scheme-5", "scheme-6"];

/// Schemes of the merges that end with the headline's, in the order of the record.
pub(crate) fn schemes_at_the_end(report: &Report) -> Vec<String> {
    let mut schemes: Vec<String> = Vec::new();
    for merge in merges_at_the_end(report).iter().filter_map(|model| model.merge.as_ref()) {
        if !schemes.contains(&merge.scheme) {
            schemes.push(merge.scheme.clone());
        }
    }
    schemes.truncate(SCHEME_CLASSES.len());
    schemes
}

/// Draws test loss over the number of checkpoints, on a doubling axis.
pub(crate) fn draw_lengths(report: &Report, width: Width) -> Markup {
    let merges = merges_at_the_end(report);
    let height = width.choose(300.0, 250.0);
    let mut svg = begin_picture(width, height + 70.0, "Window length against loss");
    let left = width.choose(58.0, 46.0);
    let right = width.units() - width.choose(110.0, 62.0);
    let top = 30.0;
    let baseline = report.model(&report.baseline);
    let annealed = annealed_model(report);
    let losses = merges.iter().copied().chain(baseline).chain(annealed).filter_map(loss_of);
    let lengths = || merges.iter().map(|model| n_sources(model).log2());
    let (shortest, longest) = (lengths().fold(f64::INFINITY, f64::min), lengths().fold(0.0, f64::max));
    let frame = Frame {
        left,
        right,
        top,
        bottom: top + height,
        x: Scale::new([shortest, longest], [left + 8.0, right - 8.0]),
        y: Scale::new(span_of(losses, 0.08), [top + height, top]),
        width,
    };
    frame.draw_grid(&mut svg, "test loss, nats a token");
    for (model, class, name) in [(baseline, "raw", "newest raw"), (annealed, "annealed", "annealed")] {
        let Some(loss) = model.and_then(loss_of) else { continue };
        let y = frame.y.place(loss);
        frame.draw_rule(&mut svg, &format!("rule {class}"), y);
        draw_label(&mut svg, &format!("end-name {class}"), Anchor::Start, (right + 5.0, y + 4.0), name);
    }
    draw_length_axis(&mut svg, &frame, &merges);
    for (scheme, class) in schemes_at_the_end(report).iter().zip(SCHEME_CLASSES) {
        let has_scheme = |model: &&&ScoredModel| model.merge.as_ref().is_some_and(|merge| merge.scheme == *scheme);
        let mut of_scheme: Vec<&ScoredModel> = merges.iter().filter(has_scheme).copied().collect();
        of_scheme.sort_by(|a, b| n_sources(a).total_cmp(&n_sources(b)));
        let place = |model: &ScoredModel| Some(frame.place(n_sources(model).log2(), loss_of(model)?));
        let points: Vec<(f64, f64)> = of_scheme.iter().filter_map(|model| place(model)).collect();
        draw_line(&mut svg, class, &points);
        for model in of_scheme {
            let Some(at) = place(model) else { continue };
            draw_mark(&mut svg, Mark::Diamond, class, at, 3.6, &describe(report, model));
        }
    }
    svg
}

fn draw_length_axis(svg: &mut Markup, frame: &Frame, merges: &[&ScoredModel]) {
    let mut lengths: Vec<usize> = merges.iter().filter_map(|model| Some(model.merge.as_ref()?.sources.len())).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let mut free_from = f64::NEG_INFINITY;
    for length in lengths {
        #[expect(clippy::cast_precision_loss, reason = "places on a page")]
        let x = frame.x.place((length as f64).log2());
        if x >= free_from {
            draw_label(svg, "tick", Anchor::Middle, (x, frame.bottom + 17.0), &length.to_string());
            free_from = x + 18.0;
        }
    }
    draw_label(svg, "axis", Anchor::Start, (frame.left, frame.bottom + 34.0), "checkpoints in the window");
}

fn loss_of(model: &ScoredModel) -> Option<f64> {
    model.score(Split::Test).map(|score| score.nll_nats)
}

#[expect(clippy::cast_precision_loss, reason = "places on a page")]
fn n_sources(model: &ScoredModel) -> f64 {
    model.merge.as_ref().map_or(1, |merge| merge.sources.len()).max(1) as f64
}
