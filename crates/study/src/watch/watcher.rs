//! One look at a run: what is there, what is missing, and what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use thalweg_merge::context::RunContext;
use thalweg_merge::engine::{ExecuteOptions, MergeOutcome, PartialStage};
use thalweg_merge::made::{Likeness, Made, find_made};
use thalweg_merge::own::merges_in;
use thalweg_merge::plan::OutputPlan;
use thalweg_merge::prepare_head::HeadOutcome;
use thalweg_merge::receipt::{MergeReceipt, SourceReceipt};
use thalweg_merge::verify::read_receipt;
use thalweg_storage::guard::check_place;
use thalweg_storage::publish::Replace;
use thalweg_storage::{Lock, Storage};
use thalweg_trajectory::{Trajectory, check_outside_checkpoints};

use super::WatchForecast;
use super::checkpoints::{KnownCheckpoints, STATE_NAME, UnwrittenFile};
use super::events::publish_events;
use super::forecast::{ForecastJob, forecast_name};
use super::heads::{PreparedSums, drop_heads, open_heads, prepare_heads};
use super::hold::{HELD_NAME, hold_checkpoints, let_go};
use super::make::{KnownSources, MadeMerges, end_step, is_disk_full, make_outputs, n_together};
use super::output::WatchedOutput;
use super::record::{WatchEvent, WatchRecord, WatchRow};
use super::request::{WatchRequest, WatchedMerges};
use super::scan::{Scan, Scanner, Unsettled};
use super::score::{EndScores, ScoreJob, UnscoredModel};
use super::study::RunFacts;
use crate::Error;
use crate::forecast_items::publish_items;
use crate::record::SpikeRow;
use crate::request::Resolver;
use crate::sweep::SkippedEnds;
use crate::text::file_name;

/// Keeps two watchers from one folder.
const LOCK_NAME: &str = "watch.lock";
/// How often a run is looked at again at once because a checkpoint vanished or changed while it was merged.
const MAX_LOOKS: usize = 3;

/// A merge that could not be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedMerge {
    /// Where it would be.
    pub path: PathBuf,
    /// Why not.
    pub error: String,
    /// What would help.
    #[serde(skip)]
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
    /// Steps that the newest windows would hold, which the run no longer has: they reach further back instead.
    pub vanished_steps: Vec<u64>,
    /// Spikes of the training loss that no earlier look saw.
    pub new_spikes: Vec<SpikeRow>,
    /// Steps of the checkpoints that are proposed to resume from, if the run did not recover from a spike.
    pub recovery: Vec<u64>,
    /// Bytes of sources that were read.
    pub bytes_read: u64,
    /// Finished checkpoints.
    pub n_finished: usize,
    /// Checkpoints that cannot be used, such as one that is being saved.
    pub n_unusable: usize,
    /// The newest of them.
    pub newest_step: Option<u64>,
    /// Whether no checkpoint was being written.
    pub(super) is_settled: bool,
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
    /// What the last look found.
    last_outputs: Vec<WatchedOutput>,
    /// Finished checkpoints of the last look, by step.
    last_checkpoints: BTreeMap<u64, (PathBuf, String)>,
    /// Models that could not be scored, by name and digest: not tried again by this process.
    unscorable: BTreeSet<(String, Option<String>)>,
    /// Ends whose scores are late: others go first.
    late: BTreeSet<u64>,
    /// The run as it was at the last look, for forecasts.
    trajectory: Option<Arc<Trajectory>>,
    scanner: Scanner,
    run_facts: RunFacts,
    /// Links that later windows need.
    held: BTreeSet<PathBuf>,
    /// The newest windows, if those that the next checkpoint ends will have all their checkpoints but the oldest.
    next_windows: Vec<OutputPlan>,
    /// What was seen of the run and is still to be written.
    unwritten: Vec<UnwrittenFile>,
    /// What was said to be impossible to prepare.
    unprepared: Vec<PreparedSums>,
    _lock: Lock,
}

