//! One share: does its units, and leaves a record.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::Share;
use super::division::Division;
use super::names::ShareFile;
use super::record::{ShareRecord, ShareWork};
use super::stage::{Found, ShareScene};
use crate::context::{RunContext, Stage};
use crate::engine::{Work, lay_out, merge_into, open_aligned, units_of};
use crate::error::Error;
use crate::execute_options::ExecuteOptions;
use crate::journal::{Journal, JournalState, UnitRecord};
use crate::pending::{check_disk_space, is_published, refuse_sources};
use crate::plan::MergePlan;
use crate::stage::{StagedOutput, note_stages};
use crate::workers::wait_together;

/// What became of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareState {
    /// It was done now.
    Done,
    /// It was done before.
    Skipped,
    /// The output is there already.
    Published,
}

/// What became of a share of one output.
#[derive(Debug, Clone, Serialize)]
pub struct ShareOutcome {
    /// The output's folder.
    pub path: PathBuf,
    /// What became of the share.
    pub state: ShareState,
    /// Source bytes of its units.
    pub bytes_read: u64,
    /// Of these, those of units that an interrupted run had finished.
    pub bytes_resumed: u64,
    /// Bytes of the output that it wrote.
    pub bytes_written: u64,
    /// How long it took.
    pub seconds: f64,
    /// Shares without a record, once this one is done.
    #[serde(skip)]
    pub missing: Vec<usize>,
}

/// Does one share of every output of `plan`, and leaves a record of it in the output's stage.
///
/// Shares of the same plan may run at once. Nothing is published: [`super::finish_shares`] does that.
///
/// # Errors
/// Those of a merge; `ForeignStage` and `ForeignShares` where the stage belongs to another plan or another number of
/// shares; `Storage` with `Locked` while another process does the same share.
pub fn execute_share(
    plan: &MergePlan,
    share: Share,
    options: ExecuteOptions,
    run: &RunContext<'_>,
) -> Result<Vec<ShareOutcome>, Error> {
    one_by_one(plan).iter().map(|plan| share_of_output(plan, share, options, run)).collect()
}

/// A plan for each output: shares of several outputs are done one after the other.
pub(super) fn one_by_one(plan: &MergePlan) -> Vec<MergePlan> {
    plan.outputs.iter().map(|output| MergePlan { outputs: vec![output.clone()], ..plan.clone() }).collect()
}

fn share_of_output(
    plan: &MergePlan,
    share: Share,
    options: ExecuteOptions,
    run: &RunContext<'_>,
) -> Result<ShareOutcome, Error> {
    let started = run.host.elapsed_seconds();
    let (sources, layout) = open_aligned(plan, run)?;
    let output = &plan.outputs[0];
    let outcome = |state| ShareOutcome {
        path: output.path.clone(),
        state,
        bytes_read: 0,
        bytes_resumed: 0,
        bytes_written: 0,
        seconds: 0.0,
        missing: Vec::new(),
    };
    refuse_sources(&*run.storage, std::slice::from_ref(output), &sources)?;
    if is_published(output, options.replace, &*run.storage)? {
        return Ok(outcome(ShareState::Published));
    }
    let laid_out = Arc::new(lay_out(output, (&sources, &layout), run)?);
    check_disk_space(std::iter::once((output, &*laid_out)), run)?;
    let units = units_of(&[output], &layout);
    let division = Division::new(&units, &laid_out, share.count());
    let files = division.files_of(share.index(), &units, &laid_out);
    let scene = ShareScene { output, sources: &sources, layout: &laid_out, run };
    let staged = match scene.open(share, files, options)? {
        Found::Sealed => return Ok(outcome(ShareState::Skipped)),
        Found::Done(record) => {
            let outcome = outcome(ShareState::Skipped);
            let (bytes_read, bytes_written) = (record.bytes_read, record.bytes_written);
            return Ok(ShareOutcome {
                bytes_read,
                bytes_written,
                missing: scene.without_record(share.count())?,
                ..outcome
            });
        }
        Found::Open(staged) => *staged,
    };
    let is_own = |unit_idx: usize| division.share_of(unit_idx) == Some(share.index());
    let work = Work { is_own: Some(&is_own), compares_sources: false, heads: &[] };
    let merged = merge_into(std::slice::from_ref(&staged), (&sources, &layout), &work, run)
        .inspect_err(|error| note_kept(error, &staged, run))?;
    run.progress.begin(Stage::Sync, 0);
    sync_work(&staged, run)?;
    let entries = laid_out.catalog().entries();
    let parts = division.units_of(share.index()).flat_map(|unit_idx| units.parts(unit_idx));
    let bytes_written =
        parts.filter_map(|part| entries[part.tensor_idx].dtype.bytes_of(part.elements.end - part.elements.start)).sum();
    let done = ShareWork {
        bytes_read: merged.bytes_read,
        bytes_written,
        seconds: run.host.elapsed_seconds() - started,
        peak_memory_bytes: run.host.peak_memory_bytes(),
    };
    leave_record(scene, (share, &division), &staged, &done)?;
    Ok(ShareOutcome {
        bytes_read: merged.bytes_read,
        bytes_resumed: merged.bytes_resumed,
        bytes_written,
        seconds: run.host.elapsed_seconds() - started,
        missing: scene.without_record(share.count())?,
        ..outcome(ShareState::Done)
    })
}

