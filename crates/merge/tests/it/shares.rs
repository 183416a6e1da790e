//! A merge by many processes has the bytes of a merge by one, whatever is killed, repeated or done at once.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_merge::Error;
use thalweg_merge::engine::{ExecuteOptions, MergeOutcome, PartialStage};
use thalweg_merge::plan::{DigestChoice, MergePlan};
use thalweg_merge::share::{Finished, Share, ShareOutcome, ShareState, execute_share, finish_shares};
use thalweg_merge::verify::{VerifyScope, verify_output};
use thalweg_storage::LocalStorage;
use thalweg_storage::publish::{Replace, stage_path};
use thalweg_testkit::Tap;

use crate::support::{
    FORCE, FORMAT_CASES, PLAIN, Runner, data_start, files_below, noise_tensor, output, plan, shards, write_checkpoint,
};

const DISCARD: ExecuteOptions = ExecuteOptions { replace: Replace::Never, partial: PartialStage::Discard };
const N_SOURCES: u64 = 3;

impl Runner {
    fn share(&self, plan: &MergePlan, (index, count): (usize, usize)) -> Result<ShareOutcome, Error> {
        self.share_with(plan, (index, count), PLAIN)
    }

    fn share_with(
        &self,
        plan: &MergePlan,
        (index, count): (usize, usize),
        options: ExecuteOptions,
    ) -> Result<ShareOutcome, Error> {
        let share = Share::new(index, count).unwrap();
        self.with_context(|run| execute_share(plan, share, options, run)).0.map(|mut outcomes| outcomes.remove(0))
    }

    fn finish(&self, plan: &MergePlan) -> Result<Finished, Error> {
        self.with_context(|run| finish_shares(plan, PLAIN, run)).0
    }

    #[track_caller]
    fn finish_whole(&self, plan: &MergePlan) -> Vec<MergeOutcome> {
        match self.finish(plan).unwrap_or_else(|error| panic!("{error}")) {
            Finished::Merged { outcomes, .. } => outcomes,
            Finished::Missing(missing) => panic!("{missing:?}"),
        }
    }

    #[track_caller]
    fn missing(&self, plan: &MergePlan) -> Vec<usize> {
        match self.finish(plan).unwrap_or_else(|error| panic!("{error}")) {
            Finished::Merged { .. } => panic!("it was published"),
            Finished::Missing(missing) => missing.missing,
        }
    }
}

struct Scene {
    folder: tempfile::TempDir,
    sources: Vec<PathBuf>,
    plan: MergePlan,
    expected: Files,
}

/// Every file of a folder; the receipt without the output's path, and so without its digest.
type Files = BTreeMap<String, Vec<u8>>;

fn files_of(out: &Path) -> Files {
    let mut files: Files = files_below(out).into_iter().collect();
    let mut receipt: serde_json::Value = serde_json::from_slice(&files["thalweg.json"]).unwrap();
    receipt["plan"]["path"].take();
    receipt["receipt_digest"].take();
    files.insert("thalweg.json".to_owned(), receipt.to_string().into_bytes());
    files
}

#[track_caller]
fn assert_same_files(found: &Files, expected: &Files, what: &str) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (name, bytes) in found {
        assert!(*bytes == expected[name], "{what}: {name} differs");
    }
}

/// Sources with one tensor of several units, several small ones, and an empty one; and their merge by one process.
fn scene() -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let mut sources = Vec::new();
    for i in 0..N_SOURCES {
        let path = folder.path().join(format!("step-{i}"));
        let mut content = BTreeMap::from([("a.large".to_owned(), noise_tensor(i + 1, 1_300_001))]);
        for t in 0..18 {
            let n_elements = [3, 4_000, 300_000][t % 3];
            content.insert(format!("z{:02}", (t * 7) % 18), noise_tensor(i * 100 + t as u64, n_elements));
        }
        content.insert("m.empty".to_owned(), noise_tensor(1, 0));
        write_checkpoint(&path, &content);
        fs::write(path.join("config.json"), "{}").unwrap();
        sources.push(path);
    }
    let make = |name: &str| {
        let mut output = output(&sources, &[3, -1, 5], 7, &folder.path().join(name));
        output.out_shard_bytes = 1_500_000;
        plan(output)
    };
    let undisturbed = make("undisturbed");
    Runner::default().execute(&undisturbed, PLAIN).unwrap();
    let expected = files_of(&undisturbed.outputs[0].path);
    let plan = make("out");
    Scene { folder, sources, plan, expected }
}

impl Scene {
    fn out(&self) -> &Path {
        &self.plan.outputs[0].path
    }

    fn stage(&self) -> PathBuf {
        stage_path(self.out())
    }

