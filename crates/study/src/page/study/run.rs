//! The trajectory: scores along the run by steps, tokens or time, and the same as a table.

use std::collections::BTreeSet;

use super::{open_metric, open_scroller, write_columns};
use crate::markup::Markup;
use crate::page::figure::write_key_entry;
use crate::study_view::{Metric, StudyView};
use crate::svg::{Extent, Mark, RunPicture, StepAxis, Width, draw_study_run, end_from};

/// Rows of the table below the picture.
const MAX_ROWS: usize = 400;
/// The same where the page changes as one looks at it.
const MAX_ROWS_WATCHED: usize = 100;

pub(super) fn write_run(page: &mut Markup, view: &StudyView<'_>, axes: &[StepAxis], shown: &mut BTreeSet<usize>) {
    let record = view.record;
    if view.metrics.is_empty() {
        // A run that did not recover from a spike shows its loss beside it.
        if record.training.len() > 1 && !view.needs_recovery() {
            page.element("h2").filled("Training loss along the run");
            write_training(page, view, axes);
        }
        return;
    }
    page.element("h2").filled("Scores along the run");
    write_axis_buttons(page, axes);
    for (i, metric) in view.pictured().iter().enumerate() {
        open_metric(page, i);
        page.element("figure").open();
        write_key(page, view, *metric);
        write_pictures(page, view, (i, *metric), Extent::Whole, axes, shown);
        let training = if metric.measure == "nats_per_token" && !record.training.is_empty() {
            " Training loss may go beyond the edge: the scores set the range."
        } else {
            ""
        };
        let caption = format!(
            "A merge is drawn at its newest source, a forecast where the anneal would end. Many merges at one \
             point are drawn as a bar from best to worst, with the highest-ranked one marked. The shading shows the phase of the \
             learning rate, drawn below. Point at a mark, or move between marks with the arrow keys, to see its numbers.{training}"
        );
        page.element("figcaption").filled(caption);
        page.close();
        if end_from(view, *metric).is_some() {
            page.element("figure").open();
            write_pictures(page, view, (i, *metric), Extent::End, axes, shown);
            let caption = "The end of the run, starting at the chosen window or the fork of the anneal.";
            page.element("figcaption").filled(caption);
            page.close();
        }
        write_table(page, view, *metric);
        page.close();
    }
}

/// Training loss alone.
pub(super) fn write_training(page: &mut Markup, view: &StudyView<'_>, axes: &[StepAxis]) {
    page.element("figure").open();
    for (axis, id) in geometries(axes, view) {
        open_geometry(page, &axis);
        for width in [Width::Wide, Width::Narrow] {
            let id = format!("t{id}{}", width.class());
            let picture = RunPicture { view, metric: None, extent: Extent::Whole, axes: &axis, id: &id };
            page.piece(draw_study_run(&picture, width, &mut BTreeSet::new()));
        }
        page.close();
    }
    let caption = "Training loss with the phase of the learning rate; where there are more points than the picture can show, \
                   the lowest and highest are kept. The drop in the first twentieth of the run may go beyond the edge.";
    page.element("figcaption").filled(caption);
    page.close();
}

fn write_axis_buttons(page: &mut Markup, axes: &[StepAxis]) {
    if axes.len() < 2 {
        return;
    }
    let group = page.element("p").attr("class", "choose").attr("role", "group").attr("aria-label", "horizontal axis");
    group.attr("hidden", "hidden").open();
    page.text("By ");
    for (i, axis) in axes.iter().enumerate() {
        let button = page.element("button").attr("type", "button").attr("data-choose", "axis");
        let pressed = if i == 0 { "true" } else { "false" };
        button.attr("value", axis.kind.name()).attr("aria-pressed", pressed).filled(axis.kind.name());
    }
    page.close();
}

/// Axes in groups that share the places of their first.
fn geometries(axes: &[StepAxis], view: &StudyView<'_>) -> Vec<(Vec<StepAxis>, usize)> {
    let last = view.last_step().max(1) as f64;
    let mut groups: Vec<Vec<StepAxis>> = Vec::new();
    for axis in axes {
        match groups.iter_mut().find(|group| group.first().is_some_and(|first| axis.has_places_of(first, last))) {
            Some(group) => group.push(axis.clone()),
            None => groups.push(vec![axis.clone()]),
        }
    }
    groups.into_iter().enumerate().map(|(i, group)| (group, i)).collect()
}

