//! A sweep from its windows to its record.

use std::path::{Path, PathBuf};

use thalweg_merge::context::RunContext;
use thalweg_merge::engine::{ExecuteOptions, execute_merge};
use thalweg_merge::pending::check_places;
use thalweg_merge::plan::{MergePlan, OutputPlan};
use thalweg_trajectory::Trajectory;

use super::earlier::{EarlierSweep, find_earlier};
use super::{Sweep, SweepFindings, score_sweep};
use crate::Error;
use crate::begin_record::begin_record;
use crate::evaluator::{Evaluator, TaskScore};
use crate::record::StudyRecord;
use crate::text::file_name;
use crate::write_study::{check_study_folder, write_study};

/// Which merges of a scored sweep are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// All.
    All,
    /// The chosen one.
    #[default]
    Best,
    /// None.
    None,
}

/// How a sweep is scored and what is kept of it.
#[expect(missing_debug_implementations, reason = "callbacks have none")]
pub struct SweepOptions<'a> {
    /// What the record is called.
    pub title: String,
    /// The command or call that made it, for the record.
    pub command: String,
    /// The score that decides, a task or `task/measure`; the first one if left out.
    pub by: Option<String>,
    /// Which merges are written.
    pub keep: Keep,
    /// How they are written.
    pub execute: ExecuteOptions,
    /// Folder of the record, the page and the merges that are kept.
    pub folder: PathBuf,
    /// Called after each model with how many are done and its name.
    pub on_score: &'a mut dyn FnMut(usize, &str),
}

/// A sweep that is done.
#[derive(Debug, Clone)]
pub struct SweepOutcome {
    /// The record, as it is in the folder.
    pub record: StudyRecord,
    /// The scores, with their items.
    pub findings: SweepFindings,
    /// The score that decides, or that ranks where the suite may not decide; none without merges.
    pub decides: Option<TaskScore>,
    /// What the record held that this one replaced, if it was of other windows.
    pub earlier: Option<EarlierSweep>,
}

/// Checks that record, page and merges may be written, before anything is scored.
///
/// # Errors
/// `Storage` where something else is in the way.
pub fn check_sweep_places(sweep: &Sweep, keep: Keep, folder: &Path, cx: &RunContext<'_>) -> Result<(), Error> {
    check_study_folder(&cx.storage, folder)?;
    if keep != Keep::None {
        check_places(sweep.outputs(), &*cx.storage)?;
    }
    Ok(())
}

/// Scores the windows of a sweep, chooses the best, writes what is kept, and puts record and page into the folder.
///
/// A suite whose role is to report chooses nothing.
///
/// # Errors
/// `Storage` where something else is in the way, before anything is scored; what scoring and merging give.
pub fn run_sweep(
    sweep: &Sweep,
    trajectory: &Trajectory,
    evaluator: &mut dyn Evaluator,
    options: SweepOptions<'_>,
    cx: &RunContext<'_>,
) -> Result<SweepOutcome, Error> {
    let SweepOptions { title, command, by, keep, execute, folder, on_score } = options;
    check_sweep_places(sweep, keep, &folder, cx)?;
    let began = cx.host.elapsed_seconds();
    let findings = score_sweep(sweep, evaluator, on_score)?;
    let mut record = begin_record(title, command, trajectory);
    (record.raws, record.trials) = findings.rows()?;
    record.suites = evaluator.suites();
    let decides = match findings.trials.as_slice() {
        [] => None,
        _ => Some(findings.deciding(by.as_deref())?),
    };
    let may_choose = record.suites.first().is_none_or(|suite| suite.role.as_deref() != Some("report"));
    record.choice = decides.as_ref().filter(|_| may_choose).and_then(|decides| findings.choose(decides));
    record.cost = evaluator.cost();
    record.cost.seconds = cx.host.elapsed_seconds() - began;
    cx.storage.create_folder(&folder)?;
    write_kept(keep, &mut record, &findings, execute, cx)?;
    let earlier = find_earlier(&*cx.storage, &folder, &record);
    write_study(&*cx.storage, &folder, &record)?;
    Ok(SweepOutcome { record, findings, decides, earlier })
}

/// Writes the merges that are wanted, and says in the record where they are.
fn write_kept(
    keep: Keep,
    record: &mut StudyRecord,
    findings: &SweepFindings,
    execute: ExecuteOptions,
    cx: &RunContext<'_>,
) -> Result<(), Error> {
    let chosen = record.choice.as_ref().map(|choice| choice.trial.clone());
    let is_kept = |name: &str| match keep {
        Keep::All => true,
        Keep::Best => chosen.as_deref() == Some(name),
        Keep::None => false,
    };
    let kept: Vec<OutputPlan> =
        findings.trials.iter().filter(|one| is_kept(&one.trial.name)).map(|one| one.trial.output.clone()).collect();
    if kept.is_empty() {
        return Ok(());
    }
    for outcome in execute_merge(&MergePlan::new(kept)?, execute, cx)? {
        let name = file_name(&outcome.path);
        if let Some(row) = record.trials.iter_mut().find(|row| row.name == name) {
            row.path = Some(outcome.path.display().to_string());
        }
    }
    Ok(())
}
