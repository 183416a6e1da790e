//! How far a merge, a verification or an evaluation is, in the bytes and tokens that the libraries count from many
//! threads.
//!
//! When bars and lines are drawn is decided in `meter`, and what they say in `pace`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::ProgressDrawTarget;
use thalweg_merge::context::{Progress, Stage};

use crate::messages::Messages;
use crate::meter::{BAR_EVERY, LINE_EVERY, TextBar};
use crate::pace::{Pace, PaceUnit};

/// A bar on a terminal, a line every few seconds elsewhere; nothing for what is done at once.
pub(crate) struct CliProgress<'a> {
    messages: &'a Messages,
    state: Mutex<State>,
    done: AtomicU64,
    next_report_ms: AtomicU64,
    started: Instant,
}

/// What is under way, and in what it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// Bytes.
    Bytes(Stage),
    /// Tokens through a model.
    Scoring,
}

struct State {
    activity: Activity,
    total: u64,
    /// Done by an earlier run.
    resumed: u64,
    began: Instant,
    bar: Option<TextBar>,
}

impl State {
    fn new(activity: Activity, total: u64) -> Self {
        Self { activity, total, resumed: 0, began: Instant::now(), bar: None }
    }

    fn pace(&self, done: u64) -> Pace {
        let unit = match self.activity {
            Activity::Scoring => PaceUnit::Tokens,
            Activity::Bytes(Stage::Fetch) => PaceUnit::Network,
            Activity::Bytes(_) => PaceUnit::Bytes,
        };
        let seconds = self.began.elapsed().as_secs_f64();
        Pace { unit, total: self.total, resumed: self.resumed, done, seconds }
    }
}

/// What ends sooner says nothing.
const FIRST_REPORT: Duration = Duration::from_millis(1500);

impl<'a> CliProgress<'a> {
    pub(crate) fn new(messages: &'a Messages) -> Self {
        let now = Instant::now();
        Self {
            messages,
            state: Mutex::new(State::new(Activity::Bytes(Stage::Merge), 0)),
            done: AtomicU64::new(0),
            next_report_ms: AtomicU64::new(u64::MAX),
            started: now,
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Ends a bar that is still drawn.
    pub(crate) fn clear(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = state.bar.take() {
            bar.clear();
        }
        self.next_report_ms.store(u64::MAX, Ordering::Relaxed);
    }

    fn report(&self, now_ms: u64) {
        let Ok(mut state) = self.state.try_lock() else { return };
        let done = self.done.load(Ordering::Relaxed);
        let every = if self.messages.draws_bars() { BAR_EVERY } else { LINE_EVERY };
        let every_ms = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
        self.next_report_ms.store(now_ms.saturating_add(every_ms), Ordering::Relaxed);
        if self.messages.draws_bars() {
            let (activity, total, text) = (state.activity, state.total, state.pace(done).text());
            let template = || format!("{} {{wide_bar}} {{msg}}", verb(activity));
            let new_bar = || TextBar::new(total, &template(), ProgressDrawTarget::stderr());
            state.bar.get_or_insert_with(new_bar).show(done, text);
        } else {
            self.messages.progress_line(format!("{}: {}", verb(state.activity), state.pace(done).text()));
        }
    }
}

fn verb(activity: Activity) -> &'static str {
    match activity {
        Activity::Bytes(Stage::Fetch) => "fetching",
        Activity::Bytes(Stage::Copy) => "copying",
        Activity::Bytes(Stage::Resume) => "checking what was staged",
        Activity::Bytes(Stage::Merge) => "merging",
        Activity::Bytes(Stage::Sync) => "syncing",
        Activity::Bytes(Stage::Upload) => "uploading",
        Activity::Bytes(Stage::Verify) => "verifying",
        Activity::Bytes(Stage::Geometry) => "measuring",
        Activity::Bytes(Stage::Rank) => "ranking",
        Activity::Scoring => "scoring",
    }
}

impl CliProgress<'_> {
    fn begin_activity(&self, activity: Activity, total: u64) {
        self.clear();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State::new(activity, total);
        self.done.store(0, Ordering::Relaxed);
        let first_ms = u64::try_from(FIRST_REPORT.as_millis()).unwrap_or(u64::MAX);
        self.next_report_ms.store(self.now_ms().saturating_add(first_ms), Ordering::Relaxed);
    }

    fn add(&self, n: u64) {
        self.done.fetch_add(n, Ordering::Relaxed);
        let now_ms = self.now_ms();
        if now_ms >= self.next_report_ms.load(Ordering::Relaxed) {
            self.report(now_ms);
        }
    }
}

impl thalweg_eval::context::Progress for CliProgress<'_> {
    fn begin(&self, total_tokens: u64) {
        self.begin_activity(Activity::Scoring, total_tokens);
    }

    fn advance(&self, n_tokens: u64) {
        self.add(n_tokens);
    }
}

impl Progress for CliProgress<'_> {
    fn begin(&self, stage: Stage, total_bytes: u64) {
        self.begin_activity(Activity::Bytes(stage), total_bytes);
    }

    fn resume(&self, n_bytes: u64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).resumed += n_bytes;
        self.done.fetch_add(n_bytes, Ordering::Relaxed);
    }

    fn advance(&self, n_bytes: u64) {
        self.add(n_bytes);
    }

    fn note(&self, text: &str) {
        self.messages.note(text);
    }
}
