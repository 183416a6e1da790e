//! The page of a study: one file of HTML with its pictures, styles and script inside, which asks no network for
//! anything.
//!
//! The same record always gives the same bytes. Data enters through the markup writer only, which escapes it.

mod figure;
mod study;

pub use study::render_study;

use crate::markup::Markup;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

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
