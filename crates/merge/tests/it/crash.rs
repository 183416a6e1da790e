//! A merge that is stopped at any act of its disk leaves none or the whole output, and can be repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use thalweg_merge::engine::{ExecuteOptions, PartialStage};
use thalweg_merge::plan::MergePlan;
use thalweg_storage::Storage;
use thalweg_storage::publish::Replace;
use thalweg_testkit::crash_disk::{Aftermath, CrashDisk, Mishap};

use crate::support::{FORMAT_CASES, FormatCase, PLAIN, Runner, encode_safetensors, f32_tensor, output, plan, tensors};
use thalweg_testkit::Tap;

const AFTERMATHS: [Aftermath; 3] = [Aftermath::OnlySynced, Aftermath::NamesFirst, Aftermath::Everything];
const OUT: &str = "/runs/out";

type Content = BTreeMap<String, Vec<u8>>;

fn put(disk: &CrashDisk, folder: &str, files: &[(&str, Vec<u8>)]) {
    disk.create_folder(Path::new(folder)).unwrap();
    for (name, bytes) in files {
        let file = disk.create_file(&Path::new(folder).join(name), bytes.len() as u64).unwrap();
        file.write_all_at(0, bytes).unwrap();
        file.sync().unwrap();
    }
    disk.sync_folder(Path::new(folder)).unwrap();
}

/// Two durable sources, and the merge of another plan if one is to be replaced.
fn prepared_disk(replace: Replace) -> CrashDisk {
    let disk = CrashDisk::new();
    disk.create_folder(Path::new("/runs")).unwrap();
    for i in [1_u8, 2] {
        let value = f32::from(i);
        let content = tensors([("a", f32_tensor(&[value; 3])), ("b", f32_tensor(&[-value; 4]))]);
        let files = [("model.safetensors", encode_safetensors(&content)), ("config.json", b"{}".to_vec())];
        put(&disk, &format!("/runs/c{i}"), &files);
    }
    if replace == Replace::Force {
        let other = plan(output(&["/runs/c1", "/runs/c2"].map(PathBuf::from), &[1, 1], 2, Path::new(OUT)));
        Runner { n_threads: 1, ..Runner::on(disk.storage()) }.execute(&other, PLAIN).unwrap();
    }
    disk.sync_folder(Path::new("/runs")).unwrap();
    disk.sync_folder(Path::new("/")).unwrap();
    disk
}

fn mean_plan() -> MergePlan {
    let sources = ["/runs/c1", "/runs/c2"].map(PathBuf::from);
    let mut output = output(&sources, &[1, 3], 4, Path::new(OUT));
    // Two shards and an index, so that there are more acts to stop at.
    output.out_shard_bytes = 14;
    plan(output)
}

/// A plan, and whether its output replaces an older one.
struct Task {
    plan: MergePlan,
    replace: Replace,
}

impl Task {
    fn mean(replace: Replace) -> Self {
        Self { plan: mean_plan(), replace }
    }

    fn execute(&self, disk: &CrashDisk) -> Result<(), thalweg_merge::Error> {
        let runner = Runner { n_threads: 1, ..Runner::on(disk.storage()) };
        let options = ExecuteOptions { replace: self.replace, partial: PartialStage::Resume };
        runner.execute(&self.plan, options).map(|_| ())
    }
}

/// Every file of the output, also in folders inside it.
fn output_content(disk: &CrashDisk) -> Option<Content> {
    let (mut found, mut folders) = (Content::new(), vec![String::new()]);
    while let Some(prefix) = folders.pop() {
        let content = disk.content(&Path::new(OUT).join(&prefix))?;
        for (name, bytes) in content {
            if name.ends_with('/') {
                folders.push(format!("{prefix}{name}"));
            } else {
                found.insert(format!("{prefix}{name}"), bytes);
            }
        }
    }
    Some(found)
}

fn undisturbed(prepared: &CrashDisk, task: &Task) -> (u64, Content) {
    let disk = prepared.copy();
    let before = disk.n_acts();
    task.execute(&disk).unwrap();
    let content = output_content(&disk.after_crash(Aftermath::OnlySynced)).unwrap();
    (disk.n_acts() - before, content)
}

/// None, the old one, or the whole new one; and the same command then ends with the new one.
fn check_restart(disk: &CrashDisk, (task, old): (&Task, Option<&Content>), expected: &Content, what: &str) {
    match (output_content(disk), task.replace) {
        (Some(found), _) if found == *expected => {}
        (Some(found), Replace::Force) => assert!(Some(&found) == old, "{what}: {:?}", found.keys()),
        (Some(found), Replace::Never) => panic!("{what}: half an output: {:?}", found.keys()),
        (None, Replace::Never) => {}
        (None, Replace::Force) => panic!("{what}: the old output is gone"),
    }
    task.execute(disk).unwrap_or_else(|error| panic!("{what}: not repeated: {error}"));
    let after = output_content(&disk.after_crash(Aftermath::OnlySynced));
    assert!(after.as_ref() == Some(expected), "{what}: other bytes");
}

