//! Merges that read a prepared sum instead of their older sources.

use std::fs;
use std::path::{Path, PathBuf};

use thalweg_merge::engine::{execute_merge_with, open_sources};
use thalweg_merge::head::WindowHead;
use thalweg_merge::plan::MergePlan;
use thalweg_merge::prepare_head::{HeadOutcome, prepare_head};
use thalweg_merge::receipt::MergeReceipt;
use thalweg_merge::seen::see_sources;
use thalweg_merge::{Coefficients, Error};
use thalweg_tensor::kernel::Simd;

use crate::support::{
    FORCE, PLAIN, Runner, Tensors, assert_same_tensors, bits16_tensor, f32_tensor, noise_tensor, output, plan,
    read_tensors, tensors, write_checkpoint,
};

const N: usize = 5;
/// More than one part.
const N_LARGE: usize = 530_000;

/// Sources of two windows of five, and what they are merged by.
struct Scene {
    folder: tempfile::TempDir,
    sources: Vec<PathBuf>,
    numerators: Vec<i64>,
}

fn content(i: u64) -> Tensors {
    // Tiny values beside large ones, zeros of both signs, and a value of another size in each source.
    let odd = |e: u64| match e % 7 {
        0 => 0x8000,
        1 => 0,
        2 => u16::try_from(0x3f80 + e % 128).unwrap(),
        3 if e % 5 == i % 5 => 0x2f81,
        4 if e % 11 == i % 11 => 0x8001,
        _ => u16::try_from(0x3c00 + (e * 31 + i * 7) % 1024).unwrap(),
    };
    let single = |e: u32| (e as f32 * 0.37 + i as f32 * 0.01).sin();
    tensors([
        ("large", noise_tensor(i + 1, N_LARGE)),
        ("odd", bits16_tensor("BF16", &(0..1000).map(odd).collect::<Vec<_>>())),
        ("single", f32_tensor(&(0..777).map(single).collect::<Vec<_>>())),
        (
            "half",
            bits16_tensor(
                "F16",
                &(0..130).map(|e| 0x3800 + (e * 13 + u16::try_from(i).unwrap()) % 512).collect::<Vec<_>>(),
            ),
        ),
        ("steps", ("I64".to_owned(), vec![1], vec![7; 8])),
        ("empty", ("BF16".to_owned(), vec![0], Vec::new())),
    ])
}

