//! Nothing but our own is replaced, removed or followed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use thalweg_storage::guard::{
    Contents, OwnFolder, OwnKind, Place, check_document, check_file, check_folder, check_place, clear_stage,
    contents_by_manifest, foreign_entries, look_at, output_path, remove_own_folder,
};
use thalweg_storage::publish::{Replace, publish_file, publish_folder};
use thalweg_storage::{Error, LocalStorage, Storage, Unwatched};

const PLAN: OwnKind<'static> = OwnKind::json("a plan", "thalweg-plan");
const PAGE: OwnKind<'static> = OwnKind::text("a page", "generator=thalweg");
const OWN: OwnFolder<'static> = OwnFolder { what: "a merge", contents_of: &contents_of };

fn contents_of(storage: &dyn Storage, folder: &Path) -> Result<Contents, Error> {
    let names = names(["receipt.json", "data", "deep/data"]);
    contents_by_manifest(storage, folder, ("receipt.json", "thalweg-receipt"), &names)
}

fn names<const N: usize>(list: [&str; N]) -> BTreeSet<String> {
    list.map(str::to_owned).into()
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn make_output(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("data"), "old").unwrap();
    fs::write(folder.join("receipt.json"), "{\n  \"kind\": \"thalweg-receipt\"\n}").unwrap();
}

#[track_caller]
fn refused(result: Result<(), Error>) -> String {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::MayNotReplace { .. } | Error::NoPlace { .. }), "{error}");
    assert!(error.hint().is_some_and(|hint| !hint.contains("force")), "{error}");
    error.to_string()
}

#[test]
fn a_file_is_replaced_only_by_its_own_kind() {
    let (storage, scratch) = (LocalStorage::new(), scratch());
    let path = scratch.path().join("it");
    let others: [&[u8]; 6] = [
        b"weights",
        b"",
        b"{\"kind\": \"thalweg-receipt\"}",
        b"{\"name\": 1, \"kind\": \"thalweg-plan\"}",
        b"[{\"kind\": \"thalweg-plan\"}]",
        b"{\"kind\": \"thalweg-plan-of-mine\"}",
    ];
    for content in others {
        fs::write(&path, content).unwrap();
        refused(publish_file(&storage, &path, b"{}", PLAN));
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    fs::write(&path, "{ \"kind\" :\n\"thalweg-plan\", \"version\": 1}").unwrap();
    publish_file(&storage, &path, b"new", PLAN).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    fs::write(&path, "<html generator=thalweg>").unwrap();
    refused(publish_file(&storage, &path, b"{}", PLAN));
    publish_file(&storage, &path, b"page", PAGE).unwrap();
}

#[test]
fn a_file_with_the_bytes_that_it_has_may_be_written_again_and_no_other() {
    let (storage, scratch) = (LocalStorage::new(), scratch());
    let path = scratch.path().join("run.toml");
    let kind = OwnKind::same_bytes("a config");
    publish_file(&storage, &path, b"steps = 4", kind).unwrap();
    publish_file(&storage, &path, b"steps = 4", kind).unwrap();
    for other in [&b"steps = 5"[..], b"steps", b"steps = 40"] {
        refused(publish_file(&storage, &path, other, kind));
    }
    assert_eq!(fs::read(&path).unwrap(), b"steps = 4");
}

#[test]
fn links_and_folders_are_never_replaced_by_a_file() {
    let (storage, scratch) = (LocalStorage::new(), scratch());
    let at = |name: &str| scratch.path().join(name);
    fs::write(at("plan"), "{\"kind\":\"thalweg-plan\"}").unwrap();
    symlink(at("plan"), at("link")).unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    for name in ["link", "dangling", "folder"] {
        refused(publish_file(&storage, &at(name), b"{}", PLAN));
    }
    assert_eq!(fs::read_link(at("link")).unwrap(), at("plan"));
    assert_eq!(fs::read(at("plan")).unwrap(), b"{\"kind\":\"thalweg-plan\"}");
    assert!(!at("nowhere").exists());
    assert!(refused(check_file(&storage, Path::new("/dev/null"), PLAN, b"")).contains("device"));
}

#[test]
fn what_has_the_name_of_a_file_in_the_making_stays() {
    let (storage, scratch) = (LocalStorage::new(), scratch());
    let at = |name: &str| scratch.path().join(name);
    fs::write(at("plan.thalweg-new"), "notes").unwrap();
    fs::create_dir(at("plan.thalweg-new-1")).unwrap();
    fs::write(at("plan.thalweg-old"), "older notes").unwrap();
    publish_file(&storage, &at("plan"), b"{}", PLAN).unwrap();
    assert_eq!(fs::read(at("plan.thalweg-new")).unwrap(), b"notes");
    assert_eq!(fs::read(at("plan.thalweg-old")).unwrap(), b"older notes");
    assert!(at("plan.thalweg-new-1").is_dir());
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 4);
}

