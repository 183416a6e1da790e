//! The page of a report: one file of HTML with its pictures, styles and script inside, which asks no network for anything.
//!
//! The same record always gives the same bytes. Data enters through the markup writer only, which escapes it.

mod sections;
mod study;

pub use study::render_study;

use crate::markup::Markup;
use crate::report::{GainVerdict, Report, Role, Split};
use crate::text::show_whole;
use crate::verdict::{annealed_model, find_verdict, headline_merge, show_gain, show_interval};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The page of `report`, as HTML that is also well-formed XML.
pub fn render_page(report: &Report) -> String {
    let mut page = begin_page(&report.title, &report.tool, &[STYLE]);
    write_answer(&mut page, report);
    sections::write_run(&mut page, report);
    sections::write_gains(&mut page, report);
    sections::write_windows(&mut page, report);
    sections::write_lengths(&mut page, report);
    sections::write_limits(&mut page, report);
    sections::write_commands(&mut page, report);
    sections::write_facts(&mut page, report);
    let footer = format!("Made by {} from report.json; the page loads nothing from anywhere.", report.tool);
    end_page(page, &footer, &[SCRIPT])
}

/// A page up to where its content begins.
fn begin_page(title: &str, tool: &str, styles: &[&'static str]) -> Markup {
    let mut page = Markup::new();
    page.verbatim("<!DOCTYPE html>\n");
    page.element("html").attr("xmlns", "http://www.w3.org/1999/xhtml").attr("lang", "en").open();
    page.element("head").open();
    page.element("meta").attr("charset", "utf-8").empty();
    page.element("meta").attr("name", "viewport").attr("content", "width=device-width, initial-scale=1").empty();
    page.element("meta").attr("name", "generator").attr("content", tool).empty();
    // Nothing from outside, whatever the data hold.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";
    page.element("meta").attr("http-equiv", "Content-Security-Policy").attr("content", policy).empty();
    page.element("link").attr("rel", "icon").attr("href", "data:,").empty();
    page.element("title").filled(title);
    page.element("style").open();
    styles.iter().for_each(|style| page.verbatim(style));
    page.close();
    page.close();
    page.element("body").open();
    page.element("main").open();
    page
}

/// Closes the content of a page and finishes it.
fn end_page(mut page: Markup, footer: &str, scripts: &[&'static str]) -> String {
    page.element("footer").filled(footer);
    page.close();
    // A full `<div></div>` and not `<div/>`, which HTML would not close.
    page.element("div").attr("id", "tip").attr("role", "tooltip").attr("hidden", "hidden").filled("");
    page.element("script").open();
    scripts.iter().for_each(|script| page.verbatim(script));
    page.close();
    let mut text = page.finish();
    text.push('\n');
    text
}

fn write_answer(page: &mut Markup, report: &Report) {
    let verdict = find_verdict(report);
    page.element("header").open();
    page.element("h1").filled(&report.title);
    if let Some(caution) = &report.caution {
        page.element("p").attr("class", "caution").filled(caution);
    }
    page.element("p").attr("class", "answer").filled(format!("{}.", verdict.word));
    for sentence in [Some(verdict.merge), verdict.anneal].into_iter().flatten().filter(|text| !text.is_empty()) {
        page.element("p").attr("class", "lead").filled(sentence);
    }
    if let Some(choice) = &report.choice {
        let text = format!(
            "The merge was chosen among {} by {} text; every number here is from test text, which decided nothing.",
            choice.n_candidates,
            choice.by.name()
        );
        page.element("p").attr("class", "note").filled(text);
    }
    write_figures(page, report);
    page.close();
}

/// The three losses that everything is about.
fn write_figures(page: &mut Markup, report: &Report) {
    page.element("ul").attr("class", "figures").open();
    for model in [report.model(&report.baseline), headline_merge(report), annealed_model(report)].into_iter().flatten()
    {
        let Some(score) = model.score(Split::Test) else { continue };
        let (color, what) = match model.role {
            Role::Raw => ("--c:var(--raw)", "newest raw checkpoint"),
            Role::Merged => ("--c:var(--merged)", "merged"),
            Role::Annealed => ("--c:var(--annealed)", "really annealed"),
        };
        page.element("li").attr("style", color).open();
        page.element("span").filled(what);
        page.element("b").filled(format!("{:.4}", score.nll_nats));
        let gain = report.gain(&model.name, &report.baseline, Split::Test);
        let below = match gain {
            Some(gain) => format!("gain {}, {}", show_gain(gain), show_interval(gain)),
            None => format!("nats a token over {} documents", score.n_documents),
        };
        page.element("span").filled(below);
        page.element("span").filled(format!("{}, {} tokens", model.name, show_whole(report.tokens_at(model.step))));
        page.close();
    }
    page.close();
}

/// The word for a verdict in a table.
fn verdict_word(verdict: GainVerdict) -> &'static str {
    match verdict {
        GainVerdict::Better => "better",
        GainVerdict::Worse => "worse",
        GainVerdict::Undecided => "within noise",
    }
}
