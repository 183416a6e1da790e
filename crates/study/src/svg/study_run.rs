//! Scores along a run: raw checkpoints, merges, forecasts and the truth on one axis, with phases, spikes and training
//! loss.

use std::collections::BTreeSet;

use thalweg_tensor::counted;

use super::axis::StepAxis;
use super::frame::Frame;
use super::phases::{Extent, STRIP, ShownPhase, draw_rates, name_phase, phase_words, shade_phase};
use super::run_frame::RunFrame;
use super::scale::span_of;
use super::study_marks::{draw_annealed, draw_forecasts, draw_merges, draw_raws};
use super::thin::{smooth_curve, thin_curve};
use super::{Anchor, Mark, Width, begin_chart, begin_rect, draw_label, draw_line, draw_segment, draw_stop};
use crate::markup::Markup;
use crate::record::TrainingPoint;
use crate::study_view::{Metric, StudyView, measure_words};

/// Most spikes that are marked.
const MAX_SPIKES: usize = 60;

/// One picture of the run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunPicture<'a> {
    pub(crate) view: &'a StudyView<'a>,
    /// What is shown; nothing for training loss alone.
    pub(crate) metric: Option<Metric<'a>>,
    pub(crate) extent: Extent,
    /// Axes that share the places of the first.
    pub(crate) axes: &'a [StepAxis],
    /// Unique on the page.
    pub(crate) id: &'a str,
}

/// From which step the end of the run is drawn larger, if that shows anything.
pub(crate) fn end_from(view: &StudyView<'_>, metric: Metric<'_>) -> Option<u64> {
    let last = view.last_step();
    let best = || view.ranked(metric).first().map(|row| row.1);
    let window = view.chosen().or_else(best);
    let first_source = window.and_then(|trial| trial.sources.first()).map(|source| source.step);
    // Along a watched run, only the newest forecast is near the end; it comes first.
    let n_forecasts = if view.record.is_watched { 1 } else { usize::MAX };
    let forks = view
        .record
        .forecasts
        .iter()
        .take(n_forecasts)
        .map(|forecast| forecast.end_step.saturating_sub(forecast.anneal_steps));
    let from = first_source.into_iter().chain(forks).min()?;
    let from = from.saturating_sub(last.saturating_sub(from) / 8);
    (from > last / 5 && from < last).then_some(from)
}

/// Draws the run; `shown` gathers the trials that have a separate mark.
pub(crate) fn draw_study_run(picture: &RunPicture<'_>, width: Width, shown: &mut BTreeSet<usize>) -> Markup {
    let height = width.choose(330.0, 270.0);
    let mut svg = begin_chart(width, height + STRIP + 96.0, &label_of(picture), &describe(picture));
    let Some(axis) = picture.axes.first() else { return svg };
    let view = picture.view;
    let last = view.last_step().max(1);
    let from = match (picture.extent, picture.metric) {
        (Extent::End, Some(metric)) => end_from(view, metric).unwrap_or(0),
        _ => 0,
    };
    let y_range = value_range(picture, [from, last]);
    let values = |axis: &StepAxis| [from, last].map(|step| axis.value(step as f64));
    let frame = Frame::new(width, (width.choose(58.0, 52.0), 34.0, height), (values(axis), 0.0), y_range);
    let run = RunFrame { frame, axis, y_range: sane(y_range), extent: picture.extent };
    let phases = shown_phases(view, &run);
    phases.iter().for_each(|phase| shade_phase(&mut svg, &frame, phase));
    draw_recovery_band(&mut svg, view, &run);
    frame.draw_grid(
        &mut svg,
        picture.metric.map_or("training loss, nats per token", |metric| measure_words(metric.measure)),
    );
    svg.element("clipPath").attr("id", picture.id).open();
    let (w, h) = (frame.right - frame.left + 15.0, height + 20.0);
    let rect = svg.element("rect").num("x", frame.left - 5.0).num("y", frame.top - 10.0);
    rect.num("width", w).num("height", h).empty();
    svg.close();
    svg.element("g").attr("clip-path", format!("url(#{})", picture.id)).open();
    draw_training(&mut svg, picture, &run);
    if let Some(metric) = picture.metric {
        draw_raws(&mut svg, view, metric, &run);
        draw_annealed(&mut svg, view, metric, &run);
        draw_merges(&mut svg, view, metric, &run, shown);
        draw_forecasts(&mut svg, view, metric, &run);
    }
    svg.close();
    draw_spikes(&mut svg, view, &run);
    phases.iter().for_each(|phase| name_phase(&mut svg, &frame, phase));
    let rates = |points: &[TrainingPoint]| {
        let rates = points.iter().map(|point| (axis.value(point.step as f64), point.learning_rate));
        rates.filter(|point| point.1.is_finite()).collect::<Vec<_>>()
    };
    let mut curves = vec![("rate", rates(&view.record.training))];
    curves.extend(view.record.anneal.iter().map(|anneal| ("rate annealed", rates(&anneal.training))));
    draw_rates(&mut svg, &frame, &curves);
    for (i, shared) in picture.axes.iter().enumerate() {
        let group = svg.element("g").attr("data-axis", shared.kind.name());
        if i == 0 { group } else { group.attr("hidden", "hidden") }.open();
        shared.draw_ticks(&mut svg, &frame, frame.bottom + STRIP + 10.0, values(shared));
        svg.close();
    }
    svg
}

