//! An interrupted merge resumes where it stopped and produces identical bytes, or reports why it cannot.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use thalweg_merge::Error;
use thalweg_merge::context::{Progress, RunContext, Stage};
use thalweg_merge::engine::ComparedBy;
use thalweg_merge::engine::{ExecuteOptions, PartialStage, execute_merge};
use thalweg_merge::output_format::{OptimizerPolicy, OutputFormat};
use thalweg_merge::plan::{DigestChoice, MergePlan, OutputPlan};
use thalweg_merge::verify::{VerifyScope, verify_output};
use thalweg_storage::LocalStorage;
use thalweg_storage::publish::{Replace, stage_path};

use crate::support::{
    FORCE, PLAIN, Runner, Tensors, assert_same_tensors, data_start, files_below, noise_tensor, output, plan,
    read_tensors, shards, write_checkpoint,
};
use thalweg_testkit::Tap;

const DISCARD: ExecuteOptions = ExecuteOptions { replace: Replace::Never, partial: PartialStage::Discard };
const N_SOURCES: u64 = 3;
const N_TENSORS: u64 = 6;
const N_ELEMENTS: usize = 600_000;
const TOTAL_BYTES: u64 = N_SOURCES * N_TENSORS * 2 * N_ELEMENTS as u64;

struct Scene {
    folder: tempfile::TempDir,
    sources: Vec<PathBuf>,
    plan: MergePlan,
    expected: Tensors,
}

/// Three sources of six tensors, each of more than one unit of work, and their merge.
fn scene() -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let mut sources = Vec::new();
    for i in 0..N_SOURCES {
        let path = folder.path().join(format!("step-{i}"));
        let tensor = |t: u64| (format!("t{t}"), noise_tensor(i * 100 + t + 1, N_ELEMENTS));
        write_checkpoint(&path, &(0..N_TENSORS).map(tensor).collect());
        sources.push(path);
    }
    let undisturbed = folder.path().join("undisturbed");
    let expected = Runner::default().merge(&plan(output(&sources, &[3, -1, 5], 7, &undisturbed)));
    let plan = plan(output(&sources, &[3, -1, 5], 7, &folder.path().join("out")));
    Scene { folder, sources, plan, expected }
}

impl Scene {
    fn out(&self) -> &Path {
        &self.plan.outputs[0].path
    }

    /// Source bytes that `tap` saw.
    fn bytes_read(&self, tap: &Tap) -> u64 {
        let of_source = |source: &PathBuf| {
            let file = &shards(source)[0];
            tap.bytes_read(file, data_start(&fs::read(file).unwrap()) as u64)
        };
        self.sources.iter().map(of_source).sum()
    }

    /// Runs until about half is merged; returns the source bytes read so far.
    #[track_caller]
    fn interrupt(&self) -> u64 {
        let tap = Tap::new(Arc::new(LocalStorage::new()));
        let runner = Runner { stop_after_bytes: Some(TOTAL_BYTES / 2), n_threads: 1, ..Runner::on(tap.storage()) };
        let error = runner.execute(&self.plan, PLAIN).unwrap_err();
        assert!(matches!(error, Error::Interrupted), "{error}");
        assert!(!self.out().exists());
        assert!(stage_path(self.out()).exists());
        self.bytes_read(&tap)
    }

    /// Runs to the end; returns the source bytes read.
    #[track_caller]
    fn finish(&self) -> u64 {
        let tap = Tap::new(Arc::new(LocalStorage::new()));
        let found = Runner::on(tap.storage()).merge(&self.plan);
        assert_same_tensors(&found, &self.expected, "resumed");
        assert!(!stage_path(self.out()).exists());
        self.bytes_read(&tap)
    }
}

#[test]
fn a_resumed_merge_reads_finished_parts_once_to_compare_them_and_the_rest_once_to_merge_it() {
    let scene = scene();
    let before = scene.interrupt();
    assert!((TOTAL_BYTES / 2..TOTAL_BYTES).contains(&before), "{before}");
    assert_eq!(scene.finish(), TOTAL_BYTES);
}

#[test]
fn without_digests_sources_are_recognised_by_times_and_finished_parts_are_not_read() {
    let mut scene = scene();
    scene.plan.outputs[0].digest = DigestChoice::None;
    let before = scene.interrupt();
    let after = scene.finish();
    // Only the part that was under way is read twice: at most 1 MiB of each source.
    assert!(before + after <= TOTAL_BYTES + N_SOURCES * (1 << 20), "{before} + {after} of {TOTAL_BYTES}");
}

