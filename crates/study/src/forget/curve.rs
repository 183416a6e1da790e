//! Recall over the steps of a run: what checkpoints forget, and what merges that end at them keep.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use thalweg_eval::recall::RecallMeasure;
use thalweg_tensor::display_name;

use super::schedule::{ReplayPlace, ReplaySteps};
use super::score::{ForgetModelRow, ForgetRecord, PairedRow};
use crate::Error;
use crate::values::mean;

/// Scores of one run, or of one policy of replay beside others.
#[derive(Debug, Clone, PartialEq)]
pub struct ForgetArm {
    /// What tables call it, where there are several.
    pub name: Option<String>,
    /// The file of its scores.
    pub path: PathBuf,
    /// Its scores.
    pub record: ForgetRecord,
    /// The schedule of its replay.
    pub schedule: Option<ReplaySteps>,
}

/// Recall by step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CurveTable {
    /// Entities that count.
    pub n_kept: usize,
    /// By arm and step; a checkpoint before the merges that end at it.
    pub rows: Vec<CurveTableRow>,
    /// What the checkpoints lost from first to last, by measure.
    pub forgotten: Vec<ForgottenRow>,
    /// What merges keep, by window.
    pub merges: Vec<KeptRow>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CurveTableRow {
    /// The arm, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm: Option<String>,
    /// The step that it ends at.
    pub step: u64,
    /// Training tokens of that step, where they are known.
    pub tokens: Option<u64>,
    /// `SCHEME:N`; nothing for a checkpoint.
    pub window: Option<String>,
    /// Values by measure.
    pub values: BTreeMap<String, f64>,
    /// Their standard errors over items.
    pub standard_errors: BTreeMap<String, f64>,
    /// M_ex as a share of that of the first checkpoint.
    pub retention: Option<f64>,
    /// Where it is within the schedule of replay, where one is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayPlace>,
    /// For a merge: the mean of its checkpoints' own values, by measure, where all of them were scored.
    pub mean_of_checkpoints: BTreeMap<String, f64>,
}

/// What the checkpoints of an arm lost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ForgottenRow {
    /// The arm, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm: Option<String>,
    /// Last checkpoint minus first.
    #[serde(flatten)]
    pub change: PairedRow,
}

/// Merges of one window beside their newest checkpoints, over all ends.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct KeptRow {
    /// The arm, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm: Option<String>,
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

/// The curve of a record, or of several over the same probes.
///
/// # Errors
/// `Request` where models have no steps, and where arms count other entities.
pub fn forget_curve(arms: &[ForgetArm]) -> Result<CurveTable, Error> {
    let Some(first) = arms.first() else { return Err(Error::request("there are no scores")) };
    let mut table =
        CurveTable { n_kept: first.record.n_kept, rows: Vec::new(), forgotten: Vec::new(), merges: Vec::new() };
    for arm in arms {
        check_alike(first, arm)?;
        add_arm(arm, &mut table)?;
    }
    Ok(table)
}

/// Refuses arms whose recall is that of other entities, or of other prompts.
fn check_alike(first: &ForgetArm, other: &ForgetArm) -> Result<(), Error> {
    let (a, b) = (&first.record, &other.record);
    let (of_a, of_b) = (first.path.display(), other.path.display());
    let tokens = |record: &ForgetRecord| [record.prompt_tokens, record.decode_tokens];
    let why = if a.probes_digest != b.probes_digest {
        format!("`{of_a}` and `{of_b}` were scored on different probes")
    } else if a.n_kept != b.n_kept {
        format!("`{of_a}` counts {} entities, but `{of_b}` counts {}", a.n_kept, b.n_kept)
    } else if tokens(a) != tokens(b) {
        let ([prompt_a, decoded_a], [prompt_b, decoded_b]) = (tokens(a), tokens(b));
        format!(
            "`{of_a}` has prompts of {prompt_a} tokens with {decoded_a} decoded, but `{of_b}` of {prompt_b} with {decoded_b}"
        )
    } else {
        return Ok(());
    };
    Err(Error::request_with_hint(why, "score all with the same `--probes`, `--recalled-by` and numbers of tokens"))
}

fn add_arm(arm: &ForgetArm, table: &mut CurveTable) -> Result<(), Error> {
    let with_step: Vec<(u64, &ForgetModelRow)> =
        arm.record.models.iter().filter_map(|model| Some((model.step?, model))).collect();
    if with_step.is_empty() {
        let whose = arm.name.as_ref().map_or_else(String::new, |name| format!(" of `{}`", display_name(name)));
        return Err(Error::request_with_hint(
            format!("no model of the record{whose} has a step, so there is no curve"),
            "score a run folder: `thalweg forget score RUN --probes FILE -o scores.json`",
        ));
    }
    let raw: BTreeMap<u64, &ForgetModelRow> =
        with_step.iter().filter(|(_, model)| model.window.is_none()).copied().collect();
    table.rows.extend(with_step.iter().map(|(step, model)| CurveTableRow {
        arm: arm.name.clone(),
        step: *step,
        tokens: model.tokens,
        window: model.window.clone(),
        values: model.measures.iter().map(|row| (row.measure.clone(), row.value)).collect(),
        standard_errors:
            model.measures.iter().filter_map(|row| Some((row.measure.clone(), row.standard_error?))).collect(),
        retention: model.retention,
        replay: arm.schedule.as_ref().and_then(|schedule| schedule.place(*step)),
        mean_of_checkpoints: mean_of_checkpoints(model, &raw),
    }));
    let last = raw.last_key_value().map(|(_, model)| model.since_first.clone()).unwrap_or_default();
    table.forgotten.extend(last.into_iter().map(|change| ForgottenRow { arm: arm.name.clone(), change }));
    table.merges.extend(kept_rows(arm.name.as_ref(), &with_step, &raw));
    Ok(())
}

fn mean_of_checkpoints(model: &ForgetModelRow, raw: &BTreeMap<u64, &ForgetModelRow>) -> BTreeMap<String, f64> {
    if model.window.is_none() {
        return BTreeMap::new();
    }
    let members: Option<Vec<&ForgetModelRow>> = model.steps.iter().map(|step| raw.get(&(*step)?).copied()).collect();
    let Some(members) = members.filter(|members| !members.is_empty()) else { return BTreeMap::new() };
    let of_measure = |measure: &RecallMeasure| {
        let values: Option<Vec<f64>> = members.iter().map(|member| member.value(*measure)).collect();
        Some((measure.name().to_owned(), mean(&values?)))
    };
    RecallMeasure::ALL.iter().filter_map(of_measure).collect()
}

fn kept_rows(
    arm: Option<&String>,
    models: &[(u64, &ForgetModelRow)],
    raw: &BTreeMap<u64, &ForgetModelRow>,
) -> Vec<KeptRow> {
    let mut windows: Vec<&String> = models.iter().filter_map(|(_, model)| model.window.as_ref()).collect();
    windows.sort();
    windows.dedup();
    let row = |window: &String, measure: RecallMeasure| {
        let mut row = KeptRow {
            arm: arm.cloned(),
            window: window.clone(),
            measure: measure.name().to_owned(),
            ..KeptRow::default()
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
        let n = row.n_ends as f64;
        row.mean_difference /= n;
        row.mean_over_checkpoints = (n_over > 0.0).then(|| over_checkpoints / n_over);
        (row.n_ends > 0).then_some(row)
    };
    windows.into_iter().flat_map(|window| RecallMeasure::ALL.map(|measure| row(window, measure))).flatten().collect()
}
