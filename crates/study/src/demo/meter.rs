//! Progress of the demo, in tokens: a trained token counts whole, a scored one a third.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use thalweg_lab::TrainWatcher;
use thalweg_lab::step_log::{StepRecord, ValidationRecord};

use super::DemoWatcher;

/// A forward pass is about a third of a step.
const SCORED_SHARE: f64 = 1.0 / 3.0;

/// Adds up what is done and tells the watcher.
pub(crate) struct Meter<'a> {
    watcher: &'a dyn DemoWatcher,
    state: Mutex<State>,
}

struct State {
    stage: &'static str,
    detail: String,
    total: f64,
    /// Work of the parts that are finished.
    finished: f64,
    /// Work done of the current part.
    part: f64,
    tokens_per_step: f64,
    first_step: u64,
}

impl<'a> Meter<'a> {
    /// `total` is all the work there will be.
    pub(crate) fn new(watcher: &'a dyn DemoWatcher, total: f64) -> Self {
        let state = State {
            stage: "",
            detail: String::new(),
            total,
            finished: 0.0,
            part: 0.0,
            tokens_per_step: 0.0,
            first_step: 0,
        };
        Self { watcher, state: Mutex::new(state) }
    }

    /// The work of scoring a number of tokens.
    pub(crate) fn work_of_scoring(n_tokens: u64) -> f64 {
        n_tokens as f64 * SCORED_SHARE
    }

    /// A training run begins after `first_step`.
    pub(crate) fn begin_training(&self, stage: &'static str, first_step: u64, tokens_per_step: u64) {
        self.update(|state| {
            (state.stage, state.first_step) = (stage, first_step);
            state.tokens_per_step = tokens_per_step as f64;
            state.detail.clear();
        });
    }

    pub(crate) fn begin(&self, stage: &'static str, detail: String) {
        self.update(|state| (state.stage, state.detail) = (stage, detail));
    }

    /// A part of the work is done, however much of it had to be done now.
    pub(crate) fn finish_part(&self, work: f64) {
        self.update(|state| (state.finished, state.part) = (state.finished + work, 0.0));
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        let share = ((state.finished + state.part) / state.total.max(1.0)).clamp(0.0, 1.0);
        self.watcher.on_progress(state.stage, share, &state.detail);
    }
}

impl TrainWatcher for Meter<'_> {
    fn on_step(&self, record: &StepRecord, n_steps: u64, _seconds_left: f64) {
        self.update(|state| {
            state.part = record.step.saturating_sub(state.first_step) as f64 * state.tokens_per_step;
            state.detail = format!("step {} of {n_steps}, training loss {:.3}", record.step, record.loss);
        });
    }

    fn on_validation(&self, _record: &ValidationRecord) {}

    fn on_checkpoint(&self, _step: u64, _path: &Path) {}

    fn on_note(&self, text: &str) {
        self.watcher.on_note(text);
    }
}

impl thalweg_eval::context::Progress for Meter<'_> {
    fn begin(&self, _total_tokens: u64) {}

    fn advance(&self, n_tokens: u64) {
        self.update(|state| state.part += Self::work_of_scoring(n_tokens));
    }
}
