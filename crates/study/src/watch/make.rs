//! Merges that are missing, made in as few readings as memory and open files allow.
//!
//! One bad checkpoint must not keep the others from being merged: a reading that fails is split in two.

use std::collections::BTreeMap;
use std::path::PathBuf;

use thalweg_merge::context::RunContext;
use thalweg_merge::engine::{ExecuteOptions, MergeOutcome, execute_merge_with};
use thalweg_merge::head::WindowHead;
use thalweg_merge::plan::{MergePlan, OutputPlan};
use thalweg_merge::seen::SeenSource;

use crate::Error;

/// Files that the outputs of one reading may have open: a process may usually open 1024.
const MAX_OPEN_FILES: usize = 600;
/// An output's stage has a lock and a journal.
const FILES_OF_STAGE: usize = 2;

/// What became of some outputs.
#[derive(Debug, Default)]
pub(super) struct MadeMerges {
    /// Those that were made, each with its share of the bytes that were read for it and others together.
    pub(super) outcomes: Vec<(MergeOutcome, u64)>,
    /// Those that could not be made, by path, and why not.
    pub(super) failed: Vec<(PathBuf, Error)>,
    pub(super) bytes_read: u64,
}

/// What is known about the sources of outputs, so that less of them is read and hashed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KnownSources<'a> {
    /// Their digests are not taken again.
    pub(super) seen: &'a [SeenSource],
    /// Sums of them.
    pub(super) heads: &'a [WindowHead],
}

/// Outputs that may be made in one reading: the stages of all are open at once.
pub(super) fn n_together(files_per_output: usize) -> usize {
    (MAX_OPEN_FILES / (files_per_output + FILES_OF_STAGE)).max(1)
}

