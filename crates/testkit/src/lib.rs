//! For tests only: a disk that loses power.
//!
//! Used as a dev-dependency; ships in nothing.

pub mod crash_disk;
