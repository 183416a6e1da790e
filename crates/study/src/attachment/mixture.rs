//! Mixtures of training data: how well scores of merges are predicted, the region that they point at, and merges beside
//! real runs.

use super::{Attachment, Picture, optional, real, score_words, shown};
use crate::document::Field;
use crate::svg::{Chart, ChartAxis, ChartPoint, Mark, RangeRow, Series};
use crate::text::or_dash;
use crate::values::range_of;

/// Scores that have a picture.
const MAX_CHARTS: usize = 9;

/// The mixtures that are marked on the region, by their names in the document: shape, class and what they are called.
const MIXTURES: [(&str, Mark, &str, &str); 4] = [
    ("region", Mark::Diamond, "merged", "the region's mean"),
    ("best sampled", Mark::Triangle, "forecast", "the best mixture that was scored"),
    ("uniform", Mark::Circle, "raw", "all components equally"),
    ("best single", Mark::Square, "annealed", "the best component alone"),
];

/// The key of [`MIXTURES`].
pub(crate) fn mixture_key() -> impl Iterator<Item = (Mark, &'static str, &'static str)> {
    MIXTURES.iter().map(|(_, mark, class, words)| (*mark, *class, *words))
}

pub(super) fn read_search(document: &Field<'_>) -> Result<Attachment, String> {
    let n_trials = document.at("n_trials").whole()?;
    let general = optional(document.at("general"), |field| Ok(field.text()?.to_owned()))?;
    let beta = optional(document.at("beta"), Field::share)?;
    let mut charts = Vec::new();
    for row in document.at("predictor").list_if_known()? {
        charts.extend(predicted_against_scored(&row)?);
    }
    let region = shown(&document.at("region"))?;
    let region = region.iter().map(|row| region_row(row, document)).collect::<Result<Vec<_>, _>>()?;
    let (rows, ranges) = region.into_iter().unzip();
    let mut figures = vec![(
        Picture::Ranges { rows: ranges, label: "The region of mixtures" },
        "Shares of the data that a run would train on. The bar spans the 10 to 90 % points of the region: where it is \
         long, the share hardly matters."
            .to_owned(),
    )];
    figures.extend(charts_of(
        charts,
        "Each point is a mixture: its score as predicted from the others, and as its merge scored. On the line both are \
         equal. rho is the correlation of their ranks.",
    ));
    let shares = general.zip(beta).map_or_else(String::new, |(general, beta)| {
        format!(" Data shares count {:.0} % of `{general}` in every other component.", beta * 100.0)
    });
    Ok(Attachment {
        title: "Mixture of training data",
        lead: format!(
            "The mean of the best region, found from {n_trials} merged mixtures; the range shows how flat the optimum is.{shares}"
        ),
        columns: vec!["data set", "coefficient", "data share", "range of the share"],
        rows,
        figures,
    })
}

/// The cells of a component, and its range.
fn region_row(row: &Field<'_>, document: &Field<'_>) -> Result<(Vec<String>, RangeRow), String> {
    optional(row.at("coefficient_quantiles"), |field| field.ascending::<3>(Field::share))?;
    let (name, coefficient) = (row.at("component").text()?, row.at("coefficient").share()?);
    let [low, middle, high] = row.at("data_share_quantiles").ascending::<3>(Field::share)?;
    let mean = row.at("data_share").share()?;
    let cells = vec![name.to_owned(), real(Some(coefficient)), real(Some(mean)), format!("{low:.4} to {high:.4}")];
    let mut marks = Vec::new();
    for model in document.at("models").list_if_known()? {
        let model_name = model.at("name").text()?;
        let known = MIXTURES.iter().find(|(known, ..)| *known == model_name && *known != "region");
        let share = optional(model.at("data_shares").at(name), Field::share)?;
        if let (Some((_, mark, class, words)), Some(share)) = (known, share) {
            marks.push((*mark, *class, share, format!("{name}: {share:.3}\n{words}")));
        }
    }
    let (_, mark, class, words) = MIXTURES[0];
    let title = format!("{name}: {mean:.3}\n{words}\n10 to 90 %: {low:.3} to {high:.3}, middle {middle:.3}");
    marks.push((mark, class, mean, title));
    Ok((cells, RangeRow { name: name.to_owned(), range: [low, high], marks }))
}

fn predicted_against_scored(row: &Field<'_>) -> Result<Option<Chart>, String> {
    let measure = &score_words(row.at("measure").text()?);
    let spearman = optional(row.at("left_out_spearman"), Field::correlation)?;
    let error = optional(row.at("left_out_error"), Field::size)?;
    let points = pairs_of(&row.at("points"))?;
    let rho = spearman.map_or_else(|| "unknown".to_owned(), |rho| format!("{rho:.2}"));
    let off = error.map_or_else(String::new, |error| format!(", off by {error:.4}"));
    let title = |[predicted, scored]: [f64; 2]| format!("predicted {predicted:.4}\nscored {scored:.4}");
    Ok(scatter(measure, format!("{measure}: rho {rho}{off}"), "predicted", &points, &title))
}

