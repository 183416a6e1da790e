//! Shares that are stopped at any act of their disk: what was said to be done is done, and no half output is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use thalweg_merge::Error;
use thalweg_merge::engine::{ExecuteOptions, PartialStage};
use thalweg_merge::plan::MergePlan;
use thalweg_merge::share::{Finished, Share, ShareState, execute_share, finish_shares};
use thalweg_storage::Storage;
use thalweg_storage::publish::Replace;
use thalweg_testkit::crash_disk::{Aftermath, CrashDisk, Mishap};

use crate::support::{
    FORMAT_CASES, FormatCase, PLAIN, Runner, encode_safetensors, f32_tensor, noise_tensor, output, plan, tensors,
};

const OUT: &str = "/runs/out";
const N_SHARES: usize = 2;

type Content = BTreeMap<String, Vec<u8>>;

/// What is merged on a disk, and whether an older output is replaced.
struct Task {
    plan: MergePlan,
    replace: Replace,
}

impl Task {
    fn options(&self) -> ExecuteOptions {
        ExecuteOptions { replace: self.replace, partial: PartialStage::Resume }
    }

    fn share(&self, disk: &CrashDisk, index: usize) -> Result<ShareState, Error> {
        let share = Share::new(index, N_SHARES).unwrap();
        let runner = Runner { n_threads: 1, ..Runner::on(disk.storage()) };
        let done = runner.with_context(|run| execute_share(&self.plan, share, self.options(), run)).0;
        done.map(|outcomes| outcomes[0].state)
    }

    fn finish(&self, disk: &CrashDisk) -> Result<(), Error> {
        let runner = Runner { n_threads: 1, ..Runner::on(disk.storage()) };
        match runner.with_context(|run| finish_shares(&self.plan, self.options(), run)).0? {
            Finished::Merged { .. } => Ok(()),
            Finished::Missing(missing) => panic!("{missing:?}"),
        }
    }

    /// Runs as far as it goes: how many shares were said to be done, and whether all is.
    fn run(&self, disk: &CrashDisk) -> (usize, Result<(), Error>) {
        for index in 0..N_SHARES {
            if let Err(error) = self.share(disk, index) {
                return (index, Err(error));
            }
        }
        (N_SHARES, self.finish(disk))
    }
}

/// Every file of the output; `None` if there is none.
fn output_content(disk: &CrashDisk) -> Option<Content> {
    let (mut found, mut folders) = (Content::new(), vec![String::new()]);
    while let Some(prefix) = folders.pop() {
        for (name, bytes) in disk.content(&Path::new(OUT).join(&prefix))? {
            match name.ends_with('/') {
                true => folders.push(format!("{prefix}{name}")),
                false => drop(found.insert(format!("{prefix}{name}"), bytes)),
            }
        }
    }
    Some(found)
}

/// Two sources of two units and a small tensor.
fn prepared_disk(replace: Replace) -> (CrashDisk, Task) {
    let disk = CrashDisk::new();
    for i in [1, 2] {
        let content = tensors([("a", noise_tensor(i, (1 << 19) + 9)), ("b", f32_tensor(&[1.5; 4]))]);
        let folder = PathBuf::from(format!("/runs/c{i}"));
        disk.create_folder(&folder).unwrap();
        for (name, bytes) in [("model.safetensors", encode_safetensors(&content)), ("config.json", b"{}".to_vec())] {
            disk.create_file(&folder.join(name), bytes.len() as u64).unwrap().write_all_at(0, &bytes).unwrap();
        }
    }
    let sources = ["/runs/c1", "/runs/c2"].map(PathBuf::from);
    let make = |numerators| {
        let mut output = output(&sources, numerators, 4, Path::new(OUT));
        output.out_shard_bytes = 20;
        plan(output)
    };
    if replace == Replace::Force {
        Runner { n_threads: 1, ..Runner::on(disk.storage()) }.execute(&make(&[2, 2]), PLAIN).unwrap();
    }
    disk.settle();
    (disk, Task { plan: make(&[1, 3]), replace })
}

fn by_one_process(prepared: &CrashDisk, task: &Task) -> Content {
    let disk = prepared.copy();
    Runner { n_threads: 1, ..Runner::on(disk.storage()) }.execute(&task.plan, task.options()).unwrap();
    output_content(&disk).unwrap()
}