/// Brings the work of a share, the names of its files and its journal to the medium, at once: each is a wait of
/// milliseconds, whatever the size of the share. No order is needed, because a later process trusts none of them alone.
fn sync_work(staged: &StagedOutput<'_>, run: &RunContext<'_>) -> Result<(), Error> {
    let sync_files = || staged.staged.sync().map_err(Error::from);
    let sync_names = || staged.staged.sync_names().map_err(Error::from);
    let sync_journal = || staged.journal.as_ref().map_or(Ok(()), Journal::sync);
    let acts: Vec<&(dyn Fn() -> Result<(), Error> + Sync)> = vec![&sync_files, &sync_names, &sync_journal];
    wait_together(run, acts, &|act| act()).into_iter().flatten().collect()
}

/// Other shares may have work in the stage, so it stays in any case.
fn note_kept(error: &Error, staged: &StagedOutput<'_>, run: &RunContext<'_>) {
    if error.can_be_resumed() {
        note_stages(std::iter::once(staged.staged.folder().to_owned()), run);
    }
}

/// Writes the record once what it speaks of is on the medium and the journal lists every unit of the share.
fn leave_record(
    scene: ShareScene<'_>,
    (share, division): (Share, &Division),
    staged: &StagedOutput<'_>,
    done: &ShareWork,
) -> Result<(), Error> {
    let (storage, key) = (&*scene.run.storage, scene.key(share.count())?);
    let Some(units) = read_units(scene, share, division)? else {
        return Err(Error::Bug { what: "a share's journal lists its units" });
    };
    let record = ShareRecord::new(share, (&staged.plan_digest, &key), units.values(), done, scene.run.tool);
    record.publish(storage, staged.staged.folder())?;
    Ok(())
}

/// The units of a share by its journal; `None` if one is missing.
pub(super) fn read_units(
    scene: ShareScene<'_>,
    share: Share,
    division: &Division,
) -> Result<Option<BTreeMap<u64, UnitRecord>>, Error> {
    let path = ShareFile::Journal.path(&scene.stage(), share);
    let (state, _) = Journal::open(&*scene.run.storage, &path, &scene.key(share.count())?)?;
    let JournalState::Ours(_, records) = state else { return Ok(None) };
    // The last record of a unit counts.
    let mut units: BTreeMap<u64, UnitRecord> = records.into_iter().map(|unit| (unit.unit_idx, unit)).collect();
    units.retain(|&unit_idx, _| {
        usize::try_from(unit_idx).is_ok_and(|unit_idx| division.share_of(unit_idx) == Some(share.index()))
    });
    Ok((units.len() == division.units_of(share.index()).count()).then_some(units))
}