/// What is still to be scored at one end.
#[derive(Debug, Default)]
pub(super) struct WaitingEnd {
    outputs: Vec<WatchedOutput>,
    annealed: Vec<PathBuf>,
    is_forecast: bool,
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
    /// `Request` for windows that mean nothing, a folder that is the run's, or scores by another evaluator; `Storage`,
    /// `Locked` where another watcher is at work.
    pub fn open(
        request: WatchRequest,
        execute: ExecuteOptions,
        resolver: &'a Resolver<'a>,
        cx: &'a RunContext<'a>,
    ) -> Result<Self, Error> {
        request.parse_windows()?;
        let storage = &*cx.storage;
        // The folder itself must not be a checkpoint either.
        check_outside_checkpoints(&cx.storage, &request.folder.join(LOCK_NAME))?;
        let folder = storage.canonical_path(&request.folder)?;
        check_place(storage, &folder.join(LOCK_NAME))?;
        let run = storage.canonical_path(&request.run)?;
        if run == folder {
            return Err(Error::request_with_hint(
                format!("the merges would be written among the checkpoints of `{}`", request.run.display()),
                "choose another folder with `-o`: trainers count and delete what is beside their checkpoints",
            ));
        }
        storage.create_folder(&folder)?;
        let lock = storage.lock(&folder.join(LOCK_NAME)).map_err(|error| match error {
            thalweg_storage::Error::Locked { .. } => Error::request_with_hint(
                format!("another watcher is running in `{}`", folder.display()),
                "wait until it ends, or choose another folder with `-o`",
            ),
            error => error.into(),
        })?;
        if !lock.is_held() {
            resolver.note(format!(
                "the file system of `{}` has no locks: make sure that no other watcher writes there",
                folder.display()
            ));
        }
        let known = KnownCheckpoints::open(storage, &folder)?;
        let mut record = WatchRecord::open(storage, &folder)?;
        record.note().iter().for_each(|note| resolver.note(note));
        if !request.scored_on.is_empty() {
            record.check_suites(&request.scored_on)?;
        }
        recover_rows(&mut record, &folder, cx)?;
        record.publish(storage)?;
        publish_events(storage, &folder, record.rows())?;
        let run_facts = RunFacts::open(storage, &folder);
        let request = WatchRequest { folder, ..request };
        Ok(Self {
            request,
            execute,
            resolver,
            cx,
            known,
            record,
            current: BTreeMap::new(),
            failed: BTreeMap::new(),
            last_outputs: Vec::new(),
            last_checkpoints: BTreeMap::new(),
            unscorable: BTreeSet::new(),
            late: BTreeSet::new(),
            trajectory: None,
            scanner: Scanner::default(),
            run_facts,
            held: BTreeSet::new(),
            next_windows: Vec::new(),
            unwritten: Vec::new(),
            unprepared: Vec::new(),
            _lock: lock,
        })
    }

    /// The record so far.
    pub fn rows(&self) -> &[WatchRow] {
        self.record.rows()
    }

    /// The request, with the folder as it is.
    pub fn request(&self) -> &WatchRequest {
        &self.request
    }

    pub(super) fn context(&self) -> &'a RunContext<'a> {
        self.cx
    }

    /// The run's checkpoints as files, for a comparison with a later moment.
    pub(super) fn scan(&mut self) -> Result<Scan, Error> {
        let pattern = self.request.run_options.name_pattern()?;
        self.scanner.scan(&*self.cx.storage, &self.request.run, pattern.as_ref())
    }

    /// Looks at the run as it is now and makes every merge that is missing.
    ///
    /// A checkpoint that vanishes or changes while it is merged leads to another look.
    ///
    /// # Errors
    /// Those of opening the run; those that concern all merges, such as a full disk; `Interrupted`. What was merged
    /// until then is recorded.
    pub fn bring_up_to_date(&mut self) -> Result<WatchPass, Error> {
        self.make_settled(&Unsettled::default())
    }

