//! How far a long act is: a bar on a terminal, a line every few seconds elsewhere.
//!
//! Merging and scoring count bytes and tokens from many threads; `progress` has theirs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::messages::Messages;

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// How often a bar is updated.
const BAR_EVERY: Duration = Duration::from_millis(100);

/// Shows places and texts, no oftener than a person reads.
pub(crate) struct Meter<'a> {
    messages: &'a Messages,
    /// As `indicatif` writes it.
    template: &'static str,
    started: Instant,
    /// When the next text is due, in milliseconds from the start: many threads ask at every step.
    next_ms: AtomicU64,
}

/// When a text is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// If nothing was shown for a while.
    InTurn,
    /// Now: something new began.
    Now,
}

impl<'a> Meter<'a> {
    /// A meter that shows nothing yet; what ends sooner than a line is due says nothing.
    pub(crate) fn new(messages: &'a Messages, template: &'static str) -> Self {
        let meter = Self { messages, template, started: Instant::now(), next_ms: AtomicU64::new(0) };
        meter.wait(if messages.draws_bars() { Duration::ZERO } else { LINE_EVERY });
        meter
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Lets the next text be due after `time`.
    pub(crate) fn wait(&self, time: Duration) {
        let wait_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.next_ms.store(self.now_ms().saturating_add(wait_ms), Ordering::Relaxed);
    }

    /// Whether a text is due; if so, the next one is due later.
    pub(crate) fn is_due(&self) -> bool {
        let is_due = self.now_ms() >= self.next_ms.load(Ordering::Relaxed);
        if is_due {
            self.wait(if self.messages.draws_bars() { BAR_EVERY } else { LINE_EVERY });
        }
        is_due
    }

    /// Shows `position` of `total`, with a text that is made only if it is shown.
    pub(crate) fn show(&self, place: [u64; 2], urgency: Urgency, text: impl FnOnce() -> String) {
        if self.is_due() || urgency == Urgency::Now {
            self.messages.show_progress(self.template, place, text());
        }
    }
}

/// How many of a known number of models are scored, and how long the others will take.
pub(crate) struct ScoringMeter<'a> {
    meter: Meter<'a>,
    began: Instant,
    n_models: usize,
    /// What is scored, in the plural.
    noun: &'static str,
}

impl<'a> ScoringMeter<'a> {
    /// A meter that shows nothing yet.
    pub(crate) fn new(messages: &'a Messages, n_models: usize, noun: &'static str) -> Self {
        Self { meter: Meter::new(messages, "scoring {wide_bar} {msg}"), began: Instant::now(), n_models, noun }
    }

    /// Shows that `n_done` are scored; `name` is that of the last one, if it has a name.
    pub(crate) fn show(&self, n_done: usize, name: Option<&str>) {
        let text = || {
            let n_left = self.n_models.saturating_sub(n_done);
            let seconds_left = self.began.elapsed().as_secs_f64() / n_done as f64 * n_left as f64;
            let name = name.map_or_else(String::new, |name| format!(", {name}"));
            format!("{n_done} of {} {}{name}, {seconds_left:.0} s left", self.n_models, self.noun)
        };
        self.meter.show([n_done as u64, self.n_models as u64], Urgency::InTurn, text);
    }
}
