//! Publishing, stopped at every act that changes the disk: no output, the old one, or the whole new one.

use std::collections::BTreeMap;
use std::path::Path;

use thalweg_storage::guard::{Contents, OwnFolder, OwnKind, foreign_entries};
use thalweg_storage::publish::{Replace, publish_file, publish_folder};
use thalweg_storage::{Error, Storage, Unwatched};
use thalweg_testkit::crash_disk::{Aftermath, CrashDisk, Mishap};
use thalweg_testkit::put_file;

type Content = BTreeMap<String, Vec<u8>>;

const STAGE: &str = "/runs/out.partial";
const TARGET: &str = "/runs/out";
const ASIDE: &str = "/runs/out.thalweg-old";
const MANIFEST: &str = "manifest";
const PLAN: OwnKind<'static> = OwnKind::text("a plan", "plan");

fn content(files: &[(&str, &[u8])]) -> Content {
    files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect()
}

fn old() -> Content {
    content(&[("data", b"the old output, longer than a sector"), (MANIFEST, b"old")])
}

fn new() -> Content {
    content(&[("data", b"the new output, which is longer than two sectors"), ("index", b"new"), (MANIFEST, b"new")])
}

fn aftermaths() -> impl Iterator<Item = Aftermath> {
    let fixed = [Aftermath::OnlySynced, Aftermath::NamesFirst, Aftermath::Everything];
    fixed.into_iter().chain((0..40).map(Aftermath::Reordered))
}

/// A durable run folder, with an old output if one is to be replaced.
fn prepared_disk(replace: Replace) -> CrashDisk {
    let disk = CrashDisk::new();
    disk.create_folder(Path::new("/runs")).unwrap();
    if replace == Replace::Force {
        for (name, bytes) in old() {
            put_file(&disk, &Path::new(TARGET).join(name), &bytes);
        }
    }
    disk.settle();
    disk
}

/// Writes what a caller of `publish_folder` must have written: all durable, the manifest last. Takes up what is there.
fn write_and_publish(disk: &CrashDisk, replace: Replace) -> Result<(), Error> {
    let stage = Path::new(STAGE);
    disk.create_folder(stage)?;
    let files = new();
    let (manifests, data): (Vec<_>, Vec<_>) = files.iter().partition(|(name, _)| *name == MANIFEST);
    for (name, _) in disk.content(stage).unwrap_or_default() {
        disk.remove(&stage.join(name))?;
    }
    for (name, bytes) in data.into_iter().chain(manifests) {
        let file = disk.create_file(&stage.join(name), bytes.len() as u64)?;
        let (head, tail) = bytes.split_at(bytes.len() / 2);
        file.write_all_at(0, head)?;
        file.write_all_at(head.len() as u64, tail)?;
        file.sync()?;
        disk.sync_folder(stage)?;
    }
    publish_folder(disk, stage, Path::new(TARGET), replace, OWN, &Unwatched)
}

/// Outputs of these tests: a manifest and what old and new ones hold.
pub(crate) const OWN: OwnFolder<'static> = OwnFolder { what: "an output", contents_of: &contents_of };

fn contents_of(storage: &dyn Storage, folder: &Path) -> Result<Contents, Error> {
    match storage.file_info(&folder.join(MANIFEST)) {
        Err(error) if error.is_not_found() => return Ok(Contents::NotOurs),
        info => info?,
    };
    let names = [MANIFEST, "data", "index"].map(str::to_owned).into();
    Ok(Contents::Ours { manifest: MANIFEST.to_owned(), foreign: foreign_entries(storage, folder, &names)? })
}

fn n_acts_of(disk: &CrashDisk, act: impl Fn(&CrashDisk) -> Result<(), Error>) -> u64 {
    let disk = disk.copy();
    let before = disk.n_acts();
    act(&disk).unwrap();
    disk.n_acts() - before
}

fn target_of(disk: &CrashDisk) -> Option<Content> {
    disk.content(Path::new(TARGET))
}

/// Stops at every act, in every way, and looks at what every restart may find.
fn check_every_stop(prepared: &CrashDisk, replace: Replace, check: impl Fn(&CrashDisk, &str)) {
    let n_acts = n_acts_of(prepared, |disk| write_and_publish(disk, replace));
    assert!(n_acts > 15, "{n_acts}");
    // The last round stops after the publication has ended.
    for at in 1..=n_acts + 1 {
        for mishap in [Mishap::PowerFails, Mishap::PowerFailsTorn] {
            let disk = prepared.copy();
            disk.plan_mishap(at, mishap);
            let outcome = write_and_publish(&disk, replace);
            assert_eq!(outcome.is_ok(), at > n_acts);
            for aftermath in aftermaths() {
                let after = disk.after_crash(aftermath);
                let what = format!("{replace:?}, {mishap:?} at act {at} of {n_acts}, {aftermath:?}");
                if outcome.is_ok() {
                    assert_eq!(target_of(&after), Some(new()), "{what}");
                }
                check(&after, &what);
                write_and_publish(&after, Replace::Force).unwrap_or_else(|error| panic!("{what}: {error}"));
                let after = after.after_crash(Aftermath::OnlySynced);
                assert_eq!(target_of(&after), Some(new()), "{what}: the second attempt");
            }
        }
    }
}

#[test]
fn a_new_output_is_whole_or_not_there() {
    check_every_stop(&prepared_disk(Replace::Never), Replace::Never, |after, what| {
        let found = target_of(after);
        assert!(found.is_none() || found == Some(new()), "{what}: {found:?}");
    });
}

