//! How far a long act is: a bar on a terminal, a line every few seconds elsewhere.
//!
//! Merging and scoring count bytes and tokens from many threads; `progress` has theirs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

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
    bar: Option<TextBar>,
}

/// A bar with a text. Each update is drawn once: position and text of `indicatif` would be drawn one after the other.
pub(crate) struct TextBar {
    bar: ProgressBar,
    text: Arc<Mutex<String>>,
}

impl TextBar {
    /// A bar to `total`; `{msg}` in the template is the text.
    pub(crate) fn new(total: u64, template: &str, target: ProgressDrawTarget) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&text);
        let write_text = move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
            // Writing to a String cannot fail.
            let _ = out.write_str(&shown.lock().unwrap_or_else(PoisonError::into_inner));
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style.with_key("msg", write_text));
        Self { bar, text }
    }

    /// Moves the bar and changes its text.
    pub(crate) fn show(&self, position: u64, text: String) {
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = text;
        self.bar.update(|state| state.set_pos(position));
    }

    /// Removes it from the terminal.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
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
        let bar = state.bar.get_or_insert_with(|| TextBar::new(total, self.template, ProgressDrawTarget::stderr()));
        bar.show(position, text());
    }

    /// Calls `act`, which shows how far it is, and then ends the bar, so that nothing is printed beside it.
    pub(crate) fn during<T>(&self, act: impl FnOnce() -> T) -> T {
        let done = act();
        self.clear();
        done
    }

    /// Ends a bar that is still drawn.
    pub(crate) fn clear(&self) {
        if let Some(bar) = self.state.lock().unwrap_or_else(PoisonError::into_inner).bar.take() {
            bar.clear();
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

    /// Calls `act`, which shows how far it is, and then ends the bar.
    pub(crate) fn during<T>(&self, act: impl FnOnce() -> T) -> T {
        self.meter.during(act)
    }

    /// Shows that `n_done` are scored; `name` is that of the last one, if it has a name. The last model ends the bar:
    /// merges that are written afterwards have theirs.
    pub(crate) fn show(&self, n_done: usize, name: Option<&str>) {
        let text = || {
            let n_left = self.n_models.saturating_sub(n_done);
            let seconds_left = self.began.elapsed().as_secs_f64() / n_done as f64 * n_left as f64;
            let name = name.map_or_else(String::new, |name| format!(", {name}"));
            format!("{n_done} of {} {}{name}, {seconds_left:.0} s left", self.n_models, self.noun)
        };
        self.meter.show([n_done as u64, self.n_models as u64], Urgency::InTurn, text);
        if n_done >= self.n_models {
            self.meter.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is drawn, each draw apart.
    #[derive(Debug, Clone, Default)]
    struct Screen(Arc<Mutex<Vec<String>>>);

    impl Screen {
        fn add(&self, text: &str) -> std::io::Result<()> {
            let mut draws = self.0.lock().unwrap();
            if draws.is_empty() {
                draws.push(String::new());
            }
            draws.last_mut().unwrap().push_str(text);
            Ok(())
        }

        fn draws(&self) -> Vec<String> {
            self.0.lock().unwrap().iter().filter(|draw| !draw.is_empty()).cloned().collect()
        }
    }

    impl indicatif::TermLike for Screen {
        fn width(&self) -> u16 {
            80
        }

        fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> std::io::Result<()> {
            self.add(text)
        }

        fn write_str(&self, text: &str) -> std::io::Result<()> {
            self.add(text)
        }

        fn clear_line(&self) -> std::io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> std::io::Result<()> {
            self.0.lock().unwrap().push(String::new());
            Ok(())
        }
    }

    #[test]
    fn an_update_is_drawn_once_with_its_place_and_text() {
        let screen = Screen::default();
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), 250);
        let bar = TextBar::new(10, "{pos} of {len} {msg}", target);
        for (n, text) in [(1, "one"), (2, "two"), (3, "three")] {
            bar.show(n, text.to_owned());
        }
        let draws: Vec<String> = screen.draws().iter().map(|draw| draw.trim().to_owned()).collect();
        assert_eq!(draws, ["1 of 10 one", "2 of 10 two", "3 of 10 three"]);
    }
}