    /// As [`bring_up_to_date`](Self::bring_up_to_date), without the checkpoints that are being written and the windows
    /// that end at them or later: made now, a later one would leave them out.
    pub(super) fn make_settled(&mut self, unsettled: &Unsettled) -> Result<WatchPass, Error> {
        let mut pass = self.look(unsettled)?;
        for _ in 1..MAX_LOOKS {
            if pass.failed.is_empty() {
                break;
            }
            let before = pass;
            pass = self.look(unsettled)?;
            pass.bytes_read += before.bytes_read;
            pass.new_spikes.splice(0..0, before.new_spikes);
            carry_bytes(&mut pass.outputs, &before.outputs);
            if pass.failed.iter().map(|one| &one.path).eq(before.failed.iter().map(|one| &one.path)) {
                break;
            }
        }
        Ok(pass)
    }

    fn look(&mut self, unsettled: &Unsettled) -> Result<WatchPass, Error> {
        let (trajectory, merges, first_unsettled) = self.find_merges(unsettled)?;
        let needed_steps = self.request.needed_steps(&trajectory, 0)?;
        let mut pass = WatchPass {
            vanished_steps: self.vanished_steps(&trajectory, &self.request.needed_steps(&trajectory, 1)?),
            needed_steps,
            n_finished: trajectory.finished().count(),
            n_unusable: trajectory.checkpoints().iter().filter(|one| !one.state.is_finished()).count(),
            newest_step: trajectory.finished().next_back().map(|newest| newest.step.0),
            skipped: merges.skipped,
            new_spikes: std::mem::take(&mut self.run_facts.new_spikes),
            recovery: self.run_facts.recovery.clone(),
            is_settled: first_unsettled.is_none(),
            ..WatchPass::default()
        };
        let mut plans: Vec<OutputPlan> = merges.trials.into_iter().map(|trial| trial.output).collect();
        if let Some(first) = first_unsettled {
            plans.retain(|plan| plan.sources.iter().filter_map(|source| source.step).all(|step| step < first));
        }
        let mut missing = Vec::new();
        let at = |one: &thalweg_trajectory::TrajectoryCheckpoint| (one.step.0, (one.path.clone(), one.name.clone()));
        self.last_checkpoints = trajectory.finished().map(at).collect();
        for plan in &plans {
            match self.need_of(plan)? {
                Need::Nothing => {}
                Need::Failed(failed) => pass.failed.push(failed),
                Need::Make => missing.push(plan.clone()),
            }
        }
        self.next_windows = self.request.next_windows(&plans, &trajectory);
        self.trajectory = self.request.forecast.is_some().then(|| Arc::new(trajectory));
        let made = match self.make(&missing) {
            // What is prepared only saves time.
            Err(error) if is_disk_full(&error) && drop_heads(&self.request.folder, &*self.cx.storage)? => {
                self.make(&missing)?
            }
            made => made?,
        };
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
        // Windows that a checkpoint in motion ends are not made yet.
        if pass.is_settled {
            self.let_go_of_held(&plans, &pass.failed)?;
        }
        for plan in &plans {
            if let Some((_, output)) = self.current.get_mut(&plan.path) {
                pass.outputs.push(output.clone());
                // The next look finds it.
                (output.bytes_read, output.was_done) = (0, true);
            }
        }
        self.last_outputs.clone_from(&pass.outputs);
        if !self.request.scored_on.is_empty() {
            let newest = pass.outputs.iter().map(|output| output.end_step).max();
            self.known.begin_scores_at(newest.unwrap_or(0));
            self.known.publish(&*self.cx.storage, &self.request.folder)?;
        }
        Ok(pass)
    }

    /// Sums what the next windows will have of the checkpoints that are there, if that was asked for, until the run
    /// gets another one. What cannot be prepared is told once.
    ///
    /// # Errors
    /// `Interrupted`; what reading the checkpoints gives, and `Storage`.
    pub fn prepare(&mut self) -> Result<Vec<PreparedSums>, Error> {
        let windows = std::mem::take(&mut self.next_windows);
        if !self.request.prepares {
            return Ok(Vec::new());
        }
        let seen = self.known.with_digests(&windows, self.cx);
        let mut found = prepare_heads((&windows, &seen), (&self.request.run, &self.request.folder), self.cx)?;
        found.retain(|one| !self.unprepared.contains(one));
        let is_impossible = |one: &&PreparedSums| matches!(one.outcome, HeadOutcome::Impossible(_));
        self.unprepared.extend(found.iter().filter(is_impossible).cloned());
        Ok(found)
    }

