//! One more checkpoint in a mean: the merge of N + 1 from that of N, with the bytes of a merge from scratch.
//!
//! The old sources are read again, unless their exact sum was kept (`sums`).

use std::path::{Path, PathBuf};

use thalweg_checkpoint::ReadOptions;
use thalweg_merge::context::RunContext;
use thalweg_merge::plan::{MeanCheckpoint, MeanOfSums, MergePlan, OutputPlan, SourceRef, newest_of};
use thalweg_merge::receipt::{MergeReceipt, RECEIPT_NAME, SourceFile, SourceReceipt};
use thalweg_merge::verify::{digest_checkpoint, has_digest, read_merge, read_receipt};
use thalweg_tensor::digest::DigestKind;
use thalweg_tensor::{Digest, counted};
use thalweg_trajectory::{PathKind, Step, look_at_path};

use crate::Error;
use crate::request::{Resolver, RunOptions, note_equal_steps, note_unknown_step};
use crate::sums::{KeptSums, Term, checkpoints_of, describe, is_mean, like, refuse_sums, sum_of};
use crate::values::unique;

/// A mean with one more checkpoint.
#[derive(Debug, Clone)]
pub struct AppendRequest {
    /// The folder of the mean.
    pub old: PathBuf,
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// The folder of the mean's exact sums; without them the old sources are read again.
    pub sums: Option<PathBuf>,
    /// Where the new mean goes.
    pub out: PathBuf,
    /// Options about the checkpoint's run.
    pub run: RunOptions,
}

/// The plan of a mean with one more checkpoint.
///
/// # Errors
/// `Request` where `old` is not a mean or holds the checkpoint already, where its sources are gone or changed, where
/// the sums are of another mean, or where they do not hold what an output has of its newest checkpoint.
pub fn append_plan(request: &AppendRequest, resolver: &Resolver<'_>, cx: &RunContext<'_>) -> Result<MergePlan, Error> {
    let receipt = open_mean(&request.old, cx)?;
    if !is_mean(&receipt.plan) {
        let what =
            format!("the old merge was made by `{}` and is not a plain mean of checkpoints", receipt.plan.scheme);
        return Err(Error::request_with_hint(what, "append to a merge made by `sma`, or merge from scratch"));
    }
    let path = resolver.resolve_checkpoint(&request.checkpoint)?;
    let step = resolver.step_of(&path);
    let added = SourceRef { path, step, tokens: None };
    let known = checkpoints_of(&receipt);
    check_is_new((&known, &added), &receipt.plan.reading_options(), resolver, cx)?;
    note_run((&known, &added), &request.run, resolver, cx)?;
    let all: Vec<SourceRef> = refs(&known).chain([added.clone()]).collect();
    note_unknown_step(all.iter(), resolver);
    if let Some(merge) = read_merge(&*cx.storage, &added.path).filter(|merge| merge.copy_of.is_none()) {
        resolver.note(format!(
            "`{}` is itself a merge of {}, and counts as one checkpoint",
            added.path.display(),
            counted(merge.n_checkpoints, "checkpoint")
        ));
    }
    let mut output = match &request.sums {
        Some(folder) => from_sums(&receipt, added, folder, cx)?,
        None => from_sources(&receipt, added, cx)?,
    };
    output.path = resolver.output_folder(&request.out)?;
    Ok(MergePlan::new(vec![output])?)
}

/// The receipt of the merge to append to.
fn open_mean(folder: &Path, cx: &RunContext<'_>) -> Result<MergeReceipt, Error> {
    const HINT: &str = "name the folder that `merge` wrote with `-o`";
    if cx.storage.file_info(folder).is_err_and(|error| error.is_not_found()) {
        return Err(thalweg_trajectory::Error::NotFound { path: folder.to_owned() }.into());
    }
    match read_receipt(folder, cx) {
        Err(thalweg_merge::Error::NoReceipt { .. }) => Err(Error::request_with_hint(
            format!("`{}` is not a merge to append to: it has no `{RECEIPT_NAME}`", folder.display()),
            HINT,
        )),
        receipt => Ok(receipt?),
    }
}