    #[track_caller]
    fn do_shares(&self, numbers: impl IntoIterator<Item = usize>, count: usize) {
        for index in numbers {
            let outcome = Runner::default().share(&self.plan, (index, count)).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(outcome.state, ShareState::Done, "{index}/{count}");
            assert!(!self.out().exists());
        }
    }

    #[track_caller]
    fn finish(&self, what: &str) -> MergeOutcome {
        let outcome = Runner::default().finish_whole(&self.plan).remove(0);
        assert_same_files(&files_of(self.out()), &self.expected, what);
        assert!(!self.stage().exists(), "{what}");
        let verified =
            Runner::default().with_context(|run| verify_output(self.out(), VerifyScope::OutputAndInputs, run));
        assert!(verified.0.unwrap().is_equal(), "{what}");
        outcome
    }

    /// Every file of the stage that holds tensors.
    fn staged(&self) -> Vec<PathBuf> {
        shards(&self.stage())
    }
}

#[test]
fn any_number_of_shares_in_any_order_makes_the_bytes_of_one_process() {
    for count in [1, 2, 3, 7, 40] {
        let scene = scene();
        scene.do_shares((0..count).rev(), count);
        let outcome = scene.finish(&format!("{count} shares"));
        assert!(!outcome.was_done);
        assert_eq!(outcome.bytes_resumed, outcome.receipt.bytes_read, "nothing is read twice");
    }
}

#[test]
fn shares_read_each_source_byte_once_and_about_their_part_of_it() {
    let scene = scene();
    let total: u64 = Runner::default()
        .with_context(|run| {
            let sources = thalweg_merge::engine::open_sources(&scene.plan, run).unwrap();
            sources
                .iter()
                .map(|source| source.checkpoint.files().iter().map(|file| file.info.len_bytes).sum::<u64>())
                .sum()
        })
        .0;
    let mut read = 0;
    for index in 0..4 {
        let tap = Tap::new(Arc::new(LocalStorage::new()));
        let outcome = Runner::on(tap.storage()).share(&scene.plan, (index, 4)).unwrap();
        let of_share: u64 = scene
            .sources
            .iter()
            .map(|source| {
                let file = &shards(source)[0];
                tap.bytes_read(file, data_start(&fs::read(file).unwrap()) as u64)
            })
            .sum();
        assert_eq!(outcome.bytes_read, of_share);
        assert!(of_share.abs_diff(total / 4) < N_SOURCES << 20, "{of_share} of {total}");
        read += of_share;
    }
    assert!(read <= total && total - read < 100_000, "{read} of {total}");
    scene.finish("balanced");
}

#[test]
fn shares_at_once_make_the_same_bytes() {
    let scene = scene();
    std::thread::scope(|scope| {
        for index in 0..7 {
            let plan = &scene.plan;
            scope.spawn(move || Runner::default().share(plan, (index, 7)).unwrap());
        }
    });
    scene.finish("at once");
}

#[test]
fn a_finished_share_is_skipped_and_reads_no_tensor() {
    let scene = scene();
    scene.do_shares([1], 3);
    let tap = Tap::new(Arc::new(LocalStorage::new()));
    let outcome = Runner::on(tap.storage()).share(&scene.plan, (1, 3)).unwrap();
    assert_eq!((outcome.state, &*outcome.missing), (ShareState::Skipped, &[0, 2][..]));
    let file = &shards(&scene.sources[0])[0];
    assert_eq!(tap.bytes_read(file, data_start(&fs::read(file).unwrap()) as u64), 0);
    scene.do_shares([0, 2], 3);
    scene.finish("after a skip");
    let after = Runner::default().share(&scene.plan, (1, 3)).unwrap();
    assert_eq!(after.state, ShareState::Published);
    assert!(!scene.stage().exists());
    assert!(Runner::default().finish_whole(&scene.plan)[0].was_done);
}

#[test]
fn missing_shares_are_named_and_nothing_is_published() {
    let scene = scene();
    scene.do_shares([0, 3, 4], 8);
    assert_eq!(Runner::default().missing(&scene.plan), [1, 2, 5, 6, 7]);
    assert!(!scene.out().exists());
    scene.do_shares([1, 2, 5, 6, 7], 8);
    scene.finish("completed");
}

#[test]
fn an_interrupted_share_is_missing_and_resumes() {
    let scene = scene();
    scene.do_shares([1], 2);
    let runner = Runner { stop_after_bytes: Some(2_000_000), n_threads: 1, ..Runner::default() };
    assert!(matches!(runner.share(&scene.plan, (0, 2)), Err(Error::Interrupted)));
    assert_eq!(Runner::default().missing(&scene.plan), [0]);
    let outcome = Runner::default().share(&scene.plan, (0, 2)).unwrap();
    assert!(outcome.bytes_resumed > 0 && outcome.bytes_resumed < outcome.bytes_read, "{outcome:?}");
    scene.finish("resumed");
}