fn check_stops(name: &str, (prepared, task): &(CrashDisk, Task), is_tried: impl Fn(u64, u64) -> bool) {
    let expected = by_one_process(prepared, task);
    let old = output_content(prepared);
    let disk = prepared.copy();
    let before = disk.n_acts();
    task.run(&disk).1.unwrap();
    let n_acts = disk.n_acts() - before;
    assert!(output_content(&disk.after_crash(Aftermath::OnlySynced)) == Some(expected.clone()), "{name}: other bytes");
    let mut seen = BTreeSet::new();
    for at in (1..=n_acts).filter(|&at| is_tried(at, n_acts)) {
        let disk = prepared.copy();
        disk.plan_mishap(at, if at % 3 == 0 { Mishap::PowerFailsTorn } else { Mishap::PowerFails });
        let (n_done, result) = task.run(&disk);
        let often = [Aftermath::OnlySynced, Aftermath::Reordered(at)];
        let seldom = [Aftermath::NamesFirst, Aftermath::Everything];
        for aftermath in if at % 2 == 0 { often } else { seldom } {
            let after = disk.after_crash(aftermath);
            let what = format!("{name}: power fails at act {at} of {n_acts}, {aftermath:?}");
            let found = output_content(&after);
            let is_there = found.as_ref() == Some(&expected);
            assert!(is_there || found == old, "{what}: half an output");
            assert!(is_there || result.is_err(), "{what}: said done");
            if !seen.insert((after.content_hash(), n_done)) {
                continue;
            }
            for index in 0..N_SHARES {
                let state = task.share(&after, index).unwrap_or_else(|error| panic!("{what}: share {index}: {error}"));
                // With `--force` a share is done again once its output is there.
                let may_be_done = index >= n_done || (is_there && task.replace == Replace::Force);
                assert!(may_be_done || state != ShareState::Done, "{what}: share {index} was said to be done");
            }
            task.finish(&after).unwrap_or_else(|error| panic!("{what}: not repeated: {error}"));
            assert!(output_content(&after.after_crash(Aftermath::OnlySynced)) == Some(expected.clone()), "{what}");
        }
    }
}

#[test]
fn shares_stopped_at_any_act_are_done_or_done_again() {
    check_stops("safetensors", &prepared_disk(Replace::Never), |_, _| true);
}

#[test]
fn an_old_output_stays_until_the_last_step_has_its_successor() {
    check_stops("force", &prepared_disk(Replace::Force), |at, n_acts| at + 25 > n_acts || at.is_multiple_of(5));
}

/// Nothing is left to the shares once the receipt is durable: the last step alone ends it.
#[test]
fn the_last_step_stopped_at_any_act_needs_no_share_again() {
    for replace in [Replace::Never, Replace::Force] {
        let (prepared, task) = prepared_disk(replace);
        let expected = by_one_process(&prepared, &task);
        (0..N_SHARES).for_each(|index| assert_eq!(task.share(&prepared, index).unwrap(), ShareState::Done));
        prepared.settle();
        let whole = prepared.copy();
        let before = whole.n_acts();
        task.finish(&whole).unwrap();
        let n_acts = whole.n_acts() - before;
        let mut seen = BTreeSet::new();
        for at in 1..=n_acts {
            for aftermath in
                [Aftermath::OnlySynced, Aftermath::NamesFirst, Aftermath::Everything, Aftermath::Reordered(at)]
            {
                let disk = prepared.copy();
                disk.plan_mishap(at, Mishap::PowerFails);
                task.finish(&disk).unwrap_err();
                let after = disk.after_crash(aftermath);
                if !seen.insert(after.content_hash()) {
                    continue;
                }
                let what = format!("{replace:?}: power fails at act {at} of {n_acts}, {aftermath:?}");
                task.finish(&after).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(output_content(&after) == Some(expected.clone()), "{what}: other bytes");
                assert!(after.content(Path::new("/runs/out.thalweg-partial")).is_none(), "{what}: the stage is left");
            }
        }
    }
}

fn format_task(case: &FormatCase) -> (CrashDisk, Task) {
    let (disk, runs) = (CrashDisk::new(), Path::new("/runs"));
    disk.create_folder(runs).unwrap();
    for (name, bytes) in case.files() {
        let path = runs.join(name);
        disk.create_folder(path.parent().unwrap()).unwrap();
        disk.create_file(&path, bytes.len() as u64).unwrap().write_all_at(0, &bytes).unwrap();
    }
    disk.settle();
    (disk, Task { plan: plan(case.output(runs, Path::new(OUT), 2)), replace: Replace::Never })
}

#[test]
fn shares_of_outputs_in_other_formats_are_done_or_done_again() {
    for case in FORMAT_CASES {
        let is_tried = |at: u64, n_acts: u64| at.is_multiple_of((n_acts / 6).max(1)) || at + 3 > n_acts;
        check_stops(case.name, &format_task(&case), is_tried);
    }
}

#[test]
fn a_full_disk_or_a_refusal_at_any_act_of_a_share_is_a_clear_error() {
    let (prepared, task) = prepared_disk(Replace::Never);
    let expected = by_one_process(&prepared, &task);
    let disk = prepared.copy();
    let before = disk.n_acts();
    task.run(&disk).1.unwrap();
    let n_acts = disk.n_acts() - before;
    for at in 1..=n_acts {
        let disk = prepared.copy();
        disk.plan_mishap(at, if at % 2 == 0 { Mishap::DiskFull } else { Mishap::Refused });
        let what = format!("act {at} of {n_acts}");
        if let Err(error) = task.run(&disk).1 {
            assert!(error.to_string().contains("`/runs"), "{what}: {error}");
        }
        task.run(&disk).1.unwrap_or_else(|error| panic!("{what}: not repeated: {error}"));
        assert!(output_content(&disk) == Some(expected.clone()), "{what}: other bytes");
    }
}
