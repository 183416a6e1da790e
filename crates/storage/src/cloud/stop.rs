//! The wish to stop, as it comes from outside: no wait for a store outlasts it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};

/// How often the flag is looked at.
const POLL: Duration = Duration::from_millis(20);

/// A flag that is set from outside.
#[derive(Debug, Clone)]
pub(super) struct Stop(Arc<AtomicBool>);

/// What is still waited for after a stop was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// A request that is under way gets half a second: a healthy store answers, and a last record is written.
    Request,
    /// A pause before the next attempt ends at once.
    Pause,
}

impl Stop {
    pub(super) fn new(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }

    pub(super) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// What `future` gives, or `None` once a stop was asked for and patience ended.
    pub(super) async fn wait<T>(&self, patience: Patience, future: impl Future<Output = T>) -> Option<T> {
        match select(pin!(future), pin!(self.asked(patience))).await {
            Either::Left((value, _)) => Some(value),
            Either::Right(_) => None,
        }
    }

    async fn asked(&self, patience: Patience) {
        while !self.is_asked() {
            tokio::time::sleep(POLL).await;
        }
        if patience == Patience::Request {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}
