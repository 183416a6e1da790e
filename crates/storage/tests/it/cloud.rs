//! Object stores over HTTP that fail: the same bytes, or an error that says what, where and what next.
//!
//! What can happen, and the test of it here or in `stores.rs` of the program's tests (P):
//!
//! - any use of a store: the suite of `conformance.rs`, in memory and over HTTP
//! - reads in order and at once: `readers_of_large_objects_fetch_each_byte_once`,
//!   `heads_of_many_files_are_asked_for_at_once`
//! - 500, 503 with and without `Retry-After`, 429, cut and slow answers, wrong lengths: `reads_survive_what_passes`
//! - ranges that the server ignores: `a_server_that_ignores_ranges_is_refused`
//! - what no wait mends: `what_does_not_pass_is_an_error_with_a_next_step`
//! - a store that stays broken: `a_store_that_stays_broken_is_waited_for_with_a_note_and_then_given_up`
//! - credentials that expire in the middle: P `credentials_that_expire_in_the_middle_cost_no_finished_work`
//! - an object that is replaced: `an_object_that_is_replaced_while_it_is_read_is_an_error`
//! - an upload that dies: `an_upload_that_dies_is_invisible_and_is_resumed`, `parts_that_the_store_lost_are_sent_again`
//! - `kill -9` at any moment: P `a_merge_in_a_bucket_killed_at_any_request_ends_in_the_same_bytes`
//! - leftovers: `what_an_upload_left_is_named_and_removed`
//! - secrets: `no_secret_is_in_any_debug_text`; P: every command
//!
//! `scripts/object_stores.sh` does the same through a proxy before moto (S3, Google) and Azurite.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use thalweg_storage::cloud::UPLOAD_MARKER;
use thalweg_storage::guard::{Contents, OwnFolder};
use thalweg_storage::publish::{Replace, publish_folder};
use thalweg_storage::{
    CloudSettings, Error, ReadAt, RemoteFault, RoutedStorage, Storage, Unwatched, UploadWatcher, WaitNotes,
};
use thalweg_testkit::{S3Server, Scratch, ServerFault};

pub(crate) fn settings(scratch: &Scratch) -> CloudSettings {
    CloudSettings {
        variables: Vec::new(),
        staging: scratch.join("staging"),
        give_up_after: Duration::from_secs(20),
        interrupt: Arc::default(),
        waits: WaitNotes::default(),
    }
}

/// A server, and a storage that knows where it is.
struct Scene {
    server: S3Server,
    scratch: Scratch,
}

impl Scene {
    fn new() -> Self {
        Self { server: S3Server::start(), scratch: Scratch::new() }
    }

    fn storage(&self) -> RoutedStorage {
        self.storage_for(Duration::from_secs(20))
    }

    fn storage_for(&self, give_up_after: Duration) -> RoutedStorage {
        let variables = self.server.variables();
        RoutedStorage::new(CloudSettings { variables, give_up_after, ..settings(&self.scratch) })
    }

    fn open(&self, key: &str) -> Arc<dyn ReadAt> {
        self.storage().open_file(&address(key)).unwrap()
    }
}

fn address(key: &str) -> PathBuf {
    Path::new("s3://bucket").join(key)
}

fn pattern(n_bytes: usize) -> Vec<u8> {
    const PERIOD: usize = 65_521;
    let once: Vec<u8> = (0..PERIOD.min(n_bytes)).map(|n| ((n * 7 + n / 251) % 256).to_le_bytes()[0]).collect();
    let mut bytes = once.repeat(n_bytes.div_ceil(PERIOD));
    bytes.truncate(n_bytes);
    bytes
}

fn read(file: &dyn ReadAt, offset: u64, n_bytes: usize) -> Result<Vec<u8>, Error> {
    let mut out = vec![0; n_bytes];
    file.read_exact_at(offset, &mut out).map(|()| out)
}

