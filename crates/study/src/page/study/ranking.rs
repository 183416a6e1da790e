//! The trials in their order, with what each gains and how it is made again.

use std::collections::BTreeSet;

use super::{open_metric, open_scroller, write_columns};
use crate::markup::Markup;
use crate::record::{GainRow, ScoreRow, TrialRow};
use crate::study_answer::gain_cell;
use crate::study_view::{
    Metric, StudyView, shared_decimals, short_digest, show_gain_interval, show_gain_row, window_words,
};
use crate::svg::{describe_trial, draw_interval, gain_range};
use crate::table::TABLE_NAME;
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
    page.element("p").attr("class", "note").filled(text);
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
                let text = format!("The first {} of {}; all are in {}.", N_BEST, rows.len(), table_name(view));
                page.element("p").attr("class", "note").filled(text);
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
    page.element("table").attr("class", "ranking").open();
    page.element("caption").filled(metric.label());
    write_columns(page, &["merge", "score", digest_name(view), "gain", "gain and 95 % interval"]);
    page.element("tbody").open();
    for (i, trial, score) in rows {
        shown.insert(*i);
        let is_chosen = view.is_chosen(trial);
        page.element("tr").attr("class", if is_chosen { "chosen" } else { "merged" }).open();
        page.element("th").attr("scope", "row").open();
        let name = page.element("span").attr("class", "mark name").attr("tabindex", "0").attr("data-w", i);
        name.attr("data-tip", describe_trial(trial, score)).filled(window_words(trial));
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
        page.element("td").attr("class", "number bits").open();
        write_digest(page, trial);
        page.close();
        let (gain, word) = gain_cell(score.gain, decimals);
        page.element("td").attr("class", "number").open();
        page.text(gain);
        page.element("small").filled(word);
        page.close();
        page.element("td").attr("class", "picture").open();
        write_picture(page, trial, score.gain, range);
        page.close();
        page.close();
    }
    page.close();
    page.close();
}

fn write_picture(page: &mut Markup, trial: &TrialRow, gain: Option<GainRow>, range: [f64; 2]) {
    let Some(gain) = gain else { return };
    let title = format!("{}\ngain {}, {}", window_words(trial), show_gain_row(gain), show_gain_interval(gain));
    page.piece(draw_interval(Some(gain), range, "merged", &title));
}

/// Where all of them are.
fn table_name(view: &StudyView<'_>) -> &'static str {
    if view.record.is_watched { RECORD_NAME } else { TABLE_NAME }
}

/// A watcher records what its merges hold, not their plans.
fn digest_name(view: &StudyView<'_>) -> &'static str {
    if view.record.is_watched { "digest" } else { "plan" }
}

fn write_digest(page: &mut Markup, trial: &TrialRow) {
    let digest = if trial.plan_digest.is_empty() { trial.params_digest.as_deref() } else { Some(&*trial.plan_digest) };
    let digest = digest.unwrap_or_default();
    page.element("code").attr("title", digest).filled(short_digest(digest));
}

/// The newest merges of a run that is watched, where nothing was scored.
pub(super) fn write_unscored(page: &mut Markup, view: &StudyView<'_>, shown: &mut BTreeSet<usize>) {
    if !view.record.is_watched || !view.metrics.is_empty() || view.record.trials.is_empty() {
        return;
    }
    let mut trials: Vec<(usize, &TrialRow)> = view.record.trials.iter().enumerate().collect();
    trials.sort_by_key(|(_, trial)| std::cmp::Reverse(trial.end_step));
    page.element("h2").filled("Newest merges");
    page.element("table").attr("class", "ranking").open();
    write_columns(page, &["merge", "folder", "digest"]);
    page.element("tbody").open();
    for (i, trial) in trials.into_iter().take(N_BEST) {
        shown.insert(i);
        page.element("tr").attr("class", "merged").open();
        page.element("th").attr("scope", "row").open();
        let name = page.element("span").attr("class", "mark name").attr("tabindex", "0").attr("data-w", i);
        name.attr("data-tip", window_words(trial)).filled(window_words(trial));
        page.close();
        page.element("td").filled(trial.path.as_deref().unwrap_or(&trial.name));
        page.element("td").open();
        write_digest(page, trial);
        page.close();
        page.close();
    }
    page.close();
    page.close();
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
    open_scroller(page, "Ranking");
    page.element("table").open();
    write_columns(page, &["rank", "merge", "score", "gain", "95 % interval", digest_name(view)]);
    page.element("tbody").open();
    for (rank, (_, trial, score)) in rows.iter().take(most).enumerate() {
        page.element("tr").open();
        page.element("td").filled(rank + N_BEST + 1);
        page.element("th").attr("scope", "row").filled(window_words(trial));
        page.element("td").filled(format!("{:.4}", score.value));
        page.element("td").filled(gain_cell(score.gain, decimals).0);
        let interval = score.gain.and_then(|gain| gain.interval_95);
        let interval = interval.map_or_else(|| "-".to_owned(), |[low, high]| format!("{low:+.4} to {high:+.4}"));
        page.element("td").filled(interval);
        page.element("td").open();
        write_digest(page, trial);
        page.close();
        page.close();
    }
    for _ in 0..4 {
        page.close();
    }
}
