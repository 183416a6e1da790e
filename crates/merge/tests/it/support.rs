//! Small checkpoints, a context without surprises, and a reader and writer that share no code with the program.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use thalweg_checkpoint::{CheckpointPool, ReadOptions, open_checkpoint_with};
use thalweg_merge::context::{Limits, Progress, RunContext, Stage};
use thalweg_merge::engine::{ExecuteOptions, MergeOutcome, PartialStage, execute_merge};
use thalweg_merge::output_format::{OptimizerPolicy, OutputFormat};
use thalweg_merge::plan::{MergePlan, OutputPlan, SourceRef};
use thalweg_merge::{Coefficients, Error};
use thalweg_storage::publish::Replace;
use thalweg_storage::{Host, LocalStorage, Storage};
use thalweg_tensor::TensorSource;
use thalweg_tensor::kernel::Simd;
pub(crate) use thalweg_testkit::numbers::f32_bytes;
use thalweg_testkit::numbers::{bits16_bytes, noise_bf16_bytes};

/// Element type, shape and bytes of a tensor.
pub(crate) type Tensor = (String, Vec<u64>, Vec<u8>);
/// Tensors by name.
pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// Nothing done yet is kept from an earlier output; an interrupted run resumes.
pub(crate) const PLAIN: ExecuteOptions = ExecuteOptions { replace: Replace::Never, partial: PartialStage::Resume };
/// Another output is replaced.
pub(crate) const FORCE: ExecuteOptions = ExecuteOptions { replace: Replace::Force, partial: PartialStage::Resume };

/// A folder of the project's fixtures.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// A one-dimensional f32 tensor.
pub(crate) fn f32_tensor(values: &[f32]) -> Tensor {
    ("F32".to_owned(), vec![values.len() as u64], f32_bytes(values))
}

/// A one-dimensional tensor of 16-bit elements.
pub(crate) fn bits16_tensor(dtype: &str, bits: &[u16]) -> Tensor {
    (dtype.to_owned(), vec![bits.len() as u64], bits16_bytes(bits))
}

/// A one-dimensional bf16 tensor of finite numbers that look random.
pub(crate) fn noise_tensor(seed: u64, n_elements: usize) -> Tensor {
    ("BF16".to_owned(), vec![n_elements as u64], noise_bf16_bytes(seed, n_elements))
}

/// Named tensors as a map.
pub(crate) fn tensors<const N: usize>(list: [(&str, Tensor); N]) -> Tensors {
    list.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect()
}

/// The bytes of a safetensors file.
pub(crate) fn encode_safetensors(tensors: &Tensors) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (dtype, shape, bytes)) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.clone(), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        data.extend_from_slice(bytes);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(&header);
    file.extend_from_slice(&data);
    file
}

/// Writes a checkpoint of one file.
pub(crate) fn write_checkpoint(folder: &Path, tensors: &Tensors) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("model.safetensors"), encode_safetensors(tensors)).unwrap();
}

/// Where the data of a safetensors file begin.
pub(crate) fn data_start(file: &[u8]) -> usize {
    8 + usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap()
}

/// Tensors of a safetensors file.
pub(crate) fn decode_safetensors(file: &[u8]) -> Tensors {
    let start = data_start(file);
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&file[8..start]).unwrap();
    let numbers = |value: &serde_json::Value| -> Vec<u64> {
        value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect()
    };
    let tensor = |(name, entry): (String, serde_json::Value)| {
        let range = numbers(&entry["data_offsets"]);
        let at = |offset: u64| start + usize::try_from(offset).unwrap();
        let bytes = file[at(range[0])..at(range[1])].to_vec();
        (name, (entry["dtype"].as_str().unwrap().to_owned(), numbers(&entry["shape"]), bytes))
    };
    header.into_iter().filter(|(name, _)| name != "__metadata__").map(tensor).collect()
}

/// The shards of a folder, sorted.
pub(crate) fn shards(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    files.sort();
    files
}

/// All tensors of a folder's shards.
pub(crate) fn read_tensors(folder: &Path) -> Tensors {
    shards(folder).iter().flat_map(|file| decode_safetensors(&fs::read(file).unwrap())).collect()
}

/// Says which tensors differ, instead of printing their bytes.
#[track_caller]
pub(crate) fn assert_same_tensors(found: &Tensors, expected: &Tensors, what: &str) {
    let names: Vec<&String> = found.keys().collect();
    assert_eq!(names, expected.keys().collect::<Vec<_>>(), "{what}");
    for (name, tensor) in found {
        let (expected_dtype, expected_shape, expected_bytes) = &expected[name];
        assert_eq!((&tensor.0, &tensor.1), (expected_dtype, expected_shape), "{what}: {name}");
        if tensor.2 != *expected_bytes {
            let differs = tensor.2.iter().zip(expected_bytes).position(|(a, b)| a != b);
            panic!("{what}: {name} differs from byte {differs:?}");
        }
    }
}