/// Bytes of the merge as they are reported to progress.
#[derive(Default)]
struct Told {
    is_merging: AtomicBool,
    total: AtomicU64,
    resumed: AtomicU64,
    advanced: AtomicU64,
}

impl Progress for Told {
    fn begin(&self, stage: Stage, total_bytes: u64) {
        self.is_merging.store(stage == Stage::Merge, Ordering::SeqCst);
        if stage == Stage::Merge {
            self.total.store(total_bytes, Ordering::SeqCst);
        }
    }

    fn resume(&self, n_bytes: u64) {
        self.resumed.fetch_add(n_bytes, Ordering::SeqCst);
    }

    fn advance(&self, n_bytes: u64) {
        if self.is_merging.load(Ordering::SeqCst) {
            self.advanced.fetch_add(n_bytes, Ordering::SeqCst);
        }
    }

    fn note(&self, _text: &str) {}
}

#[test]
fn work_of_an_earlier_run_is_resumed_and_not_advanced() {
    let scene = scene();
    scene.interrupt();
    let told = Told::default();
    let merged = Runner::default().with_context(|run| {
        let run = RunContext { storage: Arc::clone(&run.storage), progress: &told, ..*run };
        execute_merge(&scene.plan, PLAIN, &run)
    });
    let outcome = merged.0.unwrap().remove(0);
    let [total, resumed, advanced] =
        [&told.total, &told.resumed, &told.advanced].map(|bytes| bytes.load(Ordering::SeqCst));
    assert_eq!((total, resumed + advanced), (TOTAL_BYTES, TOTAL_BYTES));
    assert!(resumed > TOTAL_BYTES / 4, "{resumed}");
    assert_eq!(outcome.bytes_resumed, resumed);
}

#[test]
fn a_resumed_merge_has_the_receipt_of_an_undisturbed_one() {
    let scene = scene();
    scene.interrupt();
    scene.finish();
    let read = |folder: &Path| -> serde_json::Value {
        let text = fs::read_to_string(folder.join("thalweg.json")).unwrap();
        let mut receipt: serde_json::Value = serde_json::from_str(&text).unwrap();
        receipt["plan"]["path"].take();
        receipt["receipt_digest"].take();
        receipt
    };
    assert_eq!(read(scene.out()), read(&scene.folder.path().join("undisturbed")));
}

#[test]
fn a_merge_interrupted_again_and_again_comes_to_its_end() {
    let scene = scene();
    let runner = Runner { stop_after_bytes: Some(1), ..Runner::default() };
    let is_done = |_: &i32| match runner.execute(&scene.plan, PLAIN) {
        Ok(_) => true,
        Err(Error::Interrupted) => false,
        Err(error) => panic!("{error}"),
    };
    // What is restored counts as progress, so that each later run stops at once; the last one is not stopped.
    assert!(!(0..3).any(|i| is_done(&i)));
    scene.finish();
}

#[test]
fn a_stage_of_another_plan_is_refused_until_it_is_discarded() {
    let scene = scene();
    scene.interrupt();
    let mut other = scene.plan.clone();
    other.outputs[0].digest = DigestChoice::Xxh3;
    let error = Runner::default().execute(&other, PLAIN).unwrap_err();
    assert!(matches!(error, Error::ForeignStage { what: "another plan", .. }), "{error}");
    assert!(error.hint().unwrap().contains("--discard-partial"));
    Runner::default().execute(&other, DISCARD).unwrap();
    assert_same_tensors(&read_tensors(scene.out()), &scene.expected, "discarded");
}

#[test]
fn discarding_reads_everything_again() {
    let scene = scene();
    scene.interrupt();
    let tap = Tap::new(Arc::new(LocalStorage::new()));
    Runner::on(tap.storage()).execute(&scene.plan, DISCARD).unwrap();
    assert_eq!(scene.bytes_read(&tap), TOTAL_BYTES);
    assert_same_tensors(&read_tensors(scene.out()), &scene.expected, "discarded");
}

