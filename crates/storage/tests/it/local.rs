//! The local disk beyond the suite: few descriptors, files that change, pipes, links, a full disk.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode};
use thalweg_storage::publish::{Replace, publish_folder};
use thalweg_storage::{Error, LocalStorage, MemoryStorage, ReadAt, Storage, Unwatched};
use thalweg_testkit::Scratch;

/// Descriptors of this process that lead into a folder.
fn n_open_below(folder: &Path) -> usize {
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).filter(|path| path.starts_with(folder)).count()
}

fn make_pipe(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[test]
fn a_hundred_files_are_read_with_eight_descriptors() {
    const MAX_OPEN: usize = 8;
    let scratch = Scratch::new();
    let storage = LocalStorage::with_max_open_files(MAX_OPEN);
    let content = |file: usize| format!("content of file {file}");
    let paths: Vec<_> = (0..100).map(|file| scratch.write(file.to_string(), content(file))).collect();
    let readers: Vec<_> = paths.iter().map(|path| storage.open_file(path).unwrap()).collect();
    assert!(n_open_below(scratch.path()) <= MAX_OPEN);
    for round in 0..3 {
        for (file, reader) in readers.iter().enumerate() {
            let mut bytes = vec![0; content(file).len()];
            reader.read_exact_at(0, &mut bytes).unwrap();
            assert_eq!(bytes, content(file).as_bytes(), "round {round}");
        }
        assert!(n_open_below(scratch.path()) <= MAX_OPEN, "round {round}");
    }
    readers.iter().for_each(|reader| reader.check_unchanged().unwrap());
    drop(readers);
    assert_eq!(n_open_below(scratch.path()), 0);
}

#[test]
fn threads_share_few_descriptors() {
    const N_THREADS: usize = 6;
    let scratch = Scratch::new();
    let storage = LocalStorage::with_max_open_files(4);
    let readers: Vec<_> =
        (0..40_u8).map(|file| storage.open_file(&scratch.write(file.to_string(), [file; 64])).unwrap()).collect();
    std::thread::scope(|scope| {
        for thread in 0..N_THREADS {
            let readers = &readers;
            scope.spawn(move || {
                for at in 0..2_000 {
                    let file = (at * (thread + 1)) % readers.len();
                    let mut bytes = [0; 64];
                    readers[file].read_exact_at(0, &mut bytes).unwrap();
                    assert!(bytes.iter().all(|byte| usize::from(*byte) == file));
                }
            });
        }
    });
    assert!(n_open_below(scratch.path()) <= 4);
}

/// Opens a file, lets another take its descriptor, changes it, and reads.
fn read_after_eviction(change: impl Fn(&Path)) -> Result<(), Error> {
    let scratch = Scratch::new();
    let storage = LocalStorage::with_max_open_files(1);
    let path = scratch.write("a", "0123");
    let reader = storage.open_file(&path)?;
    let other = storage.open_file(&scratch.write("b", "b"))?;
    other.read_exact_at(0, &mut [0])?;
    change(&path);
    reader.read_exact_at(0, &mut [0; 4])
}

#[test]
fn a_file_that_is_opened_again_must_be_the_same() {
    read_after_eviction(|_| {}).unwrap();
    let replace = |path: &Path| {
        fs::write(path.with_extension("new"), "4567").unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    };
    assert!(matches!(read_after_eviction(replace), Err(Error::Changed { .. })));
    let grow = |path: &Path| fs::write(path, "01234").unwrap();
    assert!(matches!(read_after_eviction(grow), Err(Error::Changed { .. })));
    let touch = |path: &Path| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    };
    assert!(matches!(read_after_eviction(touch), Err(Error::Changed { .. })));
    let become_pipe = |path: &Path| {
        fs::remove_file(path).unwrap();
        make_pipe(path);
    };
    assert!(matches!(read_after_eviction(become_pipe), Err(Error::Changed { .. })));
    let gone = read_after_eviction(|path| fs::remove_file(path).unwrap()).unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
}

#[test]
fn a_file_truncated_while_open_is_changed() {
    let scratch = Scratch::new();
    let path = scratch.write("a", [7; 10_000]);
    let reader: Arc<dyn ReadAt> = scratch.storage().open_file(&path).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(5_000).unwrap();
    assert!(matches!(reader.read_exact_at(4_000, &mut [0; 2_000]), Err(Error::Changed { .. })));
    assert!(matches!(reader.check_unchanged(), Err(Error::Changed { .. })));
}

#[test]
fn pipes_and_devices_are_refused_without_waiting() {
    let scratch = Scratch::new();
    let storage = scratch.storage();
    let pipe = scratch.join("pipe");
    make_pipe(&pipe);
    for path in [&*pipe, Path::new("/dev/zero")] {
        assert!(matches!(storage.open_file(path), Err(Error::NotAFile { .. })));
        assert!(matches!(storage.open_for_update(path), Err(Error::NotAFile { .. })));
        assert!(matches!(storage.read_file(path, 10), Err(Error::NotAFile { .. })));
        assert!(matches!(storage.lock(path), Err(Error::NotAFile { .. })));
        assert!(storage.create_file(path, 1).is_err());
        assert!(storage.sync_folder(path).is_err());
        assert!(storage.list_folder(path).is_err());
    }
}