/// One output from `sources` with whole coefficients over a divisor; the last source is the newest.
pub(crate) fn output(sources: &[PathBuf], numerators: &[i64], divisor: i64, out: &Path) -> OutputPlan {
    assert_eq!(sources.len(), numerators.len());
    let source = |path: &PathBuf| SourceRef { path: path.clone(), step: None, tokens: None };
    let sources: Vec<SourceRef> = sources.iter().map(source).collect();
    let coefficients = Coefficients::new(numerators.iter().copied(), divisor).unwrap();
    OutputPlan::new(out, "custom", &sources, &coefficients)
}

/// A plan of one output.
pub(crate) fn plan(output: OutputPlan) -> MergePlan {
    MergePlan::new(vec![output]).unwrap()
}

/// The plain mean.
pub(crate) fn mean(sources: &[PathBuf], out: &Path) -> MergePlan {
    plan(output(sources, &vec![1; sources.len()], i64::try_from(sources.len()).unwrap(), out))
}

/// A stopped clock, so that equal merges have equal receipts.
struct StillHost;

impl Host for StillHost {
    fn elapsed_seconds(&self) -> f64 {
        0.0
    }
    fn unix_seconds(&self) -> u64 {
        1_700_000_000
    }
    fn peak_memory_bytes(&self) -> Option<u64> {
        None
    }
    fn physical_memory_bytes(&self) -> Option<u64> {
        Some(8 << 30)
    }
}

/// Counts what is merged and asks for a stop once that is enough.
struct Watch<'a> {
    is_merging: AtomicBool,
    n_bytes: AtomicU64,
    stop_after_bytes: Option<u64>,
    interrupt: &'a AtomicBool,
    notes: Mutex<Vec<String>>,
}

impl Progress for Watch<'_> {
    fn begin(&self, stage: Stage, _total_bytes: u64) {
        self.is_merging.store(stage == Stage::Merge, Ordering::SeqCst);
    }

    fn resume(&self, _n_bytes: u64) {}

    fn advance(&self, n_bytes: u64) {
        if self.is_merging.load(Ordering::SeqCst) {
            let so_far = self.n_bytes.fetch_add(n_bytes, Ordering::SeqCst) + n_bytes;
            if self.stop_after_bytes.is_some_and(|limit| so_far >= limit) {
                self.interrupt.store(true, Ordering::SeqCst);
            }
        }
    }

    fn note(&self, text: &str) {
        self.notes.lock().unwrap().push(text.to_owned());
    }
}

/// How a merge is run: everything that must not change a byte.
#[derive(Debug, Clone)]
pub(crate) struct Runner {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) n_threads: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) simd: Simd,
    /// Asks for a stop once so many source bytes are merged.
    pub(crate) stop_after_bytes: Option<u64>,
}

impl Default for Runner {
    fn default() -> Self {
        let storage = Arc::new(LocalStorage::new());
        Self { storage, n_threads: 2, memory_bytes: 256_000_000, simd: Simd::Auto, stop_after_bytes: None }
    }
}

impl Runner {
    pub(crate) fn on(storage: Arc<dyn Storage>) -> Self {
        Self { storage, ..Self::default() }
    }

    /// Gives a context to `act`, and returns with its result what a person was told.
    pub(crate) fn with_context<T>(&self, act: impl FnOnce(&RunContext<'_>) -> T) -> (T, Vec<String>) {
        let interrupt = AtomicBool::new(false);
        let progress = Watch {
            is_merging: AtomicBool::new(false),
            n_bytes: AtomicU64::new(0),
            stop_after_bytes: self.stop_after_bytes,
            interrupt: &interrupt,
            notes: Mutex::new(Vec::new()),
        };
        let limits = Limits {
            n_threads: NonZeroUsize::new(self.n_threads).unwrap(),
            memory_bytes: self.memory_bytes,
            simd: self.simd,
        };
        let pool = CheckpointPool::new(&self.storage);
        let result = act(&RunContext {
            storage: Arc::clone(&self.storage),
            pool: &pool,
            host: &StillHost,
            progress: &progress,
            interrupt: &interrupt,
            limits,
            tool: "thalweg test",
        });
        (result, progress.notes.into_inner().unwrap())
    }

    pub(crate) fn execute(&self, plan: &MergePlan, options: ExecuteOptions) -> Result<Vec<MergeOutcome>, Error> {
        self.with_context(|run| execute_merge(plan, options, run)).0
    }

    /// Merges to a plan's only output and reads its tensors.
    #[track_caller]
    pub(crate) fn merge(&self, plan: &MergePlan) -> Tensors {
        self.execute(plan, PLAIN).unwrap_or_else(|error| panic!("{error}"));
        read_tensors(&plan.outputs[0].path)
    }
}

/// An output in another format than safetensors: two sources, of which the second is the newest, and what is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FormatCase {
    pub(crate) name: &'static str,
    /// Fixtures; where there is only one of a format, it is taken twice, and the coefficients do not sum to 1.
    sources: [&'static str; 2],
    format: OutputFormat,
    optimizer: OptimizerPolicy,
}

/// Outputs with the files of the newest source, then outputs with the tensors only.
pub(crate) const FORMAT_CASES: [FormatCase; 9] = [
    like("dcp", ["dcp-fsdp2/step-60", "dcp-fsdp2/step-80"], OutputFormat::Dcp),
    like("torch-file", ["torch/trainstate/step-60.pt", "torch/trainstate/step-80.pt"], OutputFormat::Torch),
    like("torch-shards", ["torch/bin-sharded/step-60", "torch/bin-sharded/step-80"], OutputFormat::Torch),
    like(
        "megatron-dist",
        ["megatron-torch_dist/iter_0000060", "megatron-torch_dist/iter_0000080"],
        OutputFormat::MegatronDist,
    ),
    like("zero", ["deepspeed/zero1/global_step80"; 2], OutputFormat::DeepspeedZero),
    like("universal", ["deepspeed/universal/global_step80_universal"; 2], OutputFormat::DeepspeedUniversal),
    from_scratch("dcp-from-scratch", OutputFormat::Dcp),
    from_scratch("torch-from-scratch", OutputFormat::Torch),
    from_scratch("megatron-dist-from-scratch", OutputFormat::MegatronDist),
];

const fn like(name: &'static str, sources: [&'static str; 2], format: OutputFormat) -> FormatCase {
    FormatCase { name, sources, format, optimizer: OptimizerPolicy::Newest }
}

