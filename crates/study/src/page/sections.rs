//! The parts of the page below its answer.

use super::verdict_word;
use crate::markup::Markup;
use crate::record::GainRow;
use crate::report::{Gain, Report, Role, ScoredModel, Split};
use crate::svg::{
    Extent, Mark, SCHEME_CLASSES, Width, draw_interval, draw_lengths, draw_mark, draw_run, draw_windows, gain_range,
    schemes_at_the_end,
};
use crate::verdict::{headline_merge, show_gain, show_interval};

/// A picture for each width, and the words below it.
pub(super) fn write_figure(page: &mut Markup, draw: impl Fn(Width) -> Markup, caption: &str) {
    for width in [Width::Wide, Width::Narrow] {
        page.piece(draw(width));
    }
    page.element("figcaption").filled(caption);
}

/// One entry of a key: a sample and its name.
pub(super) fn write_key_entry(page: &mut Markup, line: &str, mark: Option<(Mark, &str)>, name: &str) {
    page.element("li").open();
    page.element("svg")
        .attr("xmlns", "http://www.w3.org/2000/svg")
        .attr("viewBox", "0 0 26 12")
        .attr("aria-hidden", "true")
        .open();
    page.element("polyline").attr("class", format!("line {line}")).attr("points", "1,6 25,6").empty();
    if let Some((mark, class)) = mark {
        draw_mark(page, mark, class, (13.0, 6.0), 3.2, name);
    }
    page.close();
    page.text(name);
    page.close();
}

pub(super) fn write_run(page: &mut Markup, report: &Report) {
    page.element("h2").filled("Loss along the run");
    page.element("figure").open();
    page.element("ul").attr("class", "key").open();
    write_key_entry(page, "training", None, "training loss");
    write_key_entry(page, "raw", Some((Mark::Circle, "raw")), "raw checkpoints, test text");
    let form = headline_merge(report).and_then(|model| model.merge.as_ref());
    let form = form.map_or_else(|| "merges".to_owned(), |m| format!("merges ({}, {} each)", m.scheme, m.sources.len()));
    write_key_entry(page, "merged", Some((Mark::Diamond, "merged")), &form);
    if report.anneal.is_some() {
        write_key_entry(page, "annealed", Some((Mark::Square, "annealed")), "annealed fork");
    }
    page.close();
    let caption = "The whole run. The shading is the phase of the learning rate, which is drawn below. A merge is \
                   at the step of its newest source. Training loss may leave the picture: test losses set its range.";
    write_figure(page, |width| draw_run(report, Extent::Whole, width), caption);
    page.close();
    page.element("figure").open();
    let caption = "The end of it, from the first checkpoint of the window or the fork on. Training loss is left out: its \
                   noise is larger than this picture.";
    write_figure(page, |width| draw_run(report, Extent::End, width), caption);
    page.close();
}

pub(super) fn write_gains(page: &mut Markup, report: &Report) {
    let rows: Vec<(&ScoredModel, &Gain)> = gain_rows(report);
    if rows.is_empty() {
        return;
    }
    let range = gain_range(rows.iter().map(|row| as_row(row.1)));
    page.element("h2").filled("Gains over the newest raw checkpoint");
    let what = "Test loss in nats a token; a gain is positive where the model is better. Intervals are 95 %, paired by \
                document: the same documents are scored by both models, so what makes a document hard cancels.";
    page.element("p").attr("class", "note").filled(what);
    page.element("table").open();
    page.element("thead").open();
    page.element("tr").open();
    for head in ["model", "test loss", "bits a byte", "gain", "gain and 95 % interval"] {
        page.element("th").attr("scope", "col").filled(head);
    }
    page.close();
    page.close();
    page.element("tbody").open();
    if let Some(baseline) = report.model(&report.baseline) {
        write_gain_row(page, report, baseline, None, range);
    }
    for (model, gain) in rows {
        write_gain_row(page, report, model, Some(gain), range);
    }
    page.close();
    page.close();
}

fn as_row(gain: &Gain) -> GainRow {
    GainRow { value: gain.gain_nats, interval_95: Some(gain.interval_95) }
}

/// Models of the newest step with a gain over the baseline: merges in the order of the record, then the rest.
fn gain_rows(report: &Report) -> Vec<(&ScoredModel, &Gain)> {
    let mut rows: Vec<(&ScoredModel, &Gain)> = report
        .models
        .iter()
        .filter_map(|model| Some((model, report.gain(&model.name, &report.baseline, Split::Test)?)))
        .collect();
    rows.sort_by_key(|(model, _)| model.role);
    rows
}

