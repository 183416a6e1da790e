//! How the parameters move: lengths and directions of displacements, their plane, and groups of tensors.

use crate::markup::Markup;
use crate::page::figure::{KeyEntry, write_figure};
use crate::page::table::Table;
use crate::record::{GeometryRow, GroupRow, StudyRecord};
use crate::svg::{draw_bar, draw_cosines, draw_displacements, draw_plane, draw_shares};
use crate::text::or_dash;

/// Rows of the table of groups.
const MAX_GROUPS: usize = 400;

pub(super) fn write_geometry(page: &mut Markup, record: &StudyRecord) {
    let Some(geometry) = &record.geometry else { return };
    page.element("h2").filled("Geometry of the trajectory");
    if !geometry.displacements.is_empty() {
        let caption = "Distance from each checkpoint to the next.";
        write_figure(page, &[], |width| draw_displacements(geometry, width), caption);
    }
    if geometry.displacement_cosines.iter().any(Option::is_some) {
        let caption = "Cosine of each displacement with the next: near one, the run moves straight and an \
                       average lags behind it; below zero, it swings, and an average cancels the swings.";
        write_figure(page, &[], |width| draw_cosines(geometry, width), caption);
    }
    if geometry.plane.len() > 1 {
        let caption = "Checkpoints in the plane of the first two principal components, oldest hollow, newest filled. A \
                       random walk also traces a curve here: compare the shares below.";
        write_figure(page, &[], |width| draw_plane(geometry, width), caption);
    }
    if !geometry.component_shares.is_empty() {
        let key = [KeyEntry::bar("merged", "this run"), KeyEntry::bar("raw", "random walk of as many steps")];
        let caption = "Share of the movement along each principal component. Where both bars are similar, the \
                       shape in the plane says nothing about this run.";
        let (shares, of_walk) = (&geometry.component_shares, &geometry.random_walk_shares);
        write_figure(page, &key, |width| draw_shares(shares, of_walk, width), caption);
    }
    write_groups(page, geometry);
}

fn write_groups(page: &mut Markup, geometry: &GeometryRow) {
    let groups = &geometry.groups;
    if groups.is_empty() {
        return;
    }
    let most = groups.iter().map(|group| group.relative_displacement).filter(|value| value.is_finite());
    let most = most.fold(0.0, f64::max);
    let table = Table {
        scroller: "Geometry by group of tensors",
        class: "groups",
        caption: "By group of tensors: mean displacement over the norm of the newest checkpoint",
        columns: &["group", "displacement", "", "mean cosine", ""],
    };
    table.write(page, |page| {
        for group in groups.iter().take(MAX_GROUPS) {
            write_group(page, group, most);
        }
    });
    if groups.len() > MAX_GROUPS {
        page.note(format!("{} more groups are in study.json.", groups.len() - MAX_GROUPS));
    }
}

fn write_group(page: &mut Markup, group: &GroupRow, most: f64) {
    let displacement = group.relative_displacement;
    let cosine = group.mean_cosine;
    page.element("tr").open();
    page.element("th").attr("scope", "row").filled(&group.name);
    for (text, bar) in [
        (format!("{displacement:.5}"), Some(draw_bar(displacement, [0.0, most]))),
        (or_dash(cosine, |cosine| format!("{cosine:+.3}")), cosine.map(|cosine| draw_bar(cosine, [-1.0, 1.0]))),
    ] {
        page.element("td").attr("class", "number").filled(text);
        page.element("td").attr("class", "bar-cell").open();
        bar.into_iter().for_each(|bar| page.piece(bar));
        page.close();
    }
    page.close();
}
