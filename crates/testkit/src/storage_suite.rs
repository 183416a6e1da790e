//! What every `Storage` must do, as one suite that each of them runs.
//!
//! Faults and crashes are not in it: they need a disk that can be told to fail; see `crash_disk`.

use std::any::Any;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_storage::guard::{Contents, OwnFolder, OwnKind};
use thalweg_storage::publish::{Replace, publish_file, publish_folder};
use thalweg_storage::{
    CommitStyle, Error, FileInfo, FileKind, FolderEntry, ReadAt, Storage, Unwatched, WriteAt, is_address,
};

/// An empty folder on a storage.
#[derive(Debug)]
pub struct SuiteFolder {
    /// The storage.
    pub storage: Arc<dyn Storage>,
    /// The folder, which is there.
    pub folder: PathBuf,
    /// Whether files are synced as soon as they are written: a store then has them, and not only its client.
    pub syncs: bool,
    /// What must live as long as the folder, if anything.
    pub keep: Option<Box<dyn Any>>,
}

impl SuiteFolder {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Arc<dyn WriteAt> {
        let file = self.storage.create_file(&self.path(name), bytes.len() as u64).unwrap();
        file.write_all_at(0, bytes).unwrap();
        if self.syncs {
            file.sync().unwrap();
        }
        file
    }

    fn open(&self, name: &str) -> Arc<dyn ReadAt> {
        self.storage.open_file(&self.path(name)).unwrap()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        self.storage.read_file(&self.path(name), 1 << 20).unwrap()
    }

    fn info(&self, name: &str) -> Result<FileInfo, Error> {
        self.storage.file_info(&self.path(name))
    }

    fn make_folder(&self, name: &str) {
        self.storage.create_folder(&self.path(name)).unwrap();
    }

    fn renames(&self) -> bool {
        self.storage.commit_style(&self.folder) == CommitStyle::RenameFolder
    }

    fn names(&self, name: &str) -> Vec<String> {
        let entries = self.storage.list_folder(&self.path(name)).unwrap();
        entries.into_iter().map(|entry| entry.name).collect()
    }
}

/// Runs everything, each part in a new empty folder from `make`.
///
/// # Panics
/// At the first thing that is not as it must be.
pub fn check_storage(make: impl Fn() -> SuiteFolder) {
    let checks: [fn(&SuiteFolder); 15] = [
        check_bytes,
        check_ends_of_files,
        check_small_files,
        check_new_files,
        check_update,
        check_missing,
        check_folders,
        check_listing,
        check_rename,
        check_exchange,
        check_remove,
        check_changes,
        check_locks_and_paths,
        check_files_opened_together,
        check_threads,
    ];
    checks.iter().for_each(|check| check(&make()));
    check_publish_folder(&make());
    check_publish_file(&make());
}

/// The error's kind, and that it names the path.
fn kind_of<T: std::fmt::Debug>(outcome: Result<T, Error>, path: &Path) -> ErrorKind {
    match outcome {
        Err(error @ Error::Io { .. }) => {
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            let Error::Io { source, .. } = error else { unreachable!() };
            source.kind()
        }
        other => panic!("an I/O error for {} expected, found {other:?}", path.display()),
    }
}

fn check_bytes(at: &SuiteFolder) {
    let file = at.storage.create_file(&at.path("a"), 10).unwrap();
    assert_eq!(at.bytes("a"), [0; 10], "a new file holds zeros");
    file.write_all_at(3, b"xyz").unwrap();
    file.write_all_at(8, b"more").unwrap();
    file.write_all_at(5, b"").unwrap();
    file.start_writeback(0, 12);
    file.start_writeback(0, 0);
    file.sync().unwrap();
    assert_eq!(file.len_bytes().unwrap(), 12, "writes past the end make it longer");
    assert_eq!(at.bytes("a"), b"\0\0\0xyz\0\0more");
    let mut back = [0; 3];
    file.read_exact_at(3, &mut back).unwrap();
    assert_eq!(&back, b"xyz");
    let reader = at.open("a");
    assert_eq!((reader.info().kind, reader.info().len_bytes), (FileKind::File, 12));
    assert_eq!(reader.info(), at.info("a").unwrap());
    reader.will_need(0, 12);
    reader.will_need(100, 5);
    reader.read_exact_at(9, &mut back).unwrap();
    assert_eq!(&back, b"ore");
    reader.drop_cache(0, 12);
    reader.drop_cache(0, 0);
    reader.read_exact_at(9, &mut back).unwrap();
    assert_eq!(&back, b"ore", "advice changes nothing");
    reader.check_unchanged().unwrap();
}

