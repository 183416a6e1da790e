//! The last step: checks that all shares are there and whole, and publishes.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use thalweg_checkpoint::{LOCK_NAME, OutputLayout, SideFileComparison, StagedCheckpoint};
use thalweg_storage::guard::{Place, look_at, remove_own_folder};
use thalweg_storage::publish::Replace;
use thalweg_storage::{Error as StorageError, FileKind, Lock};

use super::division::Division;
use super::names::{ShareFile, is_share_name, parse_name};
use super::record::ShareRecord;
use super::run::{one_by_one, read_units};
use super::stage::ShareScene;
use super::{Share, array_expression};
use crate::context::{RunContext, Stage};
use crate::engine::{Work, lay_out, merge_with_frames, note_output, open_aligned, units_of};
use crate::equal_sources::note_equal_sources;
use crate::error::Error;
use crate::execute_options::ExecuteOptions;
use crate::journal::{JOURNAL_NAME, Journal, UnitRecord};
use crate::merge_layout::MergeLayout;
use crate::open_source::OpenSource;
use crate::outcome::MergeOutcome;
use crate::output::{CommitInput, describe_output};
use crate::own::MERGED_FOLDER;
use crate::pending::{Pending, check_disk_space, is_published, refuse_sources};
use crate::plan::MergePlan;
use crate::sealed::{publish_sealed, remove_if_there, sealed_receipt};
use crate::stage::{StagedOutput, check_names, note_lack_of_locks, note_stages};

/// Shares that are not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingShares {
    /// How many shares there are.
    pub count: usize,
    /// The numbers of those that some output lacks, ascending.
    pub missing: Vec<usize>,
    /// The outputs that lack some, in the plan's order, with the numbers of theirs.
    pub outputs: Vec<(PathBuf, Vec<usize>)>,
}

impl MissingShares {
    /// The missing numbers as job schedulers take them.
    pub fn array_expression(&self) -> String {
        array_expression(&self.missing)
    }
}

/// What became of the last step.
#[derive(Debug)]
pub enum Finished {
    /// Every output is published.
    Merged {
        /// What became of each, in the plan's order.
        outcomes: Vec<MergeOutcome>,
        /// How many shares there were; `None` if every output was there before.
        count: Option<usize>,
    },
    /// Nothing is published, because shares are missing.
    Missing(MissingShares),
}

/// Publishes every output of `plan` whose shares are all done.
///
/// # Errors
/// Those of a merge; `NoShares`; `ForeignStage` and `ForeignShares` where the stage belongs to another plan; `Storage`
/// with `Locked` while a share is being done.
pub fn finish_shares(plan: &MergePlan, options: ExecuteOptions, run: &RunContext<'_>) -> Result<Finished, Error> {
    let plans = one_by_one(plan);
    let ready = plans.iter().map(|plan| Ready::find(plan, options, run)).collect::<Result<Vec<_>, _>>()?;
    let counts: BTreeSet<usize> =
        ready.iter().filter_map(|ready| ready.parts.as_ref()).map(|parts| parts.count).collect();
    if let Some(&count) = counts.last() {
        let lacking = |ready: &Ready<'_>| (ready.plan.outputs[0].path.clone(), ready.lacks(count, run));
        let outputs: Vec<(PathBuf, Vec<usize>)> =
            ready.iter().map(lacking).filter(|(_, missing)| !missing.is_empty()).collect();
        let missing: BTreeSet<usize> = outputs.iter().flat_map(|(_, missing)| missing.iter().copied()).collect();
        if !missing.is_empty() {
            return Ok(Finished::Missing(MissingShares { count, missing: missing.into_iter().collect(), outputs }));
        }
    }
    let outcomes = ready.into_iter().map(|ready| ready.finish(options, run)).collect::<Result<_, _>>()?;
    Ok(Finished::Merged { outcomes, count: counts.last().copied() })
}

/// An output of which all shares were looked for.
struct Ready<'a> {
    plan: &'a MergePlan,
    sources: Vec<OpenSource>,
    layout: MergeLayout,
    /// `None` if the output is there.
    parts: Option<Parts>,
    started: f64,
}