#[test]
fn a_damaged_byte_in_the_stage_is_noticed_and_its_part_done_again() {
    let scene = scene();
    scene.interrupt();
    let staged = shards(&stage_path(scene.out()));
    let mut bytes = fs::read(&staged[0]).unwrap();
    let at = data_start(&bytes) + 1_000;
    bytes[at] ^= 1;
    fs::write(&staged[0], bytes).unwrap();
    let after = scene.finish();
    assert!(after >= TOTAL_BYTES + N_SOURCES * 1_000_000, "{after} of {TOTAL_BYTES}");
}

#[test]
fn a_truncated_stage_is_done_again() {
    let scene = scene();
    scene.interrupt();
    let staged = shards(&stage_path(scene.out()));
    let bytes = fs::read(&staged[0]).unwrap();
    fs::write(&staged[0], &bytes[..bytes.len() / 3]).unwrap();
    scene.finish();
}

#[test]
fn a_damaged_journal_costs_work_but_no_byte() {
    let scene = scene();
    scene.interrupt();
    let journal = stage_path(scene.out()).join("thalweg-journal");
    let mut bytes = fs::read(&journal).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&journal, bytes).unwrap();
    scene.finish();
}

/// Changes bytes all over a source, but neither its length nor its time.
fn rewrite(source: &Path) {
    let shard = shards(source).remove(0);
    let modified = fs::metadata(&shard).unwrap().modified().unwrap();
    let mut bytes = fs::read(&shard).unwrap();
    let start = data_start(&bytes);
    bytes[start..].iter_mut().step_by(1_000).for_each(|byte| *byte ^= 1);
    fs::write(&shard, bytes).unwrap();
    fs::File::options().write(true).open(&shard).unwrap().set_modified(modified).unwrap();
}

#[test]
fn a_source_rewritten_after_a_kill_with_its_size_and_time_is_merged_as_it_is_now() {
    let mut scene = scene();
    scene.interrupt();
    rewrite(&scene.sources[1]);
    let fresh = plan(output(&scene.sources, &[3, -1, 5], 7, &scene.folder.path().join("fresh")));
    let expected = Runner::default().merge(&fresh);
    assert!(expected != scene.expected);
    scene.expected = expected;
    let ((), notes) = Runner::default().with_context(|run| {
        thalweg_merge::engine::execute_merge(&scene.plan, PLAIN, run).unwrap();
    });
    assert!(notes.iter().any(|note| note.contains("merged again")), "{notes:?}");
    assert_same_tensors(&read_tensors(scene.out()), &scene.expected, "no mixture");
}

#[test]
fn without_digests_a_source_rewritten_with_its_size_and_time_is_noticed() {
    let mut scene = scene();
    scene.plan.outputs[0].digest = DigestChoice::None;
    scene.interrupt();
    rewrite(&scene.sources[1]);
    let error = Runner::default().execute(&scene.plan, PLAIN).unwrap_err();
    assert!(error.to_string().contains("sources have changed"), "{error}");
    Runner::default().execute(&scene.plan, DISCARD).unwrap();
}

#[test]
fn sources_copied_anew_are_the_same_sources() {
    let scene = scene();
    scene.interrupt();
    let copy_all = || {
        for source in &scene.sources {
            let shard = shards(source).remove(0);
            let bytes = fs::read(&shard).unwrap();
            fs::remove_file(&shard).unwrap();
            fs::write(&shard, bytes).unwrap();
            let file = fs::File::options().write(true).open(&shard).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
        }
    };
    copy_all();
    assert_eq!(scene.finish(), TOTAL_BYTES);
    copy_all();
    let outcomes = Runner::default().execute(&scene.plan, PLAIN).unwrap();
    let compared = outcomes[0].compared.unwrap();
    assert_eq!((compared.output, compared.sources), (ComparedBy::Digests, ComparedBy::Digests));
    rewrite(&scene.sources[0]);
    let error = Runner::default().execute(&scene.plan, PLAIN).unwrap_err();
    assert!(error.to_string().contains("changed since"), "{error}");
    Runner::default().execute(&scene.plan, FORCE).unwrap();
}

