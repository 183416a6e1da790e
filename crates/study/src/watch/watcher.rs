//! One look at a run: what is there, what is missing, and what became of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thalweg_merge::context::RunContext;
use thalweg_merge::engine::{ExecuteOptions, MergeOutcome};
use thalweg_merge::made::{Made, find_made};
use thalweg_merge::own::merges_in;
use thalweg_merge::plan::OutputPlan;
use thalweg_merge::receipt::MergeReceipt;
use thalweg_merge::verify::read_receipt;
use thalweg_storage::Lock;
use thalweg_storage::publish::Replace;
use thalweg_trajectory::Trajectory;

use super::checkpoints::KnownCheckpoints;
use super::make::{MadeMerges, end_step, make_outputs, n_together};
use super::record::{WatchRecord, WatchRow};
use super::request::{WatchRequest, WatchedMerges};
use crate::Error;
use crate::request::Resolver;
use crate::sweep::SkippedEnds;

/// Keeps two watchers from one folder.
const LOCK_NAME: &str = "watch.lock";
/// How often a run is looked at again at once because a checkpoint vanished or changed while it was merged.
const MAX_LOOKS: usize = 3;

/// A merge that is current.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedOutput {
    /// Its folder.
    pub path: PathBuf,
    /// Step of its newest source.
    pub end_step: u64,
    /// Its scheme.
    pub scheme: String,
    /// Checkpoints in its window.
    pub n_checkpoints: usize,
    /// Its share of the bytes that were read now; 0 if it was there already.
    pub bytes_read: u64,
    /// Whether it was there already.
    pub was_done: bool,
    /// Digest of its tensors, where digests are taken.
    pub digest: Option<String>,
}

/// A merge that could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedMerge {
    /// Where it would be.
    pub path: PathBuf,
    /// Why not.
    pub error: String,
    /// What would help.
    pub hint: Option<String>,
}

/// What a look found and did.
#[derive(Debug, Default)]
pub struct WatchPass {
    /// Merges that are current, by end, then in the order asked for.
    pub outputs: Vec<WatchedOutput>,
    /// Merges that could not be made.
    pub failed: Vec<FailedMerge>,
    /// Ends that have too few checkpoints before them.
    pub skipped: Vec<SkippedEnds>,
    /// Steps that the next windows still need: a trainer that prunes must keep them.
    pub needed_steps: Vec<u64>,
    /// Bytes of sources that were read.
    pub bytes_read: u64,
    /// Finished checkpoints.
    pub n_finished: usize,
    /// The newest of them.
    pub newest_step: Option<u64>,
}

/// Keeps the merges of a run current. Holds a lock on its folder.
#[derive(Debug)]
pub struct Watcher<'a> {
    request: WatchRequest,
    execute: ExecuteOptions,
    resolver: &'a Resolver<'a>,
    cx: &'a RunContext<'a>,
    known: KnownCheckpoints,
    record: WatchRecord,
    /// Merges that were found or made, with the identity of their sources then: not looked at again.
    current: BTreeMap<PathBuf, (String, WatchedOutput)>,
    /// Merges that failed, with the identity of their sources then: not tried again before it changes.
    failed: BTreeMap<PathBuf, (String, FailedMerge)>,
    _lock: Lock,
}

/// What is to be done about an output.
enum Need {
    Nothing,
    Make,
    Failed(FailedMerge),
}