fn open_geometry(page: &mut Markup, axes: &[StepAxis]) {
    let names: Vec<&str> = axes.iter().map(|axis| axis.kind.name()).collect();
    let block = page.element("div").attr("data-axis", names.join(" "));
    if names.first() == Some(&"steps") { block } else { block.attr("hidden", "hidden") }.open();
}

fn write_pictures(
    page: &mut Markup,
    view: &StudyView<'_>,
    (i, metric): (usize, Metric<'_>),
    extent: Extent,
    axes: &[StepAxis],
    shown: &mut BTreeSet<usize>,
) {
    for (axis, geometry) in geometries(axes, view) {
        open_geometry(page, &axis);
        for width in [Width::Wide, Width::Narrow] {
            let part = if extent == Extent::Whole { "whole" } else { "end" };
            let id = format!("c{i}-{geometry}-{part}-{}", width.class());
            let picture = RunPicture { view, metric: Some(metric), extent, axes: &axis, id: &id };
            page.piece(draw_study_run(&picture, width, shown));
        }
        page.close();
    }
}

fn write_key(page: &mut Markup, view: &StudyView<'_>, metric: Metric<'_>) {
    let record = view.record;
    page.element("ul").attr("class", "key").open();
    if metric.measure == "nats_per_token" && !record.training.is_empty() {
        write_key_entry(page, "training", None, "training loss");
    }
    if record.raws.iter().any(|raw| metric.find(&raw.scores).is_some()) {
        write_key_entry(page, "raw", Some((Mark::Circle, "raw")), "raw checkpoints");
    }
    if record.trials.iter().any(|trial| metric.find(&trial.scores).is_some()) {
        write_key_entry(page, "none", Some((Mark::Diamond, "merged")), "merges");
        if view.chosen().is_some() {
            write_key_entry(page, "none", Some((Mark::Diamond, "merged chosen")), "the chosen one");
        }
    }
    if record.forecasts.iter().any(|one| one.task == metric.task && one.measure == metric.measure) {
        let name = "forecast with 80 % and 95 % interval";
        write_key_entry(page, "forecast", Some((Mark::Triangle, "forecast")), name);
    }
    if record.annealed.iter().any(|raw| metric.find(&raw.scores).is_some()) {
        write_key_entry(page, "annealed", Some((Mark::Square, "annealed")), "really annealed");
    }
    if !record.spikes.is_empty() {
        write_key_entry(page, "none", Some((Mark::Flag, "spike")), "spike");
    }
    page.close();
}

/// Raw and annealed checkpoints as numbers; merges have their own table.
fn write_table(page: &mut Markup, view: &StudyView<'_>, metric: Metric<'_>) {
    let raws = view.record.raws.iter().map(|raw| ("raw", raw));
    let annealed = view.record.annealed.iter().map(|raw| ("annealed", raw));
    let mut rows: Vec<_> =
        raws.chain(annealed).filter_map(|(what, raw)| Some((what, raw.step, metric.find(&raw.scores)?))).collect();
    if rows.is_empty() {
        return;
    }
    rows.sort_by_key(|row| (row.0 == "annealed", row.1));
    let most = if view.record.is_watched { MAX_ROWS_WATCHED } else { MAX_ROWS };
    let every = rows.len().div_ceil(most).max(1);
    page.element("details").open();
    let note = if every > 1 { format!(" (every {every}th; all are in study.csv)") } else { String::new() };
    page.element("summary").filled(format!("Raw and annealed checkpoints as a table{note}"));
    open_scroller(page, "Raw and annealed checkpoints");
    page.element("table").open();
    write_columns(page, &["model", "step", "value", "standard error", "n"]);
    page.element("tbody").open();
    for (what, step, score) in rows.iter().rev().step_by(every) {
        page.element("tr").attr("class", what).open();
        page.element("th").attr("scope", "row").filled(what);
        let error = score.standard_error.map_or_else(|| "-".to_owned(), |error| format!("{error:.4}"));
        for cell in [step.to_string(), format!("{:.4}", score.value), error, score.n.to_string()] {
            page.element("td").attr("class", "number").filled(cell);
        }
        page.close();
    }
    for _ in 0..4 {
        page.close();
    }
}
