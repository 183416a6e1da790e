//! The window map: count against interval, or against scheme, with what each window gains.

use std::collections::{BTreeMap, BTreeSet};

use super::{open_metric, write_chooser};
use crate::markup::Markup;
use crate::page::table::Table;
use crate::record::{ScoreRow, TrialRow};
use crate::study_view::{Metric, StudyView};
use crate::svg::describe_trial;
use crate::text::show_whole;
use crate::values::{range_of, unique};

/// End steps that get a map, the newest ones.
const MAX_ENDS: usize = 12;
/// Cells of one map.
const MAX_CELLS: usize = 600;

pub(super) fn write_maps(page: &mut Markup, view: &StudyView<'_>) {
    let ends: BTreeSet<u64> = view.record.trials.iter().map(|trial| trial.end_step).collect();
    let ends: Vec<u64> = ends.into_iter().rev().take(MAX_ENDS).collect();
    if view.metrics.is_empty() || ends.is_empty() {
        return;
    }
    page.element("h2").filled("Which window");
    if ends.len() > 1 {
        let options = ends.iter().map(|end| (end.to_string(), end.to_string()));
        write_chooser(page, "end", "Windows that end at step", options);
    }
    for (i, metric) in view.pictured().iter().enumerate() {
        open_metric(page, i);
        for (j, &end) in ends.iter().enumerate() {
            page.element("div").attr("data-end", end).shown_if(j == 0).open();
            write_end(page, view, *metric, end);
            page.close();
        }
        page.close();
    }
    let text = "Rows: checkpoints in the window. Colour: gain over the newest raw checkpoint if known, otherwise the \
                score. A triangle marks the best of a map, a frame the chosen one; on a suite that only reports, none is marked best.";
    page.note(text);
}

/// What the columns of a map tell apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Column {
    Steps(u64),
    Tokens(u64),
    Uneven,
    Scheme(String),
}

impl Column {
    fn interval(trial: &TrialRow) -> Self {
        match (trial.interval_tokens, trial.interval_steps) {
            (Some(tokens), _) => Self::Tokens(tokens),
            (None, Some(steps)) => Self::Steps(steps),
            (None, None) => Self::Uneven,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Steps(steps) => format!("every {steps}"),
            Self::Tokens(tokens) => format!("every {} tokens", show_whole(*tokens)),
            Self::Uneven => "unevenly spaced".to_owned(),
            Self::Scheme(scheme) => scheme.clone(),
        }
    }
}

type Cells<'a> = BTreeMap<(usize, Column), (&'a TrialRow, &'a ScoreRow)>;

/// The maps of one end: by scheme where there is one interval, else one map of intervals for each scheme.
fn write_end(page: &mut Markup, view: &StudyView<'_>, metric: Metric<'_>, end: u64) {
    let of_end = view.record.trials.iter().filter(|trial| trial.end_step == end);
    let rows: Vec<_> = of_end.filter_map(|trial| Some((trial, metric.find(&trial.scores)?))).collect();
    if rows.is_empty() {
        page.note(format!("No merge of step {end} has this score."));
        return;
    }
    let intervals: BTreeSet<Column> = rows.iter().map(|row| Column::interval(row.0)).collect();
    let best = best_of(view, metric, &rows);
    let range = range_of(rows.iter().map(|row| goodness(metric, row.1)));
    let write = |page: &mut Markup, title: &str, cells: &Cells<'_>| {
        write_map(page, view, &Map { title, metric, cells, best, range });
    };
    if intervals.len() < 2 {
        let column = |trial: &TrialRow| Column::Scheme(trial.scheme.clone());
        let title = intervals.first().map_or_else(String::new, |interval| format!(", {}", interval.name()));
        let unit = if matches!(intervals.first(), Some(Column::Steps(_))) { " steps" } else { "" };
        write(page, &format!("To step {end}{title}{unit}: {}", metric.label()), &cells_by(&rows, column));
        return;
    }
    for scheme in unique(rows.iter().map(|row| row.0.scheme.as_str())) {
        let of_scheme: Vec<_> = rows.iter().filter(|row| row.0.scheme == scheme).copied().collect();
        write(page, &format!("{scheme}, to step {end}: {}", metric.label()), &cells_by(&of_scheme, Column::interval));
    }
}

fn cells_by<'a>(rows: &[(&'a TrialRow, &'a ScoreRow)], column: impl Fn(&TrialRow) -> Column) -> Cells<'a> {
    let mut cells = Cells::new();
    for &(trial, score) in rows {
        cells.entry((trial.n_checkpoints, column(trial))).or_insert((trial, score));
    }
    cells
}