#[test]
fn a_folder_is_replaced_only_if_it_holds_nothing_but_our_own() {
    let (storage, scratch) = (LocalStorage::new(), scratch());
    let (out, stage) = (scratch.path().join("out"), scratch.path().join("stage"));
    let publish = || {
        fs::create_dir_all(&stage).unwrap();
        publish_folder(&storage, &stage, &out, Replace::Force, OWN, &Unwatched)
    };
    let additions: [&dyn Fn(); 6] = [
        &|| fs::write(out.join("notes.md"), "mine").unwrap(),
        &|| fs::create_dir(out.join("runs")).unwrap(),
        &|| symlink("/etc/hostname", out.join("a-link")).unwrap(),
        &|| fs::write(out.join(std::ffi::OsString::from_vec(vec![0xff])), "mine").unwrap(),
        &|| fs::create_dir(out.join("deep")).and_then(|()| fs::write(out.join("deep/mine"), "x")).unwrap(),
        &|| fs::write(out.join("receipt.json"), "{\"kind\": \"my-receipt\"}").unwrap(),
    ];
    for (i, add) in additions.into_iter().enumerate() {
        make_output(&out);
        add();
        let message = refused(publish());
        assert!(message.contains("out`"), "{i}: {message}");
        assert_eq!(fs::read(out.join("data")).unwrap(), b"old", "{i}");
        fs::remove_dir_all(&out).unwrap();
    }
    make_output(&out);
    publish().unwrap();
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "an empty stage took its place");
    publish().unwrap();
}

#[test]
fn a_link_to_an_output_is_not_followed() {
    let (storage, scratch) = (LocalStorage::new(), scratch());
    let at = |name: &str| scratch.path().join(name);
    make_output(&at("real"));
    symlink(at("real"), at("out")).unwrap();
    fs::create_dir(at("stage")).unwrap();
    let message = refused(publish_folder(&storage, &at("stage"), &at("out"), Replace::Force, OWN, &Unwatched));
    assert!(message.contains("is a link to"), "{message}");
    assert_eq!(fs::read(at("real/data")).unwrap(), b"old");
    assert_eq!(look_at(&storage, &at("out")).unwrap(), Place::Link(at("real")));
    // The output's own name is kept, links above it are not.
    symlink(scratch.path(), at("above")).unwrap();
    let real = fs::canonicalize(scratch.path()).unwrap();
    assert_eq!(output_path(&storage, &at("above/out/")).unwrap(), real.join("out"));
}

#[test]
fn what_stands_aside_is_removed_only_if_it_is_an_old_output() {
    let (storage, scratch) = (LocalStorage::new(), scratch());
    let at = |name: &str| scratch.path().join(name);
    fs::create_dir(at("out.thalweg-old")).unwrap();
    fs::write(at("out.thalweg-old/notes.md"), "mine").unwrap();
    fs::create_dir(at("stage")).unwrap();
    publish_folder(&storage, &at("stage"), &at("out"), Replace::Force, OWN, &Unwatched).unwrap();
    assert_eq!(fs::read(at("out.thalweg-old/notes.md")).unwrap(), b"mine");
}

#[test]
fn a_stage_with_other_files_is_not_emptied() {
    let (storage, scratch) = (LocalStorage::new(), scratch());
    let stage = scratch.path().join("out.thalweg-partial");
    let ours = names(["data"]);
    clear_stage(&storage, &stage, &ours).unwrap();
    fs::create_dir(&stage).unwrap();
    fs::write(stage.join("data"), "half").unwrap();
    fs::write(stage.join("notes.md"), "mine").unwrap();
    assert!(refused(clear_stage(&storage, &stage, &ours)).contains("`notes.md`"));
    assert!(stage.join("data").exists());
    fs::remove_file(stage.join("notes.md")).unwrap();
    clear_stage(&storage, &stage, &ours).unwrap();
    assert!(!stage.exists());
    symlink(scratch.path(), &stage).unwrap();
    refused(clear_stage(&storage, &stage, &ours));
    assert!(fs::symlink_metadata(&stage).is_ok());
}