const fn from_scratch(name: &'static str, format: OutputFormat) -> FormatCase {
    let sources = ["hf-sharded/step-60", "hf-sharded/step-80"];
    FormatCase { name, sources, format, optimizer: OptimizerPolicy::Drop }
}

impl FormatCase {
    /// The sources' files, and where each goes below a folder.
    pub(crate) fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let copy = |(i, name): (usize, &&str)| {
            let from = fixture(name);
            if from.is_file() {
                let name = format!("c{i}-{}", from.file_name().unwrap().to_string_lossy());
                return vec![(PathBuf::from(name), fs::read(&from).unwrap())];
            }
            let place = |(name, bytes)| (Path::new(&format!("c{i}")).join(name), bytes);
            files_below(&from).into_iter().map(place).collect()
        };
        self.sources.iter().enumerate().flat_map(copy).collect()
    }

    pub(crate) fn source_paths(&self, folder: &Path) -> [PathBuf; 2] {
        [0, 1].map(|i| match fixture(self.sources[i]).is_file() {
            true => folder.join(format!("c{i}-{}", Path::new(self.sources[i]).file_name().unwrap().to_string_lossy())),
            false => folder.join(format!("c{i}")),
        })
    }

    /// Whether the output has the files of the newest source.
    pub(crate) fn keeps_files(&self) -> bool {
        self.optimizer == OptimizerPolicy::Newest
    }

    /// Copies the sources to the local disk.
    pub(crate) fn put(&self, folder: &Path) {
        for (name, bytes) in self.files() {
            fs::create_dir_all(folder.join(&name).parent().unwrap()).unwrap();
            fs::write(folder.join(name), bytes).unwrap();
        }
    }

    /// The merge of the sources in `folder` into `out`, by other coefficients for each `number`.
    pub(crate) fn output(&self, folder: &Path, out: &Path, number: i64) -> OutputPlan {
        let mut output = output(&self.source_paths(folder), &[1, number], 2, out);
        (output.format, output.policy.optimizer) = (self.format, self.optimizer);
        output.out_shard_bytes = 30_000;
        output
    }

    /// The same in other files: safetensors.
    pub(crate) fn plain(&self, folder: &Path, out: &Path, number: i64) -> OutputPlan {
        let mut output = self.output(folder, out, number);
        (output.format, output.policy.optimizer) = (OutputFormat::Safetensors, OptimizerPolicy::Drop);
        output
    }

    /// Every tensor of an output, by the reader of its format.
    pub(crate) fn read(&self, out: &Path) -> Tensors {
        let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new());
        // An output with the file of a source is a folder with one file.
        let is_file = fixture(self.sources[1]).is_file();
        let path = if is_file { self.source_paths(out)[1].clone() } else { out.to_owned() };
        read_any(&storage, &path, &ReadOptions::default())
    }
}

/// Every tensor of a checkpoint in any format.
pub(crate) fn read_any(storage: &Arc<dyn Storage>, path: &Path, reading: &ReadOptions) -> Tensors {
    let checkpoint = open_checkpoint_with(storage, path, reading).unwrap_or_else(|error| panic!("{error}"));
    let read = |(t, entry): (usize, &thalweg_tensor::TensorEntry)| {
        let mut bytes = vec![0; usize::try_from(entry.n_bytes()).unwrap()];
        checkpoint.read_elements(t, 0..entry.n_elements(), &mut bytes).unwrap();
        (entry.name.to_string(), (entry.dtype.name().to_owned(), entry.shape.0.to_vec(), bytes))
    };
    checkpoint.catalog().entries().iter().enumerate().map(read).collect()
}

/// Every file below a folder.
pub(crate) fn files_below(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for path in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}
