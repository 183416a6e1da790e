//! The one writer of HTML and SVG: everything that is written through it is escaped and closed.
//!
//! What it writes is both HTML and well-formed XML, so that a test can parse the whole page.

use std::fmt::{Display, Write};

/// A document that is being written.
#[derive(Debug, Default)]
pub(crate) struct Markup {
    text: String,
    open: Vec<&'static str>,
}

/// A start tag that still takes attributes.
#[derive(Debug)]
#[must_use = "an element is written once it is opened, closed or filled"]
pub(crate) struct Element<'a> {
    markup: &'a mut Markup,
    name: &'static str,
}

impl Markup {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Begins an element.
    pub(crate) fn element(&mut self, name: &'static str) -> Element<'_> {
        self.text.push('<');
        self.text.push_str(name);
        Element { markup: self, name }
    }

    /// Escaped text.
    pub(crate) fn text(&mut self, text: impl Display) -> &mut Self {
        let text = text.to_string();
        escape_into(&text, &mut self.text);
        self
    }

    /// Escaped sentences, with what is between back-ticks as code.
    pub(crate) fn prose(&mut self, text: &str) -> &mut Self {
        let parts: Vec<&str> = text.split('`').collect();
        // A lone back-tick is part of a name.
        if parts.len().is_multiple_of(2) {
            return self.text(text);
        }
        for (i, part) in parts.into_iter().enumerate() {
            if i.is_multiple_of(2) {
                self.text(part);
            } else {
                self.element("code").filled(part);
            }
        }
        self
    }

    /// A paragraph of small print on a page.
    pub(crate) fn note(&mut self, text: impl Display) {
        self.element("p").attr("class", "note").filled(text);
    }

    /// Text of ours that is not data: styles, scripts, the document type.
    pub(crate) fn verbatim(&mut self, text: &'static str) {
        self.text.push_str(text);
    }

    /// A finished piece of another writer.
    pub(crate) fn piece(&mut self, piece: Self) {
        self.text.push_str(&piece.finish());
    }

    /// The text of a finished piece, where it is needed by itself too.
    pub(crate) fn finished(&mut self, piece: &str) {
        self.text.push_str(piece);
    }

    /// Closes the element that was opened last.
    pub(crate) fn close(&mut self) {
        if let Some(name) = self.open.pop() {
            let _ = write!(self.text, "</{name}>");
        }
    }

    /// The whole, with everything closed.
    pub(crate) fn finish(mut self) -> String {
        while !self.open.is_empty() {
            self.close();
        }
        self.text
    }
}

impl<'a> Element<'a> {
    /// An attribute with an escaped value.
    pub(crate) fn attr(self, name: &str, value: impl Display) -> Self {
        self.markup.text.push(' ');
        self.markup.text.push_str(name);
        self.markup.text.push_str("=\"");
        self.markup.text(value);
        self.markup.text.push('"');
        self
    }

    /// Its class, unless that is empty.
    pub(crate) fn class(self, class: &str) -> Self {
        if class.is_empty() { self } else { self.attr("class", class) }
    }

    /// Hidden until the script shows it, unless it `is_shown` from the start.
    pub(crate) fn shown_if(self, is_shown: bool) -> Self {
        if is_shown { self } else { self.attr("hidden", "hidden") }
    }

    /// An attribute with a coordinate, to a hundredth of a unit.
    pub(crate) fn num(self, name: &str, value: f64) -> Self {
        self.attr(name, Coordinate(value))
    }

    /// Leaves it open for children.
    pub(crate) fn open(self) -> &'a mut Markup {
        self.markup.text.push('>');
        self.markup.open.push(self.name);
        self.markup
    }

    /// An element without children.
    pub(crate) fn empty(self) -> &'a mut Markup {
        self.markup.text.push_str("/>");
        self.markup
    }

    /// An element that holds text only.
    pub(crate) fn filled(self, text: impl Display) -> &'a mut Markup {
        let markup = self.open();
        markup.text(text);
        markup.close();
        markup
    }

    /// An element that holds sentences, as [`Markup::prose`] writes them.
    pub(crate) fn prose(self, text: &str) -> &'a mut Markup {
        let markup = self.open();
        markup.prose(text);
        markup.close();
        markup
    }

    /// An element that holds only a title, which browsers show when one points at it.
    pub(crate) fn titled(self, title: impl Display) -> &'a mut Markup {
        let markup = self.open();
        markup.element("title").filled(title);
        markup.close();
        markup
    }
}

/// A coordinate with at most two decimals. What is not finite has no place and goes to 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Coordinate(pub(crate) f64);

impl Display for Coordinate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = if self.0.is_finite() { self.0.clamp(-1e6, 1e6) } else { 0.0 };
        let text = format!("{value:.2}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        f.write_str(if text == "-0" { "0" } else { text })
    }
}

fn escape_into(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            // XML has no way to write these.
            _ if c.is_control() || c == '\u{fffe}' || c == '\u{ffff}' => out.push('\u{fffd}'),
            _ => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_cannot_leave_their_place() {
        let mut markup = Markup::new();
        let hostile = "\"><script>alert('1')</script>\u{0}&amp;";
        markup.element("p").attr("title", hostile).filled(hostile);
        let text = markup.finish();
        let escaped = "&quot;&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;\u{fffd}&amp;amp;";
        assert_eq!(text, format!("<p title=\"{escaped}\">{escaped}</p>"));
    }

    #[test]
    fn what_was_opened_is_closed_in_order() {
        let mut markup = Markup::new();
        markup.element("g").open().element("circle").num("r", 2.0).empty();
        markup.element("a").open();
        assert_eq!(markup.finish(), "<g><circle r=\"2\"/><a></a></g>");
    }

    #[test]
    fn coordinates_have_two_decimals_and_no_signed_zero() {
        let show = |value: f64| Coordinate(value).to_string();
        assert_eq!([show(1.0), show(1.255), show(-0.001), show(120.0)], ["1", "1.25", "0", "120"]);
        assert_eq!([show(f64::NAN), show(f64::INFINITY), show(1e300)], ["0", "0", "1000000"]);
    }
}