/// Refuses a checkpoint that is in the mean already, by path or with the same bytes, and notes one of the same step.
fn check_is_new(
    (known, added): (&[MeanCheckpoint], &SourceRef),
    reading: &ReadOptions,
    resolver: &Resolver<'_>,
    cx: &RunContext<'_>,
) -> Result<(), Error> {
    const ONCE: &str = "append each checkpoint only once";
    let shown = added.path.display();
    if known.iter().any(|one| one.path == added.path) {
        return Err(Error::request_with_hint(format!("`{shown}` is already in the mean"), ONCE));
    }
    let digest_of = |path: &Path, kind: DigestKind| -> Result<String, Error> {
        Ok(digest_checkpoint(&*cx.pool.open(path, reading)?, kind, cx)?.to_string())
    };
    let refuse = |one: &MeanCheckpoint| {
        let what = format!("`{shown}` holds the same bytes as `{}`, which is already in the mean", one.path.display());
        Err(Error::request_with_hint(what, ONCE))
    };
    let kind_of = |one: &MeanCheckpoint| Some(one.digest.as_deref()?.parse::<Digest>().ok()?.kind());
    for kind in unique(known.iter().filter_map(kind_of)) {
        let digest = Some(digest_of(&added.path, kind)?);
        if let Some(same) = known.iter().find(|one| one.digest == digest) {
            return refuse(same);
        }
    }
    // Without digests the one at the same step is read again, if it still exists.
    let is_unknown = |one: &&MeanCheckpoint| one.digest.is_none() && one.step.is_some() && one.step == added.step;
    for one in known.iter().filter(is_unknown) {
        if cx.storage.file_info(&one.path).is_ok()
            && digest_of(&one.path, DigestKind::Xxh3)? == digest_of(&added.path, DigestKind::Xxh3)?
        {
            return refuse(one);
        }
    }
    note_equal_steps(refs(known).chain([added.clone()]).collect::<Vec<_>>().iter(), resolver);
    Ok(())
}

/// Notes what the run says about the window that the mean covers, if the checkpoint is in the folder of one.
fn note_run(
    (known, added): (&[MeanCheckpoint], &SourceRef),
    options: &RunOptions,
    resolver: &Resolver<'_>,
    cx: &RunContext<'_>,
) -> Result<(), Error> {
    let run = added.path.parent().filter(|folder| {
        let kind = look_at_path(&cx.storage, folder, None);
        kind.is_ok_and(|kind| matches!(kind, PathKind::Run | PathKind::RunWithCheckpoint))
    });
    let has_log = !options.log.is_empty();
    let trajectory = match run.map(|run| resolver.open_run(run, options)) {
        Some(Ok(trajectory)) => trajectory,
        // A log that was asked for is read, or the reason is told.
        Some(Err(error)) if has_log => return Err(error),
        None if has_log => {
            return Err(Error::request_with_hint(
                format!("`{}` is not in a run folder, so `--log` has no effect on it", added.path.display()),
                "leave out `--log`",
            ));
        }
        _ => return Ok(()),
    };
    let steps = || known.iter().filter_map(|one| one.step).chain(added.step);
    if let (Some(first), Some(newest)) = (steps().min(), steps().max()) {
        resolver.note_window(&trajectory, (Step(first), Step(newest)));
    }
    Ok(())
}

fn refs(known: &[MeanCheckpoint]) -> impl Iterator<Item = SourceRef> {
    known.iter().map(|one| SourceRef { path: one.path.clone(), step: one.step, tokens: one.tokens })
}

/// The plan over the old sources, which must be as they were.
fn from_sources(receipt: &MergeReceipt, added: SourceRef, cx: &RunContext<'_>) -> Result<OutputPlan, Error> {
    let old = &receipt.plan;
    if old.mean.is_some() {
        check_is_newest(receipt, &added)?;
    }
    for (i, source) in receipt.sources.iter().enumerate() {
        check_source(source, &old.reading_of(i), cx)?;
    }
    if old.mean.is_some() {
        let terms = old.sources.iter().map(Term::of).collect();
        return mean_of_terms(receipt, terms, added);
    }
    let mut sources: Vec<SourceRef> = old.checkpoints();
    sources.push(added);
    if sources.iter().all(|source| source.step.is_some()) {
        sources.sort_by_key(|source| source.step);
    }
    let mean = thalweg_merge::scheme::Scheme::Sma.coefficients(sources.len())?;
    let newest = newest_of(&sources);
    Ok(like(old, OutputPlan::new("", "sma", &sources, &mean), newest))
}

