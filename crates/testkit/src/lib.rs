//! What tests share: a disk that loses power, tiny checkpoints and runs, scratch folders, filters for what people see,
//! an allocator that counts.
//!
//! A dev-dependency only. Nothing here is careful about errors: it panics, which is how a test says no.
#![expect(clippy::unwrap_used, reason = "a panic is how a test says no")]

use std::path::Path;

use thalweg_storage::Storage;

pub mod counting_allocator;
pub mod crash_disk;
mod crash_image;
pub mod exact_bytes;
pub mod filters;
pub mod hub_server;
pub mod numbers;
pub mod s3_server;
pub mod scratch;
pub mod storage_suite;
pub mod tap;
pub mod tiny_checkpoint;
pub mod tiny_run;
mod web;

pub use counting_allocator::CountingAllocator;
pub use crash_disk::CrashDisk;
pub use hub_server::{HubServer, HubServerFault};
pub use s3_server::{S3Server, SeenRequest, ServerFault};
pub use scratch::{Scratch, copy_folder};
pub use tap::Tap;
pub use tiny_checkpoint::{Sharding, TinyCheckpoint};
pub use tiny_run::{LogRow, RunLayout, RunLog, TinyRun, TinySchedule};

/// Writes a whole file with the folders that it needs; an old one is replaced. Nothing is synced, which would take
/// longer than most tests; see [`CrashDisk::settle`].
pub fn put_file(storage: &dyn Storage, path: &Path, bytes: &[u8]) {
    let folder = path.parent().unwrap();
    storage.create_folder(folder).unwrap();
    let _ = storage.remove(path);
    let file = storage.create_file(path, bytes.len() as u64).unwrap();
    file.write_all_at(0, bytes).unwrap();
}
