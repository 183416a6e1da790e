//! Notes about waiting for a store, so that no command is silent while it retries.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A shorter wait says nothing.
pub(super) const QUIET: Duration = Duration::from_secs(1);

/// Takes the text of a note.
type Say = dyn Fn(&str) + Send + Sync;

/// Says that a store is waited for, and why: once for each store and cause.
#[derive(Clone, Default)]
pub struct WaitNotes {
    say: Option<Arc<Say>>,
    said: Arc<Mutex<BTreeSet<String>>>,
}

impl std::fmt::Debug for WaitNotes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WaitNotes").field("is_silent", &self.say.is_none()).finish_non_exhaustive()
    }
}

impl WaitNotes {
    /// Hands each note to `say`, from any thread.
    pub fn new(say: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { say: Some(Arc::new(say)), said: Arc::default() }
    }

    /// Notes that `store` is waited for because of `cause`; `what_next` says for how long.
    pub(super) fn add(&self, store: &str, cause: &str, what_next: &str) {
        let Some(say) = &self.say else { return };
        let note = format!("waiting for {store}: {cause}");
        if self.said.lock().unwrap_or_else(PoisonError::into_inner).insert(note.clone()) {
            say(&format!("{note}; {what_next}"));
        }
    }

    /// Notes that a request which failed is repeated, for at most `limit_seconds`.
    pub(super) fn add_retry(&self, store: &str, cause: &str, limit_seconds: f64) {
        self.add(store, cause, &format!("retrying for up to {limit_seconds:.0} s"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_store_and_cause_is_said_once() {
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let notes = {
            let heard = Arc::clone(&heard);
            WaitNotes::new(move |note| heard.lock().unwrap().push(note.to_owned()))
        };
        for _ in 0..2 {
            notes.clone().add_retry("`s3://a`", "it is busy", 20.0);
            notes.add_retry("`s3://b`", "it is busy", 20.0);
        }
        assert_eq!(
            *heard.lock().unwrap(),
            [
                "waiting for `s3://a`: it is busy; retrying for up to 20 s",
                "waiting for `s3://b`: it is busy; retrying for up to 20 s"
            ]
        );
    }
}
