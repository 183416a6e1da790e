//! Through the door: tiny runs made by hand in, windows out.

// Clippy lets helpers unwrap where it sees that they are compiled for tests only.
#[cfg(test)]
mod doubtful_steps;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod phases;
#[cfg(test)]
mod random;
#[cfg(test)]
mod restarts;
#[cfg(test)]
mod runs;
#[cfg(test)]
mod slow_spikes;
#[cfg(test)]
mod spikes;
#[cfg(test)]
mod support;
#[cfg(test)]
mod windows;
