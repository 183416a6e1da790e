//! Merges that end at one step, beside each other: their lengths, and what went into each.

use super::attached::write_picture;
use super::open_metric;
use crate::attachment::Picture;
use crate::markup::Markup;
use crate::page::figure::write_figure;
use crate::study_view::{EndTrial, Metric, StudyView};
use crate::svg::{chart_of_lengths, draw_windows};

/// Most merges on the map of checkpoints.
const MAX_ROWS: usize = 12;

/// Window length against score, for each measure that has several lengths.
pub(super) fn write_lengths(page: &mut Markup, view: &StudyView<'_>) {
    let pictured: Vec<(usize, Metric<'_>)> =
        view.pictured().iter().copied().enumerate().filter(|(_, metric)| has_lengths(view, *metric)).collect();
    if pictured.is_empty() {
        return;
    }
    page.element("h2").filled("Window length against score");
    for (i, metric) in pictured {
        let chart = chart_of_lengths(view, metric, &view.at_the_end(metric));
        open_metric(page, i);
        let caption = "A longer window averages out more noise but lags further behind: the best \
                       length balances the two. All merges here end at the same step.";
        write_picture(page, &Picture::Chart(chart), caption);
        page.close();
    }
}

/// Whether there are two lengths with one interval, so that a line between them means something.
fn has_lengths(view: &StudyView<'_>, metric: Metric<'_>) -> bool {
    let trials = view.at_the_end(metric);
    let interval = |one: &EndTrial<'_>| (one.trial.interval_steps, one.trial.interval_tokens);
    let longer = || trials.iter().filter(|one| one.trial.n_checkpoints > 1);
    let has_one_interval = longer().zip(longer().skip(1)).all(|(a, b)| interval(a) == interval(b));
    has_one_interval && trials.windows(2).any(|pair| pair[0].trial.n_checkpoints != pair[1].trial.n_checkpoints)
}

/// The coefficients of the first merges in rank on a map of the checkpoints.
pub(super) fn write_coefficients(page: &mut Markup, view: &StudyView<'_>) {
    let Some(metric) = view.metrics.first().copied() else { return };
    let mut trials = view.at_the_end(metric);
    if trials.is_empty() {
        return;
    }
    let n_trials = trials.len();
    if n_trials > MAX_ROWS {
        let ranked: Vec<&str> = view.ranked(metric).iter().map(|row| row.1.name.as_str()).collect();
        trials.sort_by_key(|one| ranked.iter().position(|name| *name == one.trial.name));
        trials.truncate(MAX_ROWS);
    }
    page.element("h2").filled("What went into each merge");
    let which =
        if n_trials > MAX_ROWS { format!("The first {MAX_ROWS} of {n_trials} in rank. ") } else { String::new() };
    let caption = format!(
        "{which}One row per merge, one bar per checkpoint; the ticks below are the raw checkpoints that exist. \
         Bars show coefficients, each row on its own scale; point at a bar to see its value."
    );
    write_figure(page, &[], |width| draw_windows(view, &trials, width), &caption);
}
