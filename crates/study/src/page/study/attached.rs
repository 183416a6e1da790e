//! What other commands found, each as a table.

use super::write_columns;
use crate::attachment::Attachment;
use crate::markup::Markup;

pub(super) fn write_attachments(page: &mut Markup, attachments: &[Attachment]) {
    for attachment in attachments {
        page.element("h2").filled(attachment.title);
        page.element("p").filled(&attachment.lead);
        page.element("div").attr("class", "scroll").open();
        page.element("table").attr("class", "groups").open();
        write_columns(page, &attachment.columns.iter().map(String::as_str).collect::<Vec<_>>());
        page.element("tbody").open();
        for row in &attachment.rows {
            page.element("tr").open();
            for (i, cell) in row.iter().enumerate() {
                match i {
                    0 => page.element("th").attr("scope", "row").filled(cell),
                    _ => page.element("td").attr("class", "number").filled(cell),
                };
            }
            page.close();
        }
        for _ in 0..3 {
            page.close();
        }
    }
}