/// Reads survive what passes: every kind of fault, then the bytes.
#[test]
fn reads_survive_what_passes() {
    let faults = [
        ServerFault::Status(500, "InternalError", 0),
        ServerFault::Status(503, "SlowDown", 0),
        ServerFault::Status(503, "SlowDown", 1),
        ServerFault::Status(429, "TooManyRequests", 0),
        ServerFault::CutBody(1000),
        ServerFault::Close,
        ServerFault::ShortRange,
        ServerFault::LongRange,
        ServerFault::SlowBody(Duration::from_millis(100)),
        ServerFault::Late(Duration::from_millis(100)),
    ];
    for fault in faults {
        let scene = Scene::new();
        let bytes = pattern(5 << 20);
        scene.server.put("run/x", &bytes);
        let file = scene.open("run/x");
        scene.server.fail_next("GET run/x", fault.clone());
        assert!(read(&*file, 100, 300_000).unwrap() == bytes[100..300_100], "{fault:?}");
        assert!(read(&*file, 4 << 20, 1 << 20).unwrap() == bytes[4 << 20..], "{fault:?}");
    }
}

#[test]
fn what_does_not_pass_is_an_error_with_a_next_step() {
    let cases = [
        (404, "NoSuchBucket", RemoteFault::NoBucket, "bucket"),
        (403, "AccessDenied", RemoteFault::Denied, "credentials"),
        (400, "ExpiredToken", RemoteFault::Expired, "new credentials"),
        (403, "InvalidAccessKeyId", RemoteFault::NoCredentials, "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", RemoteFault::NoCredentials, "AWS_SECRET_ACCESS_KEY"),
    ];
    for (status, code, expected, hint) in cases {
        let scene = Scene::new();
        scene.server.put("run/x", b"abc");
        scene.server.fail_next("GET ", ServerFault::Status(status, code, 0));
        let error = scene.storage().file_info(&address("run/x")).unwrap_err();
        assert!(matches!(&error, Error::Remote { fault, .. } if *fault == expected), "{error:?}");
        assert!(!error.is_not_found());
        let text = format!("{error} {error:?}");
        assert!(text.contains("s3://bucket") && text.contains(code), "{text}");
        assert!(error.hint().unwrap().contains(hint), "{error}");
        assert!(!text.contains("AKIATEST"), "{text}");
    }
}

/// A plain web server may not know ranges; nor does a proxy that drops the header.
#[test]
fn a_server_that_ignores_ranges_is_refused() {
    let scene = Scene::new();
    scene.server.put("run/x", &pattern(3 << 20));
    let file = scene.open("run/x");
    scene.server.fail_next("GET run/x", ServerFault::NoRange);
    let error = read(&*file, 100, 1000).unwrap_err();
    assert!(matches!(&error, Error::Remote { fault: RemoteFault::Unsupported, .. }), "{error:?}");
    assert!(error.to_string().contains("it does not support range requests"), "{error}");
}

#[test]
fn a_store_that_stays_broken_is_waited_for_with_a_note_and_then_given_up() {
    let scene = Scene::new();
    scene.server.put("run/x", &pattern(100));
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let says = Arc::clone(&heard);
    let waits = WaitNotes::new(move |note| says.lock().unwrap().push(note.to_owned()));
    let (variables, give_up_after) = (scene.server.variables(), Duration::from_secs(2));
    let storage = RoutedStorage::new(CloudSettings { variables, give_up_after, waits, ..settings(&scene.scratch) });
    let file = storage.open_file(&address("run/x")).unwrap();
    for _ in 0..200 {
        scene.server.fail_next("GET run/x", ServerFault::Status(503, "SlowDown", 0));
    }
    let error = read(&*file, 0, 100).unwrap_err();
    assert!(matches!(&error, Error::Remote { fault: RemoteFault::Busy, .. }), "{error:?}");
    assert!(error.to_string().contains("503 (SlowDown)") && error.to_string().contains("attempts"), "{error}");
    let expected = "waiting for `s3://bucket`: the store responded with 503 (SlowDown); retrying for up to 2 s";
    assert_eq!(*heard.lock().unwrap(), [expected]);
}

