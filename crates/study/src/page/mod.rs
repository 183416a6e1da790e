//! The page of a study: one file of HTML with its pictures, styles and script inside, which asks no network for
//! anything; or the same content with a server behind it, which keeps it current.
//!
//! The same record always gives the same bytes. Data enters through the markup writer only, which escapes it.

mod figure;
mod live;
mod study;
mod table;

pub use live::{
    CONTENT_NAME, EVENTS_NAME, LIVE_SCRIPT, LIVE_STYLE, LivePage, SAVED_NAME, SCRIPT_NAME, STYLE_NAME, StudyLink,
    render_links, render_live, render_waiting,
};
pub use study::{render_study, render_study_with};

use crate::markup::Markup;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// How the parts of a page reach the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    /// One file that loads nothing.
    File,
    /// A server gives styles, script and news.
    Live,
}

/// A page up to where its content begins.
fn begin_page(title: &str, tool: &str, styles: &[&'static str], delivery: Delivery) -> Markup {
    let mut page = Markup::new();
    page.verbatim("<!DOCTYPE html>\n");
    page.element("html").attr("xmlns", "http://www.w3.org/1999/xhtml").attr("lang", "en").open();
    page.element("head").open();
    page.element("meta").attr("charset", "utf-8").empty();
    page.element("meta").attr("name", "viewport").attr("content", "width=device-width, initial-scale=1").empty();
    page.element("meta").attr("name", "generator").attr("content", tool).empty();
    page.element("link").attr("rel", "icon").attr("href", "data:,").empty();
    page.element("title").filled(title);
    match delivery {
        Delivery::File => {
            // Nothing from outside, whatever the data hold.
            let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";
            page.element("meta").attr("http-equiv", "Content-Security-Policy").attr("content", policy).empty();
            page.element("style").open();
            styles.iter().for_each(|style| page.verbatim(style));
            page.close();
        }
        // The policy is in the answer's head, and stricter: nothing inline.
        Delivery::Live => {
            page.element("link").attr("rel", "stylesheet").attr("href", live::STYLE_NAME).empty();
        }
    }
    page.close();
    page.element("body").open();
    page
}

/// Closes the content of a page and finishes it.
fn end_page(mut page: Markup, scripts: &[&'static str], delivery: Delivery) -> String {
    page.close();
    // A full `<div></div>` and not `<div/>`, which HTML would not close.
    page.element("div").attr("id", "tip").attr("role", "tooltip").attr("hidden", "hidden").filled("");
    match delivery {
        Delivery::File => {
            page.element("script").open();
            scripts.iter().for_each(|script| page.verbatim(script));
            page.close();
        }
        Delivery::Live => {
            page.element("script").attr("src", live::SCRIPT_NAME).filled("");
        }
    }
    let mut text = page.finish();
    text.push('\n');
    text
}
