//! Tiny checkpoints written by hand, and a world to merge them in.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use thalweg_merge::context::{Host, Limits, Progress, RunContext, Stage};
use thalweg_merge::engine::{ExecuteOptions, MergeOutcome, PartialStage, execute_merge};
use thalweg_merge::plan::{
    DigestChoice, MergePlan, MergePolicy, NonFloatPolicy, OutputDtype, OutputPlan, PlanSource, RouterPolicy,
};
use thalweg_merge::scheme::{Scheme, SchemeParameters};
use thalweg_merge::{Coefficients, Error};
use thalweg_storage::publish::Replace;
use thalweg_storage::{LocalStorage, Storage};
use thalweg_tensor::kernel::Simd;

/// A tensor as it lies in a file: dtype, shape, bytes.
pub(crate) type RawTensor = (String, Vec<u64>, Vec<u8>);

/// All tensors of a checkpoint folder or file, read by hand.
pub(crate) fn read_tensors(path: &Path) -> BTreeMap<String, RawTensor> {
    let files: Vec<PathBuf> = if path.is_dir() {
        let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors")).collect()
    } else {
        vec![path.to_owned()]
    };
    let mut tensors = BTreeMap::new();
    for file in files {
        let bytes = std::fs::read(file).unwrap();
        let header_len = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
        for (name, entry) in header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__") {
            let offset =
                |i: usize| 8 + header_len + usize::try_from(entry["data_offsets"][i].as_u64().unwrap()).unwrap();
            let shape = entry["shape"].as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap()).collect();
            let dtype = entry["dtype"].as_str().unwrap().to_owned();
            tensors.insert(name.clone(), (dtype, shape, bytes[offset(0)..offset(1)].to_vec()));
        }
    }
    tensors
}

/// Writes one file by hand.
pub(crate) fn write_tensors(path: &Path, tensors: &[(&str, &str, Vec<u64>, Vec<u8>)]) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let from = data.len();
        data.extend_from_slice(bytes);
        let entry = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [from, data.len()]});
        header.insert((*name).to_owned(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(&data);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Deterministic noise: SplitMix64.
pub(crate) fn noise(seed: u64, n_bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    // bf16 near 0.02: exponents that a real weight has.
    let element = |bits: u64| {
        let [low, high, ..] = bits.to_le_bytes();
        [low, (0x3B + (high & 1)) | (high & 0x80)]
    };
    (0..n_bytes / 2).flat_map(|_| element(next())).collect()
}

/// Plain sources `c1..cn` in `folder`, each with a large and a few small bf16 tensors.
pub(crate) fn make_sources(folder: &Path, n_sources: usize, n_elements: u64) -> Vec<PathBuf> {
    let make = |i: usize| {
        let path = folder.join(format!("step{}", 100 * (i + 1)));
        let seed = i as u64 + 1;
        let large = noise(seed, 2 * usize::try_from(n_elements).unwrap());
        let small = noise(seed + 1000, 14);
        write_tensors(
            &path.join("model.safetensors"),
            &[
                ("model.large.weight", "BF16", vec![n_elements], large),
                ("model.norm.weight", "BF16", vec![7], small),
                ("model.empty", "BF16", vec![0, 3], vec![]),
            ],
        );
        path
    };
    (0..n_sources).map(make).collect()
}

#[derive(Debug)]
pub(crate) struct TestHost;

impl Host for TestHost {
    fn elapsed_seconds(&self) -> f64 {
        0.0
    }
    fn unix_seconds(&self) -> u64 {
        0
    }
    fn peak_memory_bytes(&self) -> Option<u64> {
        None
    }
    fn physical_memory_bytes(&self) -> Option<u64> {
        None
    }
}

/// Counts bytes and asks for a stop after some of them.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) merged_bytes: AtomicU64,
    pub(crate) stop_after: Option<u64>,
    pub(crate) interrupt: AtomicBool,
    pub(crate) is_merging: AtomicBool,
}

impl Progress for Watch {
    fn begin(&self, stage: Stage, _total_bytes: u64) {
        self.is_merging.store(stage == Stage::Merge, Ordering::Relaxed);
    }
    fn advance(&self, n_bytes: u64) {
        if self.is_merging.load(Ordering::Relaxed) {
            let done = self.merged_bytes.fetch_add(n_bytes, Ordering::Relaxed) + n_bytes;
            if self.stop_after.is_some_and(|limit| done >= limit) {
                self.interrupt.store(true, Ordering::Relaxed);
            }
        }
    }
    fn note(&self, _text: &str) {}
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) n_threads: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) simd: Simd,
    pub(crate) replace: Replace,
    pub(crate) partial: PartialStage,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            n_threads: 2,
            memory_bytes: 256_000_000,
            simd: Simd::Auto,
            replace: Replace::Never,
            partial: PartialStage::Resume,
        }
    }
}

pub(crate) fn with_context<T>(setting: Setting, watch: &Watch, work: impl FnOnce(&RunContext<'_>) -> T) -> T {
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new());
    let n_threads = NonZeroUsize::new(setting.n_threads).unwrap();
    work(&RunContext {
        storage,
        host: &TestHost,
        progress: watch,
        interrupt: &watch.interrupt,
        limits: Limits { n_threads, memory_bytes: setting.memory_bytes, simd: setting.simd },
        tool: "test",
    })
}

pub(crate) fn execute(plan: &MergePlan, setting: Setting, watch: &Watch) -> Result<Vec<MergeOutcome>, Error> {
    let options = ExecuteOptions { replace: setting.replace, partial: setting.partial };
    with_context(setting, watch, |run| execute_merge(plan, options, run))
}

/// Merges and returns the tensors of the only output.
pub(crate) fn merge(plan: &MergePlan, setting: Setting) -> Result<BTreeMap<String, RawTensor>, Error> {
    execute(plan, setting, &Watch::default())?;
    Ok(read_tensors(&plan.outputs[0].path))
}

pub(crate) fn scheme_coefficients(text: &str, n: usize) -> Coefficients {
    Scheme::parse(text, SchemeParameters::default()).unwrap().coefficients(n).unwrap()
}

/// A plan with the default policies; steps are 100, 200, ... in the order given.
pub(crate) fn output_plan(sources: &[PathBuf], coefficients: &Coefficients, out: &Path) -> OutputPlan {
    let (numerators, divisor) = coefficients.to_decimal_strings();
    let source = |((i, path), numerator): ((usize, &PathBuf), String)| PlanSource {
        path: path.clone(),
        step: Some(100 * (i as u64 + 1)),
        tokens: None,
        numerator,
        coefficient: 0.0,
    };
    OutputPlan {
        path: out.to_owned(),
        scheme: "test".to_owned(),
        dtype: OutputDtype::Same,
        divisor,
        sources: sources.iter().enumerate().zip(numerators).map(source).collect(),
        policy: MergePolicy {
            non_float: NonFloatPolicy::Error,
            router: RouterPolicy::Average,
            allow_config: Vec::new(),
            allow_non_finite: false,
            newest: sources.len() - 1,
            side_files_from: sources.len() - 1,
            model_card: true,
        },
        out_shard_bytes: 5_000_000_000,
        digest: DigestChoice::Blake3,
    }
}

pub(crate) fn plan(sources: &[PathBuf], scheme: &str, out: &Path) -> MergePlan {
    MergePlan::new(vec![output_plan(sources, &scheme_coefficients(scheme, sources.len()), out)]).unwrap()
}

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").canonicalize().unwrap()
}
