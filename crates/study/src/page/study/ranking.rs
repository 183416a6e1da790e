//! The trials in their order, with what each gains and how it is made again.

use std::collections::BTreeSet;

use super::open_metric;
use crate::markup::Markup;
use crate::page::table::Table;
use crate::record::{ScoreRow, TrialRow};
use crate::study_answer::gain_cell;
use crate::study_view::{Metric, StudyView, shared_decimals, show_gain_interval, show_gain_row, window_words};
use crate::svg::{describe_trial, draw_interval, gain_range};
use crate::table::TABLE_NAME;
use crate::text::{first_digits, or_dash};
use crate::watch::RECORD_NAME;

/// Trials that are shown at once.
const N_BEST: usize = 20;
/// Trials behind a click, for the first measure only.
const MAX_REST: usize = 2_000;
/// The same where the page changes as one looks at it.
const MAX_REST_WATCHED: usize = 80;

pub(super) fn write_ranking(page: &mut Markup, view: &StudyView<'_>, shown: &mut BTreeSet<usize>) {
    let has_trials = |metric: &Metric<'_>| !view.ranked(*metric).is_empty();
    if !view.pictured().iter().any(has_trials) {
        return;
    }
    page.element("h2").filled(if view.record.is_watched { "Newest merges" } else { "Merges in order" });
    let by = || {
        view.deciding_metric().map_or_else(
            || "Best first, by the score shown.".to_owned(),
            |metric| format!("Best first, by the deciding score: {}.", metric.label()),
        )
    };
    let order = if view.record.is_watched { "Newest end first.".to_owned() } else { by() };
    let text = format!(
        "{order} A gain is over the newest raw checkpoint of the window on the same items, and positive where the merge is \
         better; intervals are 95 %."
    );
    page.note(text);
    for (i, metric) in view.pictured().iter().enumerate() {
        let mut rows = view.ranked(*metric);
        if view.record.is_watched {
            // Stable: merges with one end keep their order, best first.
            rows.sort_by_key(|row| std::cmp::Reverse(row.1.end_step));
        }
        open_metric(page, i);
        write_best(page, view, *metric, &rows[..rows.len().min(N_BEST)], shown);
        if rows.len() > N_BEST {
            if i == 0 {
                write_rest(page, view, &rows[N_BEST..]);
            } else {
                page.note(format!("The first {} of {}; all are in {}.", N_BEST, rows.len(), table_name(view)));
            }
        }
        page.close();
    }
}

type Row<'a> = (usize, &'a TrialRow, &'a ScoreRow);

