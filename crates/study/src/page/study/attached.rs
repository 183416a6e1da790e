//! What other commands found: pictures and a table for each.

use crate::attachment::{Attachment, Picture, mixture_key};
use crate::markup::Markup;
use crate::page::figure::{KeyEntry, write_figure, write_figure_of};
use crate::page::table::{Table, write_row};
use crate::svg::{Chart, Width, draw_chart, draw_ranges, draw_shares};

pub(super) fn write_attachments(page: &mut Markup, attachments: &[Attachment]) {
    for attachment in attachments {
        page.element("h2").filled(attachment.title);
        page.element("p").prose(&attachment.lead);
        for (picture, caption) in &attachment.figures {
            write_picture(page, picture, caption);
        }
        write_table(page, attachment);
    }
}

pub(super) fn write_picture(page: &mut Markup, picture: &Picture, caption: &str) {
    match picture {
        Picture::Chart(chart) => write_figure(page, &key_of(chart), |width| draw_chart(chart, width), caption),
        Picture::Charts(charts) => {
            // All have the series of the longest.
            let key = charts.iter().max_by_key(|chart| chart.series.len()).map(key_of).unwrap_or_default();
            write_figure_of(page, &key, caption, |page| {
                page.element("div").attr("class", "charts").open();
                charts.iter().for_each(|chart| page.piece(draw_chart(chart, Width::Any)));
                page.close();
            });
        }
        Picture::Ranges { rows, label } => {
            let key: Vec<_> = mixture_key().map(|(mark, class, name)| KeyEntry::mark(mark, class, name)).collect();
            write_figure(page, &key, |width| draw_ranges(rows, label, width), caption);
        }
        Picture::Shares { shares, of_walk } => {
            let key = [KeyEntry::bar("merged", "these means"), KeyEntry::bar("raw", "means of a random walk")];
            write_figure(page, &key, |width| draw_shares(shares, of_walk, width), caption);
        }
    }
}

fn key_of(chart: &Chart) -> Vec<KeyEntry<'_>> {
    let named = chart.series.iter().filter(|series| !series.name.is_empty());
    let entries = named.map(|series| {
        let line = if series.has_line { series.class } else { "none" };
        KeyEntry::line(line, series.mark.map(|mark| (mark, series.class)), &series.name)
    });
    entries.collect()
}

fn write_table(page: &mut Markup, attachment: &Attachment) {
    let table = Table { scroller: attachment.title, class: "groups", columns: &attachment.columns, ..Table::default() };
    table.write(page, |page| {
        for row in &attachment.rows {
            if let Some((name, cells)) = row.split_first() {
                write_row(page, ["", "number"], name, cells);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use roxmltree::{Document, ParsingOptions};

    use super::*;
    use crate::attachment::read_attachment;
    use crate::attachment::samples::documents;
    use crate::page::render_study_with;
    use crate::record::StudyRecord;

    #[test]
    fn a_page_with_every_kind_is_well_formed_and_its_marks_say_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("found.json");
        let read = |document: &serde_json::Value| {
            std::fs::write(&path, document.to_string()).unwrap();
            read_attachment(&thalweg_storage::LocalStorage::default(), &path).unwrap()
        };
        let attachments: Vec<Attachment> = documents().iter().map(read).collect();
        let page = render_study_with(&StudyRecord::new("Made up", "run", "thalweg test"), &attachments);
        let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
        let document = Document::parse_with_options(&page, options).unwrap();
        let with_class = |name: &str| {
            let has = |node: &roxmltree::Node<'_, '_>| {
                node.attribute("class").is_some_and(|classes| classes.split(' ').any(|class| class == name))
            };
            document.descendants().filter(has).collect::<Vec<_>>()
        };
        // Law, region, steps and components for both widths; two scatters, and M_ex and PPL, for any.
        assert_eq!((with_class("wide").len(), with_class("narrow").len(), with_class("any").len()), (4, 4, 4));
        let charts = with_class("chart");
        let marks = charts
            .iter()
            .flat_map(|chart| chart.descendants())
            .filter(|node| node.attribute("class").is_some_and(|classes| classes.starts_with("mark ")));
        for mark in marks {
            let title = mark.children().find(|child| child.has_tag_name(("http://www.w3.org/2000/svg", "title")));
            assert!(title.and_then(|title| title.text()).is_some_and(|text| text.contains('\n')), "{mark:?}");
        }
        assert!(!page.contains("web & <b>") && !page.contains("NaN") && !page.contains("inf,"));
    }
}
