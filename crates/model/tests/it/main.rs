//! Tests through the door.

mod architectures;
mod arena;
mod config;
mod determinism;
mod gradients;
mod stories;
mod support;