pub(super) fn read_validation(document: &Field<'_>) -> Result<Attachment, String> {
    let n_matched = document.at("n_matched").whole()?;
    // What did not match is as telling as what did.
    let n_references = optional(document.at("n_references"), Field::whole)?;
    let n_trials = optional(document.at("n_trials"), Field::whole)?;
    let (mut rows, mut charts) = (Vec::new(), Vec::new());
    for row in shown(&document.at("rows"))? {
        rows.push(validation_cells(&row)?);
        charts.extend(merge_against_run(&row)?);
    }
    let of = n_references
        .zip(n_trials)
        .map_or_else(String::new, |(references, trials)| format!(" There are {references} runs and {trials} merges."));
    Ok(Attachment {
        title: "Merged mixtures against real runs",
        lead: format!("{n_matched} mixtures have both a merge and a run.{of}"),
        columns: vec!["score", "mixtures", "rank correlation", "95 %", "of the best quarter", "merge over run"],
        rows,
        figures: charts_of(
            charts,
            "Each point is a mixture: what its merge scored, and what the run that was trained on it scored. Hollow \
             points are the best quarter of the runs. On the line both are equal; what counts is the order. rho is the \
             correlation of ranks.",
        )
        .into_iter()
        .collect(),
    })
}

fn validation_cells(row: &Field<'_>) -> Result<Vec<String>, String> {
    let interval = optional(row.at("spearman_interval_95"), |field| field.ascending::<2>(Field::correlation))?;
    Ok(vec![
        row.at("measure").text()?.to_owned(),
        row.at("n").whole()?.to_string(),
        real(optional(row.at("spearman"), Field::correlation)?),
        or_dash(interval, |[low, high]| format!("{low:.2} to {high:.2}")),
        real(optional(row.at("top_quartile_spearman"), Field::correlation)?),
        real(optional(row.at("recovery"), Field::real)?),
    ])
}

fn merge_against_run(row: &Field<'_>) -> Result<Option<Chart>, String> {
    let measure = &score_words(row.at("measure").text()?);
    let points = pairs_of(&row.at("pairs"))?;
    let n_top = usize::try_from(optional(row.at("n_top"), Field::whole)?.unwrap_or(0)).unwrap_or(0);
    let spearman = optional(row.at("spearman"), Field::correlation)?;
    let interval = optional(row.at("spearman_interval_95"), |field| field.ascending::<2>(Field::correlation))?;
    let rho = spearman.map_or_else(|| "unknown".to_owned(), |rho| format!("{rho:.2}"));
    let within = interval.map_or_else(String::new, |[low, high]| format!(" ({low:.2} to {high:.2})"));
    let title = |[proxy, reference]: [f64; 2]| format!("merge {proxy:.4}\nrun {reference:.4}");
    let label = format!("{measure}: rho {rho}{within}");
    let chart = scatter(measure, label, "its merge", &points, &title);
    Ok(chart.map(|mut chart| {
        // The best references come first.
        for series in chart.series.iter_mut().filter(|series| series.mark.is_some()) {
            series.points.iter_mut().take(n_top).for_each(|point| point.is_hollow = true);
        }
        chart
    }))
}

fn pairs_of(list: &Field<'_>) -> Result<Vec<[f64; 2]>, String> {
    let pairs = list.list_if_known()?;
    pairs.iter().take(super::MAX_ROWS).map(|pair| pair.numbers(Field::real)).collect()
}

/// Points around the line of equal values; nothing without points.
fn scatter(
    measure: &str,
    title: String,
    x_title: &'static str,
    pairs: &[[f64; 2]],
    say: &dyn Fn([f64; 2]) -> String,
) -> Option<Chart> {
    let [[x_low, x_high], [y_low, y_high]] = [0, 1].map(|i| range_of(pairs.iter().map(|pair| pair[i])));
    let points: Vec<ChartPoint> = pairs.iter().map(|pair| ChartPoint::new(pair[0], pair[1], say(*pair))).collect();
    let mut series = Vec::new();
    let [low, high] = [x_low.max(y_low), x_high.min(y_high)];
    if low < high {
        let corner = |value: f64| ChartPoint::new(value, value, String::new());
        series.push(Series::new("", "training", vec![corner(low), corner(high)]).with_line());
    }
    series.push(Series::new("", "merged", points).with_marks(Mark::Circle));
    (!pairs.is_empty()).then(|| Chart {
        label: format!("{measure}, {x_title} and measured"),
        y_title: title,
        x_title,
        axis: ChartAxis::Plain,
        y_range: None,
        series,
        rules: Vec::new(),
    })
}

/// Charts as one figure, if there are any; the caption says how many are left out.
fn charts_of(mut charts: Vec<Chart>, caption: &str) -> Option<(Picture, String)> {
    let n_left = charts.len().saturating_sub(MAX_CHARTS);
    charts.truncate(MAX_CHARTS);
    let more = if n_left > 0 { format!(" {n_left} more are not shown.") } else { String::new() };
    (!charts.is_empty()).then(|| (Picture::Charts(charts), format!("{caption}{more}")))
}