/// The shares of an output.
struct Parts {
    laid_out: Arc<OutputLayout>,
    count: usize,
    missing: Vec<usize>,
    found: Vec<UnitRecord>,
    seconds: f64,
    peak_memory_bytes: Option<u64>,
    lock: Lock,
}

impl<'a> Ready<'a> {
    fn find(plan: &'a MergePlan, options: ExecuteOptions, run: &RunContext<'_>) -> Result<Self, Error> {
        let started = run.host.elapsed_seconds();
        let (sources, layout) = open_aligned(plan, run)?;
        let output = &plan.outputs[0];
        refuse_sources(&*run.storage, std::slice::from_ref(output), &sources)?;
        let laid_out = Arc::new(lay_out(output, (&sources, &layout), run)?);
        let scene = ShareScene { output, sources: &sources, layout: &laid_out, run };
        let is_sealed = sealed_receipt(output, &*run.storage)?.is_some();
        if is_sealed {
            publish_sealed(output, options.replace, run)?;
        }
        let parts = match is_sealed || !has_shares(scene)? {
            true => None,
            false => Some(find_parts(scene, &layout, options)?),
        };
        Ok(Self { plan, sources, layout, parts, started })
    }

    /// The shares of `count` that are not done. An output that is neither there nor begun, while others of the plan
    /// are, lacks them all.
    fn lacks(&self, count: usize, run: &RunContext<'_>) -> Vec<usize> {
        let is_there = || matches!(is_published(&self.plan.outputs[0], Replace::Never, &*run.storage), Ok(true));
        match &self.parts {
            Some(parts) => parts.missing.clone(),
            None if is_there() => Vec::new(),
            None => (0..count).collect(),
        }
    }

    fn finish(self, options: ExecuteOptions, run: &RunContext<'_>) -> Result<MergeOutcome, Error> {
        let (sources, layout) = (&*self.sources, &self.layout);
        let output = &self.plan.outputs[0];
        let Some(parts) = self.parts else { return existing(self.plan, (sources, layout), options, run) };
        note_output(output, (sources, layout), &mut SideFileComparison::default(), run)?;
        let scene = ShareScene { output, sources, layout: &parts.laid_out, run };
        let stage = scene.stage();
        let known = scene.known_names()?;
        check_names(&*run.storage, &stage, &known)?;
        let files = (0..parts.laid_out.files().len()).collect();
        let staged = StagedOutput {
            plan: output,
            staged: StagedCheckpoint::open_together(&run.storage, &stage, Arc::clone(&parts.laid_out), files)?,
            journal: None,
            found: parts.found,
            plan_digest: output.digest()?,
            leftovers: known,
            _locks: vec![parts.lock],
        };
        let work = Work { is_own: None, compares_sources: false, heads: &[] };
        let kept = |_: &Error| note_stages(std::iter::once(stage.clone()), run);
        let merged =
            merge_with_frames(std::slice::from_ref(&staged), (sources, layout), &work, run).inspect_err(kept)?;
        run.progress.begin(Stage::Sync, 0);
        let input = CommitInput {
            merged: &merged,
            sources,
            layout,
            replace: options.replace,
            seconds: run.host.elapsed_seconds() - self.started + parts.seconds,
            peak_memory_bytes: parts.peak_memory_bytes,
        };
        let described = describe_output(0, staged, &input, run);
        let receipt = described.and_then(|output| output.publish(options.replace, run)).inspect_err(kept)?;
        note_equal_sources(std::slice::from_ref(&receipt), run);
        let bytes_resumed = merged.bytes_resumed;
        Ok(MergeOutcome { path: output.path.clone(), receipt, was_done: false, bytes_resumed, compared: None })
    }
}

fn has_shares(scene: ShareScene<'_>) -> Result<bool, Error> {
    match scene.run.storage.list_folder(&scene.stage()) {
        Err(error) if error.is_not_found() => Ok(false),
        entries => Ok(entries?.iter().any(|entry| is_share_name(&entry.name))),
    }
}