fn check_ends_of_files(at: &SuiteFolder) {
    let file = at.create("a", b"0123456789");
    let reader = at.open("a");
    reader.read_exact_at(10, &mut []).unwrap();
    for offset in [7, 10, 1000, u64::MAX] {
        let expected = (offset.saturating_add(4), 10);
        for outcome in [reader.read_exact_at(offset, &mut [0; 4]), file.read_exact_at(offset, &mut [0; 4])] {
            match outcome {
                Err(Error::Truncated { path, wanted_bytes, found_bytes }) => {
                    assert_eq!((path, wanted_bytes, found_bytes), (at.path("a"), expected.0, expected.1));
                }
                // Offsets that no file can have may be refused as such.
                Err(Error::Io { .. }) if offset == u64::MAX => {}
                other => panic!("offset {offset}: {other:?}"),
            }
        }
    }
}

fn check_small_files(at: &SuiteFolder) {
    at.create("a", b"12345");
    at.create("empty", b"");
    assert_eq!(at.storage.read_file(&at.path("a"), 5).unwrap(), b"12345");
    assert_eq!(at.bytes("empty"), b"");
    match at.storage.read_file(&at.path("a"), 4) {
        Err(Error::TooLarge { limit_bytes: 4, found_bytes: 5, .. }) => {}
        other => panic!("{other:?}"),
    }
}

fn check_new_files(at: &SuiteFolder) {
    at.create("a", b"old");
    assert_eq!(kind_of(at.storage.create_file(&at.path("a"), 1), &at.path("a")), ErrorKind::AlreadyExists);
    assert_eq!(at.bytes("a"), b"old");
    let orphan = at.path("missing/a");
    assert_eq!(kind_of(at.storage.create_file(&orphan, 1), &orphan), ErrorKind::NotFound);
    let below_file = at.path("a/b");
    assert_eq!(kind_of(at.storage.create_file(&below_file, 1), &below_file), ErrorKind::NotADirectory);
    // Nothing can hold it; what is refused is not left behind.
    let huge = at.path("huge");
    assert!(at.storage.create_file(&huge, u64::MAX >> 1).is_err());
    assert!(at.info("huge").unwrap_err().is_not_found());
}

fn check_update(at: &SuiteFolder) {
    at.create("a", b"0123");
    let file = at.storage.open_for_update(&at.path("a")).unwrap();
    assert_eq!(file.len_bytes().unwrap(), 4);
    file.write_all_at(1, b"xx").unwrap();
    assert_eq!(at.bytes("a"), b"0xx3");
    at.make_folder("f");
    assert!(matches!(at.storage.open_for_update(&at.path("f")), Err(Error::NotAFile { .. })));
    assert!(at.storage.open_for_update(&at.path("missing")).unwrap_err().is_not_found());
}

fn check_missing(at: &SuiteFolder) {
    let missing = at.path("missing");
    assert_eq!(kind_of(at.storage.file_info(&missing), &missing), ErrorKind::NotFound);
    assert_eq!(kind_of(at.storage.open_file(&missing), &missing), ErrorKind::NotFound);
    assert_eq!(kind_of(at.storage.list_folder(&missing), &missing), ErrorKind::NotFound);
    assert_eq!(kind_of(at.storage.remove(&missing), &missing), ErrorKind::NotFound);
    assert_eq!(kind_of(at.storage.sync_folder(&missing), &missing), ErrorKind::NotFound);
    at.storage.free_bytes(&at.path("missing/deep")).unwrap();
    at.create("a", b"");
    assert_eq!(kind_of(at.info("a/b"), &at.path("a/b")), ErrorKind::NotADirectory);
}

