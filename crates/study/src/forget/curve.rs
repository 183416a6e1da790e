//! Recall over the steps of a run: what checkpoints forget, and what merges that end at them keep.

use std::collections::BTreeMap;

use serde::Serialize;
use thalweg_eval::recall::RecallMeasure;

use super::score::{ForgetModelRow, ForgetRecord, PairedRow};
use crate::Error;

/// Recall by step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CurveTable {
    /// Entities that count.
    pub n_kept: usize,
    /// By step; a checkpoint before the merges that end at it.
    pub rows: Vec<CurveTableRow>,
    /// What the checkpoints lost from first to last, by measure.
    pub forgotten: Vec<PairedRow>,
    /// What merges keep, by window.
    pub merges: Vec<KeptRow>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CurveTableRow {
    /// The step that it ends at.
    pub step: u64,
    /// `SCHEME:N`; nothing for a checkpoint.
    pub window: Option<String>,
    /// Values by measure.
    pub values: BTreeMap<String, f64>,
    /// M_ex as a share of that of the first checkpoint.
    pub retention: Option<f64>,
    /// For a merge: the mean of its checkpoints' own values, by measure, where all of them were scored.
    pub mean_of_checkpoints: BTreeMap<String, f64>,
}

/// Merges of one window beside their newest checkpoints, over all ends.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeptRow {
    /// `SCHEME:N`.
    pub window: String,
    /// The measure.
    pub measure: String,
    /// Ends.
    pub n_ends: usize,
    /// Mean difference from the newest checkpoint.
    pub mean_difference: f64,
    /// Ends at which the 95 % interval lies above zero.
    pub n_above: usize,
    /// Ends at which it lies below zero.
    pub n_below: usize,
    /// Mean difference from the mean of the window's checkpoints, over the ends where all of them were scored.
    pub mean_over_checkpoints: Option<f64>,
}

/// The curve of a record.
///
/// # Errors
/// `Request` where the models have no steps.
pub fn forget_curve(record: &ForgetRecord) -> Result<CurveTable, Error> {
    let with_step: Vec<(u64, &ForgetModelRow)> =
        record.models.iter().filter_map(|model| Some((model.step?, model))).collect();
    if with_step.is_empty() {
        return Err(Error::request_with_hint(
            "no model of the record has a step, so there is no curve",
            "score a run folder: `thalweg forget score RUN --probes FILE -o scores.json`",
        ));
    }
    let raw: BTreeMap<u64, &ForgetModelRow> =
        with_step.iter().filter(|(_, model)| model.window.is_none()).copied().collect();
    let rows = with_step.iter().map(|(step, model)| CurveTableRow {
        step: *step,
        window: model.window.clone(),
        values: model.measures.iter().map(|row| (row.measure.clone(), row.value)).collect(),
        retention: model.retention,
        mean_of_checkpoints: mean_of_checkpoints(model, &raw),
    });
    let last = raw.last_key_value().map(|(_, model)| model.since_first.clone());
    Ok(CurveTable {
        n_kept: record.n_kept,
        rows: rows.collect(),
        forgotten: last.unwrap_or_default(),
        merges: kept_rows(&with_step, &raw),
    })
}

fn mean_of_checkpoints(model: &ForgetModelRow, raw: &BTreeMap<u64, &ForgetModelRow>) -> BTreeMap<String, f64> {
    if model.window.is_none() {
        return BTreeMap::new();
    }
    let members: Option<Vec<&ForgetModelRow>> = model.steps.iter().map(|step| raw.get(&(*step)?).copied()).collect();
    let Some(members) = members.filter(|members| !members.is_empty()) else { return BTreeMap::new() };
    let mean = |measure: &RecallMeasure| {
        let values: Option<Vec<f64>> = members.iter().map(|member| member.value(*measure)).collect();
        let values = values?;
        #[expect(clippy::cast_precision_loss, reason = "a count of checkpoints")]
        let n = values.len() as f64;
        Some((measure.name().to_owned(), values.iter().sum::<f64>() / n))
    };
    RecallMeasure::ALL.iter().filter_map(mean).collect()
}

fn kept_rows(models: &[(u64, &ForgetModelRow)], raw: &BTreeMap<u64, &ForgetModelRow>) -> Vec<KeptRow> {
    let mut windows: Vec<&String> = models.iter().filter_map(|(_, model)| model.window.as_ref()).collect();
    windows.sort();
    windows.dedup();
    let row = |window: &String, measure: RecallMeasure| {
        let mut row = KeptRow {
            window: window.clone(),
            measure: measure.name().to_owned(),
            n_ends: 0,
            mean_difference: 0.0,
            n_above: 0,
            n_below: 0,
            mean_over_checkpoints: None,
        };
        let (mut over_checkpoints, mut n_over) = (0.0, 0.0);
        for (_, model) in models.iter().filter(|(_, model)| model.window.as_ref() == Some(window)) {
            let Some(paired) = model.over_newest.iter().find(|paired| paired.measure == measure.name()) else {
                continue;
            };
            row.n_ends += 1;
            row.mean_difference += paired.difference;
            row.n_above += usize::from(paired.interval_95.is_some_and(|[low, _]| low > 0.0));
            row.n_below += usize::from(paired.interval_95.is_some_and(|[_, high]| high < 0.0));
            let members = mean_of_checkpoints(model, raw);
            if let Some((mean, value)) = members.get(measure.name()).zip(model.value(measure)) {
                over_checkpoints += value - mean;
                n_over += 1.0;
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a count of ends")]
        let n = row.n_ends as f64;
        row.mean_difference /= n;
        row.mean_over_checkpoints = (n_over > 0.0).then(|| over_checkpoints / n_over);
        (row.n_ends > 0).then_some(row)
    };
    windows.into_iter().flat_map(|window| RecallMeasure::ALL.map(|measure| row(window, measure))).flatten().collect()
}