#[test]
fn a_damaged_output_is_not_the_result() {
    let scene = scene();
    scene.finish();
    let shard = shards(scene.out()).remove(0);
    let bytes = fs::read(&shard).unwrap();
    for at in [data_start(&bytes) + 5, bytes.len() - 1, 20] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        // A failing disk keeps the time. Newer weights would be another program's, and `--force` would not replace
        // them.
        let modified = fs::metadata(&shard).unwrap().modified().unwrap();
        fs::write(&shard, damaged).unwrap();
        fs::File::options().write(true).open(&shard).unwrap().set_modified(modified).unwrap();
        let error = Runner::default().execute(&scene.plan, PLAIN).unwrap_err();
        assert!(error.to_string().contains("damaged"), "byte {at}: {error}");
        assert!(error.hint().unwrap().contains("--force"), "byte {at}");
    }
    Runner::default().execute(&scene.plan, FORCE).unwrap();
    assert_same_tensors(&read_tensors(scene.out()), &scene.expected, "replaced");
}

#[test]
fn a_finished_output_of_the_same_plan_is_left_as_it_is() {
    let scene = scene();
    scene.finish();
    let tap = Tap::new(Arc::new(LocalStorage::new()));
    let outcomes = Runner::on(tap.storage()).execute(&scene.plan, PLAIN).unwrap();
    assert!(outcomes[0].was_done);
    assert_eq!(scene.bytes_read(&tap), 0);
}

#[test]
fn another_output_is_kept_unless_it_is_to_be_replaced() {
    let scene = scene();
    scene.finish();
    let mut other = scene.plan.clone();
    other.outputs[0].sources[0].numerator = "4".to_owned();
    let error = Runner::default().execute(&other, PLAIN).unwrap_err();
    assert!(matches!(&error, Error::OutputExists { holds, .. } if holds == "holds another merge"), "{error}");
    assert_same_tensors(&read_tensors(scene.out()), &scene.expected, "kept");
    Runner::default().execute(&other, FORCE).unwrap();
    assert!(read_tensors(scene.out()) != scene.expected);
    Runner::default().execute(&scene.plan, FORCE).unwrap();
    assert_same_tensors(&read_tensors(scene.out()), &scene.expected, "replaced");
}

#[test]
fn a_folder_of_somebody_else_is_kept() {
    let scene = scene();
    fs::create_dir(scene.out()).unwrap();
    fs::write(scene.out().join("thesis.tex"), "ten years of work").unwrap();
    let error = Runner::default().execute(&scene.plan, PLAIN).unwrap_err();
    assert!(error.to_string().contains("`thesis.tex`"), "{error}");
    assert!(!error.hint().unwrap().contains("force"), "{:?}", error.hint());
    let error = Runner::default().execute(&scene.plan, FORCE).unwrap_err();
    assert!(error.to_string().contains("`thesis.tex`"), "{error}");
    assert!(scene.out().join("thesis.tex").exists());
}

#[test]
fn a_source_is_never_the_output() {
    let scene = scene();
    let mut plan = scene.plan.clone();
    plan.outputs[0].path.clone_from(&scene.sources[2]);
    let error = Runner::default().execute(&plan, FORCE).unwrap_err();
    assert!(matches!(error, Error::OutputIsSource { .. }), "{error}");
}

#[test]
fn a_stage_beside_a_finished_output_of_the_same_plan_is_gone_on_with() {
    let scene = scene();
    let mut narrow = output(&scene.sources[1..], &[1, 1], 2, &scene.folder.path().join("narrow"));
    narrow.dtype = thalweg_merge::plan::OutputDtype::F32;
    let alone =
        Runner::default().merge(&plan(OutputPlan { path: scene.folder.path().join("alone"), ..narrow.clone() }));
    let both = MergePlan::new(vec![narrow.clone(), scene.plan.outputs[0].clone()]).unwrap();
    let runner = Runner { stop_after_bytes: Some(TOTAL_BYTES / 2), ..Runner::default() };
    assert!(matches!(runner.execute(&both, PLAIN), Err(Error::Interrupted)));
    // One output is finished by its own command; the rest of the plan follows.
    assert_same_tensors(&Runner::default().merge(&plan(narrow)), &alone, "finished alone");
    Runner::default().execute(&both, PLAIN).unwrap();
    assert_same_tensors(&read_tensors(scene.out()), &scene.expected, "the rest");
    for folder in [scene.out(), &both.outputs[0].path] {
        let scope = VerifyScope::OutputAndInputs;
        let found = Runner::default().with_context(|run| verify_output(folder, scope, run)).0.unwrap();
        assert!(found.is_equal(), "{}: {found:?}", folder.display());
    }
}

