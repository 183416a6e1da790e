//! `execute_merge`: the whole story on one screen.
//!
//! The engine resolves nothing: the plan names sources, coefficients, element types and policies. Before
//! `commit_all` there is no output; what is staged is resumed by the next run of the same plan.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use thalweg_checkpoint::{Look, OutputLayout, SideFileComparison};
use thalweg_tensor::{TensorSink, TensorSource};

use crate::align::align_sources;
use crate::combination::Combination;
use crate::combine::{CombineJob, combine};
use crate::context::{RunContext, Stage};
use crate::equal_sources::note_equal_sources;
use crate::error::Error;
use crate::estimate::fit_merge;
pub use crate::execute_options::{ExecuteOptions, PartialStage};
use crate::frame::{CopyTime, copy_frames};
use crate::head::{HeadReader, WindowHead};
use crate::ledger::{Ledger, Merged};
use crate::merge_layout::MergeLayout;
use crate::open_source::OpenSource;
pub use crate::open_source::open_sources;
pub use crate::outcome::{Compared, ComparedBy, MergeOutcome};
use crate::output::{CommitInput, DescribedOutput, describe_output, output_layout};
use crate::output_format::{describe_format, find_kept_state};
use crate::pending::{Pending, check_disk_space};
use crate::plan::{DigestChoice, MergePlan, OutputDtype, OutputPlan};
use crate::reading::Reading;
use crate::receipt::MergeReceipt;
use crate::rule::{RuleInputs, prepare_rules};
use crate::seen::check_seen;
use crate::side_files::side_file_notes;
use crate::stage::{StagedOutput, give_up, note_stages, stage_outputs};
use crate::unit::UnitList;
use crate::unsound_copies::unsound_copies;
use crate::workers::wait_together;

/// Executes `plan`: reads each needed source byte once, publishes every output, returns their receipts.
///
/// # Errors
/// Whatever [`Error`] says; an output that was there before is then untouched.
pub fn execute_merge(
    plan: &MergePlan,
    options: ExecuteOptions,
    run: &RunContext<'_>,
) -> Result<Vec<MergeOutcome>, Error> {
    execute_merge_with(plan, &[], options, run)
}

/// As [`execute_merge`], with the same result, where sums that were prepared may be read instead of sources.
///
/// # Errors
/// As there; `HeadChanged` for a prepared sum that does not hold what was written.
pub fn execute_merge_with(
    plan: &MergePlan,
    heads: &[WindowHead],
    options: ExecuteOptions,
    run: &RunContext<'_>,
) -> Result<Vec<MergeOutcome>, Error> {
    let started = run.host.elapsed_seconds();
    let (sources, layout) = open_aligned(plan, run)?;
    let pending = Pending::find(plan, (&sources, &layout), options, run)?;
    let outputs: Vec<&OutputPlan> = pending.outputs().collect();
    let mut compared = SideFileComparison::default();
    outputs.iter().try_for_each(|output| note_output(output, (&sources, &layout), &mut compared, run))?;
    let layouts =
        outputs.iter().map(|output| lay_out(output, (&sources, &layout), run)).collect::<Result<Vec<_>, _>>()?;
    check_disk_space(outputs.iter().copied().zip(&layouts), run)?;
    let staged = stage_outputs(&outputs, layouts, &sources, options, run)?;
    let merged = match merge_with_frames(&staged, (&sources, &layout), &Work { heads, ..Work::ALL }, run) {
        Ok(merged) => merged,
        Err(error) => return Err(give_up(staged, error, run)),
    };
    run.progress.begin(Stage::Sync, 0);
    let seconds = run.host.elapsed_seconds() - started;
    let input = CommitInput {
        merged: &merged,
        sources: &sources,
        layout: &layout,
        replace: options.replace,
        seconds,
        peak_memory_bytes: None,
    };
    let fresh = commit_all(staged, &input, run)?;
    Ok(pending.into_outcomes(fresh, merged.bytes_resumed))
}