/// However a store keeps a command waiting, a stop ends that in a moment.
#[test]
fn a_stop_ends_every_wait_for_a_store() {
    let busy = || ServerFault::Status(503, "SlowDown", 0);
    let patient = || ServerFault::Status(503, "SlowDown", 30);
    let hanging = || ServerFault::Late(Duration::from_secs(3));
    let faults: [&dyn Fn() -> ServerFault; 3] = [&busy, &patient, &hanging];
    for fault in faults {
        let scene = Scene::new();
        scene.server.put("run/x", &pattern(100));
        let settings = CloudSettings { variables: scene.server.variables(), ..settings(&scene.scratch) };
        let interrupt = Arc::clone(&settings.interrupt);
        let storage = RoutedStorage::new(settings);
        let file = storage.open_file(&address("run/x")).unwrap();
        (0..50).for_each(|_| scene.server.fail_next("GET ", fault()));
        let began = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while scene.server.take_requests().is_empty() {
                    std::thread::yield_now();
                }
                interrupt.store(true, Ordering::Relaxed);
            });
            // A read waits for a block, a listing for its request.
            for error in [read(&*file, 0, 100).unwrap_err(), storage.list_folder(&address("other")).unwrap_err()] {
                let is_cut = matches!(&error, Error::Remote { fault: RemoteFault::Interrupted, .. });
                assert!(is_cut, "{:?}: {error:?}", fault());
                assert_eq!(error.hint(), Some("rerun the command to resume"));
            }
        });
        assert!(began.elapsed() < Duration::from_millis(2500), "{:?}: {:?}", fault(), began.elapsed());
        // A store that answers is still asked, so that a last record can be written.
        scene.server.forget_faults();
        storage.list_folder(&address("run")).unwrap();
    }
}

#[test]
fn nothing_that_listens_is_an_error_that_names_the_address() {
    let scratch = Scratch::new();
    let variables =
        [("AWS_ENDPOINT_URL", "http://127.0.0.1:9"), ("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let give_up_after = Duration::from_millis(500);
    let storage = RoutedStorage::new(CloudSettings { variables, give_up_after, ..settings(&scratch) });
    let error = storage.list_folder(&address("run")).unwrap_err();
    assert!(matches!(&error, Error::Remote { fault: RemoteFault::Unreachable, .. }), "{error:?}");
    assert!(error.to_string().contains("`s3://bucket/run`"), "{error}");
}

#[test]
fn an_object_that_is_replaced_while_it_is_read_is_an_error() {
    let replacements = [pattern(9 << 20), pattern(100), Vec::new(), vec![1; 10 << 20]];
    for replacement in replacements {
        let scene = Scene::new();
        scene.server.put("run/x", &vec![0; 9 << 20]);
        let file = scene.open("run/x");
        read(&*file, 0, 10).unwrap();
        scene.server.fail_next("GET run/x", ServerFault::Replaced(replacement));
        let error = read(&*file, 8 << 20, 10).unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains("replaced"));
    }
}

#[test]
fn a_run_is_listed_by_few_requests_and_neighbouring_reads_share_one() {
    let scene = Scene::new();
    for step in 0..50 {
        for shard in 0..30 {
            scene.server.put(&format!("run/step-{step}/model-{shard:05}.safetensors"), &[7; 2000]);
        }
    }
    let storage = scene.storage();
    scene.server.take_requests();
    let entries = storage.list_folder(&address("run")).unwrap();
    assert_eq!(entries.len(), 50);
    for entry in &entries {
        let folder = address("run").join(&entry.name);
        assert_eq!(storage.list_folder(&folder).unwrap().len(), 30);
        assert!(storage.file_info(&folder.join("config.json")).unwrap_err().is_not_found());
        assert_eq!(storage.file_info(&folder.join("model-00007.safetensors")).unwrap().len_bytes, 2000);
    }
    let n_requests = scene.server.take_requests().iter().filter(|seen| seen.method == "GET").count();
    assert_eq!(n_requests, 2, "two pages of names");
    let file = storage.open_file(&address("run/step-3/model-00001.safetensors")).unwrap();
    (0..10).for_each(|n| assert_eq!(read(&*file, n * 100, 100).unwrap(), [7; 100]));
    let seen = scene.server.take_requests();
    assert_eq!(seen.iter().filter(|seen| seen.method == "GET").count(), 1);
    assert!(seen[0].head.to_ascii_lowercase().contains("if-match:"), "{}", seen[0].head);
}

/// Threads that take turns at parts of several objects, as those of a merge do, ask for each byte once, however far one
/// of them lags behind, but for one small block a thread and object: their first reads may be single ones.
#[test]
fn readers_of_large_objects_fetch_each_byte_once() {
    let work = |objects: &Objects, next: &AtomicU64| {
        loop {
            let unit = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap();
            if unit >= Objects::N_UNITS {
                return;
            }
            objects.read_unit(unit);
        }
    };
    let objects = Objects::new();
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(|| work(&objects, &next)))));
    objects.check_that_each_byte_was_asked_for_once(2);
    for lagging in [0, 1, 5, 16] {
        let objects = Objects::new();
        (0..Objects::N_UNITS).filter(|&unit| unit != lagging).for_each(|unit| objects.read_unit(unit));
        objects.read_unit(lagging);
        objects.check_that_each_byte_was_asked_for_once(2);
    }
}

