//! A law of merging: mean losses against the number of models, with the law, its interval, other forms and forecasts.

use super::{Attachment, Picture, optional, real, refusal, shown};
use crate::document::Field;
use crate::svg::{Chart, ChartAxis, ChartPoint, Mark, Series};

/// Forms beside the law that are drawn.
const OTHER_FORMS: [&str; 4] = ["scheme-2", "scheme-3", "scheme-5", "scheme-6"];

pub(super) fn read_law(document: &Field<'_>) -> Result<Attachment, String> {
    let [l_inf, a, b] = ["l_inf", "a", "b"].map(|key| document.at(key).real());
    let (l_inf, a, b) = (l_inf?, a?, b?);
    let formula = document.at("formula").text()?;
    let drift = optional(document.at("d"), Field::real)?.map_or_else(String::new, |d| format!(", D = {d:.6}"));
    let lead = format!("{formula}: L = {l_inf:.4}, A = {a:.4}, b = {b:.4}{drift}.{}", refusal(document)?);
    let (mut rows, mut measured, mut predicted) = (Vec::new(), Vec::new(), Vec::new());
    for row in shown(&document.at("points"))? {
        let (k, n_merges) = (row.at("k").count()?, row.at("n_merges").count()?);
        let (loss, fitted) = (row.at("loss").real()?, row.at("fitted").real()?);
        let sd = optional(row.at("sd"), Field::size)?;
        rows.push(vec![k.to_string(), n_merges.to_string(), real(Some(loss)), real(sd), real(Some(fitted))]);
        let merges = thalweg_tensor::counted(n_merges, "merge");
        let title = format!("k = {k}\nmean loss {loss:.4} of {merges}\nlaw {fitted:.4}");
        measured.push(ChartPoint::new(k as f64, loss, title).with_error(sd));
    }
    for row in document.at("predictions").list_if_known()? {
        let (k, loss) = (row.at("k").count()?, optional(row.at("loss"), Field::real)?);
        let range = optional(row.at("interval_95"), |field| field.ascending(Field::real))?;
        let known = optional(row.at("measured"), Field::real)?;
        rows.push(vec![k.to_string(), "-".to_owned(), real(known), "-".to_owned(), real(loss)]);
        let title = |loss: f64| format!("k = {k}\nforecast {loss:.4}");
        predicted.extend(loss.map(|loss| ChartPoint { range, ..ChartPoint::new(k as f64, loss, title(loss)) }));
    }
    let models = if document.at("axis").text()? == "checkpoints" { "checkpoints merged" } else { "models merged" };
    let chart = Chart {
        label: "Loss against the number of merged models".to_owned(),
        y_title: "mean loss".to_owned(),
        x_title: models,
        axis: ChartAxis::Doubling,
        y_range: None,
        series: series(document, measured, predicted)?,
        rules: optional(document.at("base"), Field::real)?
            .map(|base| ("the base".to_owned(), "raw", base))
            .into_iter()
            .collect(),
    };
    let caption = "Circles are mean losses of merges, with the standard deviation over merges as bars; triangles are \
                   forecasts, with 95 % intervals. The shaded band is the law's 95 % interval. Beyond the \
                   measured numbers the forms diverge, and nothing here shows which one holds."
        .to_owned();
    Ok(Attachment {
        title: "Law of merging",
        lead,
        columns: vec![models, "merges", "mean loss", "deviation", "law"],
        rows,
        figures: vec![(Picture::Chart(chart), caption)],
    })
}

fn series(document: &Field<'_>, measured: Vec<ChartPoint>, predicted: Vec<ChartPoint>) -> Result<Vec<Series>, String> {
    let (mut ks, mut law, mut area) = (Vec::new(), Vec::new(), Vec::new());
    for row in document.at("curve").list_if_known()? {
        let (k, loss) = (row.at("k").within([1e-9, f64::INFINITY], "a number above 0")?, row.at("loss").real()?);
        let interval = optional(row.at("interval_95"), |field| field.ascending::<2>(Field::real))?;
        area.extend(interval.map(|[low, high]| [k, low, high]));
        ks.push(k);
        law.push(ChartPoint::new(k, loss, String::new()));
    }
    let form = document.at("form").text()?;
    let mut all = Vec::new();
    for row in document.at("forms").list_if_known()? {
        // It is one of the numbers that a reader of the table would want; it must at least be one.
        let delta = optional(row.at("delta_aicc"), Field::size)?;
        let losses = row.at("curve").list_if_known()?.iter().map(Field::real).collect::<Result<Vec<_>, _>>()?;
        if row.at("form").text()? == form {
            continue;
        }
        let Some(class) = OTHER_FORMS.get(all.len()) else { continue };
        let points = ks.iter().zip(losses).map(|(k, loss)| ChartPoint::new(*k, loss, String::new()));
        let delta = delta.map_or_else(String::new, |delta| format!(" (AICc {delta:+.1})"));
        all.push(Series::new(format!("{}{delta}", row.at("formula").text()?), class, points.collect()).with_line());
    }
    let mut law = Series::new(document.at("formula").text()?, "merged", law).with_line();
    law.area = area;
    all.push(law);
    // Below the marks that it is held against.
    all.extend(three_point(document)?);
    all.push(Series::new("measured", "raw", measured).with_marks(Mark::Circle));
    all.push(Series::new("forecast", "forecast", predicted).with_marks(Mark::Triangle));
    all.retain(|one| !one.points.is_empty());
    Ok(all)
}

/// What three points predict for the others, which are held out where they were measured.
fn three_point(document: &Field<'_>) -> Result<Option<Series>, String> {
    let Some(row) = document.at("three_point").known() else { return Ok(None) };
    let ks = row.at("k").list()?.iter().map(Field::count).collect::<Result<Vec<_>, _>>()?;
    let mut points = Vec::new();
    for one in row.at("predictions").list_if_known()? {
        let (k, loss) = (one.at("k").count()?, one.at("loss").real()?);
        let measured = optional(one.at("measured"), Field::real)?;
        let error = optional(one.at("error"), Field::real)?;
        let held_out = measured
            .zip(error)
            .map_or_else(String::new, |(measured, error)| format!("\nmeasured {measured:.4}, off by {error:+.4}"));
        let point = ChartPoint::new(k as f64, loss, format!("k = {k}\nfrom three points {loss:.4}{held_out}"));
        points.push(ChartPoint { is_hollow: true, ..point });
    }
    let ks: Vec<String> = ks.iter().map(u64::to_string).collect();
    let name = format!("from k = {} alone", ks.join(", "));
    Ok(Some(Series::new(name, "annealed", points).with_marks(Mark::Square)))
}
