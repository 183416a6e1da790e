//! Scores that a worker on another machine gives: requests and results are files in a folder that both see.
//!
//! The files are those of torchtitan's evaluation workers (its pull request 3968): a folder `step-N-...` for each
//! model, with `eval_request.json` and `checkpoint_manifest.json` from here, `eval_result.json` from the worker, and
//! `_TRAINING_COMPLETE` beside the folders once no request will follow. A request that was written is never written
//! again, so that a watcher that was killed asks for nothing twice.

mod merges;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Deserialize;
use serde_json::json;
use thalweg_checkpoint::ReadOptions;
use thalweg_eval::external::{ExternalResults, find_results, read_results_file};
use thalweg_merge::context::RunContext;
use thalweg_merge::plan::OutputPlan;
use thalweg_storage::Storage;
use thalweg_storage::guard::OwnKind;
use thalweg_storage::publish::publish_file;
use thalweg_study::evaluator::{Evaluator, ModelScores, ModelToScore, OnScore};
use thalweg_study::record::{CostRow, SuiteRow};
use thalweg_study::text::digest_digits;
use thalweg_tensor::counted;

use crate::error::Error;
use crate::eval_external::fill_command;
use crate::eval_results::tell_refused;
use crate::host::World;
use crate::options::Seconds;
use crate::scoring::command_row;

const REQUEST_NAME: &str = "eval_request.json";
const MANIFEST_NAME: &str = "checkpoint_manifest.json";
const RESULT_NAME: &str = "eval_result.json";
/// What the worker's command prints; it is there once the worker has begun.
const LOG_NAME: &str = "launch.log";
const COMPLETE_NAME: &str = "_TRAINING_COMPLETE";
/// What `{out}` stands for in a request's folder.
const OUT_NAME: &str = "results";
/// A result has three numbers.
const MAX_RESULT_BYTES: u64 = 1 << 20;
/// Seconds between two looks for a result: short at first, for workers that are quick.
const NAPS: [f64; 2] = [0.02, 1.0];

/// Checks that a command for a worker says which checkpoint it is to score, and where the results go.
///
/// # Errors
/// `Usage`.
pub(crate) fn check_request_command(command: &str) -> Result<(), Error> {
    let hint = "for example `--eval-command 'score.py {checkpoint} {out}'`; `{request}` is the folder of the request";
    let has = |mark: &str| command.contains(mark);
    let missing = if has("{checkpoint}") { "{out}" } else { "{checkpoint}" };
    if has("{checkpoint}") && (has("{out}") || has("{request}")) {
        return Ok(());
    }
    Err(Error::usage_with_hint(format!("the command has no `{missing}`"), hint))
}

/// Tells the workers that no request will follow: they end once they have answered those that are there.
///
/// # Errors
/// `Storage`.
pub(crate) fn tell_workers_to_end(folder: &Path, storage: &dyn Storage) -> Result<(), Error> {
    storage.create_folder(folder)?;
    Ok(publish_file(storage, &folder.join(COMPLETE_NAME), b"", OwnKind::in_own_folder("the end of the requests"))?)
}

/// Requests without a result yet, and when they were first waited for. Shared with the watcher's heartbeat.
#[derive(Debug, Default)]
pub(crate) struct OpenRequests {
    since: Mutex<BTreeMap<PathBuf, Instant>>,
}

impl OpenRequests {
    fn since(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What they wait for; `None` where there are none.
    pub(crate) fn describe(&self, storage: &dyn Storage) -> Option<String> {
        let since = self.since().clone();
        let longest = since.values().map(|since| since.elapsed().as_secs()).max()?;
        let n_begun = since.keys().filter(|folder| storage.file_info(&folder.join(LOG_NAME)).is_ok()).count();
        let folder = since.keys().next()?.parent()?.display();
        let requests = counted(since.len(), "request");
        Some(if n_begun == 0 {
            format!("{requests} in `{folder}` for {longest} s, but no worker has started")
        } else {
            format!("{requests} in `{folder}` for {longest} s, {n_begun} started")
        })
    }
}

/// What a worker writes when it is done.
#[derive(Debug, Deserialize)]
struct EvalResult {
    return_code: i64,
}

/// Asks a worker for scores.
pub(crate) struct RequestEvaluator<'a> {
    folder: PathBuf,
    command: String,
    limit: Option<Seconds>,
    run: &'a RunContext<'a>,
    world: &'a World<'a>,
    open: &'a OpenRequests,
    /// The folder of each model's request.
    asked: BTreeMap<PathBuf, PathBuf>,
    /// Requests whose time is over: they are looked at, but not waited for.
    late: BTreeSet<PathBuf>,
    cost: CostRow,
}