/// A second pass over an object is read ahead as the first.
#[test]
fn a_second_pass_fetches_each_byte_once_more() {
    let objects = Objects::new();
    for _ in 0..2 {
        (0..Objects::N_UNITS).for_each(|unit| objects.read_unit(unit));
        objects.check_that_each_byte_was_asked_for_once(1);
    }
}

/// Two objects that are read side by side.
struct Objects {
    scene: Scene,
    bytes: Vec<u8>,
    files: [Arc<dyn ReadAt>; 2],
}

impl Objects {
    const N_UNITS: usize = 18;
    const UNIT_BYTES: usize = 1 << 20;
    const PIECE_BYTES: usize = 64 << 10;

    fn new() -> Self {
        let scene = Scene::new();
        let bytes = pattern(Self::N_UNITS * Self::UNIT_BYTES);
        ["run/a", "run/b"].iter().for_each(|key| scene.server.put(key, &bytes));
        let storage = scene.storage();
        let files = ["run/a", "run/b"].map(|key| storage.open_file(&address(key)).unwrap());
        scene.server.take_requests();
        Self { scene, bytes, files }
    }

    fn read_unit(&self, unit: usize) {
        for start in (unit * Self::UNIT_BYTES..(unit + 1) * Self::UNIT_BYTES).step_by(Self::PIECE_BYTES) {
            for file in &self.files {
                let piece = read(&**file, start as u64, Self::PIECE_BYTES).unwrap();
                assert!(piece == self.bytes[start..start + Self::PIECE_BYTES]);
            }
        }
    }

    /// Since this was asked last, with a small block for each of `n_threads`.
    fn check_that_each_byte_was_asked_for_once(&self, n_threads: u64) {
        let asked: u64 = self.scene.server.take_requests().iter().filter_map(|seen| n_bytes_asked(&seen.head)).sum();
        let held = 2 * self.bytes.len() as u64;
        let most = held + 2 * n_threads * (128 << 10);
        assert!((held..=most).contains(&asked), "{asked} bytes were asked for, the objects hold {held}");
    }
}

/// The length of the range that a request asks for.
fn n_bytes_asked(head: &str) -> Option<u64> {
    let (_, range) = head.lines().filter_map(|line| line.split_once("bytes=")).next()?;
    let (first, last) = range.trim().split_once('-')?;
    Some(last.parse::<u64>().ok()? + 1 - first.parse::<u64>().ok()?)
}

#[test]
fn heads_of_many_files_are_asked_for_at_once() {
    let scene = Scene::new();
    let keys: Vec<String> = (0..40).map(|n| format!("run/{n:02}.safetensors")).collect();
    keys.iter().for_each(|key| scene.server.put(key, &pattern(3 << 20)));
    let paths: Vec<PathBuf> = keys.iter().map(|key| address(key)).collect();
    let storage = scene.storage();
    storage.file_info(&address("run")).unwrap();
    for key in &keys {
        scene.server.fail_next(&format!("GET {key}"), ServerFault::Late(Duration::from_millis(100)));
    }
    let started = Instant::now();
    storage.will_open(&paths);
    for path in &paths {
        assert_eq!(read(&*storage.open_file(path).unwrap(), 8, 100).unwrap(), pattern(108)[8..]);
    }
    assert!(started.elapsed() < Duration::from_secs(2), "one after the other they would take 4 s");
}

// Outputs.

fn contents_of(_: &dyn Storage, _: &Path) -> Result<Contents, Error> {
    Ok(Contents::Ours { manifest: "thalweg.json".to_owned(), foreign: Vec::new() })
}

const OWN: OwnFolder<'static> = OwnFolder { what: "an output", contents_of: &contents_of };

