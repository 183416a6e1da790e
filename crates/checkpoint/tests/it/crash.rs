//! Stage and commit, stopped at every act that changes the disk: none or the whole output, an old one untouched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use thalweg_checkpoint::{Error, LayoutEntry, Manifest, StagedCheckpoint, commit_checkpoint, layout_output};
use thalweg_storage::publish::Replace;
use thalweg_storage::{Storage, Unwatched};
use thalweg_tensor::{Dtype, Shape, TensorSink};
use thalweg_testkit::crash_disk::{Aftermath, CrashDisk, Mishap};

use crate::support::rules;

const TARGET: &str = "/runs/out";
const STAGE: &str = "/runs/out.partial";
const OLD: &[u8] = b"{\"old\":true}";
const MANIFEST: Manifest<'_> = Manifest { name: "thalweg.json", bytes: b"{\"new\":true}" };
const AFTERMATHS: [Aftermath; 3] = [Aftermath::OnlySynced, Aftermath::NamesFirst, Aftermath::Everything];

type Content = BTreeMap<String, Vec<u8>>;

/// A disk with a run folder that is durable, and in it an old output if there is to be one.
fn prepared_disk(replace: Replace) -> CrashDisk {
    let disk = CrashDisk::new();
    disk.create_folder(Path::new("/runs")).unwrap();
    if replace == Replace::Force {
        disk.create_folder(Path::new(TARGET)).unwrap();
        for (name, bytes) in [("model.safetensors", &b"old"[..]), ("thalweg.json", OLD)] {
            let file = disk.create_file(&Path::new(TARGET).join(name), bytes.len() as u64).unwrap();
            file.write_all_at(0, bytes).unwrap();
            file.sync().unwrap();
        }
        disk.sync_folder(Path::new(TARGET)).unwrap();
    }
    disk.sync_folder(Path::new("/runs")).unwrap();
    disk.sync_folder(Path::new("/")).unwrap();
    disk
}

/// What a command does, first or again: takes up a stage or makes one, writes all, commits.
fn write_output(storage: &Arc<dyn Storage>, replace: Replace) -> Result<(), Error> {
    let stage = Path::new(STAGE);
    let entry = |name: &str| LayoutEntry { name: name.into(), dtype: Dtype::U8, shape: Shape::new([6]) };
    let layout = Arc::new(layout_output(&[entry("a"), entry("b"), entry("c")], 12, &BTreeMap::new())?);
    let mut staged = match StagedCheckpoint::reopen(storage, stage, Arc::clone(&layout)) {
        Ok(staged) => staged,
        Err(_) => {
            match storage.remove(stage) {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
            StagedCheckpoint::create(storage, stage, layout)?
        }
    };
    for (tensor_idx, bytes) in [b"aaaaaa", b"bbbbbb", b"cccccc"].into_iter().enumerate() {
        staged.write_elements(tensor_idx, 0, bytes)?;
    }
    staged.add_file("config.json", b"{}")?;
    commit_checkpoint(staged, Path::new(TARGET), MANIFEST, rules(replace, &BTreeSet::new()), &Unwatched)
}

/// Number of acts and the content of an output that nothing disturbed.
fn undisturbed(disk: &CrashDisk, replace: Replace) -> (u64, Content) {
    let disk = disk.copy();
    let before = disk.n_acts();
    write_output(&disk.storage(), replace).unwrap();
    assert_eq!(disk.content(Path::new(STAGE)), None);
    // On return everything is durable.
    let after = disk.after_crash(Aftermath::OnlySynced).content(Path::new(TARGET)).unwrap();
    (disk.n_acts() - before, after)
}

fn is_old(content: &Content) -> bool {
    content.get("thalweg.json").is_some_and(|manifest| manifest == OLD)
        && content.get("model.safetensors").is_some_and(|bytes| bytes == b"old")
}

/// After a restart: none, the old one, or the whole new one; and the same command then ends with the new one.
fn check_restart(disk: &CrashDisk, replace: Replace, expected: &Content, what: &str) {
    match (disk.content(Path::new(TARGET)), replace) {
        (Some(found), _) if found == *expected => return,
        (Some(found), Replace::Force) => assert!(is_old(&found), "{what}: {found:?}"),
        (Some(found), Replace::Never) => panic!("{what}: half an output: {found:?}"),
        (None, Replace::Never) => {}
        (None, Replace::Force) => panic!("{what}: the old output is gone"),
    }
    write_output(&disk.storage(), replace).unwrap_or_else(|error| panic!("{what}: not resumed: {error}"));
    let after = disk.after_crash(Aftermath::OnlySynced).content(Path::new(TARGET));
    assert_eq!(after.as_ref(), Some(expected), "{what}");
}

fn check_every_stop(replace: Replace) {
    let prepared = prepared_disk(replace);
    let (n_acts, expected) = undisturbed(&prepared, replace);
    assert!(n_acts > 15, "{n_acts}");
    // The last round stops after the command has ended.
    for at in 1..=n_acts + 1 {
        let disk = prepared.copy();
        disk.plan_mishap(at, Mishap::PowerFails);
        let result = write_output(&disk.storage(), replace);
        for aftermath in AFTERMATHS {
            let after = disk.after_crash(aftermath);
            let what = format!("{replace:?}, power fails at act {at} of {n_acts}, {aftermath:?}");
            // A command that said done has an output whatever comes after.
            assert!(result.is_err() || after.content(Path::new(TARGET)).as_ref() == Some(&expected), "{what}");
            check_restart(&after, replace, &expected, &what);
        }
    }
}

#[test]
fn a_new_output_survives_a_stop_at_every_act() {
    check_every_stop(Replace::Never);
}

#[test]
fn an_old_output_stays_until_the_new_one_is_whole() {
    check_every_stop(Replace::Force);
}

#[test]
fn a_refused_act_is_an_error_and_the_command_can_be_repeated() {
    for replace in [Replace::Never, Replace::Force] {
        let prepared = prepared_disk(replace);
        let (n_acts, expected) = undisturbed(&prepared, replace);
        for at in 1..=n_acts {
            for mishap in [Mishap::Refused, Mishap::DiskFull] {
                let disk = prepared.copy();
                disk.plan_mishap(at, mishap);
                let result = write_output(&disk.storage(), replace);
                let what = format!("{replace:?}, {mishap:?} at act {at} of {n_acts}");
                let error = result.expect_err(&what);
                assert!(error.to_string().contains("/runs"), "{what}: {error}");
                check_restart(&disk, replace, &expected, &what);
            }
        }
    }
}

#[test]
fn without_an_exchange_the_old_output_is_at_least_beside() {
    let prepared = prepared_disk(Replace::Force);
    prepared.forbid_exchange();
    let (n_acts, expected) = undisturbed(&prepared, Replace::Force);
    for at in 1..=n_acts + 1 {
        let disk = prepared.copy();
        disk.plan_mishap(at, Mishap::PowerFails);
        let _stopped = write_output(&disk.storage(), Replace::Force);
        for aftermath in AFTERMATHS {
            let after = disk.after_crash(aftermath);
            let found = ["/runs/out", "/runs/out.thalweg-old"].map(|path| after.content(Path::new(path)));
            let is_whole = found.iter().flatten().any(|content| *content == expected || is_old(content));
            assert!(is_whole, "power fails at act {at} of {n_acts}, {aftermath:?}: {found:?}");
        }
    }
}
