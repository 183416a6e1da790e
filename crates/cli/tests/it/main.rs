//! The program as a user meets it: exit codes, messages, files, kills.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

mod append;
mod arrays;
mod browser;
mod commands;
mod comparisons;
mod contents;
mod cut_models;
mod eval;
mod eval_requests;
mod eval_results;
mod extrapolate;
#[cfg(feature = "cloud")]
mod fetch;
mod forget;
mod formats;
mod found;
mod fp8;
mod fresh;
mod hints;
mod kept_state;
mod kill;
mod lab;
mod launch;
mod law;
mod layouts;
mod mergekit_faults;
mod mix;
mod mixed_saves;
mod newcomer;
mod notify;
mod optimizer;
mod options;
mod orbax;
mod outputs;
mod ranks;
mod recover;
mod rename;
mod report;
mod restarts;
mod rules;
mod saved;
mod selection;
mod serve;
mod sharded;
mod shares;
#[cfg(feature = "cloud")]
mod stores;
mod study;
mod support;
mod to_huggingface;
mod torch;
mod train;
mod trial;
mod watch;
mod watch_forecast;
mod watch_on;
mod words;