/// The sources of a plan, aligned: what can be refused without a look at the outputs is.
pub(crate) fn open_aligned(plan: &MergePlan, run: &RunContext<'_>) -> Result<(Vec<OpenSource>, MergeLayout), Error> {
    let sources = open_sources(plan, run)?;
    check_seen(plan, &sources, &*run.storage)?;
    let layout = align_sources(&sources, plan, &*run.storage)?;
    // A source that cannot deliver its tensors is found before anything is written.
    sources.iter().try_for_each(|source| source.checkpoint.look_inside(Look::EachTensor))?;
    layout.notes.iter().for_each(|note| run.progress.note(note));
    // So is a limit that is too small for the merge.
    fit_merge(plan.outputs.iter(), (&sources, &layout), 0, run)?;
    Ok((sources, layout))
}

/// Notes what an output has, and lacks, of its sources beside the merged tensors.
pub(crate) fn note_output(
    output: &OutputPlan,
    (sources, layout): (&[OpenSource], &MergeLayout),
    compared: &mut SideFileComparison,
    run: &RunContext<'_>,
) -> Result<(), Error> {
    unsound_copies(output, sources, layout, run)?.iter().for_each(|note| run.progress.note(note));
    side_file_notes(output, sources, compared, &*run.storage)?.iter().for_each(|note| run.progress.note(note));
    Ok(())
}

/// Where every byte of an output goes, with notes about its format.
pub(crate) fn lay_out(
    output: &OutputPlan,
    (sources, layout): (&[OpenSource], &MergeLayout),
    run: &RunContext<'_>,
) -> Result<OutputLayout, Error> {
    let kept = find_kept_state(output, sources, &run.storage)?;
    let laid_out = output_layout(output, layout, sources, &run.storage)?;
    describe_format(output, sources, kept.as_ref()).iter().for_each(|line| run.progress.note(line));
    Ok(laid_out)
}

/// Merges, and copies what belongs around the tensors, except for what [`describe_output`] writes last.
pub(crate) fn merge_with_frames(
    staged: &[StagedOutput<'_>],
    (sources, layout): (&[OpenSource], &MergeLayout),
    work: &Work<'_>,
    run: &RunContext<'_>,
) -> Result<Merged, Error> {
    let stages = || staged.iter().map(|output| &output.staged);
    copy_frames(stages(), CopyTime::Before, run)?;
    let merged = merge_into(staged, (sources, layout), work, run)?;
    copy_frames(stages(), CopyTime::After, run)?;
    Ok(merged)
}

/// Publishes the outputs. Those that cannot be stay staged: their work is done.
///
/// Most of this is waiting for the medium, so it is done for many outputs at once.
fn commit_all(
    staged: Vec<StagedOutput<'_>>,
    input: &CommitInput<'_>,
    run: &RunContext<'_>,
) -> Result<Vec<MergeReceipt>, Error> {
    let mut stages: VecDeque<PathBuf> = staged.iter().map(|output| output.staged.folder().to_owned()).collect();
    let mut outputs = staged.into_iter().enumerate();
    let mut fresh = Vec::new();
    while !stages.is_empty() {
        let (group, failure) = describe_some(&mut outputs, input, run);
        let (mut failed, mut left) = (None, Vec::new());
        let publish = |output: DescribedOutput<'_>| output.publish(input.replace, run);
        for outcome in wait_together(run, group, &publish) {
            let stage = stages.pop_front();
            match outcome {
                Some(Ok(receipt)) => fresh.push(receipt),
                Some(Err(error)) => {
                    failed = failed.or(Some(error));
                    left.extend(stage);
                }
                None => left.extend(stage),
            }
        }
        if let Some(error) = failed.or(failure) {
            note_stages(left.into_iter().chain(stages), run);
            return Err(error);
        }
    }
    note_equal_sources(&fresh, run);
    Ok(fresh)
}

/// Describes the next outputs, until one fails or what is to be written about them takes much memory.
fn describe_some<'a>(
    outputs: &mut dyn Iterator<Item = (usize, StagedOutput<'a>)>,
    input: &CommitInput<'_>,
    run: &RunContext<'_>,
) -> (Vec<DescribedOutput<'a>>, Option<Error>) {
    const ENOUGH_BYTES: usize = 4 << 20;
    let (mut group, mut n_bytes) = (Vec::new(), 0);
    while n_bytes < ENOUGH_BYTES
        && let Some((k, output)) = outputs.next()
    {
        match describe_output(k, output, input, run) {
            Ok(output) => {
                n_bytes += output.manifest_bytes();
                group.push(output);
            }
            Err(error) => return (group, Some(error)),
        }
    }
    (group, None)
}

/// Which units a process does, and how it takes up those that are done.
pub(crate) struct Work<'a> {
    /// Whether this process does the unit with this number; `None` if it does all.
    pub(crate) is_own: Option<&'a (dyn Fn(usize) -> bool + Sync)>,
    /// Whether finished units are compared with the sources. Shares compare sizes and times instead, or the last step
    /// would read all sources again.
    pub(crate) compares_sources: bool,
    /// Sums that were prepared.
    pub(crate) heads: &'a [WindowHead],
}