impl<'a> RequestEvaluator<'a> {
    /// `folder` holds the requests; it is made if it is missing.
    ///
    /// # Errors
    /// `Storage` where it cannot be made.
    pub(crate) fn new(
        (folder, command): (&Path, &str),
        limit: Option<Seconds>,
        open: &'a OpenRequests,
        (world, run): (&'a World<'a>, &'a RunContext<'a>),
    ) -> Result<Self, Error> {
        run.storage.create_folder(folder)?;
        Ok(Self {
            folder: run.storage.canonical_path(folder)?,
            command: command.to_owned(),
            limit,
            run,
            world,
            open,
            asked: BTreeMap::new(),
            late: BTreeSet::new(),
            cost: CostRow::default(),
        })
    }

    /// Writes the request for a model, unless it is there.
    fn ask(&self, model: &ModelToScore) -> Result<PathBuf, thalweg_study::Error> {
        let storage = &*self.run.storage;
        let folder = self.folder.join(self.name_of(model)?);
        let request = folder.join(REQUEST_NAME);
        if storage.file_info(&request).is_ok() {
            return Ok(folder);
        }
        storage.create_folder(&folder)?;
        let checkpoint = storage.canonical_path(&model.path)?;
        let out = folder.join(OUT_NAME);
        let paths = [("{checkpoint}", &*checkpoint), ("{out}", &*out), ("{request}", &*folder)];
        let manifest = json!({
            "evaluation_step": model.end_step, "source_steps": model.steps, "checkpoint_dir": checkpoint,
        });
        // A worker runs a list of words, without a shell.
        let words = json!({"command": ["sh", "-c", fill_command(&self.command, &paths)], "env": {}});
        // The request goes last: a worker may begin as soon as it is there.
        for (path, document) in [(folder.join(MANIFEST_NAME), manifest), (request, words)] {
            let text = format!("{document:#}\n");
            publish_file(storage, &path, text.as_bytes(), OwnKind::in_own_folder("a request for scores"))?;
        }
        Ok(folder)
    }

    /// `step-12000-sma-10-0123456789ab`: workers take the number after the first dash for the step. The digits tell
    /// apart models of one name, as a run that was rolled back has them, and commands.
    fn name_of(&self, model: &ModelToScore) -> Result<String, thalweg_study::Error> {
        let identity = match &model.digest {
            Some(digest) => digest.clone(),
            None => self.run.pool.open(&model.path, &ReadOptions::default())?.identity(),
        };
        let digits = digest_digits(&format!("{}\n{identity}", self.command), 12);
        let plain = |one: char| if one.is_ascii_alphanumeric() || one == '.' { one } else { '-' };
        let scheme: String = model.scheme.chars().map(plain).collect();
        let n = if model.steps.len() > 1 { format!("-{}", model.steps.len()) } else { String::new() };
        Ok(format!("step-{}-{scheme}{n}-{digits}", model.end_step))
    }

