//! The page of a demo, sweep, forecast or recovery: the answer first, then what it rests on. A part without data is
//! left out.

mod attached;
mod costs;
mod forecasts;
mod geometry;
mod headline;
mod ranking;
mod run;
mod spikes;
mod window_map;
mod windows;

use std::collections::BTreeSet;

use super::{Delivery, SCRIPT, STYLE, begin_page, end_page};
use crate::attachment::Attachment;
use crate::markup::Markup;
use crate::record::StudyRecord;
use crate::study_answer::find_answer;
use crate::study_view::{StudyView, merge_command};
use crate::svg::StepAxis;

pub(super) const STUDY_STYLE: &str = include_str!("study.css");
pub(super) const STUDY_SCRIPT: &str = include_str!("study.js");

/// The page of `record`, as HTML that is also well-formed XML.
///
/// One file that loads nothing; the same record always gives the same bytes. Marks are gathered where there are too
/// many to read, so that the page of thousands of trials stays small.
///
/// # Example
/// ```
/// let record = thalweg_study::record::StudyRecord::new("A study", "runs/mine", "thalweg sweep runs/mine -o sweep");
/// assert!(thalweg_study::page::render_study(&record).starts_with("<!DOCTYPE html>"));
/// ```
pub fn render_study(record: &StudyRecord) -> String {
    render_study_with(record, &[])
}

/// The same page with what other commands found, before the footer.
pub fn render_study_with(record: &StudyRecord, attachments: &[Attachment]) -> String {
    let mut page = begin_page(&record.title, &record.tool, &[STYLE, STUDY_STYLE], Delivery::File);
    page.element("main").open();
    write_content(&mut page, record);
    attached::write_attachments(&mut page, attachments);
    let footer = format!("Made by {} from the record; the page loads nothing from anywhere.", record.tool);
    page.element("footer").filled(footer);
    end_page(page, &[SCRIPT, STUDY_SCRIPT], Delivery::File)
}

/// Everything that a page says of a record.
pub(super) fn write_content(page: &mut Markup, record: &StudyRecord) {
    let view = StudyView::new(record);
    let axes = StepAxis::all(&record.checkpoints);
    let mut shown = BTreeSet::new();
    write_answer(page, &view);
    run::write_run(page, &view, &axes, &mut shown);
    windows::write_lengths(page, &view);
    window_map::write_maps(page, &view);
    ranking::write_ranking(page, &view, &mut shown);
    ranking::write_unscored(page, &view, &mut shown);
    forecasts::write_forecasts(page, record);
    spikes::write_spikes(page, &view, &axes);
    geometry::write_geometry(page, record);
    spikes::write_healed_spikes(page, &view);
    windows::write_coefficients(page, &view);
    costs::write_limits(page, &view);
    costs::write_own_commands(page, record);
    costs::write_costs(page, &view);
    write_windows(page, record, &shown);
}

fn write_answer(page: &mut Markup, view: &StudyView<'_>) {
    let answer = find_answer(view);
    page.element("header").open();
    page.element("h1").filled(&view.record.title);
    if let Some(caution) = &view.record.caution {
        page.element("p").attr("class", "caution").prose(caution);
    }
    page.element("p").attr("class", "answer").filled(format!("{}.", answer.word));
    for sentence in &answer.sentences {
        page.element("p").attr("class", "lead").prose(&keep_intervals(sentence));
    }
    if let Some(note) = &answer.note {
        page.element("p").attr("class", "note").prose(note);
    }
    if !view.record.suites.is_empty() {
        page.element("ul").attr("class", "suites").open();
        for suite in &view.record.suites {
            page.element("li").open();
            page.element("b").filled(&suite.name);
            let role = suite.role.as_deref().map_or_else(|| "no role".to_owned(), |role| format!("role: {role}"));
            page.element("span").filled(role);
            page.element("code").filled(&suite.digest);
            page.close();
        }
        page.close();
    }
    write_choosers(page, view);
    headline::write_headline(page, view);
    page.close();
}

