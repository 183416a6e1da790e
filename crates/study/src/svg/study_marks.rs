//! Marks of a study's picture, few enough to read and to move over: what is in one place becomes a range with its best.

use std::collections::BTreeSet;

use thalweg_tensor::counted;

use super::phases::Extent;
use super::run_frame::RunFrame;
use super::thin::thin_curve;
use super::{Mark, begin_mark, begin_rect, draw_area, draw_line, draw_segment, draw_stop};
use crate::markup::Markup;
use crate::record::{ForecastRow, ScoreRow, TrialRow};
use crate::study_view::{Metric, StudyView, measure_words, show_gain_interval, show_gain_row, window_words};

/// Units of a column in which merges are gathered.
const COLUMN: f64 = 7.0;
/// Forecasts of a watched run that each have a mark; the intervals of more are areas.
const MAX_FORECAST_MARKS: usize = 12;

/// A score in words, with what is known about its noise.
fn score_words(score: &ScoreRow) -> String {
    let error = score.standard_error.map_or_else(String::new, |error| format!(" ± {error:.4}"));
    let mut text = format!("{:.4}{error} {}, n = {}", score.value, measure_words(&score.measure), score.n);
    if let Some(gain) = score.gain {
        text.push_str(&format!("\ngain {}, {}", show_gain_row(gain), show_gain_interval(gain)));
    }
    text
}

/// What is shown when one points at a merge.
pub(crate) fn describe_trial(trial: &TrialRow, score: &ScoreRow) -> String {
    let steps: Vec<String> = trial.sources.iter().take(12).map(|source| source.step.to_string()).collect();
    let more = if trial.sources.len() > 12 { ", …" } else { "" };
    format!("{}\n{}\nof steps {}{more}", window_words(trial), score_words(score), steps.join(", "))
}

pub(super) fn draw_raws(svg: &mut Markup, view: &StudyView<'_>, metric: Metric<'_>, run: &RunFrame<'_>) {
    let mut raws: Vec<(u64, &ScoreRow)> =
        view.record.raws.iter().filter_map(|raw| Some((raw.step, metric.find(&raw.scores)?))).collect();
    raws.sort_by_key(|raw| raw.0);
    // What is left of the picture needs no points, but one from which its line comes in.
    let first = raws.partition_point(|raw| !run.holds(run.x(raw.0))).saturating_sub(1);
    raws.drain(..first);
    let n_columns = run.frame.width.choose(55, 26);
    // Without clamping: what leaves the picture at its beginning is cut off, as a line that continues.
    let places: Vec<(f64, f64)> =
        raws.iter().map(|(step, score)| (run.x(*step), run.frame.y.place(score.value))).collect();
    let kept = thin_curve(&places, n_columns);
    draw_line(svg, "raw", &kept);
    let radius = if kept.len() > 60 { 2.2 } else { 3.0 };
    let mut next = kept.iter().peekable();
    for (at, (step, score)) in places.iter().zip(raws) {
        // Kept points are points of the curve, in its order.
        if next.next_if(|kept| kept.0.total_cmp(&at.0).is_eq() && kept.1.total_cmp(&at.1).is_eq()).is_none() {
            continue;
        }
        let is_above = at.1 < run.frame.top - 6.0 || at.1 > run.frame.bottom + 6.0;
        if run.holds(at.0) && !is_above {
            let title = format!("raw checkpoint, step {step}\n{}", score_words(score));
            draw_stop(svg, Mark::Circle, "raw", *at, radius, title);
        }
    }
}

pub(super) fn draw_annealed(svg: &mut Markup, view: &StudyView<'_>, metric: Metric<'_>, run: &RunFrame<'_>) {
    let mut annealed: Vec<(u64, &ScoreRow)> =
        view.record.annealed.iter().filter_map(|raw| Some((raw.step, metric.find(&raw.scores)?))).collect();
    annealed.sort_by_key(|raw| raw.0);
    // The line leaves the raw one where the fork does.
    let fork = view.record.anneal.as_ref().map(|anneal| anneal.fork_step);
    let fork = fork.and_then(|step| view.record.raws.iter().find(|raw| raw.step == step));
    let fork = fork.and_then(|raw| Some((raw.step, metric.find(&raw.scores)?)));
    let places: Vec<(f64, f64)> =
        fork.iter().chain(&annealed).map(|(step, score)| (run.x(*step), run.frame.y.place(score.value))).collect();
    // Along a watched run, each is the end of another anneal.
    if !view.record.is_watched {
        draw_line(svg, "annealed", &thin_curve(&places, run.frame.width.choose(60, 30)));
    }
    let every = annealed.len().div_ceil(120).max(1);
    for (step, score) in annealed.into_iter().rev().step_by(every) {
        let (at, _) = run.place(step, score.value);
        if run.holds(at.0) {
            let title = format!("really annealed, step {step}\n{}", score_words(score));
            draw_stop(svg, Mark::Square, "annealed", at, 3.4, title);
        }
    }
}