/// The output of a plan that has no shares: it is there, or nothing is.
fn existing(
    plan: &MergePlan,
    (sources, layout): (&[OpenSource], &MergeLayout),
    options: ExecuteOptions,
    run: &RunContext<'_>,
) -> Result<MergeOutcome, Error> {
    let as_it_is = ExecuteOptions::default();
    let pending = Pending::find(plan, (sources, layout), as_it_is, run)?;
    let stage = run.storage.stage_path(&plan.outputs[0].path);
    let outcome = pending.into_outcomes(Vec::new(), 0).pop().ok_or(Error::NoShares { stage: stage.clone() })?;
    if options.replace == Replace::Force && look_at(&*run.storage, &stage)? == Place::Folder {
        // The output that this one replaced, if a stop came before it was removed.
        match remove_own_folder(&*run.storage, &stage, MERGED_FOLDER) {
            Ok(()) | Err(StorageError::MayNotReplace { .. } | StorageError::NoPlace { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(outcome)
}

/// Looks for all shares, with the stage locked.
fn find_parts(scene: ShareScene<'_>, layout: &MergeLayout, options: ExecuteOptions) -> Result<Parts, Error> {
    let (storage, stage, run) = (&*scene.run.storage, scene.stage(), scene.run);
    if storage.file_info(&stage)?.kind != FileKind::Folder {
        return Err(Error::NoShares { stage });
    }
    if options.replace == Replace::Never {
        is_published(scene.output, options.replace, storage)?;
    }
    let lock = storage.lock(&stage.join(LOCK_NAME))?;
    note_lack_of_locks(&lock, &stage, run);
    let count = count_of_shares(scene)?;
    let key = scene.key(count)?;
    check_disk_space(std::iter::once((scene.output, &**scene.layout)), run)?;
    let units = units_of(&[scene.output], layout);
    let division = Division::new(&units, scene.layout, count);
    let (mut missing, mut found) = (Vec::new(), Vec::new());
    let (mut seconds, mut peak_memory_bytes) = (0_f64, None);
    for index in 0..count {
        let Some(share) = Share::new(index, count) else { continue };
        run.check_interrupt()?;
        let journal = ShareFile::Journal.path(&stage, share);
        if let Some(what) = Journal::foreign_by(storage, &journal, &key)? {
            return Err(Error::ForeignStage { path: stage, what });
        }
        let Some(record) = ShareRecord::read(storage, &stage, share, &key)? else {
            missing.push(index);
            continue;
        };
        let whole = read_units(scene, share, &division)?.filter(|units| record.agrees_with(units.values()));
        let files = division.files_of(index, &units, scene.layout);
        match whole {
            Some(units) if scene.has_files(&files)? => {
                found.extend(units.into_values());
                seconds = seconds.max(record.seconds);
                peak_memory_bytes = peak_memory_bytes.max(record.peak_memory_bytes);
            }
            _ => {
                // Without its record it is done again.
                remove_if_there(storage, &ShareFile::Record.path(&stage, share))?;
                run.progress.note(&format!("share {share} is damaged and must be redone"));
                missing.push(index);
            }
        }
    }
    let laid_out = Arc::clone(scene.layout);
    Ok(Parts { laid_out, count, missing, found, seconds, peak_memory_bytes, lock })
}

/// The number of shares that those in the stage are of.
fn count_of_shares(scene: ShareScene<'_>) -> Result<usize, Error> {
    let (storage, stage): (_, PathBuf) = (&*scene.run.storage, scene.stage());
    let entries = storage.list_folder(&stage)?;
    if entries.iter().any(|entry| entry.name == JOURNAL_NAME) {
        return Err(Error::ForeignStage { path: stage, what: "this or another plan by one process" });
    }
    let counts: BTreeSet<usize> =
        entries.iter().filter_map(|entry| parse_name(&entry.name)).map(|(_, share)| share.count()).collect();
    match (counts.first(), counts.len()) {
        (Some(&count), 1) => Ok(count),
        (None, _) => Err(Error::NoShares { stage }),
        _ => {
            let counts: Vec<String> = counts.iter().map(usize::to_string).collect();
            Err(Error::ForeignShares { path: stage, what: format!("{} processes", counts.join(" and by ")) })
        }
    }
}
