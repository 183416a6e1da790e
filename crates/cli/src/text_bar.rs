//! A moving bar on a terminal. What prints beside it is `messages`.

use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// A bar with a text. Each update is drawn once: position and text of `indicatif` would be drawn one after the other.
#[derive(Debug)]
pub(crate) struct TextBar {
    template: String,
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
        Self { template: template.to_owned(), bar, text }
    }

    /// Whether it was made to `total` with this template.
    pub(crate) fn is_like(&self, total: u64, template: &str) -> bool {
        self.template == template && self.bar.length() == Some(total)
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
