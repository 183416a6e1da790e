//! The page as a whole: well formed, whole, the same every time, and silent on the network.

use roxmltree::{Document, ParsingOptions};
use thalweg_study::Report;
use thalweg_study::page::render_page;
use thalweg_study::report::{GainVerdict, Split};

use crate::sample::sample;

pub(crate) fn parse(page: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(page, options).unwrap_or_else(|error| panic!("{error}"))
}

fn text_of(document: &Document<'_>, class: &str) -> String {
    let node = document.descendants().find(|node| node.attribute("class") == Some(class)).unwrap();
    node.descendants().filter(roxmltree::Node::is_text).filter_map(|node| node.text()).collect()
}

#[test]
fn the_page_is_well_formed_and_says_its_answer_first() {
    let report = sample();
    let page = render_page(&report);
    // Left where a person can open it.
    std::fs::write(concat!(env!("CARGO_TARGET_TMPDIR"), "/made-up.html"), &page).unwrap();
    let document = parse(&page);
    insta::assert_snapshot!(text_of(&document, "answer"), @"Merging helps.");
    insta::assert_snapshot!(text_of(&document, "lead"), @"The average of the newest 8 checkpoints (sma) lowers the test loss of the newest one by 0.0326 nats a token (95 % interval +0.0286 to +0.0366; 240 documents, 1 seed).");
    let titles: Vec<&str> = document.descendants().filter(|n| n.has_tag_name("h2")).filter_map(|n| n.text()).collect();
    insta::assert_snapshot!(titles.join("\n"), @"
    Loss along the run
    Gains over the newest raw checkpoint
    What went into each merge
    Window length against loss
    What these numbers do not say
    The same on your own checkpoints
    What was run
    ");
}

#[test]
fn the_same_record_gives_the_same_bytes_also_through_its_file() {
    let report = sample();
    let again = Report::from_json(&report.to_json().unwrap()).unwrap();
    assert!(report == again);
    assert!(render_page(&report) == render_page(&again));
    assert_eq!(again.to_json().unwrap(), report.to_json().unwrap());
}

#[test]
fn nothing_is_loaded_from_anywhere() {
    check_silent(&render_page(&sample()));
}

pub(crate) fn check_silent(page: &str) {
    let document = parse(page);
    for node in document.descendants().filter(roxmltree::Node::is_element) {
        let fetches = ["script", "img", "iframe", "object", "embed", "audio", "video", "source"];
        if fetches.contains(&node.tag_name().name()) {
            assert!(node.attribute("src").is_none(), "{node:?}");
        }
        for attribute in node.attributes().filter(|a| matches!(a.name(), "href" | "src" | "action")) {
            assert!(attribute.value().starts_with("data:"), "{}", attribute.value());
        }
    }
    assert!(!page.contains("@import") && !page.contains("url(h"));
}

#[test]
fn every_mark_of_the_pictures_lies_within_them() {
    let page = render_page(&sample());
    let document = parse(&page);
    let mut n_marks = 0;
    for svg in document.descendants().filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "svg"))) {
        let view: Vec<f64> = svg.attribute("viewBox").unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
        for node in svg.descendants().filter(|node| ["circle", "rect", "text"].contains(&node.tag_name().name())) {
            let number = |name: &str| node.attribute(name).map(|n| n.parse::<f64>().unwrap());
            let (Some(x), Some(y)) = (number("cx").or(number("x")), number("cy").or(number("y"))) else { continue };
            // Early checkpoints are above the range and cut off by the clip path.
            let clipped = node.ancestors().any(|n| n.has_attribute("clip-path") || n.has_tag_name("clipPath"));
            assert!(x >= -1.0 && x <= view[2] + 1.0, "{node:?} at {x} in {view:?}");
            assert!(clipped || (y >= -1.0 && y <= view[3] + 1.0), "{node:?} at {y} in {view:?}");
            n_marks += 1;
        }
    }
    assert!(n_marks > 300, "{n_marks}");
}

