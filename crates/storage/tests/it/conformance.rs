//! The one suite, run by every storage.

use std::path::PathBuf;
use std::sync::Arc;

use thalweg_storage::{CommitStyle, LocalStorage, MemoryStorage, Storage};
use thalweg_testkit::storage_suite::{SuiteFolder, check_storage};
use thalweg_testkit::{CrashDisk, Scratch};

fn in_memory(storage: Arc<dyn Storage>) -> SuiteFolder {
    let folder = PathBuf::from("/runs/suite");
    storage.create_folder(&folder).unwrap();
    SuiteFolder { storage, folder, keep: None }
}

fn on_disk(storage: LocalStorage) -> SuiteFolder {
    let scratch = Scratch::new();
    let folder = scratch.path().to_owned();
    SuiteFolder { storage: Arc::new(storage), folder, keep: Some(Box::new(scratch)) }
}

#[test]
fn the_local_disk_conforms() {
    check_storage(|| on_disk(LocalStorage::new()));
}

#[test]
fn the_local_disk_conforms_with_one_open_file() {
    check_storage(|| on_disk(LocalStorage::with_max_open_files(1)));
}

#[test]
fn memory_conforms() {
    check_storage(|| in_memory(Arc::new(MemoryStorage::new())));
}

#[test]
fn memory_without_renames_conforms() {
    check_storage(|| in_memory(Arc::new(MemoryStorage::with_commit_style(CommitStyle::ManifestLast))));
}

#[test]
fn the_crash_disk_conforms_while_it_has_power() {
    check_storage(|| in_memory(CrashDisk::new().storage()));
    check_storage(|| {
        let disk = CrashDisk::new();
        disk.forbid_exchange();
        in_memory(disk.storage())
    });
    check_storage(|| {
        let disk = CrashDisk::new();
        disk.use_manifest_last();
        in_memory(disk.storage())
    });
}
