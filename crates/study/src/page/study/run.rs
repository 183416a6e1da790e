//! The trajectory: scores along the run by steps, tokens or time, and the same as a table.

use std::collections::BTreeSet;

use super::open_metric;
use crate::markup::Markup;
use crate::page::figure::{KeyEntry, write_figure_of};
use crate::page::table::{Table, write_row};
use crate::record::RawRow;
use crate::study_view::{Metric, StudyView};
use crate::svg::{Extent, Mark, RunPicture, StepAxis, Width, draw_study_run, end_from};
use crate::text::or_dash;

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
        let mut write = |page: &mut Markup, key: &[KeyEntry<'_>], caption: &str, extent: Extent| {
            write_figure_of(page, key, caption, |page| {
                write_pictures(page, view, Some((i, *metric)), extent, axes, shown);
            });
        };
        write(page, &key_of(view, *metric), &caption, Extent::Whole);
        if end_from(view, *metric).is_some() {
            let caption = "The end of the run, starting at the chosen window or the fork of the anneal.";
            write(page, &[], caption, Extent::End);
        }
        write_table(page, view, *metric);
        page.close();
    }
}

/// Training loss alone.
pub(super) fn write_training(page: &mut Markup, view: &StudyView<'_>, axes: &[StepAxis]) {
    let caption = "Training loss with the phase of the learning rate; where there are more points than the picture can show, \
                   the lowest and highest are kept. The drop in the first twentieth of the run may go beyond the edge.";
    write_figure_of(page, &[], caption, |page| {
        write_pictures(page, view, None, Extent::Whole, axes, &mut BTreeSet::new());
    });
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
fn geometries(axes: &[StepAxis], view: &StudyView<'_>) -> Vec<Vec<StepAxis>> {
    let last = view.last_step().max(1) as f64;
    let mut groups: Vec<Vec<StepAxis>> = Vec::new();
    for axis in axes {
        match groups.iter_mut().find(|group| group.first().is_some_and(|first| axis.has_places_of(first, last))) {
            Some(group) => group.push(axis.clone()),
            None => groups.push(vec![axis.clone()]),
        }
    }
    groups
}

fn open_geometry(page: &mut Markup, axes: &[StepAxis]) {
    let names: Vec<&str> = axes.iter().map(|axis| axis.kind.name()).collect();
    page.element("div").attr("data-axis", names.join(" ")).shown_if(names.first() == Some(&"steps")).open();
}

fn write_pictures(
    page: &mut Markup,
    view: &StudyView<'_>,
    metric: Option<(usize, Metric<'_>)>,
    extent: Extent,
    axes: &[StepAxis],
    shown: &mut BTreeSet<usize>,
) {
    for (geometry, axes) in geometries(axes, view).iter().enumerate() {
        open_geometry(page, axes);
        for width in [Width::Wide, Width::Narrow] {
            let part = if extent == Extent::Whole { "whole" } else { "end" };
            let id = match metric {
                None => format!("t{geometry}{}", width.class()),
                Some((i, _)) => format!("c{i}-{geometry}-{part}-{}", width.class()),
            };
            let picture = RunPicture { view, metric: metric.map(|(_, metric)| metric), extent, axes, id: &id };
            page.piece(draw_study_run(&picture, width, shown));
        }
        page.close();
    }
}

fn key_of<'a>(view: &StudyView<'_>, metric: Metric<'_>) -> Vec<KeyEntry<'a>> {
    let record = view.record;
    let has_raws = |raws: &[RawRow]| raws.iter().any(|raw| metric.find(&raw.scores).is_some());
    let has_merges = record.trials.iter().any(|trial| metric.find(&trial.scores).is_some());
    let has_loss = metric.measure == "nats_per_token" && !record.training.is_empty();
    let forecast = "forecast with 80 % and 95 % interval";
    let entries = [
        (has_loss, KeyEntry::line("training", None, "training loss")),
        (has_raws(&record.raws), KeyEntry::line("raw", Some((Mark::Circle, "raw")), "raw checkpoints")),
        (has_merges, KeyEntry::mark(Mark::Diamond, "merged", "merges")),
        (has_merges && view.chosen().is_some(), KeyEntry::mark(Mark::Diamond, "merged chosen", "the chosen one")),
        (
            view.forecasts_of(metric).next().is_some(),
            KeyEntry::line("forecast", Some((Mark::Triangle, "forecast")), forecast),
        ),
        (has_raws(&record.annealed), KeyEntry::line("annealed", Some((Mark::Square, "annealed")), "really annealed")),
        (!record.spikes.is_empty(), KeyEntry::mark(Mark::Flag, "spike", "spike")),
    ];
    entries.into_iter().filter(|(is_drawn, _)| *is_drawn).map(|(_, entry)| entry).collect()
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
    let columns = &["model", "step", "value", "standard error", "n"];
    Table { scroller: "Raw and annealed checkpoints", columns, ..Table::default() }.write(page, |page| {
        for (what, step, score) in rows.iter().rev().step_by(every) {
            let error = or_dash(score.standard_error, |error| format!("{error:.4}"));
            let cells = [step.to_string(), format!("{:.4}", score.value), error, score.n.to_string()];
            write_row(page, [what, "number"], what, cells);
        }
    });
    page.close();
}
