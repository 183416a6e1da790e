//! The scorer through its door: a real model on real sets against references, caches, suites and their mistakes.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

mod mistakes;
mod recall;
mod reference;
mod support;