/// A sentence whose intervals and numbers of items are not broken over lines: `95 % interval 1.2 to 1.4; n = 60`.
pub(super) fn keep_intervals(sentence: &str) -> String {
    let is_number = |word: &str| word.trim_matches(|c| "(),;.+-".contains(c)).parse::<f64>().is_ok();
    let words: Vec<&str> = sentence.split(' ').collect();
    let mut text = String::with_capacity(sentence.len());
    for (i, word) in words.iter().enumerate() {
        let next = words.get(i + 1).copied().unwrap_or_default();
        let is_inside = match *word {
            "%" => next == "interval",
            "interval" | "=" => is_number(next),
            "n" => next == "=",
            "to" => is_number(next) && i > 0 && is_number(words[i - 1]),
            word => {
                next == "%" || next == "to" && words.get(i + 2).is_some_and(|end| is_number(end)) && is_number(word)
            }
        };
        text.push_str(word);
        if i + 1 < words.len() {
            text.push(if is_inside { '\u{a0}' } else { ' ' });
        }
    }
    text
}

/// Which measure and which axis is shown; without a script they stay hidden, as there is nothing to choose.
fn write_choosers(page: &mut Markup, view: &StudyView<'_>) {
    let metrics = view.pictured();
    if metrics.len() < 2 {
        return;
    }
    let options = metrics.iter().enumerate().map(|(i, metric)| (i.to_string(), metric.label()));
    write_chooser(page, "metric", "Shown on this page", options);
    let n_left = view.metrics.len() - metrics.len();
    if n_left > 0 {
        page.note(format!("{n_left} more measures are in study.csv."));
    }
}

/// A choice of `what`, as values and the words for them.
fn write_chooser(page: &mut Markup, what: &str, label: &str, options: impl Iterator<Item = (String, String)>) {
    let id = format!("choose-{what}");
    page.element("p").attr("class", "choose").attr("hidden", "hidden").open();
    page.element("label").attr("for", &id).filled(label);
    page.element("select").attr("id", &id).attr("data-choose", what).open();
    for (value, words) in options {
        page.element("option").attr("value", value).filled(words);
    }
    page.close();
    page.close();
}

/// A block that is shown for one measure only.
fn open_metric(page: &mut Markup, i: usize) {
    page.element("div").attr("data-metric", i).shown_if(i == 0).open();
}

/// Coefficients of the trials that can be pointed at; the script draws them as bars.
fn write_windows(page: &mut Markup, record: &StudyRecord, shown: &BTreeSet<usize>) {
    if shown.is_empty() {
        return;
    }
    page.element("div").attr("id", "windows").attr("hidden", "hidden").open();
    for &i in shown {
        let Some(trial) = record.trials.get(i) else { continue };
        let steps: Vec<String> = trial.sources.iter().map(|source| source.step.to_string()).collect();
        let coefficients: Vec<String> =
            trial.sources.iter().map(|source| format!("{:.4}", source.coefficient)).collect();
        let item = page.element("i").attr("id", format!("w{i}")).attr("data-s", steps.join(" "));
        let item = item.attr("data-c", coefficients.join(" "));
        let facts = [
            ("folder", trial.path.as_deref().unwrap_or_default()),
            ("digest of its parameters", trial.params_digest.as_deref().unwrap_or_default()),
            ("digest of its plan", &trial.plan_digest),
            ("made again by", &merge_command(&record.run_path, trial)),
        ];
        let facts: Vec<String> = facts
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name}\t{}", value.replace(['\n', '\t'], " ")))
            .collect();
        item.attr("data-f", facts.join("\n")).filled("");
    }
    page.close();
}

#[cfg(test)]
mod tests {
    use super::keep_intervals;

    #[test]
    fn intervals_stay_on_one_line_and_sentences_break() {
        let text = keep_intervals("a gain of +0.1 (95 % interval +0.09 to +0.11; n = 60), 80 % interval 1 to 2");
        let pieces: Vec<&str> = text.split(' ').collect();
        let whole = [
            "(95\u{a0}%\u{a0}interval\u{a0}+0.09\u{a0}to\u{a0}+0.11;",
            "80\u{a0}%\u{a0}interval\u{a0}1\u{a0}to\u{a0}2",
            "n\u{a0}=\u{a0}60),",
        ];
        assert!(whole.iter().all(|interval| pieces.contains(interval)), "{pieces:?}");
        assert!(pieces.contains(&"gain"));
        assert_eq!(keep_intervals("merge 6 checkpoints to step 600"), "merge 6 checkpoints to step 600");
    }
}