#[test]
fn shares_of_another_plan_another_number_or_other_sources_are_refused() {
    let mut scene = scene();
    scene.do_shares([0], 3);
    let refused = |plan: &MergePlan, share| Runner::default().share(plan, share).unwrap_err();
    let error = refused(&scene.plan, (0, 4));
    assert!(matches!(error, Error::ForeignShares { .. }), "{error}");
    assert!(error.to_string().contains("3 processes, not by 4"), "{error}");
    let mut other = scene.plan.clone();
    other.outputs[0].digest = DigestChoice::Xxh3;
    for share in [(0, 3), (1, 3)] {
        let error = refused(&other, share);
        assert!(matches!(error, Error::ForeignStage { what: "another plan", .. }), "{error}");
    }
    assert!(matches!(Runner::default().finish(&other), Err(Error::ForeignStage { what: "another plan", .. })));
    let one_process = Runner::default().execute(&scene.plan, PLAIN).unwrap_err();
    assert!(matches!(one_process, Error::ForeignStage { .. }), "{one_process}");
    // The same bytes, written again.
    let source = shards(&scene.sources[1]).remove(0);
    let bytes = fs::read(&source).unwrap();
    fs::remove_file(&source).unwrap();
    fs::write(&source, bytes).unwrap();
    let error = refused(&scene.plan, (1, 3));
    assert!(error.to_string().contains("its sources have changed"), "{error}");
    // Starting over with another number empties the stage once, and then only repeats its own share.
    for index in 0..4 {
        let outcome = Runner::default().share_with(&scene.plan, (index, 4), DISCARD).unwrap();
        assert_eq!(outcome.missing.len(), 3 - index);
    }
    scene.expected = {
        let fresh = scene.folder.path().join("fresh");
        let mut again = scene.plan.clone();
        again.outputs[0].path.clone_from(&fresh);
        Runner::default().execute(&again, PLAIN).unwrap();
        files_of(&fresh)
    };
    scene.finish("another number");
}

#[test]
fn a_stage_of_shares_can_be_given_up_for_one_process() {
    let scene = scene();
    scene.do_shares([0, 1], 3);
    Runner::default().execute(&scene.plan, DISCARD).unwrap();
    assert_same_files(&files_of(scene.out()), &scene.expected, "by one process");
    assert!(!scene.stage().exists());
}

#[test]
fn a_stage_of_one_process_is_not_taken_for_shares() {
    let scene = scene();
    let runner = Runner { stop_after_bytes: Some(2_000_000), ..Runner::default() };
    runner.execute(&scene.plan, PLAIN).unwrap_err();
    let error = Runner::default().share(&scene.plan, (0, 2)).unwrap_err();
    assert!(error.to_string().contains("by one process"), "{error}");
    let error = Runner::default().finish(&scene.plan).unwrap_err();
    assert!(matches!(error, Error::NoShares { .. } | Error::ForeignStage { .. }), "{error}");
    Runner::default().share_with(&scene.plan, (0, 2), DISCARD).unwrap();
    scene.do_shares([1], 2);
    scene.finish("in shares after all");
}

#[test]
fn the_same_share_twice_at_once_is_refused_by_name() {
    let scene = scene();
    let storage = LocalStorage::new();
    scene.do_shares([1], 2);
    let held = thalweg_storage::Storage::lock(&storage, &scene.stage().join("thalweg-share-0-of-2.lock")).unwrap();
    let error = Runner::default().share(&scene.plan, (0, 2)).unwrap_err();
    assert!(error.to_string().contains("thalweg-share-0-of-2.lock` is in use"), "{error}");
    drop(held);
    scene.do_shares([0], 2);
    scene.finish("one after the other");
}

#[test]
fn without_locks_the_same_share_twice_at_once_still_ends_in_the_same_bytes() {
    let scene = scene();
    let tap = Tap::new(Arc::new(LocalStorage::new()));
    tap.forget_locks();
    for _ in 0..3 {
        std::thread::scope(|scope| {
            for index in [0, 0, 1, 1] {
                let (plan, tap) = (&scene.plan, tap.clone());
                // Either may find the other's files half written, and then says so.
                scope.spawn(move || drop(Runner::on(tap.storage()).share(plan, (index, 2))));
            }
        });
    }
    for index in [0, 1] {
        Runner::on(tap.storage()).share(&scene.plan, (index, 2)).unwrap();
    }
    scene.finish("twice at once");
}

