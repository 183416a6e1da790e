//! Runs on the command line: where models are found by name, and what is said about a log.

use std::path::PathBuf;

use thalweg_trajectory::{Spike, Trajectory};

/// The learning rate that the log has at a step, or at the last one before it.
pub(crate) fn learning_rate_at(trajectory: &Trajectory, step: u64) -> Option<f64> {
    let rates = trajectory.log()?.learning_rates();
    rates.take_while(|(at, _)| at.0 <= step).last().map(|(_, rate)| rate)
}

/// The root of the local Hugging Face cache, where models are found by name.
pub(crate) fn hub_cache_root() -> Option<PathBuf> {
    thalweg_trajectory::hub_cache_root(&|name| std::env::var_os(name))
}

/// A line about a spike.
pub(crate) fn spike_line(spike: &Spike) -> String {
    let end = spike.end.map_or_else(|| "it did not recover".to_owned(), |end| format!("recovered at step {end}"));
    let (onset, peak, signal) = (spike.onset, spike.peak, spike.signal);
    format!("spike: onset at step {onset}, peak at step {peak}, {end}; seen in the {signal}\n")
}

/// The files of the step log, as words for a line of text.
pub(crate) fn log_words(trajectory: &Trajectory) -> Option<String> {
    let (first, more) = trajectory.log_paths().split_first()?;
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    Some(format!("`{}`{more}", first.display()))
}
