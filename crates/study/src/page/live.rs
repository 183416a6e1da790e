//! The same page served live: updates arrive as server-sent events, and the content is replaced in place.
//!
//! All addresses are relative, so that the page works behind a proxy with a path of its choice.

use thalweg_tensor::counted;

use super::study::{STUDY_SCRIPT, STUDY_STYLE, keep_intervals, write_content};
use super::table::Table;
use super::{Delivery, SCRIPT, STYLE, begin_page, end_page};
use crate::compare_runs::{ComparedRun, RunComparison};
use crate::markup::Markup;
use crate::record::{GainRow, StudyRecord};
use crate::study_view::{measure_words, show_gain_interval, show_gain_row};
use crate::text::{digest_digits, show_whole};

/// Address of the style sheet, beside the page.
pub const STYLE_NAME: &str = "page.css";
/// Address of the script.
pub const SCRIPT_NAME: &str = "page.js";
/// Address of the content alone, which replaces that of the page.
pub const CONTENT_NAME: &str = "content";
/// Address of the events: the data of each is the revision of the content.
pub const EVENTS_NAME: &str = "events";
/// Address of the page as one file, to keep or to send.
pub const SAVED_NAME: &str = "saved";

/// The style sheet.
pub const LIVE_STYLE: &str =
    concat!(include_str!("style.css"), include_str!("study/study.css"), include_str!("live.css"));
/// The script.
pub const LIVE_SCRIPT: &str =
    concat!(include_str!("script.js"), include_str!("study/study.js"), include_str!("live.js"));

/// A page with a server behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LivePage {
    /// The whole page.
    pub page: String,
    /// What changes with the record.
    pub content: String,
    /// Differs where the content does.
    pub revision: String,
}

/// A study among several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudyLink {
    /// Name of its folder.
    pub name: String,
    /// Its title.
    pub title: String,
    /// What it found, or why it cannot be shown.
    pub answer: String,
}

/// The page of `record`.
///
/// # Example
/// ```
/// let record = thalweg_study::record::StudyRecord::new("A study", "runs/mine", "thalweg sweep runs/mine -o sweep");
/// let live = thalweg_study::page::render_live(&record);
/// assert!(live.page.contains(&live.content) && live.page.contains(&live.revision));
/// ```
pub fn render_live(record: &StudyRecord) -> LivePage {
    let mut content = Markup::new();
    write_content(&mut content, record);
    content.element("footer").filled(format!("Made by {} from the record.", record.tool));
    finish_live(&record.title, content, Saved::Offered)
}

/// A page without a study yet: `answer` says why, `lead` what will come.
pub fn render_waiting(name: &str, [answer, lead]: [&str; 2], tool: &str) -> LivePage {
    let mut content = Markup::new();
    content.element("header").open();
    content.element("h1").filled(name);
    content.element("p").attr("class", "answer").filled(answer);
    content.element("p").attr("class", "lead").filled(lead);
    content.close();
    content.element("footer").filled(format!("Made by {tool}."));
    finish_live(name, content, Saved::Missing)
}

/// A page with the studies of a folder, and how their runs compare.
pub fn render_links(name: &str, links: &[StudyLink], comparisons: &[RunComparison], tool: &str) -> LivePage {
    let mut content = Markup::new();
    content.element("header").open();
    content.element("h1").filled(name);
    content.element("p").attr("class", "answer").filled(format!("{}.", counted(links.len(), "study")));
    content.close();
    content.element("ul").attr("class", "studies").open();
    for link in links {
        content.element("li").open();
        content.element("a").attr("href", format!("{}/", percent_encode(&link.name))).filled(&link.name);
        content.element("b").filled(&link.title);
        content.element("span").prose(&keep_intervals(&link.answer));
        content.close();
    }
    content.close();
    write_comparisons(&mut content, comparisons);
    content.element("footer").filled(format!("Made by {tool}."));
    finish_live(name, content, Saved::Missing)
}

fn write_comparisons(page: &mut Markup, comparisons: &[RunComparison]) {
    if comparisons.is_empty() {
        return;
    }
    page.element("h2").filled("If all were annealed at equal tokens");
    let note = "Forecasts of the same anneal, ending at the same point of each run. The gain is over the best run; \
                the errors of the forecasts are treated as independent. Where both runs were scored on the same items, \
                the noise of the items is added, paired item by item.";
    page.note(note);
    for one in comparisons {
        let place = format!("{}, {}, at {} {}", one.task, measure_words(&one.measure), show_whole(one.at), one.unit);
        page.element("h3").filled(place);
        let columns = &["run", "if annealed", "95 %", "gain over the best", "verdict"];
        Table { class: "compared", columns, ..Table::default() }.write(page, |page| {
            one.runs.iter().for_each(|run| write_compared(page, run));
        });
    }
}

fn write_compared(page: &mut Markup, run: &ComparedRun) {
    let [low, high] = run.interval_95;
    page.element("tr").open();
    page.element("th").attr("scope", "row").filled(&run.name);
    let interval = |gain: GainRow| format!("{}, {}", show_gain_row(gain), show_gain_interval(gain));
    let items = run.n_paired_items.map(|n| format!(" ({} paired)", counted(n, "item")));
    for (label, text) in [
        ("if annealed", format!("{:.4}", run.value)),
        ("95 %", format!("{low:.4}\u{a0}to\u{a0}{high:.4}")),
        ("gain", run.gain_over_best.map_or_else(String::new, interval)),
        ("verdict", format!("{}{}", run.verdict, items.unwrap_or_default())),
    ] {
        page.element("td").attr("data-label", label).filled(text);
    }
    page.close();
}

/// Whether the page offers itself as one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Saved {
    Offered,
    Missing,
}

fn finish_live(title: &str, content: Markup, saved: Saved) -> LivePage {
    let content = content.finish();
    let revision = digest_digits(&content, 16);
    let tool = concat!("thalweg ", env!("CARGO_PKG_VERSION"));
    let mut page = begin_page(title, tool, &[STYLE, STUDY_STYLE], Delivery::Live);
    // A landmark: what is outside of all of them is not found by those who move by landmarks.
    page.element("section").attr("class", "live-bar").attr("aria-label", "Updates").open();
    page.element("p").attr("id", "live").attr("role", "status").filled("Connecting");
    if saved == Saved::Offered {
        page.element("a").attr("href", SAVED_NAME).attr("download", "report.html").filled("Save this page as one file");
    }
    page.close();
    page.element("main").attr("id", "content").attr("data-revision", &revision).open();
    page.finished(&content);
    let page = end_page(page, &[SCRIPT, STUDY_SCRIPT], Delivery::Live);
    LivePage { page, content, revision }
}

/// A name as one segment of an address.
fn percent_encode(name: &str) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_folders_are_one_segment_of_an_address() {
        assert_eq!(percent_encode("a b/c?d#é"), "a%20b%2Fc%3Fd%23%C3%A9");
        assert_eq!(percent_encode("sweep-1.2_x~"), "sweep-1.2_x~");
    }

    #[test]
    fn the_revision_is_that_of_the_content() {
        let record = StudyRecord::new("A study", "runs/mine", "thalweg sweep");
        let other = StudyRecord::new("Another study", "runs/mine", "thalweg sweep");
        assert_eq!(render_live(&record), render_live(&record));
        assert_ne!(render_live(&record).revision, render_live(&other).revision);
    }
}