impl<'a> Watcher<'a> {
    /// Opens the folder of a watcher, made if it is missing, and its record.
    ///
    /// # Errors
    /// `Request` for windows that mean nothing, or a folder that is the run's; `Storage`, `Locked` where another
    /// watcher is at work.
    pub fn open(
        request: WatchRequest,
        execute: ExecuteOptions,
        resolver: &'a Resolver<'a>,
        cx: &'a RunContext<'a>,
    ) -> Result<Self, Error> {
        request.parse_windows()?;
        let storage = &*cx.storage;
        let folder = storage.canonical_path(&request.folder)?;
        if storage.canonical_path(&request.run)? == folder {
            return Err(Error::request_with_hint(
                format!("the merges would be among the checkpoints of `{}`", request.run.display()),
                "choose another folder with `-o`: trainers count and delete what is beside their checkpoints",
            ));
        }
        storage.create_folder(&folder)?;
        let lock = storage.lock(&folder.join(LOCK_NAME)).map_err(|error| match error {
            thalweg_storage::Error::Locked { .. } => Error::request_with_hint(
                format!("another watcher is at work in `{}`", folder.display()),
                "wait until it has ended, or choose another folder with `-o`",
            ),
            error => error.into(),
        })?;
        if !lock.is_held() {
            resolver.note(format!(
                "the file system of `{}` has no locks: take care that no other watcher writes there",
                folder.display()
            ));
        }
        let known = KnownCheckpoints::open(storage, &folder)?;
        let mut record = WatchRecord::open(storage, &folder)?;
        recover_rows(&mut record, &folder, cx)?;
        record.publish(storage)?;
        let request = WatchRequest { folder, ..request };
        let (current, failed) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { request, execute, resolver, cx, known, record, current, failed, _lock: lock })
    }

    /// The record so far.
    pub fn rows(&self) -> &[WatchRow] {
        self.record.rows()
    }

    /// Looks at the run and makes every merge that is missing.
    ///
    /// A checkpoint that vanishes or changes while it is merged leads to another look.
    ///
    /// # Errors
    /// Those of opening the run; those that concern all merges, such as a full disk; `Interrupted`. What was merged
    /// until then is recorded.
    pub fn bring_up_to_date(&mut self) -> Result<WatchPass, Error> {
        let mut pass = self.look()?;
        for _ in 1..MAX_LOOKS {
            if pass.failed.is_empty() {
                break;
            }
            let before = pass;
            pass = self.look()?;
            pass.bytes_read += before.bytes_read;
            carry_bytes(&mut pass.outputs, &before.outputs);
            if pass.failed.iter().map(|one| &one.path).eq(before.failed.iter().map(|one| &one.path)) {
                break;
            }
        }
        Ok(pass)
    }

    fn look(&mut self) -> Result<WatchPass, Error> {
        let (trajectory, merges) = self.find_merges()?;
        let mut pass = WatchPass {
            needed_steps: self.request.needed_steps(&trajectory)?,
            n_finished: trajectory.finished().count(),
            newest_step: trajectory.finished().next_back().map(|newest| newest.step.0),
            skipped: merges.skipped,
            ..WatchPass::default()
        };
        let plans: Vec<OutputPlan> = merges.trials.into_iter().map(|trial| trial.output).collect();
        let mut missing = Vec::new();
        for plan in &plans {
            match self.need_of(plan)? {
                Need::Nothing => {}
                Need::Failed(failed) => pass.failed.push(failed),
                Need::Make => missing.push(plan.clone()),
            }
        }
        let made = self.make(&missing)?;
        pass.bytes_read = made.bytes_read;
        for (outcome, bytes_read) in made.outcomes {
            let identity = self.identity_of(&outcome.receipt.plan);
            let output = watched(&outcome.path, &outcome.receipt, (bytes_read, outcome.was_done));
            self.current.insert(outcome.path.clone(), (identity, output));
        }
        for (path, error) in made.failed {
            let failed = FailedMerge { path: path.clone(), error: error.to_string(), hint: error.hint() };
            if let Some(plan) = missing.iter().find(|plan| plan.path == path) {
                self.failed.insert(path, (self.identity_of(plan), failed.clone()));
            }
            pass.failed.push(failed);
        }
        for plan in &plans {
            if let Some((_, output)) = self.current.get_mut(&plan.path) {
                pass.outputs.push(output.clone());
                // The next look finds it.
                (output.bytes_read, output.was_done) = (0, true);
            }
        }
        Ok(pass)
    }

    /// The run as it is now, without what a rollback left behind, and the merges that it should have.
    fn find_merges(&mut self) -> Result<(Trajectory, WatchedMerges), Error> {
        let mut trajectory = self.resolver.open_run(&self.request.run, &self.request.run_options)?;
        let reading = self.resolver.reading();
        let notes = self.known.see(&trajectory, reading, self.cx)?;
        notes.iter().for_each(|note| self.resolver.note(note));
        self.known.publish(&*self.cx.storage, &self.request.folder)?;
        let known = &self.known;
        trajectory.supersede(&|checkpoint| known.obstacle(&checkpoint.path));
        let merges = self.resolver.watched(&self.request, &trajectory)?;
        Ok((trajectory, merges))
    }

    fn need_of(&mut self, plan: &OutputPlan) -> Result<Need, Error> {
        let identity = self.identity_of(plan);
        if self.current.get(&plan.path).is_some_and(|(known, _)| *known == identity) {
            return Ok(Need::Nothing);
        }
        if let Some((known, failed)) = self.failed.get(&plan.path)
            && *known == identity
        {
            return Ok(Need::Failed(failed.clone()));
        }
        self.current.remove(&plan.path);
        self.failed.remove(&plan.path);
        match find_made(plan, &*self.cx.storage)? {
            Made::Nothing | Made::Incomplete => Ok(Need::Make),
            Made::Other if self.execute.replace == Replace::Force => Ok(Need::Make),
            Made::Other => Err(Error::request_with_hint(
                format!("`{}` holds another merge", plan.path.display()),
                "choose another folder with `-o`, give the options that made it, or replace it with `--force`",
            )),
            Made::Same(receipt) if self.known.has_sources_of(&receipt) => {
                self.known.learn_digests(&receipt);
                let output = watched(&plan.path, &receipt, (0, true));
                self.record.add(WatchRow::merged(name_of(&plan.path), &receipt));
                self.current.insert(plan.path.clone(), (identity, output));
                Ok(Need::Nothing)
            }
            Made::Same(_) => {
                let (path, step) = (plan.path.display(), end_step(plan));
                self.resolver.note(format!("`{path}` is made again: checkpoints up to step {step} were written again"));
                Ok(Need::Make)
            }
        }
    }

    /// Makes outputs and records each reading as it ends, also if a later one fails.
    fn make(&mut self, missing: &[OutputPlan]) -> Result<MadeMerges, Error> {
        let Some(newest) = missing.last().and_then(OutputPlan::newest_source) else { return Ok(MadeMerges::default()) };
        let n_files = self.cx.pool.open(&newest.path, self.resolver.reading()).map_or(1, |one| one.files().len());
        // What is at these paths is nothing, or a merge of ours that is to be made again.
        let options = ExecuteOptions { replace: Replace::Force, ..self.execute };
        let (record, known) = (&mut self.record, &mut self.known);
        let on_made = &mut |outcome: &MergeOutcome| {
            record.add(WatchRow::merged(name_of(&outcome.path), &outcome.receipt));
            known.learn_digests(&outcome.receipt);
            Ok(())
        };
        let made = make_outputs(missing, n_together(n_files), options, self.cx, on_made);
        self.record.publish(&*self.cx.storage)?;
        self.known.publish(&*self.cx.storage, &self.request.folder)?;
        made
    }

    fn identity_of(&self, plan: &OutputPlan) -> String {
        self.known.identity_of(plan.sources.iter().map(|source| &source.path))
    }
}