fn check_folders(at: &SuiteFolder) {
    at.make_folder("a/b/c");
    at.make_folder("a/b/c");
    assert_eq!(at.info("a/b").unwrap().kind, FileKind::Folder);
    at.create("a/b/c/file", b"1");
    at.storage.sync_folder(&at.path("a/b/c")).unwrap();
    assert!(matches!(at.storage.open_file(&at.path("a")), Err(Error::NotAFile { .. })));
    assert!(at.storage.create_folder(&at.path("a/b/c/file")).is_err());
    assert!(at.storage.create_folder(&at.path("a/b/c/file/d")).is_err());
    assert!(at.storage.sync_folder(&at.path("a/b/c/file")).is_err());
}

fn check_listing(at: &SuiteFolder) {
    assert_eq!(at.names(""), [""; 0]);
    // Bytes decide the order: `a-` before `a.`, and both before what is in `a`.
    at.make_folder("a/inner");
    for (name, bytes) in [("b", &b"12"[..]), ("a.b", b"1"), ("a-b", b""), ("B", b"")] {
        at.create(name, bytes);
    }
    let entry = |name: &str, kind, len_bytes| FolderEntry { name: name.to_owned(), kind, len_bytes };
    let expected = [
        entry("B", FileKind::File, 0),
        entry("a", FileKind::Folder, 0),
        entry("a-b", FileKind::File, 0),
        entry("a.b", FileKind::File, 1),
        entry("b", FileKind::File, 2),
    ];
    assert_eq!(at.storage.list_folder(&at.folder).unwrap(), expected);
    assert_eq!(kind_of(at.storage.list_folder(&at.path("b")), &at.path("b")), ErrorKind::NotADirectory);
}

fn check_rename(at: &SuiteFolder) {
    at.create("a", b"a");
    at.make_folder("f/g");
    at.create("f/g/x", b"x");
    let rename = |from: &str, to: &str| at.storage.rename(&at.path(from), &at.path(to));
    if !at.renames() {
        assert_eq!(kind_of(rename("a", "b"), &at.path("a")), ErrorKind::Unsupported);
        assert_eq!(at.bytes("a"), b"a");
        return;
    }
    let writer = at.storage.open_for_update(&at.path("f/g/x")).unwrap();
    rename("f", "h").unwrap();
    assert!(at.info("f").unwrap_err().is_not_found());
    assert_eq!(at.bytes("h/g/x"), b"x");
    writer.write_all_at(0, b"y").unwrap();
    assert_eq!(at.bytes("h/g/x"), b"y", "an open file moves with its folder");
    rename("a", "h/g/a").unwrap();
    assert_eq!(at.names("h/g"), ["a", "x"]);
    assert_eq!(kind_of(rename("h/g/a", "h/g/x"), &at.path("h/g/x")), ErrorKind::AlreadyExists);
    assert_eq!((at.bytes("h/g/a"), at.bytes("h/g/x")), (b"a".to_vec(), b"y".to_vec()));
    at.make_folder("empty");
    assert_eq!(kind_of(rename("h", "empty"), &at.path("empty")), ErrorKind::AlreadyExists);
    assert_eq!(kind_of(rename("missing", "new"), &at.path("missing")), ErrorKind::NotFound);
    assert!(rename("h", "h/g/inside").is_err());
    assert_eq!(at.names("h"), ["g"]);
}

fn check_exchange(at: &SuiteFolder) {
    at.make_folder("a");
    at.make_folder("b/inner");
    at.create("a/x", b"1");
    let exchange = |a: &str, b: &str| at.storage.exchange(&at.path(a), &at.path(b));
    match exchange("a", "b") {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::Unsupported => {
            assert_eq!(at.names("a"), ["x"]);
            return;
        }
        outcome => outcome.unwrap(),
    }
    assert!(at.renames(), "who can exchange can rename");
    assert_eq!((at.names("a"), at.bytes("b/x")), (vec!["inner".to_owned()], b"1".to_vec()));
    assert!(exchange("a", "missing").unwrap_err().is_not_found());
    assert!(exchange("missing", "a").unwrap_err().is_not_found());
    assert!(exchange("b", "b/x").is_err());
    assert_eq!(at.bytes("b/x"), b"1");
}

fn check_remove(at: &SuiteFolder) {
    at.make_folder("f/g");
    at.create("f/g/x", b"1");
    at.create("f-beside", b"2");
    at.storage.remove(&at.path("f")).unwrap();
    assert_eq!(at.names(""), ["f-beside"]);
    let reader = at.open("f-beside");
    at.storage.remove(&at.path("f-beside")).unwrap();
    assert_eq!(at.names(""), [""; 0]);
    assert!(reader.check_unchanged().is_err());
    at.make_folder("f");
    assert_eq!(at.names("f"), [""; 0], "nothing comes back");
}