#[test]
fn an_old_output_stays_until_the_new_one_takes_its_place() {
    check_every_stop(&prepared_disk(Replace::Force), Replace::Force, |after, what| {
        let found = target_of(after);
        assert!(found == Some(old()) || found == Some(new()), "{what}: {found:?}");
    });
}

#[test]
fn without_an_exchange_an_old_output_is_at_least_beside() {
    let prepared = prepared_disk(Replace::Force);
    prepared.forbid_exchange();
    check_every_stop(&prepared, Replace::Force, |after, what| {
        let (found, aside) = (target_of(after), after.content(Path::new(ASIDE)));
        let is_whole = found == Some(old()) || found == Some(new()) || (found.is_none() && aside == Some(old()));
        assert!(is_whole, "{what}: {found:?}, beside it {aside:?}");
    });
}

#[test]
fn a_manifest_never_vouches_for_a_stage_that_is_not_whole() {
    check_every_stop(&prepared_disk(Replace::Never), Replace::Never, |after, what| {
        let staged = after.content(Path::new(STAGE)).unwrap_or_default();
        // The manifest's name may be there before its content; only its content counts.
        if staged.get(MANIFEST) == new().get(MANIFEST) {
            assert_eq!(staged, new(), "{what}");
        }
    });
}

#[test]
fn a_refused_act_leaves_the_old_output_and_can_be_repeated() {
    for (replace, has_exchange) in [(Replace::Never, true), (Replace::Force, true), (Replace::Force, false)] {
        let prepared = prepared_disk(replace);
        if !has_exchange {
            prepared.forbid_exchange();
        }
        let n_acts = n_acts_of(&prepared, |disk| write_and_publish(disk, replace));
        // When the old one is removed, which is synced before its manifest goes, the new one is in its place.
        let n_removes = if replace == Replace::Force { old().len() as u64 + 2 } else { 0 };
        for at in 1..=n_acts {
            for mishap in [Mishap::Refused, Mishap::DiskFull] {
                let disk = prepared.copy();
                disk.plan_mishap(at, mishap);
                let what = format!("{replace:?}, {mishap:?} at act {at} of {n_acts}");
                let error = write_and_publish(&disk, replace).expect_err(&what);
                assert_eq!(error.is_disk_full(), mishap == Mishap::DiskFull, "{what}");
                let expected = match replace {
                    _ if at > n_acts - n_removes => Some(new()),
                    Replace::Never => None,
                    Replace::Force => Some(old()),
                };
                assert_eq!(target_of(&disk), expected, "{what}");
                write_and_publish(&disk, Replace::Force).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(target_of(&disk.after_crash(Aftermath::OnlySynced)), Some(new()), "{what}");
            }
        }
    }
}

#[test]
fn refused_renames_leave_stage_and_old_output() {
    for replace in [Replace::Never, Replace::Force] {
        let disk = prepared_disk(replace);
        disk.refuse_renames();
        let error = write_and_publish(&disk, replace).unwrap_err();
        assert!(error.to_string().contains(STAGE), "{error}");
        assert_eq!(target_of(&disk), (replace == Replace::Force).then(old));
        assert_eq!(disk.content(Path::new(STAGE)), Some(new()));
    }
}

#[test]
fn a_disk_that_fills_up_leaves_no_output() {
    let needed: usize = new().values().map(Vec::len).sum();
    for capacity_bytes in 0..needed as u64 {
        let disk = prepared_disk(Replace::Never);
        disk.set_capacity_bytes(capacity_bytes);
        let error = write_and_publish(&disk, Replace::Never).unwrap_err();
        assert!(error.is_disk_full(), "{capacity_bytes}: {error}");
        assert_eq!(target_of(&disk), None);
    }
}

#[test]
fn a_small_file_is_old_or_new() {
    let path = Path::new("/runs/plan.json");
    let (old, new) = (&b"the old plan, longer than a sector"[..], &b"the new plan, also longer than a sector"[..]);
    for has_exchange in [true, false] {
        let prepared = prepared_disk(Replace::Never);
        publish_file(&prepared, path, old, PLAN).unwrap();
        if !has_exchange {
            prepared.forbid_exchange();
        }
        let n_acts = n_acts_of(&prepared, |disk| publish_file(disk, path, new, PLAN));
        for at in 1..=n_acts + 1 {
            let disk = prepared.copy();
            disk.plan_mishap(at, Mishap::PowerFailsTorn);
            let outcome = publish_file(&disk, path, new, PLAN);
            for aftermath in aftermaths() {
                let after = disk.after_crash(aftermath);
                let found = after.read_file(path, 100).ok();
                let aside = after.read_file(Path::new("/runs/plan.json.thalweg-old"), 100).ok();
                let what = format!("act {at} of {n_acts}, {aftermath:?}: {found:?}, beside it {aside:?}");
                assert!(outcome.is_err() || found.as_deref() == Some(new), "{what}");
                let is_whole = found.as_deref() == Some(old) || found.as_deref() == Some(new);
                let is_beside = !has_exchange && found.is_none() && aside.as_deref() == Some(old);
                assert!(is_whole || is_beside, "{what}");
            }
        }
    }
}

#[test]
fn missing_folders_above_an_output_are_durable_with_it() {
    let disk = CrashDisk::new();
    let (stage, target) = (Path::new("/new/deep/out.partial"), Path::new("/new/deep/out"));
    disk.create_folder(stage).unwrap();
    publish_folder(&disk, stage, target, Replace::Never, OWN, &Unwatched).unwrap();
    assert_eq!(disk.after_crash(Aftermath::OnlySynced).content(target), Some(Content::new()));
}