#[test]
fn data_cannot_become_markup() {
    let mut report = sample();
    let hostile = "\"><img src=x onerror=alert(1)>&]]>\u{0}<!--";
    report.title = hostile.to_owned();
    report.tool = hostile.to_owned();
    report.caution = Some(hostile.to_owned());
    report.facts[0].name = hostile.to_owned();
    report.commands[0].line = hostile.to_owned();
    report.seconds[0].stage = hostile.to_owned();
    if let Some(anneal) = &mut report.anneal {
        anneal.curve = hostile.to_owned();
    }
    for model in &mut report.models {
        if let Some(merge) = &mut model.merge {
            merge.scheme = hostile.to_owned();
        }
    }
    let page = render_page(&report);
    let document = parse(&page);
    assert!(document.descendants().all(|node| !node.has_tag_name("img")));
    assert!(document.descendants().all(|node| !node.is_comment()));
}

#[test]
fn numbers_at_the_ends_of_their_range_still_make_a_page() {
    for extreme in [0.0, -1.0, f64::MAX, f64::MIN_POSITIVE] {
        let mut report = sample();
        for model in &mut report.models {
            model.step = u64::MAX;
            for score in &mut model.scores {
                score.nll_nats = extreme;
            }
        }
        report.gains.iter_mut().for_each(|gain| gain.interval_95 = [extreme, -extreme]);
        report.tokens_per_step = u64::MAX;
        parse(&render_page(&report));
    }
    let mut report = sample();
    report.models.truncate(1);
    report.baseline = report.models[0].name.clone();
    (report.gains, report.choice, report.anneal) = (Vec::new(), None, None);
    report.training.clear();
    let page = render_page(&report);
    assert_eq!(text_of(&parse(&page), "answer"), "Nothing was compared.");
}

#[test]
fn the_sentence_follows_the_interval_and_not_the_wish() {
    let answer = |gain: f64, half: f64| {
        let mut report = sample();
        let chosen = report.choice.as_ref().unwrap().model.clone();
        for entry in report.gains.iter_mut().filter(|entry| entry.model == chosen) {
            (entry.gain_nats, entry.interval_95) = (gain, [gain - half, gain + half]);
        }
        let verdict = report.gain(&chosen, &report.baseline, Split::Test).unwrap().verdict();
        (verdict, text_of(&parse(&render_page(&report)), "answer"))
    };
    assert_eq!(answer(0.02, 0.01), (GainVerdict::Better, "Merging helps.".to_owned()));
    assert_eq!(answer(0.02, 0.03), (GainVerdict::Undecided, "No difference beyond noise.".to_owned()));
    assert_eq!(answer(-0.02, 0.01), (GainVerdict::Worse, "Merging hurts here.".to_owned()));
}

#[test]
fn files_that_are_no_reports_are_told_apart() {
    let message = |text: &str| Report::from_json(text).unwrap_err().to_string();
    insta::assert_snapshot!(message("{"), @"cannot read the report: EOF while parsing an object at line 1 column 1");
    insta::assert_snapshot!(message(r#"{"kind": "thalweg-plan", "version": 1}"#), @"this is `thalweg-plan` version 1, but the report of a demo is `thalweg-report` version 1");
    insta::assert_snapshot!(message(r#"{"kind": "thalweg-report", "version": 2}"#), @"this is `thalweg-report` version 2, but the report of a demo is `thalweg-report` version 1");
    let mut report = sample();
    report.baseline = "raw, step 7".to_owned();
    insta::assert_snapshot!(report.to_json().unwrap_err(), @"the report is not whole: there is no model `raw, step 7`");
    let mut report = sample();
    report.models[3].scores[0].nll_nats = f64::NAN;
    insta::assert_snapshot!(report.to_json().unwrap_err(), @"the report is not whole: a score of `raw, step 160` is not a number");
}
