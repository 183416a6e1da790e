//! A disk that is to find mistakes must itself lose what a real one may lose, and keep what it must keep.

use std::path::Path;

use thalweg_storage::{Error, Storage};
use thalweg_testkit::crash_disk::{ActCounts, Aftermath, CrashDisk, Mishap, ReadFault};
use thalweg_testkit::put_file;

const PATH: &str = "/f/a";

/// A durable file of twenty times `old`, overwritten by twenty times `new` without a sync.
fn overwritten() -> CrashDisk {
    let disk = CrashDisk::new();
    put_file(&disk, Path::new(PATH), "old".repeat(20).as_bytes());
    disk.settle();
    disk.open_for_update(Path::new(PATH)).unwrap().write_all_at(0, "new".repeat(20).as_bytes()).unwrap();
    disk
}

fn text(disk: &CrashDisk, path: &str) -> Option<String> {
    Some(String::from_utf8(disk.read_file(Path::new(path), 1000).ok()?).unwrap())
}

#[test]
fn content_is_durable_only_after_its_sync() {
    let disk = overwritten();
    assert_eq!(text(&disk, PATH), Some("new".repeat(20)));
    for aftermath in [Aftermath::OnlySynced, Aftermath::NamesFirst] {
        assert_eq!(text(&disk.after_crash(aftermath), PATH), Some("old".repeat(20)), "{aftermath:?}");
    }
    assert_eq!(text(&disk.after_crash(Aftermath::Everything), PATH), Some("new".repeat(20)));
    disk.open_for_update(Path::new(PATH)).unwrap().sync().unwrap();
    for aftermath in [Aftermath::OnlySynced, Aftermath::NamesFirst, Aftermath::Reordered(1)] {
        assert_eq!(text(&disk.after_crash(aftermath), PATH), Some("new".repeat(20)), "{aftermath:?}");
    }
}

#[test]
fn names_are_durable_only_after_their_folders_sync() {
    let disk = CrashDisk::new();
    disk.create_folder(Path::new("/f")).unwrap();
    disk.settle();
    disk.create_file(Path::new(PATH), 3).unwrap().sync().unwrap();
    assert_eq!(text(&disk.after_crash(Aftermath::OnlySynced), PATH), None);
    assert!(text(&disk.after_crash(Aftermath::NamesFirst), PATH).is_some());
    disk.sync_folder(Path::new("/f")).unwrap();
    disk.rename(Path::new(PATH), Path::new("/b")).unwrap();
    let after = disk.after_crash(Aftermath::OnlySynced);
    assert!(text(&after, PATH).is_some() && text(&after, "/b").is_none());
    disk.remove(Path::new("/b")).unwrap();
    disk.sync_folder(Path::new("/")).unwrap();
    let after = disk.after_crash(Aftermath::OnlySynced);
    assert!(text(&after, PATH).is_none() && text(&after, "/b").is_none(), "the older rename cannot come back");
}

#[test]
fn seeds_show_torn_writes_and_lost_renames_but_never_half_a_rename() {
    let disk = overwritten();
    disk.rename(Path::new(PATH), Path::new("/f/b")).unwrap();
    let (mut n_torn, mut n_renamed) = (0, 0);
    for seed in 0..200 {
        let after = disk.after_crash(Aftermath::Reordered(seed));
        assert_eq!(
            after.copy().content(Path::new("/f")),
            disk.after_crash(Aftermath::Reordered(seed)).content(Path::new("/f"))
        );
        let found = match (text(&after, PATH), text(&after, "/f/b")) {
            (Some(found), None) => found,
            (None, Some(found)) => {
                n_renamed += 1;
                found
            }
            other => panic!("seed {seed}: {other:?}"),
        };
        n_torn += usize::from(found.contains("old") && found.contains("new"));
    }
    assert!((50..150).contains(&n_renamed), "{n_renamed}");
    assert!(n_torn > 100, "{n_torn}");
}

#[test]
fn after_the_power_failed_nothing_works_and_half_of_the_write_landed() {
    let disk = overwritten();
    let file = disk.open_for_update(Path::new(PATH)).unwrap();
    disk.plan_mishap(2, Mishap::PowerFailsTorn);
    file.sync().unwrap();
    assert!(file.write_all_at(0, b"12345678").is_err());
    let failed = [
        file.sync(),
        file.read_exact_at(0, &mut [0]),
        disk.file_info(Path::new(PATH)).map(|_| ()),
        disk.list_folder(Path::new("/f")).map(|_| ()),
        disk.create_folder(Path::new("/g")),
        disk.remove(Path::new(PATH)),
    ];
    failed.into_iter().for_each(|outcome| assert!(outcome.unwrap_err().to_string().contains("the power failed")));
    let found = text(&disk.after_crash(Aftermath::Everything), PATH).unwrap();
    assert!(found.starts_with("1234ew"), "{found}");
}

#[test]
fn mishaps_faults_and_counts_are_where_they_were_planned() {
    let disk = CrashDisk::new();
    put_file(&disk, Path::new(PATH), b"0123");
    disk.lock(Path::new("/lock")).unwrap();
    let expected = ActCounts { n_writes: 1, n_syncs: 0, n_renames: 0, n_creates: 3, n_removes: 0, n_reads: 0 };
    assert_eq!(disk.counts(), expected);
    disk.plan_mishap(1, Mishap::DiskFull);
    assert!(disk.rename(Path::new(PATH), Path::new("/b")).unwrap_err().is_disk_full());
    disk.rename(Path::new(PATH), Path::new("/b")).unwrap();

    let file = disk.open_file(Path::new("/b")).unwrap();
    disk.plan_read_fault(2, ReadFault::Io);
    let mut bytes = [0; 4];
    file.read_exact_at(0, &mut bytes).unwrap();
    assert!(matches!(file.read_exact_at(0, &mut bytes), Err(Error::Io { .. })));
    disk.plan_read_fault(1, ReadFault::Short);
    bytes = [0; 4];
    assert!(matches!(file.read_exact_at(0, &mut bytes), Err(Error::Truncated { found_bytes: 2, .. })));
    assert_eq!(&bytes, b"01\0\0");
    file.read_exact_at(0, &mut bytes).unwrap();
}

#[test]
fn a_lock_does_not_outlive_the_power() {
    let disk = CrashDisk::new();
    let _held = disk.lock(Path::new("/lock")).unwrap();
    assert!(matches!(disk.lock(Path::new("/lock")), Err(Error::Locked { .. })));
    drop(disk.after_crash(Aftermath::Everything).lock(Path::new("/lock")).unwrap());
}
