//! How far a merge, a verification or an evaluation is, in the bytes and tokens that the libraries count from many
//! threads.
//!
//! When bars and lines are drawn is decided in `meter`, and what they say in `pace`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use thalweg_merge::context::{Progress, Stage};

use crate::messages::Messages;
use crate::meter::Meter;
use crate::pace::{Pace, PaceUnit};

/// A bar on a terminal, a line every few seconds elsewhere; nothing for what is done at once.
pub(crate) struct CliProgress<'a> {
    messages: &'a Messages,
    meter: Meter<'a>,
    state: Mutex<State>,
    done: AtomicU64,
}

struct State {
    /// What is under way.
    verb: &'static str,
    /// In what it is counted.
    unit: PaceUnit,
    total: u64,
    /// Done by an earlier run.
    resumed: u64,
    began: Instant,
}

impl State {
    fn new(verb: &'static str, unit: PaceUnit, total: u64) -> Self {
        Self { verb, unit, total, resumed: 0, began: Instant::now() }
    }

    fn pace(&self, done: u64) -> Pace {
        let seconds = self.began.elapsed().as_secs_f64();
        Pace { unit: self.unit, total: self.total, resumed: self.resumed, done, seconds }
    }
}

/// What ends sooner says nothing.
const FIRST_REPORT: Duration = Duration::from_millis(1500);

impl<'a> CliProgress<'a> {
    pub(crate) fn new(messages: &'a Messages) -> Self {
        let state = Mutex::new(State::new("", PaceUnit::Bytes, 0));
        Self { messages, meter: Meter::new(messages, ""), state, done: AtomicU64::new(0) }
    }

    fn begin_activity(&self, verb: &'static str, unit: PaceUnit, total: u64) {
        self.messages.clear_bar();
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::new(verb, unit, total);
        self.done.store(0, Ordering::Relaxed);
        self.meter.wait(FIRST_REPORT);
    }

    fn add(&self, n: u64) {
        let done = self.done.fetch_add(n, Ordering::Relaxed) + n;
        if !self.meter.is_due() {
            return;
        }
        let Ok(state) = self.state.try_lock() else { return };
        let (verb, pace) = (state.verb, state.pace(done).text());
        let text = if self.messages.draws_bars() { pace } else { format!("{verb}: {pace}") };
        self.messages.show_progress(&format!("{verb} {{wide_bar}} {{msg}}"), [done, state.total], text);
    }
}

fn verb(stage: Stage) -> &'static str {
    match stage {
        Stage::Fetch => "fetching",
        Stage::Copy => "copying",
        Stage::Resume => "checking what was staged",
        Stage::Merge => "merging",
        Stage::Sync => "syncing",
        Stage::Upload => "uploading",
        Stage::Verify => "verifying",
        Stage::Geometry => "measuring",
        Stage::Rank => "ranking",
    }
}

impl thalweg_eval::context::Progress for CliProgress<'_> {
    fn begin(&self, total_tokens: u64) {
        self.begin_activity("scoring", PaceUnit::Tokens, total_tokens);
    }

    fn advance(&self, n_tokens: u64) {
        self.add(n_tokens);
    }
}

impl Progress for CliProgress<'_> {
    fn begin(&self, stage: Stage, total_bytes: u64) {
        let unit = if stage == Stage::Fetch { PaceUnit::Network } else { PaceUnit::Bytes };
        self.begin_activity(verb(stage), unit, total_bytes);
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