    /// Removes the links that neither later windows need nor merges that could not be made.
    fn let_go_of_held(&mut self, plans: &[OutputPlan], failed: &[FailedMerge]) -> Result<(), Error> {
        if !self.request.holds {
            return Ok(());
        }
        let is_failed = |plan: &&OutputPlan| failed.iter().any(|one| one.path == plan.path);
        // By name: a checkpoint that vanished from the run meanwhile has only its link left.
        let held = self.request.folder.join(HELD_NAME);
        let sources = plans.iter().filter(is_failed).flat_map(|plan| &plan.sources);
        let wanted = sources.filter_map(|source| source.path.file_name()).map(|name| held.join(name));
        let kept: BTreeSet<PathBuf> = self.held.iter().cloned().chain(wanted).collect();
        let_go(&kept, &self.request.folder, &*self.cx.storage)
    }

    /// Steps from the first of `window` on that the run had and has no longer.
    fn vanished_steps(&self, trajectory: &Trajectory, window: &[u64]) -> Vec<u64> {
        let Some(&first) = window.first() else { return Vec::new() };
        let has = |step: u64| trajectory.checkpoints().iter().any(|one| one.step.0 == step);
        self.known.steps_from(first).into_iter().filter(|&step| !has(step)).collect()
    }

    /// The run as it is now, without what a rollback left behind, the merges that it should have, and the step of the
    /// first checkpoint that has not settled.
    fn find_merges(&mut self, unsettled: &Unsettled) -> Result<(Trajectory, WatchedMerges, Option<u64>), Error> {
        let storage = &*self.cx.storage;
        let mut trajectory = self.resolver.open_run(&self.request.run, &self.request.run_options)?;
        self.check_is_own_run(&trajectory)?;
        let held = self.request.folder.join(HELD_NAME);
        if self.request.holds && storage.list_folder(&held).is_ok_and(|entries| !entries.is_empty()) {
            trajectory.adopt(&self.open_held(&held)?);
        }
        let reading = self.resolver.reading();
        let notes = self.known.see(&trajectory, reading, self.cx)?;
        notes.iter().for_each(|note| self.resolver.note(note));
        let (known, run) = (&self.known, &self.request.run);
        let moving = trajectory.checkpoints().iter().filter(|one| unsettled.contains(run, &one.path));
        let first_unsettled = moving.map(|one| one.step.0).min();
        trajectory.supersede(&|checkpoint| {
            let is_moving = unsettled.contains(run, &checkpoint.path);
            known.obstacle(&checkpoint.path).or_else(|| is_moving.then(|| "it is being written".to_owned()))
        });
        if self.request.holds {
            let needed = self.request.needed_steps(&trajectory, 1)?;
            self.held = hold_checkpoints((&trajectory, &needed), &self.request.folder, &mut self.known, storage)?;
        }
        if !self.unwritten.is_empty() {
            self.forget_written();
        }
        let (folder, command) = (&self.request.folder, &self.request.command);
        self.unwritten = self.known.take_file(folder)?.into_iter().collect();
        self.unwritten.extend(self.run_facts.take_file(folder, (&trajectory, &self.known), command)?);
        let merges = self.resolver.watched(&self.request, &trajectory)?;
        Ok((trajectory, merges, first_unsettled))
    }