fn check_changes(at: &SuiteFolder) {
    fn is_changed(reader: &dyn ReadAt) -> bool {
        matches!(reader.check_unchanged(), Err(Error::Changed { .. }))
    }
    let file = at.create("a", b"0123");
    let reader = at.open("a");
    file.write_all_at(4, b"4").unwrap();
    assert!(is_changed(&*reader), "it grew");
    assert!(matches!(reader.read_exact_at(4, &mut [0; 9]), Err(Error::Changed { .. } | Error::Truncated { .. })));
    let reader = at.open("a");
    reader.check_unchanged().unwrap();
    at.storage.remove(&at.path("a")).unwrap();
    at.create("a", b"01234");
    assert!(is_changed(&*reader), "another one of the same length took its place");
}

fn check_locks_and_paths(at: &SuiteFolder) {
    let path = at.path("lock");
    let lock = at.storage.lock(&path).unwrap();
    assert_eq!(at.info("lock").unwrap().kind, FileKind::File);
    assert!(matches!(at.storage.lock(&path), Err(Error::Locked { path: found }) if found == path));
    drop(at.storage.lock(&at.path("other")).unwrap());
    drop(lock);
    drop(at.storage.lock(&path).unwrap());
    let shared = [at.storage.lock_shared(&path).unwrap(), at.storage.lock_shared(&path).unwrap()];
    assert!(matches!(at.storage.lock(&path), Err(Error::Locked { path: found }) if found == path));
    let [first, second] = shared;
    drop(first);
    assert!(matches!(at.storage.lock(&path), Err(Error::Locked { .. })), "one holder is left");
    drop(second);
    let alone = at.storage.lock(&path).unwrap();
    assert!(matches!(at.storage.lock_shared(&path), Err(Error::Locked { .. })));
    drop(alone);
    assert!(at.storage.lock(&at.path("missing/lock")).unwrap_err().is_not_found());
    at.make_folder("f");
    assert!(at.storage.lock(&at.path("f")).is_err());

    let canonical = |name: &str| at.storage.canonical_path(&at.path(name)).unwrap();
    let root = canonical("");
    assert!(root.is_absolute() || is_address(&root));
    for (name, expected) in [("f/../lock", "lock"), ("f/./new/deep", "f/new/deep"), ("no/../new", "new"), ("f/", "f")] {
        assert_eq!(canonical(name), root.join(expected), "{name}");
    }
}

/// A file that several open: made by the first, never emptied by the others.
fn check_files_opened_together(at: &SuiteFolder) {
    let path = at.path("both");
    let first = at.storage.open_together(&path, 8).unwrap();
    first.write_all_at(0, b"ab").unwrap();
    let second = at.storage.open_together(&path, 8).unwrap();
    second.write_all_at(6, b"yz").unwrap();
    first.write_all_at(2, b"cd").unwrap();
    assert_eq!(at.bytes("both"), b"abcd\0\0yz");
    assert_eq!(at.storage.open_together(&path, 10).unwrap().len_bytes().unwrap(), 10);
    assert_eq!(at.bytes("both"), b"abcd\0\0yz\0\0");
    assert_eq!(at.storage.open_together(&path, 3).unwrap().len_bytes().unwrap(), 10, "it is not cut");
    at.make_folder("f2");
    assert!(at.storage.open_together(&at.path("f2"), 1).is_err());
}

fn check_threads(at: &SuiteFolder) {
    const N_THREADS: u8 = 4;
    const PART_BYTES: u64 = 4096;
    let file = at.storage.create_file(&at.path("a"), 0).unwrap();
    let reader_at = |thread: u8| u64::from(thread) * PART_BYTES;
    std::thread::scope(|scope| {
        for thread in 0..N_THREADS {
            let file = &file;
            scope.spawn(move || file.write_all_at(reader_at(thread), &[thread + 1; 4096]).unwrap());
        }
    });
    let reader = at.open("a");
    assert_eq!(reader.info().len_bytes, reader_at(N_THREADS));
    std::thread::scope(|scope| {
        for thread in 0..N_THREADS {
            let reader = &reader;
            scope.spawn(move || {
                let mut part = [0; 4096];
                reader.read_exact_at(reader_at(thread), &mut part).unwrap();
                assert_eq!(part, [thread + 1; 4096]);
            });
        }
    });
}