#[test]
fn impossible_places_are_known_beforehand() {
    let (storage, scratch) = (LocalStorage::new(), scratch());
    let at = |name: &str| scratch.path().join(name);
    fs::write(at("file"), "x").unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    for path in ["file/out", "file/deep/out", "dangling/out", "out.thalweg-partial", "x.thalweg-old"] {
        refused(check_place(&storage, &at(path)));
    }
    refused(check_place(&storage, Path::new("/")));
    check_place(&storage, &at("new/deep/out")).unwrap();
    refused(check_folder(&storage, &at("dangling"), OWN));
    refused(check_folder(&storage, &at("file"), OWN));
    assert!(output_path(&storage, Path::new("")).is_err());
}

#[test]
fn a_document_needs_the_folder_that_it_goes_to() {
    let (storage, scratch) = (LocalStorage::new(), scratch());
    let at = |name: &str| scratch.path().join(name);
    assert!(refused(check_document(&storage, &at("missing/plan.json"), PLAN)).contains("does not exist"));
    check_document(&storage, &at("plan.json"), PLAN).unwrap();
    check_file(&storage, &at("missing/plan.json"), PLAN, b"").unwrap();
    // Nothing is left of the attempt to write.
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    fs::write(at("file"), "mine").unwrap();
    assert!(refused(check_document(&storage, &at("file/plan.json"), PLAN)).contains("is not a folder"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_document_needs_a_folder_that_can_be_written() {
    // No user can make files there.
    let refused = check_document(&LocalStorage::new(), Path::new("/proc/plan.json"), PLAN);
    assert!(refused.is_err(), "{refused:?}");
}

#[test]
fn a_removed_folder_goes_whole_and_foreign_files_stop_it() {
    let (storage, scratch) = (LocalStorage::new(), scratch());
    let out = scratch.path().join("out");
    make_output(&out);
    fs::create_dir(out.join("deep")).unwrap();
    fs::write(out.join("deep/data"), "x").unwrap();
    assert_eq!(foreign_entries(&storage, &out, &names(["data"])).unwrap(), ["deep", "receipt.json"]);
    fs::write(out.join("mine"), "x").unwrap();
    refused(remove_own_folder(&storage, &out, OWN));
    assert!(out.join("deep/data").exists());
    fs::remove_file(out.join("mine")).unwrap();
    remove_own_folder(&storage, &out, OWN).unwrap();
    assert!(!out.exists());
}

#[test]
fn outputs_that_a_shell_or_a_slip_spelled_are_refused() {
    let storage = LocalStorage::new();
    for (path, what) in [
        ("~/out", "the shell did not expand `~`"),
        ("~", "the shell did not expand"),
        ("~user/out", "`~user`"),
        ("s3:/bucket/out", "`s3://`"),
        ("gs:bucket", "`gs://`"),
        ("azure:/container/out", "`azure://`"),
        ("s3a:bucket", "`s3a://`"),
        ("HTTPS:/host", "`HTTPS://`"),
        ("me@host:/data/out", "`me@host` is another machine"),
    ] {
        let told = output_path(&storage, Path::new(path)).unwrap_err().to_string();
        assert!(told.contains(what), "{told}");
    }
    for path in ["out~", "a/~/b", "./~", "C:/out", "model:1.5", "a@b", "x/s3:/y", "/s3:/y"] {
        output_path(&storage, Path::new(path)).unwrap();
    }
}

#[test]
fn addresses_are_refused_wherever_a_path_is_taken() {
    let storage = LocalStorage::new();
    for address in ["s3://bucket/out", "gs://b/x", "hf://org/model", "https://host/model", "file:///tmp/x"] {
        let path = Path::new(address);
        let results = [
            storage.file_info(path).map(|_| ()),
            storage.open_file(path).map(|_| ()),
            storage.list_folder(path).map(|_| ()),
            storage.create_folder(path),
            storage.create_file(path, 0).map(|_| ()),
            storage.canonical_path(path).map(|_| ()),
            output_path(&storage, path).map(|_| ()),
            check_file(&storage, path, PLAN, b""),
        ];
        for result in results {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::UnsupportedScheme { .. }), "{address}: {error}");
        }
    }
}