fn write_gain_row(page: &mut Markup, report: &Report, model: &ScoredModel, gain: Option<&Gain>, range: [f64; 2]) {
    let is_chosen = headline_merge(report).is_some_and(|headline| headline.name == model.name);
    let class = match model.role {
        _ if is_chosen => "chosen",
        Role::Raw => "raw",
        Role::Merged => "merged",
        Role::Annealed => "annealed",
    };
    page.element("tr").attr("class", class).open();
    page.element("th").attr("scope", "row").filled(&model.name);
    let score = model.score(Split::Test);
    let loss = score.map_or_else(String::new, |score| format!("{:.4}", score.nll_nats));
    page.element("td").attr("class", "number loss").filled(loss);
    let bits = score.map_or_else(String::new, |score| format!("{:.4}", score.bits_per_byte));
    page.element("td").attr("class", "number bits").filled(bits);
    page.element("td").attr("class", "number").open();
    match gain {
        Some(gain) => {
            page.text(show_gain(gain));
            page.element("small").filled(verdict_word(gain.verdict()));
        }
        None => {
            page.text("0");
            page.element("small").filled("compared with");
        }
    }
    page.close();
    page.element("td").attr("class", "picture").open();
    let title = gain.map_or_else(
        || format!("{}: the zero of all gains", model.name),
        |gain| {
            format!("{}\ngain {}, {}\n{} documents", model.name, show_gain(gain), show_interval(gain), gain.n_documents)
        },
    );
    let color = if class == "chosen" { "merged" } else { class };
    page.piece(draw_interval(gain.map(as_row), range, color, &title));
    page.close();
    page.close();
}

pub(super) fn write_windows(page: &mut Markup, report: &Report) {
    if headline_merge(report).is_none() {
        return;
    }
    page.element("h2").filled("What went into each merge");
    page.element("figure").open();
    let caption = "One row a merge, one bar a checkpoint; ticks below are the raw checkpoints that exist. Bars show \
                   coefficients, each row to its own height; point at one for its number.";
    write_figure(page, |width| draw_windows(report, width), caption);
    page.close();
}

pub(super) fn write_lengths(page: &mut Markup, report: &Report) {
    let schemes = schemes_at_the_end(report);
    if schemes.is_empty() {
        return;
    }
    page.element("h2").filled("Window length against loss");
    page.element("figure").open();
    page.element("ul").attr("class", "key").open();
    for (scheme, class) in schemes.iter().zip(SCHEME_CLASSES) {
        write_key_entry(page, class, Some((Mark::Diamond, class)), scheme);
    }
    page.close();
    let caption = "A longer window averages more noise away and lags further behind: the best length is where the two \
                   meet. All merges here end at the same step.";
    write_figure(page, |width| draw_lengths(report, width), caption);
    page.close();
}

pub(super) fn write_limits(page: &mut Markup, report: &Report) {
    page.element("h2").filled("What these numbers do not say");
    let seeds = format!(
        "One run with one seed ({}). The intervals cover which documents were drawn, not what another seed would give: \
         two models of one run may differ by less, or more, in another.",
        report.seed
    );
    page.element("p").filled(seeds);
    if report.anneal.is_some() {
        let anneal = "The annealed fork has trained on as many tokens as the newest raw checkpoint, where both end at \
                      the same step; the merge was not trained further.";
        page.element("p").filled(anneal);
    }
}

pub(super) fn write_commands(page: &mut Markup, report: &Report) {
    if report.commands.is_empty() {
        return;
    }
    page.element("h2").filled("The same on your own checkpoints");
    for command in &report.commands {
        page.element("p").attr("class", "command").filled(&command.what);
        page.element("pre").filled(&command.line);
    }
}

pub(super) fn write_facts(page: &mut Markup, report: &Report) {
    page.element("h2").filled("What was run");
    page.element("dl").open();
    for fact in &report.facts {
        page.element("dt").filled(&fact.name);
        page.element("dd").filled(&fact.value);
    }
    page.element("dt").filled("program");
    page.element("dd").filled(&report.tool);
    if !report.seconds.is_empty() {
        let total: f64 = report.seconds.iter().map(|stage| stage.seconds).sum();
        let parts: Vec<String> =
            report.seconds.iter().map(|stage| format!("{} {:.1} s", stage.stage, stage.seconds)).collect();
        page.element("dt").filled("time");
        page.element("dd").filled(format!("{total:.1} s: {}", parts.join(", ")));
    }
    if let Some(merge) = headline_merge(report).and_then(|model| model.merge.as_ref())
        && let Some(digest) = &merge.plan_digest
    {
        page.element("dt").filled("digest of the merge's plan");
        page.element("dd").filled(digest);
    }
    for model in [report.model(&report.baseline), headline_merge(report)].into_iter().flatten() {
        if let Some(digest) = &model.digest {
            page.element("dt").filled(format!("digest of {}", model.name));
            page.element("dd").filled(digest);
        }
    }
    page.close();
}
