//! A watcher that keeps looking: what it does between two looks, and what it says.
//!
//! It ends only when a stop is asked for. A fault of the run, or of the disk, is said once and tried again.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use thalweg_merge::context::RunContext;
use thalweg_tensor::{counted, counted_are};

use super::heads::PreparedSums;
use super::record::WatchRow;
use super::scan::{Scan, Unsettled};
use super::score::{EndScores, ScoreJob, UnscoredModel, score_end};
use super::{WatchPass, Watcher};
use crate::Error;
use crate::evaluator::Evaluator;

/// A checkpoint whose files change within this time is being written.
const SETTLE_SECONDS: f64 = 1.0;
/// Results of scores are looked for so often.
const SLICE_SECONDS: f64 = 1.0;

/// Makes what scores; it is given any checkpoint of the run.
pub type MakeEvaluator<'a> = &'a (dyn Fn(&Path) -> Result<Box<dyn Evaluator + 'a>, Error> + Sync);

/// How a watcher keeps looking.
#[expect(missing_debug_implementations, reason = "callbacks have none")]
pub struct KeepOptions<'a, 'e> {
    /// Seconds between two looks.
    pub poll_seconds: f64,
    /// Seconds between two signs of life while nothing happens.
    pub heartbeat_seconds: f64,
    /// Waits this many seconds, or less if a stop is asked for.
    pub sleep: &'a dyn Fn(f64),
    /// What scores, if anything does.
    pub make_evaluator: Option<MakeEvaluator<'e>>,
    /// What the evaluator waits for, if it can tell.
    pub scoring_state: &'a dyn Fn() -> Option<String>,
    /// Whether the run is over: what is left is done then, and the watch ends.
    pub is_over: &'a dyn Fn() -> bool,
    /// Called with what happens.
    pub tell: &'a mut dyn FnMut(WatchNews<'_>),
}