    /// The scores in a request's folder, or `None` where the worker is not done.
    fn answer(&self, folder: &Path) -> Result<Option<ExternalResults>, Error> {
        let storage = &*self.run.storage;
        let result_path = folder.join(RESULT_NAME);
        let bytes = match storage.read_file(&result_path, MAX_RESULT_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let again = format!("remove `{}` to have it redone", result_path.display());
        let result: EvalResult = match serde_json::from_slice(&bytes) {
            Ok(result) => result,
            // It is being written. Workers rename, but not all do.
            Err(error) if error.is_eof() => return Ok(None),
            Err(error) => {
                let what = format!("`{}` is not the result of a worker: {error}", result_path.display());
                return Err(Error::usage_with_hint(what, again));
            }
        };
        if result.return_code != 0 {
            let what =
                format!("the worker's command for `{}` ended with code {}", folder.display(), result.return_code);
            return Err(Error::usage_with_hint(what, format!("`{LOG_NAME}` there may say why; {again}")));
        }
        let file = self.find_scores(folder)?.ok_or_else(|| {
            let what = format!("the worker's command succeeded for `{}`, but wrote no results", folder.display());
            Error::usage_with_hint(what, format!("make it write to `{{out}}`; {again}"))
        })?;
        let results = read_results_file(storage, &file);
        results.map(Some).map_err(|error| Error::usage_with_hint(error.to_string(), again))
    }

    /// What the command wrote: to `{out}`, or as `results*.json` into the folder.
    fn find_scores(&self, folder: &Path) -> Result<Option<PathBuf>, Error> {
        let storage = &*self.run.storage;
        if let Some(file) = find_results(storage, &folder.join(OUT_NAME))? {
            return Ok(Some(file));
        }
        let is_results = |name: &str| name.starts_with(OUT_NAME) && name.ends_with(".json");
        let names = storage.list_folder(folder)?.into_iter().map(|entry| entry.name);
        Ok(names.filter(|name| is_results(name)).max().map(|name| folder.join(name)))
    }

    fn wait(&mut self, folder: &Path) -> Result<ExternalResults, thalweg_study::Error> {
        let (began, [mut nap, longest]) = (Instant::now(), NAPS);
        loop {
            self.run.check_interrupt()?;
            if let Some(results) = self.answer(folder).map_err(Error::of_evaluator)? {
                self.late.remove(folder);
                return Ok(results);
            }
            let is_over = self.limit.is_some_and(|Seconds(limit)| began.elapsed().as_secs_f64() >= limit);
            if is_over || self.late.contains(folder) {
                self.late.insert(folder.to_owned());
                return Err(thalweg_study::Error::EvaluatorLate { what: self.late_words(folder) });
            }
            self.world.sleep(nap);
            nap = (nap * 2.0).min(longest);
        }
    }

    fn late_words(&self, folder: &Path) -> String {
        let is_there = |name: &str| self.run.storage.file_info(&folder.join(name)).is_ok();
        let state = match (is_there(RESULT_NAME), is_there(LOG_NAME)) {
            (true, _) => "its result is incomplete",
            (false, true) => "a worker has started it but not finished",
            (false, false) => "no worker has started it",
        };
        let limit = self.limit.map_or(0.0, |Seconds(limit)| limit);
        format!("no scores for `{}` within {limit} s: {state}; they will be taken once they arrive", folder.display())
    }
}

impl Evaluator for RequestEvaluator<'_> {
    fn suites(&self) -> Vec<SuiteRow> {
        vec![command_row(&self.command)]
    }

    fn announce(&mut self, models: &[ModelToScore]) -> Result<(), thalweg_study::Error> {
        // A checkpoint that the trainer pruned meanwhile is not asked about.
        for model in models.iter().filter(|model| self.run.storage.file_info(&model.path).is_ok()) {
            let folder = match self.ask(model) {
                // A full disk, or a folder that is away for a moment: the next look tries again.
                Err(thalweg_study::Error::Storage(error)) => {
                    return Err(thalweg_study::Error::EvaluatorLate { what: error.to_string() });
                }
                asked => asked?,
            };
            self.note_open(&folder);
            self.asked.insert(model.path.clone(), folder);
        }
        Ok(())
    }

    fn score_checkpoint(&mut self, path: &Path) -> Result<ModelScores, thalweg_study::Error> {
        let Some(folder) = self.asked.get(path).cloned() else {
            self.run.storage.file_info(path)?;
            return Err(thalweg_study::Error::Bug { what: "scores are requested before they are waited for" });
        };
        self.take(path, &folder)
    }

    fn score_merges(
        &mut self,
        outputs: &[OutputPlan],
        on_score: OnScore<'_>,
    ) -> Result<Vec<ModelScores>, thalweg_study::Error> {
        let asked = self.ask_for_merges(outputs)?;
        let mut scored = Vec::new();
        for (i, (path, folder)) in asked.iter().enumerate() {
            let scores = self.take(path, folder)?;
            on_score(i, &scores);
            scored.push(scores);
        }
        self.remove_merges(&asked)?;
        Ok(scored)
    }

    fn cost(&self) -> CostRow {
        self.cost
    }
}

impl RequestEvaluator<'_> {
    /// Notes that a request is waited for.
    fn note_open(&self, folder: &Path) {
        self.open.since().entry(folder.to_owned()).or_insert_with(Instant::now);
    }

    /// The scores of the model at `path`, once the worker has written them.
    fn take(&mut self, path: &Path, folder: &Path) -> Result<ModelScores, thalweg_study::Error> {
        let results = self.wait(folder);
        if !results.as_ref().is_err_and(thalweg_study::Error::is_late) {
            self.open.since().remove(folder);
        }
        let results = results?;
        tell_refused(path, &results, self.world.messages);
        self.cost.n_evaluations += 1;
        Ok(ModelScores::from_external("command", results.scores))
    }
}