/// The gain where it is known, else the score turned so that more is better.
fn goodness(metric: Metric<'_>, score: &ScoreRow) -> f64 {
    score.gain.map_or(-metric.badness(score.value), |gain| gain.value)
}

fn best_of<'a>(
    view: &StudyView<'_>,
    metric: Metric<'_>,
    rows: &[(&'a TrialRow, &'a ScoreRow)],
) -> Option<&'a TrialRow> {
    if view.is_reporting(metric) {
        return None;
    }
    let best = rows.iter().min_by(|a, b| metric.badness(a.1.value).total_cmp(&metric.badness(b.1.value)));
    best.map(|row| row.0)
}

struct Map<'a> {
    title: &'a str,
    metric: Metric<'a>,
    cells: &'a Cells<'a>,
    best: Option<&'a TrialRow>,
    range: [f64; 2],
}

fn write_map(page: &mut Markup, view: &StudyView<'_>, map: &Map<'_>) {
    let columns: BTreeSet<&Column> = map.cells.keys().map(|key| &key.1).collect();
    let counts: BTreeSet<usize> = map.cells.keys().map(|key| key.0).collect();
    let n_rows = MAX_CELLS / columns.len().max(1);
    let names: Vec<String> = columns.iter().map(|column| column.name()).collect();
    let names: Vec<&str> = std::iter::once("count").chain(names.iter().map(String::as_str)).collect();
    let table = Table { scroller: map.title, class: "map", caption: map.title, columns: &names };
    table.write(page, |page| {
        for &count in counts.iter().take(n_rows) {
            page.element("tr").open();
            page.element("th").attr("scope", "row").filled(count);
            for column in &columns {
                write_cell(page, view, map, map.cells.get(&(count, (*column).clone())).copied());
            }
            page.close();
        }
    });
    if counts.len() > n_rows {
        page.note(format!("{} more counts are in study.csv.", counts.len() - n_rows));
    }
}

fn write_cell(page: &mut Markup, view: &StudyView<'_>, map: &Map<'_>, cell: Option<(&TrialRow, &ScoreRow)>) {
    let Some((trial, score)) = cell else {
        page.element("td").filled("");
        return;
    };
    let level = level_of(goodness(map.metric, score), score.gain.is_some(), map.range);
    let is_best = map.best.is_some_and(|best| best.name == trial.name);
    let chosen = if view.is_chosen(trial) { " chosen" } else { "" };
    let cell = page.element("td").attr("class", format!("mark cell {level}{chosen}"));
    cell.attr("data-tip", describe_trial(trial, score)).open();
    if is_best {
        page.element("b").attr("aria-label", "best").filled("▲");
    }
    page.text(score.gain.map_or_else(|| format!("{:.4}", score.value), |gain| format!("{:+.4}", gain.value)));
    if !chosen.is_empty() {
        page.element("small").filled("chosen");
    }
    page.close();
}

/// Colour of a cell: by sign and size of a gain, or by place between the worst and the best score.
fn level_of(good: f64, is_gain: bool, [low, high]: [f64; 2]) -> &'static str {
    const GOOD: [&str; 5] = ["g1", "g2", "g3", "g4", "g5"];
    const BAD: [&str; 3] = ["b1", "b2", "b3"];
    let pick = |levels: &[&'static str], share: f64| {
        let n = levels.len();
        let found = (1..n).find(|&i| share * n as f64 <= i as f64).unwrap_or(n);
        levels.get(found - 1).copied().unwrap_or("")
    };
    if !good.is_finite() {
        return "";
    }
    match is_gain {
        true if good < 0.0 => pick(&BAD, good / low.min(-1e-12)),
        // From the least gain on, so that a map of near equals still tells them apart.
        _ => {
            let from = if is_gain { low.max(0.0) } else { low };
            pick(&GOOD, (good - from) / (high - from).max(1e-12))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_follow_sign_and_size() {
        let gain = |value| level_of(value, true, [-0.3, 0.5]);
        assert_eq!([gain(-0.3), gain(-0.05), gain(0.01), gain(0.3), gain(0.5)], ["b3", "b1", "g1", "g3", "g5"]);
        let score = |value| level_of(value, false, [-2.5, -2.0]);
        assert_eq!([score(-2.5), score(-2.25), score(-2.0), score(f64::NAN)], ["g1", "g3", "g5", ""]);
        assert_eq!(level_of(1.0, true, [1.0, 1.0]), "g1");
    }
}
