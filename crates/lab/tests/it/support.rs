//! A tiny run in memory, with a stopped clock and an interrupt at a step of choice.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thalweg_checkpoint::CheckpointPool;
use thalweg_lab::step_log::{StepRecord, ValidationRecord};
use thalweg_lab::{Error, TrainConfig, TrainData, TrainJob, TrainOutcome, TrainWatcher, train};
use thalweg_merge::Coefficients;
use thalweg_merge::context::{Limits, RunContext};
use thalweg_merge::engine::{ExecuteOptions, PartialStage, execute_merge};
use thalweg_merge::plan::{DigestChoice, MergePlan, OutputPlan, SourceRef};
use thalweg_storage::publish::Replace;
use thalweg_storage::{FileKind, MemoryStorage, Storage, Unwatched};
use thalweg_tensor::kernel::Simd;

/// Twelve steps of a two-layer Llama, a checkpoint every three.
pub(crate) const TINY: &str = r#"
kind = "thalweg-train"
version = 1
seed = 7
steps = 12
sequence_length = 16
batch_sequences = 4
micro_batches = 2
tokenizer = "bpe-512"

[model]
hidden = 16
layers = 2
heads = 2
kv_heads = 1
intermediate = 24

[[data]]
from = "corpus.jsonl"
validation = "held-out.jsonl"

[optimizer]
learning_rate = 0.01

[schedule]
kind = "wsd"
warmup_steps = 2
anneal_steps = 4
curve = "linear"

[checkpoints]
every_steps = 3
keep_states = 0
"#;

/// A disk in memory with a corpus in `/disk`.
pub(crate) struct World {
    pub(crate) storage: Arc<dyn Storage>,
    pool: CheckpointPool,
    interrupt: AtomicBool,
    pub(crate) n_threads: usize,
}

/// Raises the interrupt after a step.
struct StopAfter<'a> {
    step: u64,
    interrupt: &'a AtomicBool,
}

impl TrainWatcher for StopAfter<'_> {
    fn on_step(&self, record: &StepRecord, _: u64, _: f64) {
        if record.step == self.step {
            self.interrupt.store(true, Ordering::Relaxed);
        }
    }
    fn on_validation(&self, _: &ValidationRecord) {}
    fn on_checkpoint(&self, _: u64, _: &Path) {}
    fn on_note(&self, _: &str) {}
}

impl World {
    pub(crate) fn new() -> Self {
        Self::on(Arc::new(MemoryStorage::new()))
    }

    /// A world whose disk has its corpus already.
    pub(crate) fn resume_on(storage: Arc<dyn Storage>) -> Self {
        Self { pool: CheckpointPool::new(&storage), storage, interrupt: AtomicBool::new(false), n_threads: 2 }
    }

    /// Puts a corpus on an empty disk.
    pub(crate) fn on(storage: Arc<dyn Storage>) -> Self {
        storage.create_folder(Path::new("/disk")).unwrap();
        let world = Self::resume_on(storage);
        let animals = ["cat", "dog", "bird", "fish", "fox"];
        let line = |i: usize| {
            let (a, b) = (animals[i % 5], animals[i * 3 % 5]);
            format!("{{\"id\": \"{i}\", \"text\": \"One day the {a} met a {b} and they played {i} games.\"}}\n")
        };
        world.write("corpus.jsonl", &(0..200).map(line).collect::<String>());
        world.write("held-out.jsonl", &(200..240).map(line).collect::<String>());
        world
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = Path::new("/disk").join(name);
        let _ = self.storage.remove(&path);
        self.storage.create_file(&path, 0).unwrap().write_all_at(0, text.as_bytes()).unwrap();
    }