/// Makes `outputs`, the newest ends first.
///
/// # Errors
/// Those that concern all outputs: an interruption, a full disk, a bug.
pub(super) fn make_outputs(
    (outputs, known): (&[OutputPlan], KnownSources<'_>),
    n_together: usize,
    options: ExecuteOptions,
    cx: &RunContext<'_>,
    on_made: &mut dyn FnMut(&MergeOutcome) -> Result<(), Error>,
) -> Result<MadeMerges, Error> {
    let mut newest_first: Vec<&OutputPlan> = outputs.iter().collect();
    newest_first.sort_by_key(|output| std::cmp::Reverse(end_step(output)));
    let mut made = MadeMerges::default();
    for together in newest_first.chunks(n_together) {
        make_or_split((together, known), options, cx, &mut made, on_made)?;
    }
    Ok(made)
}

/// Step of the newest source.
pub(super) fn end_step(output: &OutputPlan) -> u64 {
    output.sources.iter().filter_map(|source| source.step).max().unwrap_or(0)
}

fn make_or_split(
    (together, known): (&[&OutputPlan], KnownSources<'_>),
    options: ExecuteOptions,
    cx: &RunContext<'_>,
    made: &mut MadeMerges,
    on_made: &mut dyn FnMut(&MergeOutcome) -> Result<(), Error>,
) -> Result<(), Error> {
    let is_used =
        |seen: &&SeenSource| together.iter().any(|output| output.sources.iter().any(|source| source.path == seen.path));
    let plan = MergePlan {
        seen_sources: known.seen.iter().filter(is_used).cloned().collect(),
        ..MergePlan::new(together.iter().map(|&output| output.clone()).collect())?
    };
    let error = match execute_merge_with(&plan, known.heads, options, cx) {
        Ok(outcomes) => {
            let n_bytes = outcomes.iter().map(|outcome| outcome.receipt.bytes_read).max().unwrap_or(0);
            made.bytes_read += n_bytes;
            for (outcome, share) in outcomes.into_iter().zip(shares(&plan.outputs, n_bytes)) {
                on_made(&outcome)?;
                made.outcomes.push((outcome, share));
            }
            return Ok(());
        }
        Err(error) => error,
    };
    if matches!(error, thalweg_merge::Error::SourcesChanged { .. }) {
        // Touched since the look at them, by a new hard link for example: read them all.
        return make_or_split((together, KnownSources::default()), options, cx, made, on_made);
    }
    if matches!(error, thalweg_merge::Error::HeadChanged { .. }) {
        return make_or_split((together, KnownSources { heads: &[], ..known }), options, cx, made, on_made);
    }
    if concerns_all(&error) {
        return Err(error.into());
    }
    if let [output] = together {
        made.failed.push((output.path.clone(), error.into()));
        return Ok(());
    }
    let (first, second) = together.split_at(together.len() / 2);
    make_or_split((first, known), options, cx, made, on_made)?;
    make_or_split((second, known), options, cx, made, on_made)
}

/// Whether another output would fail for the same reason.
fn concerns_all(error: &thalweg_merge::Error) -> bool {
    use thalweg_merge::Error as Merge;
    match error {
        Merge::Interrupted | Merge::DiskFull { .. } | Merge::WorkerDied | Merge::Bug { .. } => true,
        Merge::Storage(error) => error.is_disk_full(),
        _ => false,
    }
}

/// Whether a merge failed because the disk is full.
pub(super) fn is_disk_full(error: &Error) -> bool {
    match error {
        Error::Merge(thalweg_merge::Error::DiskFull { .. }) => true,
        Error::Merge(thalweg_merge::Error::Storage(error)) => error.is_disk_full(),
        _ => false,
    }
}

/// Each output's share of the bytes of one reading: a source's bytes are divided among the outputs that it is in. The
/// shares sum to `n_bytes`.
fn shares(outputs: &[OutputPlan], n_bytes: u64) -> Vec<u64> {
    let mut n_uses: BTreeMap<&PathBuf, f64> = BTreeMap::new();
    for source in outputs.iter().flat_map(|output| &output.sources) {
        *n_uses.entry(&source.path).or_default() += 1.0;
    }
    let weight = |output: &OutputPlan| -> f64 {
        output.sources.iter().filter_map(|source| n_uses.get(&source.path)).map(|n| 1.0 / n).sum()
    };
    let weights: Vec<f64> = outputs.iter().map(weight).collect();
    let total: f64 = weights.iter().sum();
    let (mut so_far, mut given) = (0.0, 0);
    let mut shares: Vec<u64> = Vec::with_capacity(outputs.len());
    for (i, weight) in weights.iter().enumerate() {
        so_far += weight;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let until = if i + 1 == weights.len() { n_bytes } else { (n_bytes as f64 * so_far / total) as u64 };
        let until = until.clamp(given, n_bytes);
        shares.push(until - given);
        given = until;
    }
    shares
}

#[cfg(test)]
mod tests {
    use thalweg_merge::Coefficients;
    use thalweg_merge::plan::SourceRef;

    use super::*;

    fn output(name: &str, steps: &[u64]) -> OutputPlan {
        let source = |&step: &u64| SourceRef { path: format!("run/{step}").into(), step: Some(step), tokens: None };
        let sources: Vec<SourceRef> = steps.iter().map(source).collect();
        let ones = vec![1; steps.len()];
        OutputPlan::new(name, "sma", &sources, &Coefficients::new(ones, steps.len() as i64).unwrap())
    }

    #[test]
    fn shares_of_a_reading_sum_to_its_bytes_and_follow_the_sources() {
        assert_eq!(shares(&[output("a", &[1, 2])], 1001), [1001]);
        assert_eq!(shares(&[output("a", &[1, 2]), output("b", &[1, 2])], 1000), [500, 500]);
        // Step 2 is in both, steps 1 and 3 in one each.
        assert_eq!(shares(&[output("a", &[1, 2]), output("b", &[2, 3])], 300), [150, 150]);
        assert_eq!(shares(&[output("a", &[1]), output("b", &[1, 2, 3])], 300), [50, 250]);
        let windows: Vec<OutputPlan> =
            (0..31).map(|i| output(&format!("{i}"), &(i..i + 10).collect::<Vec<_>>())).collect();
        assert_eq!(shares(&windows, 7_680_000_123).iter().sum::<u64>(), 7_680_000_123);
    }

    #[test]
    fn outputs_of_many_files_are_made_fewer_at_a_time() {
        assert_eq!((n_together(1), n_together(4), n_together(30), n_together(10_000)), (200, 100, 18, 1));
    }
}
