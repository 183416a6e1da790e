//! Tables: what is around their rows.

use std::fmt::Display;

use crate::markup::Markup;

/// A table before its rows. What is empty is left out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Table<'a> {
    /// What a screen reader says of the box in which a table scrolls sideways where it is wider than the screen. The
    /// box takes the focus, so that a keyboard can scroll it.
    pub(super) scroller: &'a str,
    pub(super) class: &'a str,
    pub(super) caption: &'a str,
    pub(super) columns: &'a [&'a str],
}

impl Table<'_> {
    /// Writes the table with the rows that `write_rows` writes.
    pub(super) fn write(&self, page: &mut Markup, write_rows: impl FnOnce(&mut Markup)) {
        if !self.scroller.is_empty() {
            let scroller = page.element("div").attr("class", "scroll").attr("tabindex", "0");
            scroller.attr("role", "group").attr("aria-label", self.scroller).open();
        }
        page.element("table").class(self.class).open();
        if !self.caption.is_empty() {
            page.element("caption").filled(self.caption);
        }
        page.element("thead").open().element("tr").open();
        for column in self.columns {
            page.element("th").attr("scope", "col").filled(column);
        }
        page.close();
        page.close();
        page.element("tbody").open();
        write_rows(page);
        page.close();
        page.close();
        if !self.scroller.is_empty() {
            page.close();
        }
    }
}

/// A row of text: its name, then cells, with the classes of the row and of its cells.
pub(super) fn write_row(
    page: &mut Markup,
    [row_class, cell_class]: [&str; 2],
    name: impl Display,
    cells: impl IntoIterator<Item = impl Display>,
) {
    page.element("tr").class(row_class).open();
    page.element("th").attr("scope", "row").filled(name);
    for cell in cells {
        page.element("td").class(cell_class).filled(cell);
    }
    page.close();
}
