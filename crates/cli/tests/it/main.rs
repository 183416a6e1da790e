//! The program as a user meets it: exit codes, messages, files, kills.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod commands;
mod eval;
mod kill;
mod mergekit_faults;
mod recover;
mod report;
mod restarts;
mod study;
mod support;
mod train;