    /// Opens the folder of held checkpoints as a run.
    fn open_held(&self, held: &Path) -> Result<Trajectory, Error> {
        let is_other = |error: &Error| {
            use thalweg_trajectory::Error as Opening;
            let Error::Trajectory(error) = error else { return false };
            matches!(error, Opening::NotARun { .. } | Opening::IsCheckpoint { .. } | Opening::NoMatch { .. })
        };
        match self.resolver.open_run(held, &self.request.run_options.without_log()) {
            Err(error) if is_other(&error) => Err(Error::request_with_hint(
                format!("`{}` is where `--hold` keeps checkpoints, but it holds something else", held.display()),
                "choose another folder with `-o`, or move its contents away",
            )),
            opened => opened,
        }
    }

    /// Refuses a folder that holds the merges of another run: they would be replaced.
    fn check_is_own_run(&self, trajectory: &Trajectory) -> Result<(), Error> {
        let (folder, run) = (&self.request.folder, self.cx.storage.canonical_path(&self.request.run)?);
        let Some(other) = self.known.other_run(trajectory, &[&run, folder]) else { return Ok(()) };
        Err(Error::request_with_hint(
            format!("`{}` holds the merges of another run, `{}`", folder.display(), other.display()),
            format!(
                "choose another folder with `-o`; if the run was moved, remove `{STATE_NAME}` there: merges of equal \
                 checkpoints are kept"
            ),
        ))
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
        let (receipt, likeness) = match find_made(plan, &*self.cx.storage)? {
            Made::Nothing | Made::Incomplete => return Ok(Need::Make),
            Made::Whole(receipt, likeness) => (receipt, likeness),
        };
        let is_current = match likeness {
            Likeness::OtherOptions if self.execute.replace == Replace::Force => false,
            Likeness::OtherOptions => {
                return Err(Error::request_with_hint(
                    format!("`{}` holds another merge", plan.path.display()),
                    "choose another folder with `-o`, give the options that made it, or replace it with `--force`",
                ));
            }
            Likeness::Same => {
                plan.sources.iter().zip(&receipt.sources).all(|(now, then)| self.known.is_source(&now.path, then))
            }
            Likeness::OtherWindow => self.is_of_pruned(&receipt),
        };
        if is_current {
            self.known.learn_digests(&receipt, self.cx);
            self.record.add(WatchRow::merged(file_name(&plan.path), &receipt));
            let output = watched(&plan.path, &receipt, (0, true));
            self.current.insert(plan.path.clone(), (identity, output));
            return Ok(Need::Nothing);
        }
        if likeness != Likeness::OtherOptions {
            self.resolver.note(format!("remaking `{}`: its checkpoints changed", plan.path.display()));
        }
        Ok(Need::Make)
    }

    /// Whether a merge has checkpoints that the run no longer has, and the others are as they were: the window that is
    /// left would be worse.
    fn is_of_pruned(&self, receipt: &MergeReceipt) -> bool {
        let now = |step: Option<u64>| step.and_then(|step| self.last_checkpoints.get(&step));
        let (kept, gone): (Vec<_>, Vec<_>) = receipt.sources.iter().partition(|source| now(source.step).is_some());
        let is_same =
            |source: &&SourceReceipt| now(source.step).is_some_and(|(path, _)| self.known.is_source(path, source));
        !gone.is_empty() && kept.iter().all(is_same)
    }

    /// Writes what was seen of the run.
    fn write_down(&mut self) -> Result<(), Error> {
        let written = write_files(&std::mem::take(&mut self.unwritten), &*self.cx.storage);
        written.inspect_err(|_| self.forget_written())
    }

    /// Writes all of it again next time.
    fn forget_written(&mut self) {
        self.known.forget_file();
        self.run_facts.forget_file();
    }