fn check_publish_folder(at: &SuiteFolder) {
    let contents_of = |_: &dyn Storage, _: &Path| Ok(Contents::Ours { manifest: "x".to_owned(), foreign: Vec::new() });
    let own = OwnFolder { what: "an output", contents_of: &contents_of };
    let publish = |stage: &str, target: &str, replace| {
        publish_folder(&*at.storage, &at.path(stage), &at.path(target), replace, own, &Unwatched)
    };
    if at.storage.commit_style(&at.folder) == CommitStyle::Upload {
        return check_upload(at, own);
    }
    at.make_folder("stage");
    at.create("stage/x", b"new");
    publish("stage", "out", Replace::Never).unwrap();
    assert_eq!((at.bytes("out/x"), at.names("")), (b"new".to_vec(), vec!["out".to_owned()]));
    at.make_folder("stage");
    at.create("stage/y", b"newer");
    let refused = publish("stage", "out", Replace::Never);
    assert_eq!(kind_of(refused, &at.path("out")), ErrorKind::AlreadyExists);
    assert_eq!((at.names("stage"), at.names("out")), (vec!["y".to_owned()], vec!["x".to_owned()]));
    publish("stage", "out", Replace::Force).unwrap();
    assert_eq!((at.names("out"), at.names("")), (vec!["y".to_owned()], vec!["out".to_owned()]));
    at.make_folder("stage");
    publish("stage", "first", Replace::Force).unwrap();
    assert_eq!(at.names(""), ["first", "out"], "there need be nothing to replace");
    assert!(publish("missing", "out", Replace::Force).is_err());
    assert_eq!(at.names("out"), ["y"]);
}

/// Where a stage is uploaded, it is on a local disk, and nothing of it is left there.
fn check_upload(at: &SuiteFolder, own: OwnFolder<'_>) {
    let out = at.path("out");
    let stage = at.storage.stage_path(&out);
    let fill = |name: &str, bytes: &[u8]| {
        at.storage.create_folder(&stage.join("inner")).unwrap();
        for name in ["x", name, "inner/z"] {
            let file = at.storage.create_file(&stage.join(name), bytes.len() as u64).unwrap();
            file.write_all_at(0, bytes).unwrap();
            file.sync().unwrap();
        }
    };
    let publish = |replace| publish_folder(&*at.storage, &stage, &out, replace, own, &Unwatched);
    fill("a", b"new");
    publish(Replace::Never).unwrap();
    assert_eq!((at.bytes("out/x"), at.bytes("out/inner/z")), (b"new".to_vec(), b"new".to_vec()));
    assert_eq!((at.names(""), at.names("out")), (owned(&["out"]), owned(&["a", "inner", "x"])));
    assert!(at.storage.file_info(&stage).unwrap_err().is_not_found(), "the stage is removed");
    fill("y", b"newer");
    assert_eq!(kind_of(publish(Replace::Never), &out), ErrorKind::AlreadyExists);
    assert_eq!(at.bytes("out/x"), b"new");
    publish(Replace::Force).unwrap();
    assert_eq!((at.names("out"), at.bytes("out/x")), (owned(&["inner", "x", "y"]), b"newer".to_vec()));
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn check_publish_file(at: &SuiteFolder) {
    let kind = OwnKind::in_own_folder("a file");
    for bytes in [&b"old, and longer"[..], b"new"] {
        publish_file(&*at.storage, &at.path("plan.json"), bytes, kind).unwrap();
        assert_eq!(at.bytes("plan.json"), bytes);
        assert_eq!(at.names(""), ["plan.json"], "nothing is left beside it");
    }
    let nested = publish_file(&*at.storage, &at.path("missing/plan.json"), b"1", kind);
    match at.storage.commit_style(&at.folder) {
        CommitStyle::Upload => assert_eq!(at.bytes("missing/plan.json"), b"1", "a store has no folders"),
        _ => assert!(nested.unwrap_err().is_not_found()),
    }
}