/// Stops at the acts that `is_tried` picks, by number and count.
fn check_stops(name: &str, prepared: &CrashDisk, task: &Task, is_tried: impl Fn(u64, u64) -> bool) {
    let (n_acts, expected) = undisturbed(prepared, task);
    let (old, replace) = (output_content(prepared), task.replace);
    assert!(n_acts > 15, "{n_acts}");
    let mut seen = BTreeSet::new();
    for at in (1..=n_acts + 1).filter(|&at| is_tried(at, n_acts)) {
        let disk = prepared.copy();
        disk.plan_mishap(at, Mishap::PowerFails);
        let result = task.execute(&disk);
        for aftermath in AFTERMATHS {
            let after = disk.after_crash(aftermath);
            let what = format!("{name}: {replace:?}, power fails at act {at} of {n_acts}, {aftermath:?}");
            let is_there = output_content(&after).as_ref() == Some(&expected);
            assert!(result.is_err() || is_there, "{what}: said done");
            if !seen.insert(after.content_hash()) {
                continue;
            }
            check_restart(&after, (task, old.as_ref()), &expected, &what);
        }
    }
}

fn check_every_stop(replace: Replace) {
    let (prepared, task) = (prepared_disk(replace), Task::mean(replace));
    let (_, content) = undisturbed(&prepared, &task);
    assert_eq!(content.keys().filter(|name| name.ends_with(".safetensors")).count(), 2);
    check_stops("safetensors", &prepared, &task, |_, _| true);
}

#[test]
fn a_stop_at_any_act_leaves_none_or_the_whole_output() {
    check_every_stop(Replace::Never);
}

#[test]
fn an_old_output_stays_until_its_successor_is_whole() {
    check_every_stop(Replace::Force);
}

/// The fixtures of a format on a disk, durable, and their merge; an older output of other coefficients if one is to be
/// replaced.
fn format_task(case: &FormatCase, replace: Replace) -> (CrashDisk, Task) {
    let (disk, runs) = (CrashDisk::new(), Path::new("/runs"));
    disk.create_folder(runs).unwrap();
    for (name, bytes) in case.files() {
        let path = runs.join(name);
        disk.create_folder(path.parent().unwrap()).unwrap();
        disk.create_file(&path, bytes.len() as u64).unwrap().write_all_at(0, &bytes).unwrap();
    }
    if replace == Replace::Force {
        Task { plan: plan(case.output(runs, Path::new(OUT), 3)), replace: Replace::Never }.execute(&disk).unwrap();
    }
    disk.settle();
    (disk, Task { plan: plan(case.output(runs, Path::new(OUT), 2)), replace })
}

/// A few acts all over the merge, and the last ones, which publish.
fn is_picked(at: u64, n_acts: u64) -> bool {
    at.is_multiple_of((n_acts / 7).max(1)) || at + 4 > n_acts
}

#[test]
fn outputs_in_other_formats_are_none_or_whole_after_a_stop() {
    for case in FORMAT_CASES {
        let (prepared, task) = format_task(&case, Replace::Never);
        check_stops(case.name, &prepared, &task, is_picked);
    }
}

#[test]
fn old_outputs_in_other_formats_stay_until_their_successors_are_whole() {
    for case in FORMAT_CASES {
        let (prepared, task) = format_task(&case, Replace::Force);
        check_stops(case.name, &prepared, &task, |at, n_acts| at + 8 > n_acts || at == n_acts / 2);
    }
}

#[test]
fn a_full_disk_is_a_clear_error_for_outputs_in_other_formats() {
    for case in FORMAT_CASES {
        let (prepared, task) = format_task(&case, Replace::Never);
        let (n_acts, expected) = undisturbed(&prepared, &task);
        for at in (1..=n_acts).filter(|&at| is_picked(at, n_acts)) {
            let mishap = if at % 2 == 0 { Mishap::DiskFull } else { Mishap::Refused };
            let disk = prepared.copy();
            disk.plan_mishap(at, mishap);
            let what = format!("{}: {mishap:?} at act {at} of {n_acts}", case.name);
            let error = task.execute(&disk).expect_err(&what).to_string();
            assert!(error.contains("`/runs"), "{what}: {error}");
            check_restart(&disk, (&task, None), &expected, &what);
        }
    }
}