/// What a watcher has to say.
#[derive(Debug)]
pub enum WatchNews<'a> {
    /// It looked at a run that had changed.
    Looked(&'a WatchPass),
    /// Sums for the next windows were prepared, or cannot be.
    Prepared(&'a [PreparedSums]),
    /// Models of one end were scored.
    Scored(&'a [WatchRow]),
    /// Something is in the way; it is tried again.
    Trouble(&'a Error),
    /// A model could not be scored. A later watcher tries again.
    Unscored(&'a UnscoredModel),
    /// Scores that were asked for have not come in time; they will be taken once they arrive.
    Late(&'a Error),
    /// A sign of life: what it waits for.
    Heartbeat(&'a Heartbeat),
}

/// What a watcher waits for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Heartbeat {
    /// The run.
    pub run: PathBuf,
    /// Finished checkpoints, and the newest.
    pub n_finished: usize,
    /// The newest of them.
    pub newest_step: Option<u64>,
    /// Checkpoints that cannot be used, such as one that is being saved.
    pub n_unusable: usize,
    /// Merges that are current.
    pub n_outputs: usize,
    /// Ends whose scores are still to come; `None` where nothing is scored.
    pub n_waiting: Option<usize>,
    /// What the evaluator waits for.
    pub scoring: Option<String>,
    /// Seconds since something happened.
    pub idle_seconds: f64,
    /// What is in the way.
    pub trouble: Option<String>,
}

impl fmt::Display for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(trouble) = &self.trouble {
            return write!(f, "waiting: {trouble}");
        }
        write!(f, "watching `{}`: ", self.run.display())?;
        f.write_str(&counted(self.n_finished, "finished checkpoint"))?;
        if let Some(newest) = self.newest_step {
            write!(f, ", the newest at step {newest}")?;
        }
        if self.n_unusable > 0 {
            write!(f, ", {} not usable", self.n_unusable)?;
        }
        write!(f, "; {} current", counted_are(self.n_outputs, "merge"))?;
        if let Some(n) = self.n_waiting.filter(|n| *n > 0) {
            write!(f, "; {} waiting for scores, the newest first", counted_are(n, "end"))?;
        }
        if let Some(scoring) = &self.scoring {
            write!(f, "; {scoring}")?;
        }
        write!(f, "; nothing new for {:.0} s", self.idle_seconds)
    }
}

/// Checks the run repeatedly until it is over, or a stop is asked for.
///
/// # Errors
/// `Interrupted`, once a stop was asked for. Everything can then be resumed by a new watcher.
pub fn keep_watching(watcher: &mut Watcher<'_>, mut options: KeepOptions<'_, '_>) -> Result<(), Error> {
    let cx = watcher.context();
    std::thread::scope(|scope| {
        let (jobs, waiting) = channel::<ScoreJob>();
        let (done, results) = channel::<ScoreResult>();
        if let Some(make) = options.make_evaluator {
            scope.spawn(move || score_jobs(make, &waiting, &done, cx));
        }
        let scores = options.make_evaluator.is_some().then_some(Scores { jobs, results, is_busy: false });
        let beat = Heartbeat { run: watcher.request().run.clone(), ..Heartbeat::default() };
        let mut keeper = Keeper {
            watcher,
            cx,
            scores,
            seen: None,
            is_settled: false,
            late: Vec::new(),
            beat,
            since: 0.0,
            last_beat: None,
        };
        keeper.run(&mut options)
    })
}

/// A job with what came of it.
type ScoreResult = (ScoreJob, Result<EndScores, Error>);

/// The thread that scores, so that merges need not wait for it.
fn score_jobs(make: MakeEvaluator<'_>, waiting: &Receiver<ScoreJob>, done: &Sender<ScoreResult>, cx: &RunContext<'_>) {
    let mut evaluator: Option<Box<dyn Evaluator + '_>> = None;
    while let Ok(job) = waiting.recv() {
        let result = score_job(make, &mut evaluator, &job, cx);
        if done.send((job, result)).is_err() {
            return;
        }
    }
}

fn score_job<'a>(
    make: MakeEvaluator<'a>,
    evaluator: &mut Option<Box<dyn Evaluator + 'a>>,
    job: &ScoreJob,
    cx: &RunContext<'_>,
) -> Result<EndScores, Error> {
    let like = job.outputs.first().map(|(output, _)| output.path.clone());
    let of_run = || Some(job.forecast.as_ref()?.trajectory.finished().next_back()?.path.clone());
    let like = like.or_else(|| job.annealed.first().cloned()).or_else(of_run).unwrap_or_default();
    let evaluator = match evaluator {
        Some(evaluator) => evaluator,
        None => evaluator.insert(make(&like)?),
    };
    score_end(job, &mut **evaluator, &|| cx.host.unix_seconds())
}

/// The way to the thread that scores.
struct Scores {
    jobs: Sender<ScoreJob>,
    results: Receiver<ScoreResult>,
    is_busy: bool,
}

struct Keeper<'w, 'a> {
    watcher: &'w mut Watcher<'a>,
    cx: &'w RunContext<'w>,
    scores: Option<Scores>,
    /// The run as it was when all was done; `None` if there is something to try again.
    seen: Option<Scan>,
    /// Whether nothing moved at the last look.
    is_settled: bool,
    /// Ends whose late scores are still to be looked for, since the last look.
    late: Vec<u64>,
    beat: Heartbeat,
    /// When something happened.
    since: f64,
    last_beat: Option<f64>,
}

impl Keeper<'_, '_> {
    fn run(&mut self, options: &mut KeepOptions<'_, '_>) -> Result<(), Error> {
        loop {
            self.cx.check_interrupt()?;
            let is_over = (options.is_over)();
            let looked = self.look(options);
            self.late = self.watcher.late_ends();
            match looked.and_then(|()| self.handle_scores(options)) {
                Ok(()) => self.beat.trouble = None,
                Err(error) if error.is_interrupt() => return Err(error),
                Err(error) => self.say_trouble(&error, options),
            }
            self.say_alive(options);
            let until = self.cx.host.elapsed_seconds() + options.poll_seconds;
            loop {
                // What is late may never come.
                let is_idle = self.late.is_empty() && self.scores.as_ref().is_none_or(|scores| !scores.is_busy);
                if is_over && self.is_settled && self.seen.is_some() && is_idle {
                    return Ok(());
                }
                let left = until - self.cx.host.elapsed_seconds();
                if left <= 0.0 {
                    break;
                }
                (options.sleep)(left.min(SLICE_SECONDS));
                self.cx.check_interrupt()?;
                match self.handle_scores(options) {
                    Err(error) if error.is_interrupt() => return Err(error),
                    Err(error) => self.say_trouble(&error, options),
                    Ok(()) => {}
                }
            }
        }
    }

    fn look(&mut self, options: &mut KeepOptions<'_, '_>) -> Result<(), Error> {
        let now = self.watcher.scan()?;
        if self.seen.as_ref() == Some(&now) {
            return Ok(());
        }
        (options.sleep)(SETTLE_SECONDS);
        let later = self.watcher.scan()?;
        let pattern = self.watcher.request().run_options.name_pattern()?;
        let unsettled = Unsettled::between(&now, later, pattern);
        (self.is_settled, self.seen) = (false, None);
        let pass = self.watcher.make_settled(&unsettled)?;
        // What moved is looked at again: it differs from what was seen.
        (self.is_settled, self.seen) = (pass.is_settled, Some(unsettled.settled_part(now)));
        self.beat.n_finished = pass.n_finished;
        self.beat.newest_step = pass.newest_step;
        self.beat.n_unusable = pass.n_unusable;
        self.beat.n_outputs = pass.outputs.len();
        self.since = self.cx.host.elapsed_seconds();
        (options.tell)(WatchNews::Looked(&pass));
        // Whatever is in the way, the merge reads the checkpoints.
        let prepared = self.watcher.prepare()?;
        if !prepared.is_empty() {
            (options.tell)(WatchNews::Prepared(&prepared));
        }
        Ok(())
    }

    fn say_trouble(&mut self, error: &Error, options: &mut KeepOptions<'_, '_>) {
        let text = error.to_string();
        if self.beat.trouble.as_ref() != Some(&text) {
            (options.tell)(WatchNews::Trouble(error));
            self.beat.trouble = Some(text);
        }
    }

    /// Takes results, and hands on the newest end that has no scores; then those whose scores were late.
    fn handle_scores(&mut self, options: &mut KeepOptions<'_, '_>) -> Result<(), Error> {
        while let Some(Ok((job, result))) = self.scores.as_ref().map(|scores| scores.results.try_recv()) {
            self.take_scores(&job, result, options)?;
        }
        let Some(scores) = &mut self.scores else { return Ok(()) };
        if !scores.is_busy {
            let late = &mut self.late;
            let job = self.watcher.next_scores().or_else(|| self.watcher.late_scores(late.pop()?));
            scores.is_busy = job.is_some_and(|job| scores.jobs.send(job).is_ok());
        }
        self.beat.n_waiting = Some(self.watcher.waiting_for_scores().len());
        Ok(())
    }

    fn take_scores(
        &mut self,
        job: &ScoreJob,
        result: Result<EndScores, Error>,
        options: &mut KeepOptions<'_, '_>,
    ) -> Result<(), Error> {
        if let Some(scores) = &mut self.scores {
            scores.is_busy = false;
        }
        let found = match result {
            Err(error) if error.is_interrupt() => return Err(error),
            // They are late, or the evaluator itself cannot be made: no model of this end can be scored.
            Err(error) => {
                let is_late = error.is_late();
                if self.watcher.postpone_scores(job.end_step) {
                    (options.tell)(if is_late { WatchNews::Late(&error) } else { WatchNews::Trouble(&error) });
                }
                return Ok(());
            }
            Ok(found) => found,
        };
        self.since = self.cx.host.elapsed_seconds();
        self.watcher.end_scores(job.end_step);
        found.failed.iter().for_each(|failed| self.watcher.give_up_scores(failed));
        self.watcher.record_scores(job.end_step, &found)?;
        if !found.rows.is_empty() {
            (options.tell)(WatchNews::Scored(&found.rows));
        }
        found.failed.iter().for_each(|failed| (options.tell)(WatchNews::Unscored(failed)));
        Ok(())
    }

    fn say_alive(&mut self, options: &mut KeepOptions<'_, '_>) {
        let now = self.cx.host.elapsed_seconds();
        if self.last_beat.is_some_and(|last| now - last < options.heartbeat_seconds) {
            return;
        }
        self.last_beat = Some(now);
        self.beat.idle_seconds = now - self.since;
        self.beat.scoring = (options.scoring_state)();
        (options.tell)(WatchNews::Heartbeat(&self.beat));
    }
}

/// What `score_once` says.
#[derive(Debug, Default)]
pub struct OnceScores {
    /// Models that could not be scored.
    pub failed: Vec<UnscoredModel>,
    /// Why the scores of some ends have not arrived.
    pub late: Vec<Error>,
}

/// Scores what the last look of a watcher found and has no scores yet, the newest end first; `on_scored` is called
/// after each.
///
/// # Errors
/// `Interrupted`, `Storage`, and where nothing can score. What was scored until then is recorded.
pub fn score_once(
    watcher: &mut Watcher<'_>,
    make: MakeEvaluator<'_>,
    on_scored: &mut dyn FnMut(&[WatchRow]),
) -> Result<OnceScores, Error> {
    let cx = watcher.context();
    let (mut evaluator, mut once) = (None, OnceScores::default());
    while let Some(job) = watcher.next_scores() {
        match score_job(make, &mut evaluator, &job, cx) {
            Ok(found) => {
                found.failed.iter().for_each(|failed| watcher.give_up_scores(failed));
                watcher.record_scores(job.end_step, &found)?;
                on_scored(&found.rows);
                once.failed.extend(found.failed);
            }
            Err(error) if error.is_late() => {
                watcher.postpone_scores(job.end_step);
                once.late.push(error);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(once)
}