#[test]
fn links_are_removed_not_followed() {
    let scratch = Scratch::new();
    let storage = scratch.storage();
    let kept = scratch.write("kept/file", "1");
    for path in ["link", "link/", "link/."] {
        symlink(scratch.join("kept"), scratch.join("link")).unwrap();
        storage.remove(&scratch.join(path)).unwrap();
        assert!(fs::symlink_metadata(scratch.join("link")).is_err(), "{path}");
        assert!(kept.exists(), "{path}");
    }
    fs::create_dir(scratch.join("folder")).unwrap();
    symlink(scratch.join("kept"), scratch.join("folder/link")).unwrap();
    storage.remove(&scratch.join("folder")).unwrap();
    assert!(kept.exists());
    symlink("nowhere", scratch.join("dangling")).unwrap();
    storage.remove(&scratch.join("dangling")).unwrap();
}

#[test]
fn canonical_paths_follow_links_and_keep_what_is_missing() {
    let scratch = Scratch::new();
    let storage = scratch.storage();
    let root = storage.canonical_path(scratch.path()).unwrap();
    fs::create_dir_all(scratch.join("a/b")).unwrap();
    symlink(scratch.join("a/b"), scratch.join("link")).unwrap();
    let canonical = |name: &str| storage.canonical_path(&scratch.join(name)).unwrap();
    assert_eq!(canonical("link/new/deep"), root.join("a/b/new/deep"));
    assert_eq!(canonical("link/.."), root.join("a"), "above the folder, not above the link");
    assert_eq!(canonical("missing/../link/new"), root.join("a/b/new"));
    symlink("loop", scratch.join("loop")).unwrap();
    assert!(storage.canonical_path(&scratch.join("loop/x")).is_err());
}

#[test]
fn a_slash_at_the_end_of_an_output_is_no_folder_inside_it() {
    let scratch = Scratch::new();
    let storage = scratch.storage();
    for name in ["out.partial/manifest", "out.partial/data", "out/manifest", "out/index"] {
        scratch.write(name, "1");
    }
    let (stage, target) = (scratch.join("out.partial/"), scratch.join("out/"));
    publish_folder(&*storage, &stage, &target, Replace::Force, crate::publish::OWN, &Unwatched).unwrap();
    let names =
        |path: &Path| storage.list_folder(path).unwrap().into_iter().map(|entry| entry.name).collect::<Vec<_>>();
    assert_eq!(names(scratch.path()), ["out"]);
    assert_eq!(names(&scratch.join("out")), ["data", "manifest"]);
}

#[test]
fn a_lock_on_a_removed_file_holds_nobody_up() {
    let scratch = Scratch::new();
    let storage = scratch.storage();
    let path = scratch.join("lock");
    let first = storage.lock(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let second = storage.lock(&path).unwrap();
    assert!(matches!(storage.lock(&path), Err(Error::Locked { .. })));
    drop((first, second));
    drop(storage.lock(&path).unwrap());
    assert!(path.exists(), "the file is left in its place");
}

#[test]
fn a_full_disk_says_so_and_leaves_nothing_in_the_way() {
    let scratch = Scratch::new();
    let storage = scratch.storage();
    let free_bytes = storage.free_bytes(&scratch.join("not/yet/there")).unwrap().unwrap();
    assert!(free_bytes > 0);
    // The local disk itself is not filled: other tests, and other people, are on it. A file beyond what any file may
    // hold is refused in the same place.
    let path = scratch.join("a");
    assert!(storage.create_file(&path, u64::MAX / 2).is_err());
    assert!(!path.exists());

    let memory = MemoryStorage::with_capacity_bytes(100);
    let file = memory.create_file(Path::new("/a"), 60).unwrap();
    assert_eq!(memory.free_bytes(Path::new("/")).unwrap(), Some(40));
    assert!(memory.create_file(Path::new("/b"), 41).unwrap_err().is_disk_full());
    assert!(file.write_all_at(60, &[1; 41]).unwrap_err().is_disk_full());
    file.write_all_at(60, &[1; 40]).unwrap();
    memory.remove(Path::new("/a")).unwrap();
    drop(file);
    assert_eq!(memory.free_bytes(Path::new("/")).unwrap(), Some(100));
}

#[test]
fn a_large_file_is_read_beyond_four_gibibytes() {
    let scratch = Scratch::new();
    let path = scratch.join("sparse");
    let offset = (1 << 32) + 12_345;
    fs::File::create(&path).unwrap().set_len(offset + 4).unwrap();
    let storage = scratch.storage();
    storage.open_for_update(&path).unwrap().write_all_at(offset, b"tail").unwrap();
    let mut bytes = [0; 4];
    storage.open_file(&path).unwrap().read_exact_at(offset, &mut bytes).unwrap();
    assert_eq!(&bytes, b"tail");
}
