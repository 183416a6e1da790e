//! Tests through the door.

// Clippy lets helpers unwrap where it sees that they are compiled for tests only.
#[cfg(test)]
mod architectures;
#[cfg(test)]
mod arena;
#[cfg(test)]
mod config;
#[cfg(test)]
mod decode;
#[cfg(test)]
mod determinism;
#[cfg(test)]
mod gradients;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod support;
