//! What the tools of the tests make is what they say it is.

// Clippy lets helpers unwrap where it sees that they are compiled for tests only.
#[cfg(test)]
mod crash_disk;
#[cfg(test)]
mod tiny;
