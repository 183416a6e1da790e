//! Figures: a picture for each width of the page, and keys.

use crate::markup::Markup;
use crate::svg::{Mark, Width, draw_mark};

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

/// A key of bars: class and name of each.
pub(super) fn write_swatches(page: &mut Markup, entries: &[(&str, &str)]) {
    page.element("ul").attr("class", "key").open();
    for (class, name) in entries {
        page.element("li").open();
        page.element("span").attr("class", format!("swatch {class}")).filled("");
        page.text(name);
        page.close();
    }
    page.close();
}
