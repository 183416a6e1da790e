//! How the parameters move: lengths and directions of displacements, their plane, and groups of tensors.

use super::{open_scroller, write_columns};
use crate::markup::Markup;
use crate::page::figure::{write_figure, write_swatches};
use crate::record::{GeometryRow, StudyRecord};
use crate::svg::{draw_bar, draw_cosines, draw_displacements, draw_plane, draw_shares};

/// Rows of the table of groups.
const MAX_GROUPS: usize = 400;

pub(super) fn write_geometry(page: &mut Markup, record: &StudyRecord) {
    let Some(geometry) = &record.geometry else { return };
    page.element("h2").filled("Geometry of the trajectory");
    if !geometry.displacements.is_empty() {
        page.element("figure").open();
        write_figure(page, |width| draw_displacements(geometry, width), "Distance from each checkpoint to the next.");
        page.close();
    }
    if geometry.displacement_cosines.iter().any(Option::is_some) {
        page.element("figure").open();
        let caption = "Cosine of each displacement with the next: near one, the run moves straight and an \
                       average lags behind it; below zero, it swings, and an average cancels the swings.";
        write_figure(page, |width| draw_cosines(geometry, width), caption);
        page.close();
    }
    if geometry.plane.len() > 1 {
        page.element("figure").open();
        let caption = "Checkpoints in the plane of the first two principal components, oldest hollow, newest filled. A \
                       random walk also traces a curve here: compare the shares below.";
        write_figure(page, |width| draw_plane(geometry, width), caption);
        page.close();
    }
    if !geometry.component_shares.is_empty() {
        page.element("figure").open();
        write_swatches(page, &[("merged", "this run"), ("raw", "random walk of as many steps")]);
        let caption = "Share of the movement along each principal component. Where both bars are similar, the \
                       shape in the plane says nothing about this run.";
        let (shares, of_walk) = (&geometry.component_shares, &geometry.random_walk_shares);
        write_figure(page, |width| draw_shares(shares, of_walk, width), caption);
        page.close();
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
    open_scroller(page, "Geometry by group of tensors");
    page.element("table").attr("class", "groups").open();
    page.element("caption").filled("By group of tensors: mean displacement over the norm of the newest checkpoint");
    write_columns(page, &["group", "displacement", "", "mean cosine", ""]);
    page.element("tbody").open();
    for group in groups.iter().take(MAX_GROUPS) {
        page.element("tr").open();
        page.element("th").attr("scope", "row").filled(&group.name);
        page.element("td").attr("class", "number").filled(format!("{:.5}", group.relative_displacement));
        page.element("td").attr("class", "bar-cell").open();
        page.piece(draw_bar(group.relative_displacement, [0.0, most]));
        page.close();
        let cosine = group.mean_cosine.map_or_else(|| "-".to_owned(), |cosine| format!("{cosine:+.3}"));
        page.element("td").attr("class", "number").filled(cosine);
        page.element("td").attr("class", "bar-cell").open();
        if let Some(cosine) = group.mean_cosine {
            page.piece(draw_bar(cosine, [-1.0, 1.0]));
        }
        page.close();
        page.close();
    }
    for _ in 0..3 {
        page.close();
    }
    if groups.len() > MAX_GROUPS {
        let text = format!("{} more groups are in study.json.", groups.len() - MAX_GROUPS);
        page.element("p").attr("class", "note").filled(text);
    }
}