fn label_of(picture: &RunPicture<'_>) -> String {
    let what = picture.metric.map_or_else(|| "Training loss".to_owned(), Metric::label);
    match picture.extent {
        Extent::Whole => format!("{what} along the run"),
        Extent::End => format!("{what} at the end of the run"),
    }
}

/// The picture in words.
fn describe(picture: &RunPicture<'_>) -> String {
    let record = picture.view.record;
    let Some(metric) = picture.metric else {
        let (points, spikes) = (counted(record.training.len(), "point"), counted(record.spikes.len(), "spike"));
        return format!("{points} of training loss, {spikes}.");
    };
    let n_raws = record.raws.iter().filter(|raw| metric.find(&raw.scores).is_some()).count();
    let n_annealed = record.annealed.iter().filter(|raw| metric.find(&raw.scores).is_some()).count();
    let ranked = picture.view.ranked(metric);
    let best = ranked.first().map_or_else(String::new, |(_, trial, score)| {
        format!("; first in rank is {} with {:.4}", crate::study_view::window_words(trial), score.value)
    });
    let n_forecasts = record.forecasts.iter().filter(|one| one.task == metric.task && one.measure == metric.measure);
    format!(
        "{}, {}, {} and {} of {}{best}.",
        counted(n_raws, "raw checkpoint"),
        counted(ranked.len(), "merge"),
        counted(n_annealed, "annealed checkpoint"),
        counted(n_forecasts.count(), "forecast"),
        metric.label()
    )
}

/// A range that can be clamped to.
fn sane([low, high]: [f64; 2]) -> [f64; 2] {
    if low.is_finite() && high.is_finite() && low < high { [low, high] } else { [f64::MIN, f64::MAX] }
}

/// Raw, annealed and forecast values decide the range, and merges as far as they are near: a bad scheme may not flatten
/// the rest.
fn value_range(picture: &RunPicture<'_>, [from, last]: [u64; 2]) -> [f64; 2] {
    let record = picture.view.record;
    let Some(metric) = picture.metric else {
        return training_range(picture.view);
    };
    let early = if picture.extent == Extent::Whole { from.max(last / 10) } else { from };
    let raws = record.raws.iter().chain(&record.annealed).filter(|raw| raw.step >= early);
    let mut core: Vec<f64> = raws.filter_map(|raw| metric.find(&raw.scores)).map(|score| score.value).collect();
    for one in picture.view.forecasts_of(metric).filter(|one| one.end_step >= early) {
        core.extend(one.interval_95.into_iter().chain([one.value]).chain(one.truth));
    }
    let trials = record.trials.iter().filter(|trial| trial.end_step >= early);
    let mut merges: Vec<f64> = trials.filter_map(|trial| metric.find(&trial.scores)).map(|score| score.value).collect();
    merges.sort_by(f64::total_cmp);
    let [low, high] = span_of(core.iter().chain(&merges).copied(), 0.0);
    let quantile = |share: usize| merges.get(merges.len() * share / 100).or(merges.last()).copied();
    let (Some(near), Some(far)) = (quantile(5), quantile(90)) else { return span_of([low, high].into_iter(), 0.08) };
    let reach = 3.0 * (far - near);
    let [core_low, core_high] = span_of(core.into_iter(), 0.0);
    let low = low.max((near - reach).min(core_low));
    let high = high.min((far + reach).max(core_high));
    span_of([low, high].into_iter(), 0.08)
}

