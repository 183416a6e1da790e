//! What is forgotten: each measure of recall over the steps of a run, by checkpoints and by merges that end at them, or
//! by policies of replay.

use thalweg_eval::recall::RecallMeasure;

use super::{Attachment, Picture, optional, real, shown};
use crate::document::Field;
use crate::forget::ReplayPlace;
use crate::svg::{Chart, ChartAxis, ChartPoint, Mark, SCHEME_CLASSES, Series};
use crate::text::show_whole;
use crate::values::unique;

/// Measures in the table.
const IN_TABLE: [RecallMeasure; 4] =
    [RecallMeasure::Ex, RecallMeasure::In, RecallMeasure::PerplexityOfEntities, RecallMeasure::Perplexity];

/// One model.
struct Model {
    arm: Option<String>,
    step: u64,
    tokens: Option<u64>,
    window: Option<String>,
    /// Value and standard error of each measure, in the order of [`RecallMeasure::ALL`].
    values: [Option<(f64, Option<f64>)>; 6],
    retention: Option<f64>,
    place: Option<ReplayPlace>,
}

pub(super) fn read_curve(document: &Field<'_>) -> Result<Attachment, String> {
    let n_kept = optional(document.at("n_kept"), Field::whole)?;
    let models = shown(&document.at("rows"))?.iter().map(model).collect::<Result<Vec<_>, _>>()?;
    let charts: Vec<Chart> =
        RecallMeasure::ALL.iter().enumerate().filter_map(|(i, measure)| chart_of(&models, i, *measure)).collect();
    let is_of_replay = models.iter().any(|model| model.place.is_some());
    let replay = if is_of_replay {
        " Lines join the scores midway between replays; hollow marks are right after a replay, where recall is at its \
         peak."
    } else {
        ""
    };
    let caption = format!(
        "Bars are standard errors. A merge is drawn at the step that it ends at. For perplexity lower is better, \
         for the other measures higher.{replay}"
    );
    let of = n_kept.map_or_else(String::new, |n| format!(" of {}", thalweg_tensor::counted(n, "entity")));
    let has_arms = models.iter().any(|model| model.arm.is_some());
    let rows = models.iter().map(|model| model.cells(has_arms)).collect();
    let columns = ["step", "model", "M_ex", "M_in", "PPL_ent", "PPL", "retention"];
    Ok(Attachment {
        title: "What is forgotten",
        lead: format!("Recall{of} of earlier data by checkpoints, and by merges that end at them."),
        columns: has_arms.then_some("arm").into_iter().chain(columns).collect(),
        rows,
        figures: if charts.is_empty() { Vec::new() } else { vec![(Picture::Charts(charts), caption)] },
    })
}

fn model(row: &Field<'_>) -> Result<Model, String> {
    let text = |key: &str| optional(row.at(key), |field| Ok(field.text()?.to_owned()));
    let mut values = [None; 6];
    for (measure, place) in RecallMeasure::ALL.iter().zip(&mut values) {
        let value = optional(row.at("values").at(measure.name()), |field| match measure.higher_is_better() {
            true => field.share(),
            false => field.within([1.0, f64::INFINITY], "a perplexity of at least 1"),
        })?;
        let error = optional(row.at("standard_errors").at(measure.name()), Field::size)?;
        *place = value.map(|value| (value, error));
    }
    let place = match text("replay")?.as_deref() {
        None => None,
        Some("midway") => Some(ReplayPlace::Midway),
        Some("after") => Some(ReplayPlace::After),
        Some(other) => return Err(format!("`replay` is `{}`", thalweg_tensor::display_name(other))),
    };
    Ok(Model {
        arm: text("arm")?,
        step: row.at("step").whole()?,
        tokens: optional(row.at("tokens"), Field::whole)?,
        window: text("window")?,
        values,
        retention: optional(row.at("retention"), Field::size)?,
        place,
    })
}

impl Model {
    fn cells(&self, has_arms: bool) -> Vec<String> {
        let place = self.place.map_or_else(String::new, |place| format!(", {place}"));
        let name = format!("{}{place}", self.window.as_deref().unwrap_or("checkpoint"));
        let value = |measure: &RecallMeasure| {
            let i = RecallMeasure::ALL.iter().position(|one| one == measure);
            real(i.and_then(|i| self.values[i]).map(|(value, _)| value))
        };
        let arm = has_arms.then(|| self.arm.clone().unwrap_or_default());
        let known = arm.into_iter().chain([self.step.to_string(), name]);
        known.chain(IN_TABLE.iter().map(value)).chain([real(self.retention)]).collect()
    }

    /// What its series is called.
    fn series(&self) -> String {
        match (&self.arm, &self.window) {
            (Some(arm), Some(window)) => format!("{arm}, {window}"),
            (Some(arm), None) => arm.clone(),
            (None, Some(window)) => window.clone(),
            (None, None) => "checkpoints".to_owned(),
        }
    }
}

/// The chart of one measure, if any model has it: against tokens where all models have them, else against steps.
fn chart_of(models: &[Model], i: usize, measure: RecallMeasure) -> Option<Chart> {
    let with_value = || models.iter().filter(|model| model.values[i].is_some());
    with_value().next()?;
    let has_tokens = models.iter().all(|model| model.tokens.is_some());
    let names = unique(with_value().map(Model::series));
    let series = names.iter().take(1 + SCHEME_CLASSES.len()).enumerate().map(|(n, name)| {
        let own = with_value().filter(|model| model.series() == *name);
        let mut points: Vec<ChartPoint> = own.filter_map(|model| point_of(model, (i, measure), has_tokens)).collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        let (mark, class) = match n.checked_sub(1) {
            None => (Mark::Circle, "raw"),
            Some(n) => ([Mark::Diamond, Mark::Triangle, Mark::Square, Mark::Flag][n % 4], SCHEME_CLASSES[n]),
        };
        Series::new(name.clone(), class, points).with_line().with_marks(mark)
    });
    let is_share = measure.higher_is_better();
    Some(Chart {
        label: format!("{} over the run", measure.title()),
        y_title: format!("{}, {} is better", measure.title(), if is_share { "more" } else { "less" }),
        x_title: if has_tokens { "training tokens" } else { "steps" },
        axis: if has_tokens { ChartAxis::Counts } else { ChartAxis::Plain },
        y_range: is_share.then_some([0.0, 1.0]),
        series: series.collect(),
        rules: Vec::new(),
    })
}

fn point_of(model: &Model, (i, measure): (usize, RecallMeasure), has_tokens: bool) -> Option<ChartPoint> {
    let (value, error) = model.values[i]?;
    let tokens = model.tokens.map_or_else(String::new, |tokens| format!(", {} tokens", show_whole(tokens)));
    let error_text = error.map_or_else(String::new, |error| format!(", standard error {error:.4}"));
    let title = format!("{}\nstep {}{tokens}\n{} {value:.4}{error_text}", model.series(), model.step, measure.title());
    let x = model.tokens.filter(|_| has_tokens).unwrap_or(model.step) as f64;
    let is_hollow = model.place == Some(ReplayPlace::After);
    Some(ChartPoint { is_hollow, ..ChartPoint::new(x, value, title).with_error(error) })
}