impl Work<'_> {
    /// Everything, by one process.
    pub(crate) const ALL: Self = Self { is_own: None, compares_sources: true, heads: &[] };

    fn is_own(&self, unit_idx: usize) -> bool {
        self.is_own.is_none_or(|is_own| is_own(unit_idx))
    }
}

/// The cut of the work on a plan's outputs.
pub(crate) fn units_of(outputs: &[&OutputPlan], layout: &MergeLayout) -> UnitList {
    let dtypes: Vec<OutputDtype> = outputs.iter().map(|output| output.dtype).collect();
    UnitList::of_merge(layout, &|_| true, &dtypes)
}

pub(crate) fn merge_into(
    staged: &[StagedOutput<'_>],
    (sources, layout): (&[OpenSource], &MergeLayout),
    work: &Work<'_>,
    run: &RunContext<'_>,
) -> Result<Merged, Error> {
    let plans: Vec<&OutputPlan> = staged.iter().map(|output| output.plan).collect();
    let mut combinations =
        plans.iter().map(|plan| Combination::of_plan(plan, sources)).collect::<Result<Vec<_>, _>>()?;
    let heads = find_heads(work.heads, (&plans, &combinations), (sources, layout), run);
    combinations.iter_mut().zip(&heads).for_each(|(combination, head)| combination.has_head = head.is_some());
    let sinks: Vec<&dyn TensorSink> = staged.iter().map(|output| &output.staged as &dyn TensorSink).collect();
    let digest = plans.first().map_or(DigestChoice::None, |plan| plan.digest);
    let units = units_of(&plans, layout);
    let views = layout.views(sources);
    let source_refs: Vec<&dyn TensorSource> = views.iter().map(|view| view as &dyn TensorSource).collect();
    let source_paths: Vec<PathBuf> = sources.iter().map(|source| source.path.clone()).collect();
    let dtype_of = |t: usize, k: usize| layout.output_dtype(t, plans[k].dtype);
    let ledger = Ledger::new(&layout.catalog, &units, digest.kind(), &dtype_of);
    let is_known = sources.iter().map(|source| source.known_digest.is_some()).collect();
    let reading = Reading { is_known, ..Reading::new(layout, &source_refs, &combinations, &|_| true) };
    let bytes_read = match work.is_own {
        None => reading.n_bytes(),
        Some(is_own) => reading.bytes_of_units(&units, is_own),
    };
    let piece = fit_merge(plans.iter().copied(), (sources, layout), bytes_read, run)?;
    let done = crate::resume::restore(staged, (&units, work.compares_sources), &reading, &ledger, run)?;
    let is_left = |unit_idx: usize| work.is_own(unit_idx) && !done.contains(unit_idx);
    // The rules of experts read the sources to be prepared.
    let n_left = (0..units.len()).filter(|&unit_idx| is_left(unit_idx)).count();
    let rules = match n_left > 0 {
        true => prepare_rules(&combinations, RuleInputs { layout, sources: &source_refs, piece }, run)?,
        false => combinations.iter().map(|_| None).collect(),
    };
    run.progress.begin(Stage::Merge, bytes_read);
    let bytes_resumed = reading.bytes_of_units(&units, &|unit_idx| done.contains(unit_idx));
    run.progress.resume(bytes_resumed);
    with_background_sync(staged, n_left, run, |wrote| {
        let job = CombineJob {
            layout,
            sources: &source_refs,
            source_paths: &source_paths,
            combinations: &combinations,
            rules: &rules,
            heads: &heads,
            sinks: &sinks,
            record: Some(digest),
            is_known: &reading.is_known,
            units: &units,
            is_done: &|unit_idx| !is_left(unit_idx),
            on_unit: &|unit_idx, results| {
                crate::resume::record(staged, unit_idx, &results)?;
                ledger.add(unit_idx, results);
                wrote();
                Ok(())
            },
            piece,
        };
        combine(&job, run)
    })?;
    sources.iter().try_for_each(|source| source.checkpoint.check_unchanged())?;
    for source in sources {
        let note = source.checkpoint.note_of_shards();
        note.iter()
            .for_each(|note| run.progress.note(&format!("`{}`: inside its shards, {note}", source.path.display())));
    }
    Ok(Merged { finished: ledger.finish(), read_by: reading.read_by, bytes_read, bytes_resumed })
}

/// After how many of `n_units` units of about 1 MiB of each output the medium is set to work: after at most so many, at
/// least as many, and of small outputs and of shares a part, so that it is at work before all is merged.
fn units_per_sync(n_units: usize, n_outputs: usize) -> usize {
    const MOST_UNITS: usize = 256;
    const LEAST_UNITS: usize = 16;
    const PARTS: usize = 4;
    let (n_outputs, n_in_all) = (n_outputs.max(1), n_units.saturating_mul(n_outputs));
    ((n_in_all / PARTS).clamp(LEAST_UNITS, MOST_UNITS) / n_outputs).max(1)
}

/// The prepared sum for each output that has one. None is used unless that leaves two sources unread: what a sum
/// takes in memory is less than their buffers.
fn find_heads<'a>(
    heads: &'a [WindowHead],
    (plans, combinations): (&[&OutputPlan], &[Combination]),
    (sources, layout): (&[OpenSource], &MergeLayout),
    run: &RunContext<'_>,
) -> Vec<Option<HeadReader<'a>>> {
    let find = |(plan, combination): (&&OutputPlan, &Combination)| {
        heads.iter().find_map(|head| head.for_output((plan, combination), (sources, layout), run))
    };
    let found: Vec<Option<HeadReader<'a>>> = plans.iter().zip(combinations).map(find).collect();
    let needed = found.iter().zip(combinations).flat_map(|(head, combination)| match head {
        Some(_) => std::slice::from_ref(&combination.newest_idx),
        None => combination.source_idxs.as_slice(),
    });
    let n_needed = needed.collect::<BTreeSet<_>>().len();
    if n_needed + 2 <= sources.len() { found } else { combinations.iter().map(|_| None).collect() }
}

