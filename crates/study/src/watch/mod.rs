//! A run in training, merged as it goes: which merges are current, which are still to be made, and what became of them.
//!
//! A [`Watcher`] looks at a run, makes what is missing in as few readings as memory allows, and keeps a record. Who
//! calls it decides when to look again.

mod checkpoints;
mod make;
mod record;
mod request;
mod watcher;

pub use record::{RECORD_NAME, WatchEvent, WatchRow, read_watch_record};
pub use request::{WatchEnds, WatchRequest};
pub use watcher::{FailedMerge, WatchPass, WatchedOutput, Watcher};