/// Stages an output with a file in parts and small ones, and returns the path of the output.
fn stage(storage: &RoutedStorage) -> (PathBuf, PathBuf) {
    stage_for(storage, address("out"))
}

fn stage_for(storage: &RoutedStorage, out: PathBuf) -> (PathBuf, PathBuf) {
    let stage = storage.stage_path(&out);
    storage.create_folder(&stage).unwrap();
    for (name, n_bytes) in [("big.safetensors", 9 << 20), ("config.json", 100), ("thalweg.json", 50)] {
        let file = storage.create_file(&stage.join(name), 0).unwrap();
        file.write_all_at(0, &pattern(n_bytes)).unwrap();
        file.sync().unwrap();
    }
    (out, stage)
}

fn check_uploaded(scene: &Scene) {
    assert_eq!(scene.server.keys(), ["out/big.safetensors", "out/config.json", "out/thalweg.json"]);
    for (name, n_bytes) in [("big.safetensors", 9 << 20), ("config.json", 100), ("thalweg.json", 50)] {
        assert!(scene.server.get(&format!("out/{name}")).unwrap() == pattern(n_bytes), "{name}");
    }
    assert_eq!(scene.server.n_open_uploads(), 0);
}

#[test]
fn an_output_is_uploaded_in_parts_with_the_manifest_last() {
    let scene = Scene::new();
    let storage = scene.storage();
    let (out, stage) = stage(&storage);
    publish_folder(&storage, &stage, &out, Replace::Never, OWN, &Unwatched).unwrap();
    check_uploaded(&scene);
    let puts: Vec<String> =
        scene.server.take_requests().into_iter().filter(|seen| seen.method == "PUT").map(|seen| seen.key).collect();
    assert_eq!(puts.iter().filter(|key| *key == "out/big.safetensors").count(), 2, "parts of 8 MiB");
    assert_eq!((puts[0].as_str(), puts.last().unwrap().as_str()), ("out/thalweg-upload.json", "out/thalweg.json"));
    assert!(storage.file_info(&stage).unwrap_err().is_not_found());
}

/// Google's own protocol is that of S3, and an emulator needs no credentials: not even for writes.
#[test]
fn an_emulator_of_google_is_read_and_written_without_credentials() {
    let scene = Scene::new();
    let variables = vec![("STORAGE_EMULATOR_HOST".to_owned(), scene.server.endpoint())];
    let storage = RoutedStorage::new(CloudSettings { variables, ..settings(&scene.scratch) });
    let (out, stage) = stage_for(&storage, PathBuf::from("gs://bucket/out"));
    publish_folder(&storage, &stage, &out, Replace::Never, OWN, &Unwatched).unwrap();
    check_uploaded(&scene);
    assert_eq!(storage.list_folder(&out).unwrap().len(), 3);
    let file = storage.open_file(&out.join("big.safetensors")).unwrap();
    assert!(read(&*file, 100, 1 << 20).unwrap() == pattern(9 << 20)[100..100 + (1 << 20)]);
}

/// Wherever an upload dies, nothing is seen of it, and the next attempt uses the parts that are there.
#[test]
fn an_upload_that_dies_is_invisible_and_is_resumed() {
    for dies_at in
        ["PUT out/big", "PUT out/config", "POST out/big.safetensors?uploadId", "PUT out/thalweg.json", "POST ?delete"]
    {
        let scene = Scene::new();
        let storage = scene.storage();
        let (out, stage) = stage(&storage);
        for _ in 0..8 {
            scene.server.fail_next(dies_at, ServerFault::Status(403, "AccessDenied", 0));
        }
        publish_folder(&storage, &stage, &out, Replace::Never, OWN, &Unwatched).unwrap_err();
        let later = scene.storage();
        let hidden = later.file_info(&out).unwrap_err();
        assert!(matches!(hidden, Error::UnfinishedUpload { .. }), "{dies_at}: {hidden}");
        assert!(hidden.is_free() && hidden.hint().unwrap().contains("thalweg clean"));
        assert!(later.list_folder(Path::new("s3://bucket")).is_ok());
        assert!(later.open_file(&out.join("config.json")).is_err(), "{dies_at}");
        scene.server.forget_faults();
        scene.server.take_requests();
        publish_folder(&later, &stage, &out, Replace::Never, OWN, &Unwatched).unwrap();
        check_uploaded(&scene);
        assert_eq!(later.list_folder(&out).unwrap().len(), 3);
        let n_parts = scene.server.take_requests().iter().filter(|seen| seen.query.starts_with("partNumber")).count();
        match dies_at {
            "PUT out/big" => assert_eq!(n_parts, 2),
            "PUT out/config" => assert!(n_parts <= 2),
            _ => assert_eq!(n_parts, 0, "{dies_at}: the parts are there already"),
        }
    }
}

