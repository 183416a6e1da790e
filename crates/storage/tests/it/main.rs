//! Every storage keeps its promises, and an output is there whole or not at all.

// Clippy lets helpers unwrap where it sees that they are compiled for tests only.
#[cfg(test)]
#[cfg(feature = "cloud")]
mod cloud;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod guard;
#[cfg(test)]
mod local;
#[cfg(test)]
mod publish;