/// The plan of a mean over sums and single checkpoints, with one more.
fn mean_of_terms(receipt: &MergeReceipt, mut terms: Vec<Term>, added: SourceRef) -> Result<OutputPlan, Error> {
    let old = &receipt.plan;
    let mut checkpoints = checkpoints_of(receipt);
    checkpoints.push(describe(&added, None));
    terms.push(Term { source: added, sign: 1, is_sum: false });
    let divisor = i64::try_from(checkpoints.len()).unwrap_or(i64::MAX);
    let mut output = sum_of(&terms, divisor, (old, Path::new(""), "sma"), terms.len() - 1)?;
    let dtype = old.mean.as_ref().map_or(old.dtype, |mean| mean.dtype);
    output.mean = Some(MeanOfSums { checkpoints, dtype });
    Ok(output)
}

/// Refuses a checkpoint that is older than another one of the mean: the output has config, tokenizer, state and all
/// that is not averaged from the newest, and sums do not hold those.
fn check_is_newest(receipt: &MergeReceipt, added: &SourceRef) -> Result<(), Error> {
    let known = checkpoints_of(receipt);
    let all: Vec<SourceRef> = refs(&known).chain([added.clone()]).collect();
    let newest = &all[newest_of(&all)];
    if newest.path == added.path {
        return Ok(());
    }
    let label = |source: &SourceRef| {
        let step = source.step.map_or_else(String::new, |step| format!(" (step {step})"));
        format!("`{}`{step}", source.path.display())
    };
    let what = format!(
        "{} is older than {}, the newest in the mean, and the sums do not hold the files that an output takes from the newest",
        label(added),
        label(newest)
    );
    let hint = match receipt.plan.mean {
        None => "leave out `--sums`: the old checkpoints are then read again, and the newest of them stays the newest",
        Some(_) => "merge all of them from scratch, or append in the order of their steps",
    };
    Err(Error::request_with_hint(what, hint))
}

/// Refuses a source that is gone or holds other bytes than those that were merged.
fn check_source(source: &SourceReceipt, reading: &ReadOptions, cx: &RunContext<'_>) -> Result<(), Error> {
    let refuse = |what: &str| {
        Error::request_with_hint(
            format!("`{}`, which is in the old merge, {what}", source.path.display()),
            "append with `--sums DIR` if its sums were kept by `--keep-sums DIR`; else merge from scratch",
        )
    };
    if cx.storage.file_info(&source.path).is_err_and(|error| error.is_not_found()) {
        return Err(refuse("no longer exists"));
    }
    let checkpoint = cx.pool.open(&source.path, reading)?;
    let timeless = |file: &SourceFile| SourceFile { changed_ns: None, ..file.clone() };
    let now = checkpoint.files().iter().map(|file| timeless(&SourceFile::new(&file.name, &file.info)));
    if now.eq(source.files.iter().map(timeless)) {
        return Ok(());
    }
    let Some(digest) = &source.digest else { return Err(refuse("changed since")) };
    let is_same = has_digest(&*checkpoint, digest, cx)?;
    if is_same { Ok(()) } else { Err(refuse("changed since")) }
}

/// The plan over kept sums.
fn from_sums(
    receipt: &MergeReceipt,
    added: SourceRef,
    folder: &Path,
    cx: &RunContext<'_>,
) -> Result<OutputPlan, Error> {
    let sums = KeptSums::read(folder, &*cx.storage)?;
    if !sums.is_of(receipt) {
        let hint = match receipt.plan.mean {
            Some(_) => {
                "give the folder that `--keep-sums` wrote with this merge; if none was written, leave out \
                 `--sums`: the old checkpoints are then read again, and `--keep-sums` keeps new sums"
            }
            None => {
                "give the folder that `--keep-sums` wrote with this merge, or leave out `--sums`: the old checkpoints \
                 are then read again"
            }
        };
        return Err(refuse_sums(folder, "these are the sums of a different merge", hint));
    }
    check_is_newest(receipt, &added)?;
    let folder = cx.storage.canonical_path(folder)?;
    let planes = sums.checked_planes(&folder, cx)?.into_iter().zip([1, -1]);
    let terms = planes.map(|(path, sign)| Term::plane(path, sign)).collect();
    let mut output = mean_of_terms(receipt, terms, added)?;
    output.dtype = sums.dtype;
    Ok(output)
}
