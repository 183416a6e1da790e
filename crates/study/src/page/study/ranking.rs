//! The trials in their order, with what each gains and how it is made again.

use std::collections::BTreeSet;

use super::{open_metric, write_columns};
use crate::markup::Markup;
use crate::record::{GainRow, ScoreRow, TrialRow};
use crate::study_answer::gain_cell;
use crate::study_view::{
    Metric, StudyView, shared_decimals, short_digest, show_gain_interval, show_gain_row, window_words,
};
use crate::svg::{describe_trial, draw_interval, gain_range};

/// Trials that are shown at once.
const N_BEST: usize = 20;
/// Trials behind a click, for the first measure only.
const MAX_REST: usize = 2_000;

pub(super) fn write_ranking(page: &mut Markup, view: &StudyView<'_>, shown: &mut BTreeSet<usize>) {
    let has_trials = |metric: &Metric<'_>| !view.ranked(*metric).is_empty();
    if !view.pictured().iter().any(has_trials) {
        return;
    }
    page.element("h2").filled("Merges in order");
    let order = view.deciding_metric().map_or_else(
        || "Best first by what is shown.".to_owned(),
        |metric| format!("Best first by what decided: {}.", metric.label()),
    );
    let text = format!(
        "{order} A gain is over the newest raw checkpoint of the window on the same items, and positive where the merge is \
         better; intervals are 95 %."
    );
    page.element("p").attr("class", "note").filled(text);
    for (i, metric) in view.pictured().iter().enumerate() {
        let rows = view.ranked(*metric);
        open_metric(page, i);
        write_best(page, view, *metric, &rows[..rows.len().min(N_BEST)], shown);
        if rows.len() > N_BEST {
            if i == 0 {
                write_rest(page, &rows[N_BEST..]);
            } else {
                let text = format!("The {} best of {}; all are in study.csv.", N_BEST, rows.len());
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
    write_columns(page, &["merge", "score", "plan", "gain", "gain and 95 % interval"]);
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
        page.element("code").attr("title", &trial.plan_digest).filled(short_digest(&trial.plan_digest));
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

fn write_rest(page: &mut Markup, rows: &[Row<'_>]) {
    page.element("details").open();
    let decimals = shared_decimals(rows.iter().filter_map(|row| row.2.gain));
    let n_shown = rows.len().min(MAX_REST);
    let left =
        if n_shown < rows.len() { format!("; {} more are in study.csv", rows.len() - n_shown) } else { String::new() };
    page.element("summary").filled(format!("The other {n_shown}{left}"));
    page.element("div").attr("class", "scroll").open();
    page.element("table").open();
    write_columns(page, &["rank", "merge", "score", "gain", "95 % interval", "plan"]);
    page.element("tbody").open();
    for (rank, (_, trial, score)) in rows.iter().take(MAX_REST).enumerate() {
        page.element("tr").open();
        page.element("td").filled(rank + N_BEST + 1);
        page.element("th").attr("scope", "row").filled(window_words(trial));
        page.element("td").filled(format!("{:.4}", score.value));
        page.element("td").filled(gain_cell(score.gain, decimals).0);
        let interval = score.gain.and_then(|gain| gain.interval_95);
        let interval = interval.map_or_else(|| "-".to_owned(), |[low, high]| format!("{low:+.4} to {high:+.4}"));
        page.element("td").filled(interval);
        page.element("td").open();
        page.element("code").attr("title", &trial.plan_digest).filled(short_digest(&trial.plan_digest));
        page.close();
        page.close();
    }
    for _ in 0..4 {
        page.close();
    }
}
