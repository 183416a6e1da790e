//! The one suite, run by every storage.

use std::path::PathBuf;
use std::sync::Arc;

use thalweg_storage::{LocalStorage, MemoryStorage, Storage};
use thalweg_testkit::storage_suite::{SuiteFolder, check_storage};
use thalweg_testkit::{CrashDisk, Scratch};

fn in_memory(storage: Arc<dyn Storage>) -> SuiteFolder {
    let folder = PathBuf::from("/runs/suite");
    storage.create_folder(&folder).unwrap();
    SuiteFolder { storage, folder, syncs: false, keep: None }
}

fn on_disk(storage: LocalStorage) -> SuiteFolder {
    let scratch = Scratch::new();
    let folder = scratch.path().to_owned();
    SuiteFolder { storage: Arc::new(storage), folder, syncs: false, keep: Some(Box::new(scratch)) }
}

#[test]
fn the_local_disk_conforms() {
    check_storage(|| on_disk(LocalStorage::new()));
}

#[test]
fn the_local_disk_conforms_with_one_open_file() {
    check_storage(|| on_disk(LocalStorage::with_max_open_files(1)));
}

#[cfg(feature = "cloud")]
fn in_store(syncs: bool) -> SuiteFolder {
    use object_store::memory::InMemory;

    let scratch = Scratch::new();
    let settings = crate::cloud::settings(&scratch);
    let storage = thalweg_storage::RoutedStorage::new(settings);
    let storage = storage.with_store("s3://bucket", Arc::new(InMemory::new())).unwrap();
    let folder = PathBuf::from("s3://bucket/runs/suite");
    storage.create_folder(&folder).unwrap();
    SuiteFolder { storage: Arc::new(storage), folder, syncs, keep: Some(Box::new(scratch)) }
}

#[cfg(feature = "cloud")]
#[test]
fn an_object_store_conforms() {
    check_storage(|| in_store(false));
    check_storage(|| in_store(true));
}

#[cfg(feature = "cloud")]
#[test]
fn an_object_store_over_http_conforms() {
    use thalweg_storage::{CloudSettings, RoutedStorage};
    use thalweg_testkit::S3Server;

    let check = |syncs| {
        check_storage(|| {
            let (scratch, server) = (Scratch::new(), S3Server::start());
            let variables = server.variables();
            let storage = RoutedStorage::new(CloudSettings { variables, ..crate::cloud::settings(&scratch) });
            let folder = PathBuf::from("s3://bucket/runs/suite");
            storage.create_folder(&folder).unwrap();
            SuiteFolder { storage: Arc::new(storage), folder, syncs, keep: Some(Box::new((scratch, server))) }
        });
    };
    check(false);
    check(true);
}

#[cfg(feature = "cloud")]
#[test]
fn the_local_disk_conforms_beside_object_stores() {
    check_storage(|| {
        let scratch = Scratch::new();
        let storage = Arc::new(thalweg_storage::RoutedStorage::new(crate::cloud::settings(&scratch)));
        let folder = scratch.join("suite");
        storage.create_folder(&folder).unwrap();
        SuiteFolder { storage, folder, syncs: false, keep: Some(Box::new(scratch)) }
    });
}

#[test]
fn memory_conforms() {
    check_storage(|| in_memory(Arc::new(MemoryStorage::new())));
}

#[test]
fn the_crash_disk_conforms_while_it_has_power() {
    check_storage(|| in_memory(CrashDisk::new().storage()));
    check_storage(|| {
        let disk = CrashDisk::new();
        disk.forbid_exchange();
        in_memory(disk.storage())
    });
}
