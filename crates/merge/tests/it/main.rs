//! The engine through its door: real folders, real files, an independent writer of safetensors.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod fixtures;
mod hostile_sets;
mod policies;
mod resume;
mod same_bytes;
mod support;
mod verify;