/// All of the training loss but the fall at its beginning; a spike stays.
fn training_range(view: &StudyView<'_>) -> [f64; 2] {
    let last = view.record.training.last().map_or(0, |point| point.step);
    let late = view.record.training.iter().filter(|point| point.step >= last / 20);
    span_of(late.map(|point| point.nll_nats), 0.05)
}

/// The run's own phases, and the anneal that was forked from it.
fn shown_phases(view: &StudyView<'_>, run: &RunFrame<'_>) -> Vec<ShownPhase> {
    let value = |step: u64| run.axis.value(step as f64);
    let own = view.record.phases.iter().take(64).map(|span| {
        let (name, class) = phase_words(span.phase);
        ((name.to_owned(), class), [span.from_step, span.to_step])
    });
    let forked = view.record.anneal.iter().map(|anneal| {
        let name = format!("anneal forked ({})", anneal.curve);
        ((name, "phase annealing"), [anneal.fork_step, anneal.end_step])
    });
    own.chain(forked).filter_map(|(name, steps)| ShownPhase::new(&run.frame, name, steps, value)).collect()
}

fn draw_recovery_band(svg: &mut Markup, view: &StudyView<'_>, run: &RunFrame<'_>) {
    if let (Some(&first), Some(&last)) = (view.record.recovery.iter().min(), view.record.recovery.iter().max()) {
        let steps: Vec<String> = view.record.recovery.iter().map(u64::to_string).collect();
        if !run.holds(run.x(first)) && !run.holds(run.x(last)) {
            return;
        }
        let [from, to] = [first, last].map(|step| run.x(step).clamp(run.frame.left, run.frame.right));
        let size = (to - from + 6.0, run.frame.bottom - run.frame.top);
        let title = format!("proposed to resume from: steps {}", steps.join(", "));
        begin_rect(svg, "recovery", (from - 3.0, run.frame.top), size).titled(title);
    }
}

fn draw_training(svg: &mut Markup, picture: &RunPicture<'_>, run: &RunFrame<'_>) {
    // Training loss is in nats per token; the end is drawn larger than its noise.
    let is_nats = picture.metric.is_none_or(|metric| metric.measure == "nats_per_token");
    if !is_nats || picture.extent == Extent::End {
        return;
    }
    let frame = &run.frame;
    let n_columns = frame.width.choose(420, 170);
    let mut draw = |class: &str, points: &[TrainingPoint]| {
        let points = points.iter().filter(|point| point.nll_nats.is_finite());
        let places: Vec<(f64, f64)> = points.map(|point| (run.x(point.step), frame.y.place(point.nll_nats))).collect();
        draw_line(svg, &format!("{class} noise"), &thin_curve(&places, n_columns));
        draw_line(svg, class, &thin_curve(&smooth_curve(&places), n_columns));
    };
    draw("training", &picture.view.record.training);
    if let Some(anneal) = &picture.view.record.anneal {
        draw("training annealed", &anneal.training);
    }
}

fn draw_spikes(svg: &mut Markup, view: &StudyView<'_>, run: &RunFrame<'_>) {
    let frame = &run.frame;
    let spikes = &view.record.spikes;
    for spike in &spikes[spikes.len().saturating_sub(MAX_SPIKES)..] {
        let x = run.x(spike.onset);
        if !run.holds(x) {
            continue;
        }
        draw_segment(svg, "spike", [x; 2], [frame.top, frame.bottom]);
        let end = spike.end.map_or_else(|| "did not recover".to_owned(), |end| format!("recovered at step {end}"));
        let title = format!("spike in {}\nonset at step {}, peak at {}, {end}", spike.signal, spike.onset, spike.peak);
        draw_stop(svg, Mark::Flag, "spike", (x, frame.top - 4.0), 4.0, title);
    }
    let steps = &view.record.recovery;
    for &step in steps.iter().take(8) {
        let x = run.x(step);
        if run.holds(x) {
            let title = format!("step {step} is proposed to resume from");
            draw_stop(svg, Mark::Diamond, "recovery", (x, frame.bottom), 4.0, title);
        }
    }
    if let Some(&first) = steps.iter().min()
        && run.holds(run.x(first))
    {
        let at = (run.x(first).min(frame.right - 80.0), frame.bottom - 9.0);
        draw_label(svg, "recovery-name", Anchor::Start, at, "resume from");
    }
}
