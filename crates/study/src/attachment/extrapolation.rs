//! A step along the line of merged checkpoints: scores against its length, with the parabola and its minimum, and
//! the components beside those of a random walk.

use super::{Attachment, Picture, optional, real, refusal, score_words, shown};
use crate::document::Field;
use crate::svg::{Chart, ChartAxis, ChartPoint, Mark, Series};
use crate::text::or_dash;

/// Corners of the parabola.
const N_CORNERS: u32 = 40;

pub(super) fn read_extrapolation(document: &Field<'_>) -> Result<Attachment, String> {
    let line = document.at("line");
    let (shares, of_walk) = (shares_of(&line, "component_shares")?, shares_of(&line, "random_walk_shares")?);
    let cosine = optional(line.at("mean_cosine"), Field::correlation)?;
    let of_walk_cosine = optional(line.at("random_walk_cosine"), Field::correlation)?;
    let lead = format!(
        "{} means of {} checkpoints; verdict: {}. The first component explains {} of the variance; in a random walk, \
         {}.{}",
        document.at("n_points").count()?,
        document.at("window").count()?,
        line.at("verdict").text()?,
        percent(shares.first()),
        percent(of_walk.first()),
        refusal(document)?
    );
    let steps = shown(&document.at("candidates"))?.iter().map(step).collect::<Result<Vec<_>, _>>()?;
    let averages = document.at("averages").list_if_known()?.iter().map(average).collect::<Result<Vec<_>, _>>()?;
    let chosen = optional(document.at("alpha"), |field| field.within(STEPS, WITHIN_STEPS))?;
    let mut figures = Vec::new();
    if let Some(chart) = chart_of(document, (&steps, &averages), chosen)? {
        let means: Vec<String> =
            averages.iter().filter_map(|(n, value)| Some(format!("{n}: {:.4}", (*value)?))).collect();
        let means = if means.is_empty() { String::new() } else { format!(" Plain means score {}.", means.join(", ")) };
        let caption = format!(
            "Steps in lags of averaging; 0 is the plain mean that they start from. Bars are standard errors of the \
             gain over it, item by item. The parabola goes through the first three steps; the triangle marks its \
             minimum between 0 and 2.{means}"
        );
        figures.push((Picture::Chart(chart), caption));
    }
    let cosines = cosine.zip(of_walk_cosine).map_or_else(String::new, |(cosine, walk)| {
        format!(" Successive displacements have a mean cosine of {cosine:.2}; those of a random walk, {walk:.2}.")
    });
    let caption = format!(
        "Share of the variance of the means on each component. There is a line only where the first one, and the \
         cosines, exceed those of a random walk.{cosines}"
    );
    figures.push((Picture::Shares { shares, of_walk }, caption));
    let of_steps = steps
        .iter()
        .map(|one| vec![format!("step of {:.2} lags", one.alpha), real(one.value), signed(one.gain), real(one.error)]);
    let of_means =
        averages.iter().map(|(n, value)| vec![format!("mean of {n}"), real(*value), "-".to_owned(), "-".to_owned()]);
    Ok(Attachment {
        title: "Step along the line of merged checkpoints",
        lead,
        columns: vec!["model", "score", "gain over the mean of the same length", "standard error"],
        rows: of_steps.chain(of_means).collect(),
        figures,
    })
}

fn percent(share: Option<&f64>) -> String {
    or_dash(share, |share| format!("{:.0} %", 100.0 * share))
}

/// A gain with its sign.
fn signed(gain: Option<f64>) -> String {
    or_dash(gain, |gain| format!("{gain:+.4}"))
}

fn shares_of(line: &Field<'_>, key: &str) -> Result<Vec<f64>, String> {
    line.at(key).list()?.iter().map(Field::share).collect()
}

/// The lengths of steps, in lags.
const STEPS: [f64; 2] = [0.0, 2.0];
const WITHIN_STEPS: &str = "a step of 0 to 2 lags";

/// A step that was scored.
struct Step {
    alpha: f64,
    value: Option<f64>,
    gain: Option<f64>,
    error: Option<f64>,
}