/// One merge with its place.
struct Placed<'a> {
    at: (f64, f64),
    is_outside: bool,
    index: usize,
    trial: &'a TrialRow,
    score: &'a ScoreRow,
}

pub(super) fn draw_merges(
    svg: &mut Markup,
    view: &StudyView<'_>,
    metric: Metric<'_>,
    run: &RunFrame<'_>,
    shown: &mut BTreeSet<usize>,
) {
    let ranked = view.ranked(metric);
    draw_form(svg, view, &ranked, run);
    let mut placed: Vec<Placed<'_>> = Vec::with_capacity(ranked.len());
    for (index, trial, score) in ranked {
        let (at, is_outside) = run.place(trial.end_step, score.value);
        if run.holds(at.0) {
            placed.push(Placed { at, is_outside, index, trial, score });
        }
    }
    // Stable: within a column the order of the ranking stays, best first.
    placed.sort_by(|a, b| column_of(a.at.0).total_cmp(&column_of(b.at.0)));
    let most = match (run.extent, placed.len()) {
        (_, 400..) => 1,
        (Extent::Whole, _) => 6,
        (Extent::End, _) => 30,
    };
    for column in placed.chunk_by(|a, b| column_of(a.at.0).total_cmp(&column_of(b.at.0)).is_eq()) {
        let gathered = column.len() > most;
        if gathered {
            draw_range(svg, metric, column);
        }
        // Worst first, so that the best is on top.
        for (rank, one) in column.iter().enumerate().rev() {
            if !gathered || rank == 0 || view.is_chosen(one.trial) {
                draw_merge(svg, view, one);
                shown.insert(one.index);
            }
        }
    }
}

fn column_of(x: f64) -> f64 {
    (x / COLUMN).floor()
}

fn draw_merge(svg: &mut Markup, view: &StudyView<'_>, one: &Placed<'_>) {
    let (class, radius) = match (view.is_chosen(one.trial), one.is_outside) {
        (true, _) => ("merged chosen", 5.0),
        (false, true) => ("merged outside", 3.6),
        (false, false) => ("merged", 3.6),
    };
    let mut title = describe_trial(one.trial, one.score);
    if one.is_outside {
        title.push_str("\nbeyond the edge: drawn at it");
    }
    let mark = begin_mark(svg, Mark::Diamond, class, one.at, radius).attr("tabindex", "-1");
    mark.attr("data-w", one.index).titled(title);
}

/// Many merges in one column: from the best to the worst of them.
fn draw_range(svg: &mut Markup, metric: Metric<'_>, column: &[Placed<'_>]) {
    let Some(first) = column.first() else { return };
    let heights = column.iter().map(|one| one.at.1);
    let [top, bottom] = super::scale::span_of(heights, 0.0);
    let values = || column.iter().map(|one| one.score.value);
    let best = values().min_by(|a, b| metric.badness(*a).total_cmp(&metric.badness(*b)));
    let worst = values().max_by(|a, b| metric.badness(*a).total_cmp(&metric.badness(*b)));
    let ends = column.iter().map(|one| one.trial.end_step);
    let (from, to) = (ends.clone().min().unwrap_or(0), ends.max().unwrap_or(0));
    let steps = if from == to { format!("step {from}") } else { format!("steps {from} to {to}") };
    let title = format!(
        "{} merges end at {steps}\nfrom {:.4} to {:.4} {}; their table is below",
        column.len(),
        best.unwrap_or(f64::NAN),
        worst.unwrap_or(f64::NAN),
        measure_words(metric.measure)
    );
    let size = (4.0, (bottom - top).max(1.0));
    begin_rect(svg, "mark range", (first.at.0 - 2.0, top), size).attr("tabindex", "-1").titled(title);
}

