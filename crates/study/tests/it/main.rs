//! What the crate does, through its public door.

// Clippy lets helpers unwrap where it sees that they are compiled for tests only.
#[cfg(test)]
mod demo;
#[cfg(test)]
mod engine;
#[cfg(test)]
mod recover;
#[cfg(test)]
mod study_page;
#[cfg(test)]
mod study_sample;
#[cfg(test)]
mod sweep;
#[cfg(test)]
mod watch_page;
