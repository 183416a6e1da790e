//! How far a long act is: a bar on a terminal, a line every few seconds elsewhere.
//!
//! Merging and scoring count bytes and tokens from many threads; `host` has theirs.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::messages::Messages;

/// How often a line is printed where there is no terminal.
pub(crate) const LINE_EVERY: Duration = Duration::from_secs(5);
/// How often a bar is updated.
pub(crate) const BAR_EVERY: Duration = Duration::from_millis(100);

/// Shows places and texts, no oftener than a person reads.
pub(crate) struct Meter<'a> {
    messages: &'a Messages,
    /// As `indicatif` writes it.
    template: &'static str,
    state: Mutex<State>,
}

struct State {
    next: Instant,
    bar: Option<ProgressBar>,
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
        let next = Instant::now() + if messages.draws_bars() { Duration::ZERO } else { LINE_EVERY };
        Self { messages, template, state: Mutex::new(State { next, bar: None }) }
    }

    /// Shows `position` of `total`, with a text that is made only if it is shown.
    pub(crate) fn show(&self, [position, total]: [u64; 2], urgency: Urgency, text: impl FnOnce() -> String) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if urgency == Urgency::InTurn && now < state.next {
            return;
        }
        if !self.messages.draws_bars() {
            state.next = now + LINE_EVERY;
            return self.messages.progress_line(text());
        }
        state.next = now + BAR_EVERY;
        let bar = state.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template(self.template);
            ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        bar.set_position(position);
        bar.set_message(text());
    }

    /// Ends a bar that is still drawn.
    pub(crate) fn clear(&self) {
        if let Some(bar) = self.state.lock().unwrap_or_else(PoisonError::into_inner).bar.take() {
            bar.finish_and_clear();
        }
    }
}