    pub(crate) fn context(&self) -> RunContext<'_> {
        let n_threads = NonZeroUsize::new(self.n_threads).unwrap();
        RunContext {
            storage: Arc::clone(&self.storage),
            pool: &self.pool,
            host: &Unwatched,
            progress: &Unwatched,
            interrupt: &self.interrupt,
            limits: Limits { n_threads, memory_bytes: 1 << 30, simd: Simd::Auto },
            tool: "thalweg test",
        }
    }

    /// Trains `text` in `/disk/NAME`; stops after step `stop`, if that is not 0.
    pub(crate) fn train_until(&self, text: &str, name: &str, stop: u64) -> Result<TrainOutcome, Error> {
        self.interrupt.store(false, Ordering::Relaxed);
        let folder = Path::new("/disk");
        let config = TrainConfig::from_toml(text, Path::new("run.toml"))?;
        let data = TrainData::load(&config, folder, &*self.storage)?;
        let run_path = folder.join(name);
        let job = TrainJob { config: &config, config_folder: folder, run_path: &run_path, data: &data };
        train(&job, &StopAfter { step: stop, interrupt: &self.interrupt }, &self.context())
    }

    pub(crate) fn train(&self, text: &str, name: &str) -> TrainOutcome {
        self.train_until(text, name, 0).unwrap()
    }

    pub(crate) fn bytes(&self, path: &str) -> Vec<u8> {
        self.storage.read_file(&Path::new("/disk").join(path), 1 << 30).unwrap()
    }

    /// Every file below a folder, with its bytes; states and locks are left out.
    pub(crate) fn files(&self, name: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let root = Path::new("/disk").join(name);
        let mut found = Vec::new();
        self.collect(&root, &root, &mut found);
        found
    }

    fn collect(&self, root: &Path, folder: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
        for entry in self.storage.list_folder(folder).unwrap() {
            let path = folder.join(&entry.name);
            let inner = path.strip_prefix(root).unwrap().to_owned();
            if inner == Path::new("state") || entry.name == ".thalweg-lock" {
                continue;
            }
            match entry.kind {
                FileKind::Folder => self.collect(root, &path, found),
                _ => found.push((inner, self.storage.read_file(&path, 1 << 30).unwrap())),
            }
        }
    }

    /// Asserts that two runs left the same files with the same bytes.
    pub(crate) fn assert_same_files(&self, a: &str, b: &str) {
        let (a, b) = (self.files(a), self.files(b));
        let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&a), names(&b));
        for ((name, a), (_, b)) in a.iter().zip(&b) {
            assert!(a == b, "`{}` differs", name.display());
        }
    }

    /// The numbers of a key in a log of JSON lines.
    pub(crate) fn column(&self, path: &str, key: &str) -> Vec<f64> {
        let text = String::from_utf8(self.bytes(path)).unwrap();
        let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()[key].as_f64().unwrap();
        text.lines().map(value).collect()
    }

    /// Merges checkpoints of `/disk/run` by `numerators` over `divisor` into `/disk/NAME`.
    pub(crate) fn merge(&self, name: &str, numerators: &[(u64, &str)], divisor: &str) {
        let source = |&(step, _): &(u64, &str)| SourceRef {
            path: format!("/disk/run/step-{step}").into(),
            step: Some(step),
            tokens: None,
        };
        let sources: Vec<SourceRef> = numerators.iter().map(source).collect();
        let digits: Vec<&str> = numerators.iter().map(|(_, numerator)| *numerator).collect();
        let coefficients = Coefficients::from_decimal_strings(&digits, divisor).unwrap();
        let mut output = OutputPlan::new(Path::new("/disk").join(name), "custom", &sources, &coefficients);
        output.policy.newest = numerators.len() - 1;
        output.policy.side_files_from = numerators.len() - 1;
        output.policy.model_card = false;
        output.out_shard_bytes = 1 << 40;
        output.digest = DigestChoice::Xxh3;
        let plan = MergePlan::new(vec![output]).unwrap();
        let options = ExecuteOptions { replace: Replace::Never, partial: PartialStage::Discard };
        execute_merge(&plan, options, &self.context()).unwrap();
    }
}
