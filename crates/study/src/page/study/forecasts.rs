//! What an anneal would score, beside what is known: raw, imitation, intervals, and the truth.

use std::collections::BTreeSet;

use thalweg_tensor::counted;

use crate::markup::Markup;
use crate::page::table::Table;
use crate::record::{ForecastRow, StudyRecord};
use crate::study_view::measure_words;
use crate::svg::{describe_forecast, draw_forecast_bar, forecast_range};

/// Rows of the table.
const MAX_ROWS: usize = 200;
/// The same for a run that is watched, whose newest forecasts come first.
const MAX_WATCHED_ROWS: usize = 12;

pub(super) fn write_forecasts(page: &mut Markup, record: &StudyRecord) {
    if record.forecasts.is_empty() {
        return;
    }
    page.element("h2").filled("What an anneal would score");
    let known = record.forecasts.iter().filter(|one| one.truth.is_some()).count();
    let truth = if known > 0 { " The error is the forecast minus what the anneal reached." } else { "" };
    let text = format!(
        "Imitation is the score of the mean of the checkpoints over the anneal's span, which lags like a linear anneal. The wide bar is the 80 % interval, \
         the thin one the 95 % interval; the circle is the newest raw checkpoint, the diamond the imitation.{truth}"
    );
    page.note(text);
    let shown: Vec<&ForecastRow> = rows_of(record);
    let columns = &["anneal", "raw", "imitation", "forecast", "truth and error", "intervals"];
    Table { class: "forecasts", columns, ..Table::default() }.write(page, |page| {
        for &one in &shown {
            let alike = record.forecasts.iter().filter(|other| other.task == one.task && other.measure == one.measure);
            write_row(page, one, forecast_range(alike));
        }
    });
    for rests_on in shown.iter().map(|one| one.rests_on.as_str()).collect::<BTreeSet<_>>() {
        page.note(format!("Based on {rests_on}."));
    }
    if record.forecasts.len() > shown.len() {
        let file = if record.is_watched { "watch.jsonl" } else { "study.json" };
        page.note(format!("{} more are in {file}.", record.forecasts.len() - shown.len()));
    }
}

/// What the table shows; of a watched run, the newest, and those whose anneal was run.
fn rows_of(record: &StudyRecord) -> Vec<&ForecastRow> {
    let most = if record.is_watched { MAX_WATCHED_ROWS } else { MAX_ROWS };
    let is_shown = |(i, one): &(usize, &ForecastRow)| *i < most || record.is_watched && one.truth.is_some();
    record.forecasts.iter().enumerate().filter(is_shown).map(|(_, one)| one).take(MAX_ROWS).collect()
}

fn write_row(page: &mut Markup, one: &ForecastRow, range: [f64; 2]) {
    page.element("tr").attr("class", "forecast").open();
    page.element("th").attr("scope", "row").open();
    page.text(format!("{}, {} to step {}", one.curve, counted(one.anneal_steps, "step"), one.end_step));
    let floor =
        if one.floor > 0.0 { format!("down to {} of the peak rate", one.floor) } else { "down to 0".to_owned() };
    page.element("small").filled(format!("{}, {}; {floor}", one.task, measure_words(&one.measure)));
    page.close();
    for (label, value) in [("raw", one.raw), ("imitation", one.imitation)] {
        page.element("td").attr("class", "number").attr("data-label", label).filled(format!("{value:.4}"));
    }
    page.element("td").attr("class", "number").attr("data-label", "forecast").open();
    page.element("b").filled(format!("{:.4}", one.value));
    let [low, high] = one.interval_80;
    page.element("small").filled(format!("80 %: {low:.4} to {high:.4}"));
    let [low, high] = one.interval_95;
    page.element("small").filled(format!("95 %: {low:.4} to {high:.4}"));
    page.close();
    page.element("td").attr("class", "number").attr("data-label", "truth").open();
    if let Some(truth) = one.truth {
        page.text(format!("{truth:.4}"));
        page.element("small").filled(format!("error {:+.4}", one.value - truth));
    } else {
        page.text("not known");
    }
    page.close();
    page.element("td").attr("class", "picture").open();
    page.piece(draw_forecast_bar(one, range, &describe_forecast(one)));
    page.close();
    page.close();
}
