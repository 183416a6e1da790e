//! The engine through its door: real folders, real files, an independent writer of safetensors.

mod fixtures;
mod hostile_sets;
mod policies;
mod resume;
mod same_bytes;
mod support;
mod verify;