    /// Makes outputs and records each reading as it ends, also if a later one fails.
    fn make(&mut self, missing: &[OutputPlan]) -> Result<MadeMerges, Error> {
        let Some(newest) = missing.last().and_then(OutputPlan::newest_source) else {
            self.write_down()?;
            return Ok(MadeMerges::default());
        };
        let n_files = self.cx.pool.open(&newest.path, self.resolver.reading()).map_or(1, |one| one.files().len());
        // These paths are free, or hold a merge of ours to make again.
        // A merge may have been killed whose checkpoints were pruned since: now they are read from the links that hold
        // them, by another plan. The stages in this folder are all the watcher's.
        let partial = match self.execute.partial {
            PartialStage::Resume => PartialStage::ResumeIfSame,
            other => other,
        };
        let options = ExecuteOptions { replace: Replace::Force, partial };
        let (seen, cx) = (self.known.with_digests(missing, self.cx), self.cx);
        let heads = if self.request.prepares { open_heads(missing, &self.request.folder, cx) } else { Vec::new() };
        let known_sources = KnownSources { seen: &seen, heads: &heads };
        let (record, known) = (&mut self.record, &mut self.known);
        let on_made = &mut |outcome: &MergeOutcome| {
            record.add(WatchRow::merged(file_name(&outcome.path), &outcome.receipt));
            known.learn_digests(&outcome.receipt, cx);
            Ok(())
        };
        // Writing that waits for the medium, and the merges need not wait for it.
        let unwritten = std::mem::take(&mut self.unwritten);
        let (written, made) = std::thread::scope(|scope| {
            let write = || write_files(&unwritten, &*cx.storage);
            let writer = std::thread::Builder::new().spawn_scoped(scope, write);
            let made = make_outputs((missing, known_sources), n_together(n_files), options, cx, on_made);
            // If the system refuses a thread, it is written now.
            let died = || Err(thalweg_merge::Error::WorkerDied.into());
            let written = writer.map_or_else(|_| write(), |writer| writer.join().unwrap_or_else(|_| died()));
            (written, made)
        });
        written.inspect_err(|_| self.forget_written())?;
        self.record.publish(&*self.cx.storage)?;
        self.known.publish(&*self.cx.storage, &self.request.folder)?;
        made
    }

    /// The newest end with models that are not scored yet; `None` if all are, or are late. Ends that were there before
    /// the first watcher are left out, but for the newest.
    pub(super) fn next_scores(&self) -> Option<ScoreJob> {
        let waiting = self.waiting_for_scores();
        let (&end_step, waiting) = waiting.iter().rfind(|(end_step, _)| !self.late.contains(end_step))?;
        Some(self.score_job(end_step, waiting))
    }

    /// An end whose scores were late.
    pub(super) fn late_scores(&self, end_step: u64) -> Option<ScoreJob> {
        self.waiting_for_scores().get(&end_step).map(|waiting| self.score_job(end_step, waiting))
    }

    fn score_job(&self, end_step: u64, waiting: &WaitingEnd) -> ScoreJob {
        // It is scored with the merges that are compared with it.
        let raw = self.last_checkpoints.get(&end_step).filter(|_| !waiting.outputs.is_empty());
        let raw = raw.map(|(path, name)| (path.clone(), name.clone(), self.known.digest_of(path).cloned()));
        let with_steps = |output: &WatchedOutput| {
            let name = output.name();
            let of_merge = |row: &&WatchRow| row.event == WatchEvent::Merged && row.name == name;
            let row = self.record.rows().iter().rev().find(of_merge);
            (output.clone(), row.map(|row| row.steps.clone()).unwrap_or_default())
        };
        let outputs = waiting.outputs.iter().map(with_steps).collect();
        let forecast = self.request.forecast.as_ref().zip(self.trajectory.as_ref()).filter(|_| waiting.is_forecast);
        let forecast = forecast.map(|(ask, trajectory)| ForecastJob {
            ask: Arc::clone(ask),
            trajectory: Arc::clone(trajectory),
            digest: self.end_digest(end_step),
        });
        ScoreJob { end_step, raw, outputs, annealed: waiting.annealed.clone(), forecast }
    }