/// Runs `work` while another thread brings what was written to the medium, so that the end need not wait for all of it.
///
/// `n_units` are those that `work` does: of a share, its own. `work` is given a function to call after each unit. An
/// error of the medium is reported to whichever call comes first, so those of the other thread are kept.
fn with_background_sync(
    staged: &[StagedOutput<'_>],
    n_units: usize,
    run: &RunContext<'_>,
    work: impl FnOnce(&(dyn Fn() + Sync)) -> Result<(), Error>,
) -> Result<(), Error> {
    let units_per_sync = units_per_sync(n_units, staged.len());
    let n_done = AtomicUsize::new(0);
    let (wake, woken) = std::sync::mpsc::sync_channel::<()>(1);
    std::thread::scope(|scope| {
        let sync = move || -> Result<(), Error> {
            while woken.recv().is_ok() {
                let synced = wait_together(run, staged.iter().collect(), &|output: &StagedOutput<'_>| {
                    output.staged.write_back().map_err(Error::from)
                });
                synced.into_iter().flatten().collect::<Result<(), Error>>()?;
            }
            Ok(())
        };
        // If the system refuses a thread, all is synced at the end.
        let syncer = std::thread::Builder::new().spawn_scoped(scope, sync).ok();
        let outcome = work(&|| {
            if (n_done.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(units_per_sync) {
                // A full channel means that a sync is due already; a closed one, that it failed and will be reported.
                let _ = wake.try_send(());
            }
        });
        drop(wake);
        let synced = syncer.map_or(Ok(()), |syncer| syncer.join().unwrap_or(Err(Error::WorkerDied)));
        outcome.and(synced)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_medium_is_set_to_work_several_times_whatever_the_size() {
        assert_eq!((units_per_sync(64, 1), units_per_sync(2_000, 1), units_per_sync(100_000, 1)), (16, 256, 256));
        assert_eq!((units_per_sync(64, 8), units_per_sync(64, 1000), units_per_sync(0, 0)), (16, 1, 16));
    }
}