/// The bytes that an earlier look read for outputs that were made then.
fn carry_bytes(outputs: &mut [WatchedOutput], before: &[WatchedOutput]) {
    for output in outputs.iter_mut().filter(|output| output.was_done) {
        if let Some(earlier) = before.iter().find(|earlier| earlier.path == output.path) {
            (output.bytes_read, output.was_done) = (earlier.bytes_read, earlier.was_done);
        }
    }
}

fn watched(path: &Path, receipt: &MergeReceipt, (bytes_read, was_done): (u64, bool)) -> WatchedOutput {
    WatchedOutput {
        path: path.to_owned(),
        end_step: end_step(&receipt.plan),
        scheme: receipt.plan.scheme.clone(),
        n_checkpoints: receipt.plan.sources.len(),
        bytes_read,
        was_done,
        digest: receipt.digest.clone(),
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Adds the lines of merges that were published just before a kill.
fn recover_rows(record: &mut WatchRecord, folder: &Path, cx: &RunContext<'_>) -> Result<(), Error> {
    for path in merges_in(&*cx.storage, folder)? {
        let name = name_of(&path);
        if !record.rows().iter().any(|row| row.name == name) {
            record.add(WatchRow::merged(name, &read_receipt(&path, cx)?));
        }
    }
    Ok(())
}