/// Bytes of an upload, of those that an earlier one sent, and of those that this one sent.
#[derive(Default)]
struct Counter([AtomicU64; 3]);

impl UploadWatcher for Counter {
    fn begin_upload(&self, total_bytes: u64, bytes_sent: u64) {
        self.0[0].store(total_bytes, Ordering::Relaxed);
        self.0[1].store(bytes_sent, Ordering::Relaxed);
        self.0[2].store(0, Ordering::Relaxed);
    }

    fn advance_upload(&self, n_bytes: u64) {
        self.0[2].fetch_add(n_bytes, Ordering::Relaxed);
    }
}

impl Counter {
    fn seen(&self) -> [u64; 3] {
        [0, 1, 2].map(|k| self.0[k].load(Ordering::Relaxed))
    }
}

#[test]
fn an_upload_says_how_far_it_is_and_what_an_earlier_one_sent() {
    const TOTAL: u64 = (9 << 20) + 100;
    let scene = Scene::new();
    let storage = scene.storage();
    let (out, stage) = stage(&storage);
    let counter = Counter::default();
    scene.server.fail_next("POST out/big.safetensors?uploadId", ServerFault::Status(403, "AccessDenied", 0));
    publish_folder(&storage, &stage, &out, Replace::Never, OWN, &counter).unwrap_err();
    assert_eq!(counter.seen(), [TOTAL, 0, TOTAL], "the manifest comes last and is not counted");
    publish_folder(&storage, &stage, &out, Replace::Never, OWN, &counter).unwrap();
    assert_eq!(counter.seen(), [TOTAL, TOTAL, 0]);
    check_uploaded(&scene);
}

#[test]
fn parts_that_the_store_lost_are_sent_again() {
    let scene = Scene::new();
    let storage = scene.storage();
    let (out, stage) = stage(&storage);
    scene.server.fail_next("POST out/big.safetensors?uploadId", ServerFault::Status(403, "AccessDenied", 0));
    publish_folder(&storage, &stage, &out, Replace::Never, OWN, &Unwatched).unwrap_err();
    scene.server.lose_uploads();
    publish_folder(&storage, &stage, &out, Replace::Never, OWN, &Unwatched).unwrap();
    check_uploaded(&scene);
}

#[test]
fn two_uploads_of_one_stage_keep_out_of_each_others_way() {
    let scene = Scene::new();
    let storage = scene.storage();
    let (out, stage) = stage(&storage);
    scene.server.take_requests();
    scene.server.fail_next("PUT out/config", ServerFault::Held(Duration::from_millis(100)));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| publish_folder(&storage, &stage, &out, Replace::Never, OWN, &Unwatched));
        while !scene.server.take_requests().iter().any(|seen| seen.key == "out/config.json") {
            std::thread::yield_now();
        }
        let second = publish_folder(&scene.storage(), &stage, &out, Replace::Never, OWN, &Unwatched).unwrap_err();
        assert_eq!(second.to_string(), "`s3://bucket/out` is in use by another process");
        first.join().unwrap().unwrap();
    });
    check_uploaded(&scene);
}