#[test]
fn a_source_that_changes_while_it_is_read_is_an_error() {
    let scene = scene();
    let tap = Tap::new(Arc::new(LocalStorage::new()));
    tap.touch_at_read(20, &shards(&scene.sources[0])[0]);
    let error = Runner::on(tap.storage()).execute(&scene.plan, PLAIN).unwrap_err();
    assert!(error.to_string().contains("changed while it was read"), "{error}");
    assert!(!scene.out().exists());
}

/// Sources in a format, larger than a unit of work, with other contents kept in the output.
struct FormatScene {
    folder: tempfile::TempDir,
    sources: Vec<PathBuf>,
    format: OutputFormat,
}

impl FormatScene {
    fn new(format: OutputFormat) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut sources = Vec::new();
        for i in 0..2 {
            let (plain, path) = (folder.path().join(format!("plain-{i}")), folder.path().join(format!("c{i}")));
            let tensor = |t: u64| (format!("t{t}"), noise_tensor(i * 100 + t + 1, N_ELEMENTS));
            write_checkpoint(&plain, &(0..4).map(tensor).collect());
            let mut alone = output(&[plain], &[1], 1, &path);
            (alone.format, alone.out_shard_bytes) = (format, 3_000_000);
            Runner::default().execute(&plan(alone), PLAIN).unwrap();
            sources.push(path);
        }
        Self { folder, sources, format }
    }

    fn plan(&self, name: &str, digest: DigestChoice) -> MergePlan {
        let mut output = output(&self.sources, &[3, -1], 2, &self.folder.path().join(name));
        (output.format, output.policy.optimizer, output.digest) = (self.format, OptimizerPolicy::Newest, digest);
        plan(output)
    }
}

/// A stage after a kill, which `damage` may change, is resumed or done again to identical files.
fn check_resumed_format(format: OutputFormat, digest: DigestChoice, damage: impl Fn(&Path)) {
    let scene = FormatScene::new(format);
    let undisturbed = scene.plan("undisturbed", digest);
    Runner::default().execute(&undisturbed, PLAIN).unwrap();
    let plan = scene.plan("out", digest);
    let out = &plan.outputs[0].path;
    let runner = Runner { stop_after_bytes: Some(4_000_000), n_threads: 1, ..Runner::default() };
    let error = runner.execute(&plan, PLAIN).unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{format}: {error}");
    damage(&stage_path(out));
    let tap = Tap::new(Arc::new(LocalStorage::new()));
    let outcome = Runner::on(tap.storage()).execute(&plan, PLAIN).unwrap_or_else(|error| panic!("{format}: {error}"));
    assert!(!outcome[0].was_done && !stage_path(out).exists());
    let content = |folder: &Path| {
        let mut files = files_below(folder);
        files.remove("thalweg.json").unwrap();
        files
    };
    assert!(content(out) == content(&undisturbed.outputs[0].path), "{format}");
}

const RESUMED_FORMATS: [OutputFormat; 3] = [OutputFormat::Dcp, OutputFormat::Torch, OutputFormat::MegatronDist];

#[test]
fn outputs_in_other_formats_are_resumed_to_identical_files() {
    for format in RESUMED_FORMATS {
        for digest in [DigestChoice::Blake3, DigestChoice::None] {
            check_resumed_format(format, digest, |_| {});
        }
    }
}

#[test]
fn damage_to_the_stage_of_an_output_in_another_format_costs_work_but_no_byte() {
    for format in RESUMED_FORMATS {
        let each_file = |stage: &Path, change: &dyn Fn(&mut Vec<u8>)| {
            for (name, mut bytes) in files_below(stage) {
                if !name.starts_with("thalweg") && !bytes.is_empty() {
                    change(&mut bytes);
                    fs::write(stage.join(name), bytes).unwrap();
                }
            }
        };
        check_resumed_format(format, DigestChoice::None, |stage| {
            each_file(stage, &|bytes| bytes.iter_mut().step_by(100).for_each(|byte| *byte ^= 1));
        });
        check_resumed_format(format, DigestChoice::Blake3, |stage| {
            each_file(stage, &|bytes| bytes.truncate(bytes.len() / 3));
        });
    }
}