#[test]
fn a_share_in_progress_keeps_the_last_step_and_one_process_away() {
    let scene = scene();
    scene.do_shares([0, 1], 2);
    let storage = LocalStorage::new();
    let shared = thalweg_storage::Storage::lock_shared(&storage, &scene.stage().join("thalweg-lock")).unwrap();
    for error in [
        Runner::default().finish(&scene.plan).unwrap_err(),
        Runner::default().execute(&scene.plan, DISCARD).unwrap_err(),
    ] {
        assert!(error.to_string().contains("in use by another process"), "{error}");
    }
    drop(shared);
    scene.finish("free again");
}

#[test]
fn what_a_disk_lost_after_a_share_was_done_is_merged_again() {
    let scene = scene();
    scene.do_shares(0..3, 3);
    for file in scene.staged() {
        let mut bytes = fs::read(&file).unwrap();
        let at = data_start(&bytes) + 5;
        bytes[at] ^= 0x10;
        fs::write(&file, bytes).unwrap();
    }
    let outcome = scene.finish("mended");
    assert!(outcome.bytes_resumed < outcome.receipt.bytes_read);
}

/// What is done to a stage, and the shares that are then missing.
type Damage<'a> = (&'a dyn Fn(&Scene), &'a [usize]);

#[test]
fn a_share_whose_files_or_journal_are_gone_is_missing() {
    // Two shares write to the file of the large tensor.
    let damages: [Damage<'_>; 4] = [
        (&|scene| fs::remove_file(&scene.staged()[0]).unwrap(), &[0, 1]),
        (
            &|scene| {
                let file = fs::File::options().write(true).open(&scene.staged()[0]).unwrap();
                file.set_len(100).unwrap();
            },
            &[0, 1],
        ),
        (&|scene| fs::remove_file(scene.stage().join("thalweg-share-0-of-3.journal")).unwrap(), &[0]),
        (
            &|scene| {
                let path = scene.stage().join("thalweg-share-0-of-3.json");
                let text = fs::read_to_string(&path).unwrap();
                fs::write(path, text.replacen("\"n_units\": ", "\"n_units\": 1", 1)).unwrap();
            },
            &[0],
        ),
    ];
    for (n, (damage, missing)) in damages.iter().enumerate() {
        let scene = scene();
        scene.do_shares(0..3, 3);
        damage(&scene);
        assert_eq!(Runner::default().missing(&scene.plan), *missing, "damage {n}");
        scene.do_shares(missing.iter().copied(), 3);
        scene.finish(&format!("damage {n}"));
    }
}

#[test]
fn an_output_of_another_plan_is_replaced_only_if_asked_for() {
    let scene = scene();
    let mut other = scene.plan.clone();
    other.outputs[0].policy.model_card = false;
    Runner::default().execute(&other, PLAIN).unwrap();
    let error = Runner::default().share(&scene.plan, (0, 2)).unwrap_err();
    assert!(error.to_string().contains("holds another merge"), "{error}");
    for index in 0..2 {
        Runner::default().share_with(&scene.plan, (index, 2), FORCE).unwrap();
    }
    assert!(Runner::default().finish(&scene.plan).is_err(), "not without being asked");
    let finished = Runner::default().with_context(|run| finish_shares(&scene.plan, FORCE, run)).0.unwrap();
    assert!(matches!(finished, Finished::Merged { count: Some(2), .. }));
    assert_same_files(&files_of(scene.out()), &scene.expected, "replaced");
    // Again, with the same options: it is done.
    let again = Runner::default().with_context(|run| finish_shares(&scene.plan, FORCE, run)).0.unwrap();
    assert!(matches!(again, Finished::Merged { count: None, outcomes } if outcomes[0].was_done));
}

#[test]
fn there_is_nothing_to_finish_before_the_first_share() {
    let scene = scene();
    let error = Runner::default().finish(&scene.plan).unwrap_err();
    assert!(matches!(error, Error::NoShares { .. }), "{error}");
    assert!(!scene.stage().exists() && !scene.out().exists());
}

#[test]
fn outputs_in_every_format_have_the_bytes_of_one_process() {
    for case in FORMAT_CASES {
        for count in [1, 3, 20] {
            let folder = tempfile::tempdir().unwrap();
            for (name, bytes) in case.files() {
                let path = folder.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
            let make = |name: &str| plan(case.output(folder.path(), &folder.path().join(name), 2));
            let (one, many) = (make("one"), make("many"));
            Runner::default().execute(&one, PLAIN).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            for index in 0..count {
                Runner::default().share(&many, (index, count)).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            }
            Runner::default().finish_whole(&many);
            let [one, many] = [&one, &many].map(|plan| files_of(&plan.outputs[0].path));
            assert_same_files(&many, &one, &format!("{}, {count} shares", case.name));
        }
    }
}