/// A stop in the middle keeps what was sent.
#[test]
fn an_upload_that_is_stopped_is_resumed() {
    let scene = Scene::new();
    let settings = CloudSettings { variables: scene.server.variables(), ..settings(&scene.scratch) };
    let interrupt = Arc::clone(&settings.interrupt);
    let storage = RoutedStorage::new(settings);
    let (out, stage) = stage(&storage);
    (0..50).for_each(|_| scene.server.fail_next("PUT out/config", ServerFault::Status(503, "SlowDown", 0)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n_refused = 0;
            while n_refused < 2 {
                n_refused += scene.server.take_requests().iter().filter(|seen| seen.key == "out/config.json").count();
                std::thread::yield_now();
            }
            interrupt.store(true, Ordering::Relaxed);
        });
        let error = publish_folder(&storage, &stage, &out, Replace::Never, OWN, &Unwatched).unwrap_err();
        assert!(matches!(&error, Error::Remote { fault: RemoteFault::Interrupted, .. }), "{error:?}");
    });
    scene.server.forget_faults();
    let counter = Counter::default();
    publish_folder(&scene.storage(), &stage, &out, Replace::Never, OWN, &counter).unwrap();
    assert_eq!(counter.seen()[1..], [9 << 20, 100]);
    check_uploaded(&scene);
}

#[test]
fn what_an_upload_left_is_named_and_removed() {
    let scene = Scene::new();
    scene.server.put("other/kept", b"1");
    let storage = scene.storage();
    let (out, stage) = stage(&storage);
    for _ in 0..4 {
        scene.server.fail_next("PUT out/big", ServerFault::Status(403, "AccessDenied", 0));
    }
    publish_folder(&storage, &stage, &out, Replace::Never, OWN, &Unwatched).unwrap_err();
    assert_eq!(scene.server.n_open_uploads(), 1);
    let leftovers = storage.leftover_uploads(Path::new("s3://bucket")).unwrap();
    assert_eq!((leftovers.len(), leftovers[0].path.clone(), leftovers[0].n_files), (1, out, 3));
    storage.remove_leftover(&leftovers[0]).unwrap();
    assert_eq!(scene.server.keys(), ["other/kept"]);
    assert_eq!(scene.server.n_open_uploads(), 0);
    assert!(storage.leftover_uploads(Path::new("s3://bucket")).unwrap().is_empty());
}

#[test]
fn nothing_arrives_after_an_upload_that_failed_was_removed() {
    let scene = Scene::new();
    let storage = scene.storage();
    let out = address("out");
    let stage = storage.stage_path(&out);
    storage.create_folder(&stage).unwrap();
    for name in ["config.json", "refused.json", "thalweg.json"] {
        storage.create_file(&stage.join(name), 0).unwrap().write_all_at(0, &pattern(100)).unwrap();
    }
    let wait = Duration::from_millis(100);
    scene.server.fail_next("PUT out/config", ServerFault::Held(wait));
    scene.server.fail_next("PUT out/refused", ServerFault::Status(403, "AccessDenied", 0));
    publish_folder(&storage, &stage, &out, Replace::Never, OWN, &Unwatched).unwrap_err();
    let leftovers = storage.leftover_uploads(Path::new("s3://bucket")).unwrap();
    storage.remove_leftover(&leftovers[0]).unwrap();
    std::thread::sleep(wait + wait / 4);
    assert_eq!(scene.server.keys(), Vec::<String>::new());
}

#[test]
fn an_output_of_other_bytes_does_not_resume_an_upload() {
    let scene = Scene::new();
    let storage = scene.storage();
    let (out, stage) = stage(&storage);
    scene.server.fail_next("PUT out/thalweg.json", ServerFault::Status(403, "AccessDenied", 0));
    publish_folder(&storage, &stage, &out, Replace::Never, OWN, &Unwatched).unwrap_err();
    for name in ["config.json", "thalweg.json"] {
        storage.open_for_update(&stage.join(name)).unwrap().write_all_at(0, b"other").unwrap();
    }
    publish_folder(&storage, &stage, &out, Replace::Never, OWN, &Unwatched).unwrap();
    assert!(scene.server.get("out/config.json").unwrap().starts_with(b"other"));
    assert_eq!(scene.server.n_open_uploads(), 0);
    assert_eq!(scene.server.keys().len(), 3);
}

#[test]
fn marker_has_the_name_that_the_documents_say() {
    assert_eq!(UPLOAD_MARKER, "thalweg-upload.json");
}

#[test]
fn no_secret_is_in_any_debug_text() {
    let scene = Scene::new();
    let storage = scene.storage();
    storage.file_info(Path::new("s3://bucket")).unwrap();
    let text = format!("{storage:?}");
    for (_, secret) in scene.server.variables().iter().filter(|(name, _)| name.contains("KEY")) {
        assert!(!text.contains(secret.as_str()), "{text}");
    }
}