/// A line through merges of the same form as the first in rank.
fn draw_form(svg: &mut Markup, view: &StudyView<'_>, ranked: &[(usize, &TrialRow, &ScoreRow)], run: &RunFrame<'_>) {
    let form =
        |trial: &TrialRow| (trial.scheme.clone(), trial.n_checkpoints, trial.interval_steps, trial.interval_tokens);
    let Some(wanted) = view.chosen().or_else(|| ranked.first().map(|row| row.1)).map(form) else { return };
    let mut points: Vec<(u64, f64)> =
        ranked.iter().filter(|row| form(row.1) == wanted).map(|row| (row.1.end_step, row.2.value)).collect();
    points.sort_by_key(|point| point.0);
    points.dedup_by_key(|point| point.0);
    let places: Vec<(f64, f64)> =
        points.iter().map(|(step, value)| (run.x(*step), run.frame.y.place(*value))).collect();
    draw_line(svg, "merged", &thin_curve(&places, run.frame.width.choose(150, 70)));
}

pub(super) fn draw_forecasts(svg: &mut Markup, view: &StudyView<'_>, metric: Metric<'_>, run: &RunFrame<'_>) {
    let all: Vec<&ForecastRow> = view.forecasts_of(metric).collect();
    let has_areas = view.record.is_watched && all.len() > MAX_FORECAST_MARKS;
    if has_areas {
        draw_forecast_areas(svg, &all, run);
    }
    // The newest comes first.
    let is_marked = |(i, one): &(usize, &ForecastRow)| !has_areas || *i == 0 || one.truth.is_some();
    let mut x_before = f64::INFINITY;
    for (_, one) in all.into_iter().enumerate().filter(is_marked).take(40) {
        let ((mut x, _), _) = run.place(one.end_step, one.value);
        if !run.holds(x) {
            continue;
        }
        // Forecasts of one step would overlap.
        if (x - x_before).abs() < 9.0 {
            x = x_before - 10.0;
        }
        x_before = x;
        draw_forecast(svg, one, x, run);
    }
}

/// The intervals of many forecasts along a run, as areas, with a line through the forecasts.
fn draw_forecast_areas(svg: &mut Markup, newest_first: &[&ForecastRow], run: &RunFrame<'_>) {
    let every = newest_first.len().div_ceil(run.frame.width.choose(150, 70)).max(1);
    let kept: Vec<&ForecastRow> = newest_first.iter().copied().step_by(every).collect();
    let at = |one: &ForecastRow, value: f64| (run.x(one.end_step), run.frame.y.place(value));
    let intervals: [fn(&ForecastRow) -> [f64; 2]; 2] = [|one| one.interval_95, |one| one.interval_80];
    for (class, interval) in ["area-95", "area-80"].into_iter().zip(intervals) {
        let high = kept.iter().map(|one| at(one, interval(one)[1]));
        let low = kept.iter().rev().map(|one| at(one, interval(one)[0]));
        draw_area(svg, class, high.chain(low));
    }
    let line: Vec<(f64, f64)> = kept.iter().map(|one| at(one, one.value)).collect();
    draw_line(svg, "forecast", &line);
}

fn draw_forecast(svg: &mut Markup, one: &ForecastRow, x: f64, run: &RunFrame<'_>) {
    let y = |value: f64| run.place(one.end_step, value).0.1;
    let fork = one.end_step.saturating_sub(one.anneal_steps);
    draw_line(svg, "forecast", &[(run.x(fork), y(one.raw)), (x, y(one.value))]);
    for (class, interval) in [("band-95", one.interval_95), ("band-80", one.interval_80)] {
        draw_segment(svg, class, [x; 2], interval.map(y));
    }
    draw_stop(svg, Mark::Triangle, "forecast", (x, y(one.value)), 4.2, describe_forecast(one));
}

/// What is shown when one points at a forecast.
pub(crate) fn describe_forecast(one: &ForecastRow) -> String {
    let [low_80, high_80] = one.interval_80;
    let [low_95, high_95] = one.interval_95;
    let truth = one.truth.map_or_else(String::new, |truth| format!("\nthe anneal reached {truth:.4}"));
    format!(
        "forecast of a {} anneal of {} to step {}\n{:.4} {}\n80 %: {low_80:.4} to {high_80:.4}\n95 %: {low_95:.4} to {high_95:.4}{truth}",
        one.curve,
        counted(one.anneal_steps, "step"),
        one.end_step,
        one.value,
        measure_words(&one.measure)
    )
}