impl Scene {
    fn new(numerators: &[i64]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sources: Vec<PathBuf> = (0..=N).map(|i| folder.path().join(format!("c{i}"))).collect();
        sources.iter().zip(0..).for_each(|(path, i)| write_checkpoint(path, &content(i)));
        Self { folder, sources, numerators: numerators.to_vec() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The merge of the window that begins with this source, with the digests of its sources that `receipt` knows.
    fn plan(&self, first: usize, out: &str, receipt: Option<&MergeReceipt>, runner: &Runner) -> MergePlan {
        let divisor = self.numerators.iter().sum();
        let plan = plan(output(&self.sources[first..first + N], &self.numerators, divisor, &self.at(out)));
        let Some(receipt) = receipt else { return plan };
        let mut seen =
            runner.with_context(|run| see_sources(&open_sources(&plan, run).unwrap(), &*run.storage).unwrap()).0;
        seen.retain_mut(|one| {
            let known = receipt.sources.iter().find(|source| source.path == one.path);
            one.digest = known.and_then(|source| source.digest.as_deref()?.parse().ok());
            one.digest.is_some()
        });
        MergePlan { seen_sources: seen, ..plan }
    }

    /// Merges the first window, and prepares the sum that the second one needs.
    fn prepare(&self, runner: &Runner, is_wanted: bool) -> (MergeReceipt, HeadOutcome) {
        let first = runner.execute(&self.plan(0, "first", None, runner), FORCE).unwrap().remove(0).receipt;
        let plan = self.plan(0, "first", Some(&first), runner);
        let outcome = runner.with_context(|run| prepare_head(&plan, &self.head(), &|| is_wanted, run)).0;
        (first, outcome.unwrap())
    }

    fn head(&self) -> PathBuf {
        self.at("head.json")
    }

    /// Merges the second window with what is prepared; the receipt.
    fn merge(&self, out: &str, first: &MergeReceipt, runner: &Runner) -> Result<MergeReceipt, Error> {
        let plan = self.plan(1, out, Some(first), runner);
        let act = |run: &thalweg_merge::context::RunContext<'_>| {
            let heads: Vec<WindowHead> = WindowHead::open(&self.head(), &*run.storage).into_iter().collect();
            execute_merge_with(&plan, &heads, PLAIN, run)
        };
        Ok(runner.with_context(act).0?.remove(0).receipt)
    }

    #[track_caller]
    fn check_output(&self, out: &str, runner: &Runner) {
        let scratch = self.at("scratch");
        let _ = fs::remove_dir_all(&scratch);
        let expected = runner.merge(&self.plan(1, "scratch", None, runner));
        assert_same_tensors(&read_tensors(&self.at(out)), &expected, out);
    }
}

fn bytes_of_tensors() -> u64 {
    content(0).values().map(|(_, _, bytes)| bytes.len() as u64).sum()
}

#[test]
fn a_merge_from_a_prepared_sum_has_the_bytes_of_one_from_scratch() {
    let cases = [
        (&[1; N][..], 2, 256_000_000, Simd::Auto),
        (&[1, 2, 3, 4, 5], 1, 40_000_000, Simd::Portable),
        (&[256, 64, 80, 100, 125], 3, 60_000_000, Simd::Avx2),
    ];
    for (numerators, n_threads, memory_bytes, simd) in cases {
        let runner = Runner { n_threads, memory_bytes, simd, ..Runner::default() };
        let scene = Scene::new(numerators);
        let (first, outcome) = scene.prepare(&runner, true);
        // A single for each bf16 and f16, a double for each f32.
        let n_bytes = 4 * (N_LARGE as u64 + 1000 + 130) + 8 * 777;
        assert_eq!(outcome, HeadOutcome::Made { n_bytes });
        let receipt = scene.merge("out", &first, &runner).unwrap();
        // The integers of all five are compared.
        assert_eq!(receipt.bytes_read, bytes_of_tensors() + 4 * 8);
        scene.check_output("out", &runner);
        let digests = |receipt: &MergeReceipt| {
            receipt.sources.iter().map(|source| source.digest.clone()).collect::<Option<Vec<_>>>().unwrap()
        };
        assert_eq!(digests(&receipt)[..N - 1], digests(&first)[1..]);
        // It is there already.
        let plan = scene.plan(0, "first", Some(&first), &runner);
        let again = runner.with_context(|run| prepare_head(&plan, &scene.head(), &|| true, run)).0;
        assert_eq!(again.unwrap(), HeadOutcome::Known);
    }
}

#[test]
fn a_prepared_sum_that_changed_is_found_and_never_used() {
    let runner = Runner::default();
    let scene = Scene::new(&[1; N]);
    let (first, _) = scene.prepare(&runner, true);
    let sums = scene.head().with_extension("sums");
    let whole = fs::read(&sums).unwrap();
    let mut changed = whole.clone();
    changed[1_000_000] ^= 1;
    fs::write(&sums, &changed).unwrap();
    let error = scene.merge("out", &first, &runner).unwrap_err();
    assert!(matches!(error, Error::HeadChanged { .. }), "{error}");
    assert!(!scene.at("out").exists());
    // The same with the sources, or with a sum of another length: they are read.
    for cut in [whole.len() - 1, 0] {
        fs::write(&sums, &whole[..cut]).unwrap();
        let out = format!("out-{cut}");
        let receipt = scene.merge(&out, &first, &runner).unwrap();
        assert_eq!(receipt.bytes_read, N as u64 * bytes_of_tensors());
        scene.check_output(&out, &runner);
    }
}

#[test]
fn sums_of_other_sources_or_of_other_merges_are_not_used() {
    let runner = Runner::default();
    let mut scene = Scene::new(&[1; N]);
    let (first, _) = scene.prepare(&runner, true);
    let all = N as u64 * bytes_of_tensors();
    scene.numerators = vec![1, 2, 3, 4, 5];
    assert_eq!(scene.merge("weighted", &first, &runner).unwrap().bytes_read, all);
    scene.check_output("weighted", &runner);
    scene.numerators = vec![1; N];
    // Another order.
    scene.sources.swap(1, 2);
    assert_eq!(scene.merge("swapped", &first, &runner).unwrap().bytes_read, all);
    scene.sources.swap(1, 2);
    // A source was rewritten, and its digest is no longer known.
    let mut other = first.clone();
    other.sources[2].digest = None;
    write_checkpoint(&scene.sources[2], &content(40));
    assert_eq!(scene.merge("rewritten", &other, &runner).unwrap().bytes_read, all);
    scene.check_output("rewritten", &runner);
}

#[test]
fn what_cannot_be_prepared_says_why_and_what_is_abandoned_is_not_used() {
    let runner = Runner::default();
    let scene = Scene::new(&[1; N]);
    let (first, outcome) = scene.prepare(&runner, false);
    assert_eq!(outcome, HeadOutcome::Abandoned);
    assert_eq!(scene.merge("out", &first, &runner).unwrap().bytes_read, N as u64 * bytes_of_tensors());
    // The place is taken again.
    assert!(matches!(scene.prepare(&runner, true).1, HeadOutcome::Made { .. }));

    let outcome =
        |plan: &MergePlan, path: &Path| runner.with_context(|run| prepare_head(plan, path, &|| true, run)).0.unwrap();
    let unknown = scene.plan(0, "first", None, &runner);
    let HeadOutcome::Impossible(why) = outcome(&unknown, &scene.head()) else { panic!("no digests") };
    assert!(why.contains("digests"), "{why}");
    let mut few = scene.plan(0, "first", Some(&first), &runner);
    let refs: Vec<_> = few.outputs[0].checkpoints()[..3].to_vec();
    let third = Coefficients::new([1, 1, 1], 3).unwrap();
    few.outputs = vec![thalweg_merge::plan::OutputPlan::new(scene.at("few"), "custom", &refs, &third)];
    let HeadOutcome::Impossible(why) = outcome(&few, &scene.head()) else { panic!("three sources") };
    assert!(why.contains("fewer than 4"), "{why}");
    // Sums that are not ours stay.
    fs::write(scene.at("other.sums"), "mine").unwrap();
    let known = scene.plan(0, "first", Some(&first), &runner);
    let HeadOutcome::Impossible(why) = outcome(&known, &scene.at("other.json")) else { panic!("a foreign file") };
    assert!(why.contains("another file"), "{why}");
    assert_eq!(fs::read(scene.at("other.sums")).unwrap(), b"mine");
}

#[test]
fn a_newest_checkpoint_that_is_not_finite_is_refused_in_each_element_type() {
    let runner = Runner::default();
    let scene = Scene::new(&[1; N]);
    let (first, outcome) = scene.prepare(&runner, true);
    assert!(matches!(outcome, HeadOutcome::Made { .. }));
    let inf = f32::INFINITY.to_le_bytes();
    for (tensor, at, bits) in [
        ("half", 2 * 100, &0x7C00u16.to_le_bytes()[..]),
        ("half", 2 * 100, &0xFE00u16.to_le_bytes()),
        ("odd", 2 * 100, &0xFF80u16.to_le_bytes()),
        ("single", 4 * 100, &inf),
    ] {
        let mut newest = content(N as u64);
        newest.get_mut(tensor).unwrap().2[at..at + bits.len()].copy_from_slice(bits);
        write_checkpoint(&scene.sources[N], &newest);
        let error = scene.merge("out", &first, &runner).unwrap_err();
        let Error::NonFinite { element_idx: 100, is_newest: true, .. } = error else { panic!("{tensor}: {error}") };
        assert!(!scene.at("out").exists());
    }
}