    pub(super) fn waiting_for_scores(&self) -> BTreeMap<u64, WaitingEnd> {
        let Some(first) = self.known.score_from_step else { return BTreeMap::new() };
        let scored = self.record.rows().iter().filter(|row| row.event == WatchEvent::Scored);
        let scored: BTreeSet<(&str, Option<&str>)> = scored.map(|row| (&*row.name, row.digest.as_deref())).collect();
        let mut waiting: BTreeMap<u64, WaitingEnd> = BTreeMap::new();
        for output in self.last_outputs.iter().filter(|output| output.end_step >= first) {
            let key = (output.name(), output.digest.clone());
            if !scored.contains(&(&key.0, key.1.as_deref())) && !self.unscorable.contains(&key) {
                waiting.entry(output.end_step).or_default().outputs.push(output.clone());
            }
        }
        if let Some(ask) = &self.request.forecast {
            self.add_forecasts_due(ask, &mut waiting);
        }
        waiting
    }

    /// Adds real anneals without scores, and forecasts: at ends that are scored now, at the newest end, and where an
    /// anneal was run.
    fn add_forecasts_due(&self, ask: &WatchForecast, waiting: &mut BTreeMap<u64, WaitingEnd>) {
        let is_known = |event: WatchEvent, name: &str, digest: Option<&String>| {
            self.unscorable.contains(&(name.to_owned(), digest.cloned()))
                || self.record.rows().iter().any(|row| {
                    row.event == event && row.name == name && (digest.is_none() || row.digest.as_ref() == digest)
                })
        };
        let mut ends: BTreeSet<u64> = waiting.keys().copied().collect();
        ends.extend(self.last_outputs.iter().map(|output| output.end_step).max());
        for (end_step, path) in &ask.truths {
            ends.insert(*end_step);
            if !is_known(WatchEvent::Scored, &path.display().to_string(), None) {
                waiting.entry(*end_step).or_default().annealed.push(path.clone());
            }
        }
        for end_step in ends.into_iter().filter(|end_step| self.last_checkpoints.contains_key(end_step)) {
            let digest = self.end_digest(end_step);
            if !is_known(WatchEvent::Forecast, &forecast_name(end_step), digest.as_ref()) {
                waiting.entry(end_step).or_default().is_forecast = true;
            }
        }
    }

    /// Digest of the checkpoint at an end, where known.
    fn end_digest(&self, end_step: u64) -> Option<String> {
        self.known.digest_of(&self.last_checkpoints.get(&end_step)?.0).cloned()
    }

    /// Adds scores to the record.
    pub(super) fn record_scores(&mut self, end_step: u64, found: &EndScores) -> Result<(), Error> {
        publish_items(&*self.cx.storage, &self.request.folder, (end_step, &found.items))?;
        found.rows.iter().for_each(|row| self.record.add(row.clone()));
        self.record.publish(&*self.cx.storage)?;
        publish_events(&*self.cx.storage, &self.request.folder, self.record.rows())
    }

    /// Notes that a model could not be scored.
    pub(super) fn give_up_scores(&mut self, failed: &UnscoredModel) {
        self.unscorable.insert((failed.name.clone(), failed.digest.clone()));
    }

    /// Notes that the scores of an end are late; whether that is new.
    pub(super) fn postpone_scores(&mut self, end_step: u64) -> bool {
        self.late.insert(end_step)
    }

    /// Notes that the scores of an end have come.
    pub(super) fn end_scores(&mut self, end_step: u64) {
        self.late.remove(&end_step);
    }

    /// Ends whose scores are late, the newest last.
    pub(super) fn late_ends(&self) -> Vec<u64> {
        self.late.iter().copied().collect()
    }

    fn identity_of(&self, plan: &OutputPlan) -> String {
        self.known.identity_of(plan.sources.iter().map(|source| &source.path))
    }
}

fn write_files(files: &[UnwrittenFile], storage: &dyn Storage) -> Result<(), Error> {
    files.iter().try_for_each(|file| file.publish(storage))
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

/// Adds the lines of merges that were published just before a kill.
fn recover_rows(record: &mut WatchRecord, folder: &Path, cx: &RunContext<'_>) -> Result<(), Error> {
    for path in merges_in(&*cx.storage, folder)? {
        let name = file_name(&path);
        if !record.rows().iter().any(|row| row.name == name) {
            record.add(WatchRow::merged(name, &read_receipt(&path, cx)?));
        }
    }
    Ok(())
}
