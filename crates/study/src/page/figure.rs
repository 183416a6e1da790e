//! Figures: a picture for each width of the page, and keys.

use crate::markup::Markup;
use crate::svg::{Mark, Width, draw_mark};

/// One entry of a key: a sample and its name.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyEntry<'a> {
    sample: Sample<'a>,
    name: &'a str,
}

#[derive(Debug, Clone, Copy)]
enum Sample<'a> {
    /// A bar of this class.
    Bar(&'a str),
    /// A line of this class, and a mark on it.
    Line(&'a str, Option<(Mark, &'a str)>),
}

impl<'a> KeyEntry<'a> {
    pub(super) fn bar(class: &'a str, name: &'a str) -> Self {
        Self { sample: Sample::Bar(class), name }
    }

    pub(super) fn line(class: &'a str, mark: Option<(Mark, &'a str)>, name: &'a str) -> Self {
        Self { sample: Sample::Line(class, mark), name }
    }

    pub(super) fn mark(mark: Mark, class: &'a str, name: &'a str) -> Self {
        Self::line("none", Some((mark, class)), name)
    }

    fn write(&self, page: &mut Markup) {
        page.element("li").open();
        match self.sample {
            Sample::Bar(class) => {
                page.element("span").attr("class", format!("swatch {class}")).filled("");
            }
            Sample::Line(line, mark) => {
                page.element("svg")
                    .attr("xmlns", "http://www.w3.org/2000/svg")
                    .attr("viewBox", "0 0 26 12")
                    .attr("aria-hidden", "true")
                    .open();
                page.element("polyline").attr("class", format!("line {line}")).attr("points", "1,6 25,6").empty();
                if let Some((mark, class)) = mark {
                    draw_mark(page, mark, class, (13.0, 6.0), 3.2, self.name);
                }
                page.close();
            }
        }
        page.text(self.name);
        page.close();
    }
}

/// A key, unless it has no entries.
fn write_key(page: &mut Markup, entries: &[KeyEntry<'_>]) {
    if !entries.is_empty() {
        page.element("ul").attr("class", "key").open();
        entries.iter().for_each(|entry| entry.write(page));
        page.close();
    }
}

/// A key, a picture for each width, and the words below it.
pub(super) fn write_figure(page: &mut Markup, key: &[KeyEntry<'_>], draw: impl Fn(Width) -> Markup, caption: &str) {
    write_figure_of(page, key, caption, |page| {
        [Width::Wide, Width::Narrow].into_iter().for_each(|width| page.piece(draw(width)));
    });
}

/// A key, whatever `write` draws, and the words below it.
pub(super) fn write_figure_of(page: &mut Markup, key: &[KeyEntry<'_>], caption: &str, write: impl FnOnce(&mut Markup)) {
    page.element("figure").open();
    write_key(page, key);
    write(page);
    page.element("figcaption").filled(caption);
    page.close();
}