fn write_best(
    page: &mut Markup,
    view: &StudyView<'_>,
    metric: Metric<'_>,
    rows: &[Row<'_>],
    shown: &mut BTreeSet<usize>,
) {
    let range = gain_range(rows.iter().filter_map(|row| row.2.gain));
    let decimals = shared_decimals(rows.iter().filter_map(|row| row.2.gain));
    let columns = &["merge", "score", digest_name(view), "gain", "gain and 95 % interval"];
    let table = Table { class: "ranking", caption: &metric.label(), columns, ..Table::default() };
    table.write(page, |page| {
        for (i, trial, score) in rows {
            shown.insert(*i);
            write_best_row(page, view, (*i, trial, score), (range, decimals));
        }
    });
}

fn write_best_row(
    page: &mut Markup,
    view: &StudyView<'_>,
    (i, trial, score): Row<'_>,
    (range, decimals): ([f64; 2], usize),
) {
    let is_chosen = view.is_chosen(trial);
    open_row(page, if is_chosen { "chosen" } else { "merged" }, (i, trial), &describe_trial(trial, score));
    if is_chosen {
        page.element("small").filled("chosen");
    }
    page.close();
    page.element("td").attr("class", "number loss").open();
    page.text(format!("{:.4}", score.value));
    if let Some(error) = score.standard_error {
        page.element("small").filled(format!("± {error:.4}"));
    }
    page.close();
    write_digest(page, "number bits", trial);
    let (gain, word) = gain_cell(score.gain, decimals);
    page.element("td").attr("class", "number").open().text(gain).element("small").filled(word);
    page.close();
    page.element("td").attr("class", "picture").open();
    if let Some(gain) = score.gain {
        let title = format!("{}\ngain {}, {}", window_words(trial), show_gain_row(gain), show_gain_interval(gain));
        page.piece(draw_interval(Some(gain), range, "merged", &title));
    }
    page.close();
    page.close();
}

/// Opens a row and its name, which can be pointed at.
fn open_row(page: &mut Markup, class: &str, (i, trial): (usize, &TrialRow), tip: &str) {
    page.element("tr").attr("class", class).open();
    page.element("th").attr("scope", "row").open();
    let name = page.element("span").attr("class", "mark name").attr("tabindex", "0").attr("data-w", i);
    name.attr("data-tip", tip).filled(window_words(trial));
}

/// Where all of them are.
fn table_name(view: &StudyView<'_>) -> &'static str {
    if view.record.is_watched { RECORD_NAME } else { TABLE_NAME }
}

/// A watcher records what its merges hold, not their plans.
fn digest_name(view: &StudyView<'_>) -> &'static str {
    if view.record.is_watched { "digest" } else { "plan" }
}

fn write_digest(page: &mut Markup, class: &str, trial: &TrialRow) {
    let digest = if trial.plan_digest.is_empty() { trial.params_digest.as_deref() } else { Some(&*trial.plan_digest) };
    let digest = digest.unwrap_or_default();
    page.element("td").class(class).open();
    page.element("code").attr("title", digest).filled(first_digits(digest, 8));
    page.close();
}

/// The newest merges of a run that is watched, where nothing was scored.
pub(super) fn write_unscored(page: &mut Markup, view: &StudyView<'_>, shown: &mut BTreeSet<usize>) {
    if !view.record.is_watched || !view.metrics.is_empty() || view.record.trials.is_empty() {
        return;
    }
    let mut trials: Vec<(usize, &TrialRow)> = view.record.trials.iter().enumerate().collect();
    trials.sort_by_key(|(_, trial)| std::cmp::Reverse(trial.end_step));
    page.element("h2").filled("Newest merges");
    let table = Table { class: "ranking", columns: &["merge", "folder", "digest"], ..Table::default() };
    table.write(page, |page| {
        for (i, trial) in trials.into_iter().take(N_BEST) {
            shown.insert(i);
            open_row(page, "merged", (i, trial), &window_words(trial));
            page.close();
            page.element("td").filled(trial.path.as_deref().unwrap_or(&trial.name));
            write_digest(page, "", trial);
            page.close();
        }
    });
}

fn write_rest(page: &mut Markup, view: &StudyView<'_>, rows: &[Row<'_>]) {
    page.element("details").open();
    let decimals = shared_decimals(rows.iter().filter_map(|row| row.2.gain));
    let most = if view.record.is_watched { MAX_REST_WATCHED } else { MAX_REST };
    let n_shown = rows.len().min(most);
    let left = if n_shown < rows.len() {
        format!("; {} more are in {}", rows.len() - n_shown, table_name(view))
    } else {
        String::new()
    };
    page.element("summary").filled(format!("The other {n_shown}{left}"));
    let columns = &["rank", "merge", "score", "gain", "95 % interval", digest_name(view)];
    Table { scroller: "Ranking", columns, ..Table::default() }.write(page, |page| {
        for (rank, (_, trial, score)) in rows.iter().take(most).enumerate() {
            page.element("tr").open();
            page.element("td").filled(rank + N_BEST + 1);
            page.element("th").attr("scope", "row").filled(window_words(trial));
            page.element("td").filled(format!("{:.4}", score.value));
            page.element("td").filled(gain_cell(score.gain, decimals).0);
            let interval = score.gain.and_then(|gain| gain.interval_95);
            page.element("td").filled(or_dash(interval, |[low, high]| format!("{low:+.4} to {high:+.4}")));
            write_digest(page, "", trial);
            page.close();
        }
    });
    page.close();
}