fn step(row: &Field<'_>) -> Result<Step, String> {
    Ok(Step {
        alpha: row.at("alpha").within(STEPS, WITHIN_STEPS)?,
        value: optional(row.at("value"), Field::real)?,
        gain: optional(row.at("gain"), Field::real)?,
        error: optional(row.at("gain_standard_error"), Field::size)?,
    })
}

fn average(row: &Field<'_>) -> Result<(u64, Option<f64>), String> {
    Ok((row.at("n_checkpoints").count()?, optional(row.at("value"), Field::real)?))
}

fn chart_of(
    document: &Field<'_>,
    (steps, averages): (&[Step], &[(u64, Option<f64>)]),
    chosen: Option<f64>,
) -> Result<Option<Chart>, String> {
    let Some(decides) = document.at("decides").known() else { return Ok(None) };
    let is_more_better = decides.at("higher_is_better").flag()?;
    let better = if is_more_better { "more" } else { "less" };
    let (score, suite) = (decides.at("score").text()?, decides.at("suite").text()?);
    let y_title = format!("{} (suite {suite}), {better} is better", score_words(score));
    let points = steps.iter().filter_map(|one| {
        let value = one.value?;
        let is_chosen = chosen.is_some_and(|alpha| (alpha - one.alpha).abs() < 1e-9);
        let chosen = if is_chosen { "\nthe best step" } else { "" };
        let title = format!("step of {:.2} lags\n{value:.4}, gain {}{chosen}", one.alpha, signed(one.gain));
        Some(ChartPoint::new(one.alpha, value, title).with_error(one.error.filter(|_| one.alpha > 0.0)))
    });
    let mut series = vec![Series::new("steps that were scored", "merged", points.collect()).with_marks(Mark::Diamond)];
    let start = steps.iter().find(|one| one.alpha <= 0.0).and_then(|one| one.value);
    if let (Some(parabola), Some(start)) = (document.at("parabola").known(), start) {
        let last = steps.iter().map(|one| one.alpha).fold(1.0, f64::max);
        // It is a parabola of costs, of which less is better.
        let sign = if is_more_better { -1.0 } else { 1.0 };
        series.extend(parabola_of(&parabola, [start, last, sign])?);
    }
    series.retain(|one| !one.points.is_empty());
    let rules = averages.iter().filter_map(|(n, value)| Some((format!("mean of {n}"), "raw", (*value)?)));
    Ok((!series.is_empty()).then(|| Chart {
        label: "Score against the length of the step".to_owned(),
        y_title,
        x_title: "step in lags",
        axis: ChartAxis::Plain,
        y_range: None,
        series,
        rules: rules.collect(),
    }))
}

/// The parabola from no step, which scores `start`, to the last one, and its minimum; nothing where the document
/// has no slope. `sign` turns its costs into scores.
fn parabola_of(parabola: &Field<'_>, [start, last, sign]: [f64; 3]) -> Result<Vec<Series>, String> {
    let curvature = parabola.at("curvature").real()?;
    let vertex = optional(parabola.at("vertex"), Field::real)?;
    let chosen = parabola.at("alpha").within(STEPS, WITHIN_STEPS)?;
    let Some(slope) = optional(parabola.at("slope"), Field::real)? else { return Ok(Vec::new()) };
    let value = |alpha: f64| start + sign * (slope * alpha + curvature * alpha * alpha);
    let corner = |i: u32| {
        let alpha = last * f64::from(i) / f64::from(N_CORNERS);
        ChartPoint::new(alpha, value(alpha), String::new())
    };
    let line = Series::new("parabola", "training", (0..=N_CORNERS).map(corner).collect()).with_line();
    let at = vertex.map_or_else(|| "it has none".to_owned(), |vertex| format!("at {vertex:.2} lags"));
    let title = format!("minimum of the parabola: {at}\nstep {chosen:.2} lags, {:.4} expected", value(chosen));
    let least = ChartPoint::new(chosen, value(chosen), title);
    let is_within = vertex.is_some_and(|vertex| (vertex - chosen).abs() < 1e-9) && chosen <= last;
    let least = Series::new("vertex", "forecast", if is_within { vec![least] } else { Vec::new() });
    Ok(vec![line, least.with_marks(Mark::Triangle)])
}