#[test]
fn a_full_disk_or_a_refusal_at_any_act_is_a_clear_error() {
    for replace in [Replace::Never, Replace::Force] {
        let prepared = prepared_disk(replace);
        let task = Task::mean(replace);
        let (n_acts, expected) = undisturbed(&prepared, &task);
        let old = output_content(&prepared);
        for at in 1..=n_acts {
            for mishap in [Mishap::DiskFull, Mishap::Refused] {
                let disk = prepared.copy();
                disk.plan_mishap(at, mishap);
                let what = format!("{replace:?}, {mishap:?} at act {at} of {n_acts}");
                let error = task.execute(&disk).expect_err(&what).to_string();
                assert!(error.contains("`/runs"), "{what}: {error}");
                check_restart(&disk, (&task, old.as_ref()), &expected, &what);
            }
        }
    }
}

#[test]
fn a_failed_read_is_an_error_that_names_the_file() {
    let (prepared, task) = (prepared_disk(Replace::Never), Task::mean(Replace::Never));
    let (_, expected) = undisturbed(&prepared, &task);
    let tap = Tap::new(prepared.copy().storage());
    Runner { n_threads: 1, ..Runner::on(tap.storage()) }.execute(&mean_plan(), PLAIN).unwrap();
    let n_reads = tap.n_reads();
    assert!(n_reads >= 6, "{n_reads}");
    for n in 0..n_reads {
        let disk = prepared.copy();
        let tap = Tap::new(disk.storage());
        tap.fail_read(n);
        let result = Runner { n_threads: 1, ..Runner::on(tap.storage()) }.execute(&mean_plan(), PLAIN);
        let what = format!("read {n} of {n_reads}");
        let error = result.expect_err(&what).to_string();
        assert!(error.contains("`/runs/c") && error.contains("input/output error"), "{what}: {error}");
        assert_eq!(disk.content(Path::new(OUT)), None, "{what}");
        check_restart(&disk, (&task, None), &expected, &what);
    }
}

/// Outputs of other sources and another element type in one plan, so that nothing fits by accident.
fn two_outputs() -> MergePlan {
    let sources = ["/runs/c1", "/runs/c2"].map(PathBuf::from);
    let mut wide = output(&sources, &[1, 3], 4, Path::new(OUT));
    wide.out_shard_bytes = 14;
    let mut narrow = output(&sources[1..], &[3], 2, Path::new("/runs/narrow"));
    narrow.dtype = thalweg_merge::plan::OutputDtype::Bf16;
    // The one that reads less is published last, so that a stop between the two leaves it alone with a journal of both.
    MergePlan::new(vec![wide, narrow]).unwrap()
}

/// The contents without the receipts' counts of bytes read and digests: a later run need not read what only the first
/// output needed.
fn contents(disk: &CrashDisk) -> [Option<Content>; 2] {
    [OUT, "/runs/narrow"].map(|path| {
        let mut content = disk.content(Path::new(path))?;
        let mut receipt: serde_json::Value = serde_json::from_slice(&content["thalweg.json"]).unwrap();
        receipt["bytes_read"].take();
        receipt["receipt_digest"].take();
        content.insert("thalweg.json".to_owned(), receipt.to_string().into_bytes());
        Some(content)
    })
}

#[test]
fn each_of_two_outputs_is_none_or_whole_after_a_stop_at_any_act() {
    let prepared = prepared_disk(Replace::Never);
    let run = |disk: &CrashDisk| {
        Runner { n_threads: 1, ..Runner::on(disk.storage()) }.execute(&two_outputs(), PLAIN).map(|_| ())
    };
    let undisturbed = prepared.copy();
    let before = undisturbed.n_acts();
    run(&undisturbed).unwrap();
    let n_acts = undisturbed.n_acts() - before;
    let expected = contents(&undisturbed.after_crash(Aftermath::OnlySynced));
    let mut seen = BTreeSet::new();
    for at in 1..=n_acts {
        let disk = prepared.copy();
        disk.plan_mishap(at, Mishap::PowerFails);
        let _stopped = run(&disk);
        for aftermath in AFTERMATHS {
            let after = disk.after_crash(aftermath);
            let what = format!("power fails at act {at} of {n_acts}, {aftermath:?}");
            for (found, expected) in contents(&after).iter().zip(&expected) {
                assert!(found.is_none() || found == expected, "{what}: half an output");
            }
            if !seen.insert(after.content_hash()) {
                continue;
            }
            run(&after).unwrap_or_else(|error| panic!("{what}: not repeated: {error}"));
            assert!(contents(&after.after_crash(Aftermath::OnlySynced)) == expected, "{what}: other bytes");
        }
    }
}
