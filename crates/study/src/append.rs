//! One more checkpoint in a mean: the merge of N + 1 from that of N, with the bytes of a merge from scratch.
//!
//! The old sources are read again, unless their exact sum was kept. A sum is kept as doubles: plane 1 is the sum,
//! rounded once; where that is not exact, plane 2 is what the rounding took away. Its sign is turned, so that a sum of
//! zeros keeps the sign of zero.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thalweg_merge::Coefficients;
use thalweg_merge::context::RunContext;
use thalweg_merge::engine::{ExecuteOptions, PartialStage, execute_merge};
use thalweg_merge::plan::{DigestChoice, MergePlan, NonFloatPolicy, OutputDtype, OutputPlan, SourceRef, newest_of};
use thalweg_merge::receipt::{MergeReceipt, SourceFile};
use thalweg_merge::verify::{digest_checkpoint, read_receipt};
use thalweg_storage::Storage;
use thalweg_storage::guard::OwnKind;
use thalweg_storage::publish::{Replace, publish_file};
use thalweg_tensor::digest::DigestKind;
use thalweg_tensor::{Dtype, DtypeClass, TensorSource, to_index};

use crate::Error;
use crate::request::Resolver;

/// Name of the description, in a folder of sums.
const SUMS_NAME: &str = "sums.json";
const SUMS_KIND: &str = "thalweg-sums";
const SUMS_VERSION: u64 = 1;
const SUMS_FILE: OwnKind<'_> = OwnKind::json("a description of exact sums", SUMS_KIND);
const MAX_SUMS_BYTES: u64 = 1 << 20;
/// The planes, in a folder of sums.
const PLANES: [&str; 2] = ["plane-1", "plane-2"];
/// A plane that would only be needed if two were not enough.
const REST: &str = "rest";
/// Bytes of a plane that are looked at together.
const LOOK_BYTES: u64 = 1 << 20;

/// The exact sum of the checkpoints of a mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeptSums {
    kind: String,
    version: u64,
    /// Checkpoints in the sum.
    n_checkpoints: usize,
    /// Planes of doubles.
    n_planes: usize,
    /// Digest of the mean.
    digest: Option<String>,
    /// Element type of the mean.
    dtype: OutputDtype,
}

/// A mean with one more checkpoint.
#[derive(Debug, Clone)]
pub struct AppendRequest {
    /// The folder of the mean.
    pub old: PathBuf,
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// The folder of the mean's exact sums; without them the old sources are read again.
    pub sums: Option<PathBuf>,
    /// Where the new mean goes.
    pub out: PathBuf,
}

/// The plan of a mean with one more checkpoint, and how many checkpoints are then in it.
///
/// # Errors
/// `Request` where `old` is not a mean, where its sources are gone or changed, or where the sums are of another mean.
pub fn append_plan(
    request: &AppendRequest,
    resolver: &Resolver<'_>,
    cx: &RunContext<'_>,
) -> Result<(MergePlan, usize), Error> {
    let receipt = read_receipt(&request.old, cx)?;
    let path = resolver.resolve_checkpoint(&request.checkpoint)?;
    let step = resolver.step_of(&path);
    let added = SourceRef { path, step, tokens: None };
    let mut output = match &request.sums {
        None => from_sources(&receipt, added, cx)?,
        Some(folder) => from_sums(&receipt, added, folder, &*cx.storage)?,
    };
    output.0.path = resolver.output_folder(&request.out)?;
    Ok((MergePlan::new(vec![output.0])?, output.1))
}

/// The plan over the old sources, which must be as they were.
fn from_sources(receipt: &MergeReceipt, added: SourceRef, cx: &RunContext<'_>) -> Result<(OutputPlan, usize), Error> {
    let old = &receipt.plan;
    let first = old.sources.first().map(|source| &source.numerator);
    if old.rule.is_some() || old.scheme != "sma" || old.sources.iter().any(|source| Some(&source.numerator) != first) {
        let hint = "append to a merge by `sma`; one that was appended to by `--sums` has the sums as sources: give \
                    `--sums` again";
        let what = format!("the old merge is by `{}`, not a plain mean of checkpoints", old.scheme);
        return Err(Error::request_with_hint(what, hint));
    }
    if old.sources.iter().any(|source| source.path == added.path) {
        return Err(Error::request(format!("`{}` is in the mean already", added.path.display())));
    }
    receipt.sources.iter().try_for_each(|source| check_source(source, cx))?;
    let source = |one: &thalweg_merge::plan::PlanSource| SourceRef {
        path: one.path.clone(),
        step: one.step,
        tokens: one.tokens,
    };
    let mut sources: Vec<SourceRef> = old.sources.iter().map(source).chain([added]).collect();
    if sources.iter().all(|source| source.step.is_some()) {
        sources.sort_by_key(|source| source.step);
    }
    let n = sources.len();
    let mean = thalweg_merge::scheme::Scheme::Sma.coefficients(n)?;
    let newest = newest_of(&sources);
    Ok((like(old, OutputPlan::new("", "sma", &sources, &mean), newest), n))
}

/// Refuses a source that is gone or holds other bytes than those that were merged.
fn check_source(source: &thalweg_merge::receipt::SourceReceipt, cx: &RunContext<'_>) -> Result<(), Error> {
    let refuse = |what: &str| {
        Error::request_with_hint(
            format!("`{}`, which is in the old merge, {what}", source.path.display()),
            "append with `--sums DIR` if its sums were kept by `--keep-sums DIR`; else merge from scratch",
        )
    };
    if cx.storage.file_info(&source.path).is_err_and(|error| error.is_not_found()) {
        return Err(refuse("no longer exists"));
    }
    let checkpoint = cx.pool.open(&source.path, &Default::default())?;
    let timeless = |file: &SourceFile| SourceFile { changed_ns: None, ..file.clone() };
    let now = checkpoint.files().iter().map(|file| timeless(&SourceFile::new(&file.name, &file.info)));
    if now.eq(source.files.iter().map(timeless)) {
        return Ok(());
    }
    let Some(digest) = &source.digest else { return Err(refuse("changed since")) };
    let kind = if digest.starts_with("xxh3") { DigestKind::Xxh3 } else { DigestKind::Blake3 };
    let now = digest_checkpoint(&*checkpoint, kind, cx)?.to_string();
    if now == *digest { Ok(()) } else { Err(refuse("changed since")) }
}

/// The plan over kept sums.
fn from_sums(
    receipt: &MergeReceipt,
    added: SourceRef,
    folder: &Path,
    storage: &dyn Storage,
) -> Result<(OutputPlan, usize), Error> {
    let path = folder.join(SUMS_NAME);
    let refuse = |what: String| {
        Error::request_with_hint(
            format!("`{}`: {what}", folder.display()),
            "give the folder that `--keep-sums` wrote for the old merge",
        )
    };
    let bytes = storage.read_file(&path, MAX_SUMS_BYTES).map_err(|error| refuse(error.to_string()))?;
    let sums: KeptSums = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
    if sums.kind != SUMS_KIND || sums.version != SUMS_VERSION || !(1..=2).contains(&sums.n_planes) {
        return Err(refuse(format!("`{}` version {} is not known", sums.kind, sums.version)));
    }
    if sums.digest.is_none() || sums.digest != receipt.digest {
        return Err(refuse("these are the sums of another merge".to_owned()));
    }
    let folder = storage.canonical_path(folder)?;
    let plane = |name: &&str| SourceRef { path: folder.join(name), step: None, tokens: None };
    let sources: Vec<SourceRef> = PLANES[..sums.n_planes].iter().map(plane).chain([added]).collect();
    let n = sums.n_checkpoints + 1;
    let divisor = i64::try_from(n).map_err(|_| refuse("the count is too large".to_owned()))?;
    let numerators: &[i64] = if sums.n_planes == 1 { &[1, 1] } else { &[1, -1, 1] };
    let coefficients = Coefficients::new(numerators.iter().copied(), divisor)?;
    let newest = sources.len() - 1;
    let mut output = like(&receipt.plan, OutputPlan::new("", "custom", &sources, &coefficients), newest);
    output.dtype = sums.dtype;
    Ok((output, n))
}

/// What an old plan says beside its window.
fn like(old: &OutputPlan, output: OutputPlan, newest: usize) -> OutputPlan {
    let mut policy = old.policy.clone();
    (policy.newest, policy.side_files_from) = (newest, newest);
    OutputPlan {
        dtype: old.dtype,
        format: old.format,
        reading: old.reading.clone(),
        policy,
        out_shard_bytes: old.out_shard_bytes,
        digest: old.digest,
        ..output
    }
}

/// What was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumsKept {
    /// Planes of doubles.
    pub n_planes: usize,
    /// Their bytes.
    pub n_bytes: u64,
}

/// Keeps the exact sum of a mean that was just written, in `folder`.
///
/// # Errors
/// `Request` where the merge is not a mean, has tensors of several element types, or a sum does not fit two planes;
/// those of merging.
pub fn keep_sums(
    receipt: &MergeReceipt,
    n_checkpoints: usize,
    folder: &Path,
    cx: &RunContext<'_>,
) -> Result<SumsKept, Error> {
    let plan = &receipt.plan;
    let is_appended = plan.scheme == "custom" && plan.divisor == n_checkpoints.to_string();
    if plan.rule.is_some() || !(plan.scheme == "sma" || is_appended) {
        let what = format!("`--keep-sums` keeps the sum of a plain mean, and this merge is by `{}`", plan.scheme);
        return Err(Error::request_with_hint(what, "leave it out, or merge by `sma`"));
    }
    let dtype = dtype_of(receipt)?;
    cx.storage.create_folder(folder)?;
    let folder = cx.storage.canonical_path(folder)?;
    let terms: Vec<(PathBuf, i64)> = plan
        .sources
        .iter()
        .map(|source| (source.path.clone(), if source.numerator.starts_with('-') { -1 } else { 1 }))
        .collect();
    let sum = SumPlanes { plan, folder: &folder, cx };
    let turned = |terms: &[(PathBuf, i64)]| terms.iter().map(|(path, sign)| (path.clone(), -sign)).collect::<Vec<_>>();
    let [plane_1, plane_2] = PLANES.map(|name| folder.join(name));
    sum.write(&terms, PLANES[0])?;
    let mut rest = turned(&terms);
    rest.push((plane_1, 1));
    let mut n_planes = 1;
    if !sum.write_is_zero(&rest, PLANES[1])? {
        n_planes = 2;
        let mut of_two = rest;
        of_two.push((plane_2, -1));
        if !sum.write_is_zero(&of_two, REST)? {
            cx.storage.remove(&folder.join(REST))?;
            return Err(Error::request_with_hint(
                "the sum of these checkpoints does not fit two planes of doubles",
                "leave `--keep-sums` out: appending then reads the old checkpoints again",
            ));
        }
        cx.storage.remove(&folder.join(REST))?;
    } else {
        cx.storage.remove(&folder.join(PLANES[1]))?;
    }
    let (kind, digest) = (SUMS_KIND.to_owned(), receipt.digest.clone());
    let sums = KeptSums { kind, version: SUMS_VERSION, n_checkpoints, n_planes, digest, dtype };
    let text = serde_json::to_vec(&sums).map_err(|source| Error::ReportForm { source })?;
    publish_file(&*cx.storage, &folder.join(SUMS_NAME), &text, SUMS_FILE)?;
    let n_elements: u64 = receipt.tensors.iter().map(|tensor| tensor.shape.iter().product::<u64>()).sum();
    Ok(SumsKept { n_planes, n_bytes: 8 * n_elements * n_planes as u64 })
}

/// The one element type of the floating tensors of a merge.
fn dtype_of(receipt: &MergeReceipt) -> Result<OutputDtype, Error> {
    let floats = receipt.tensors.iter().filter_map(|tensor| Dtype::from_name(&tensor.dtype));
    let mut floats: Vec<Dtype> = floats.filter(|dtype| dtype.class() == DtypeClass::Mergeable).collect();
    floats.dedup();
    match floats.as_slice() {
        [Dtype::F32] => Ok(OutputDtype::F32),
        [Dtype::Bf16] => Ok(OutputDtype::Bf16),
        [Dtype::F16] => Ok(OutputDtype::F16),
        _ => Err(Error::request_with_hint(
            "`--keep-sums` needs tensors of one element type: F32, BF16 or F16",
            "give `--dtype`, or leave `--keep-sums` out",
        )),
    }
}

/// Writes weighted sums as doubles.
struct SumPlanes<'a> {
    plan: &'a OutputPlan,
    folder: &'a Path,
    cx: &'a RunContext<'a>,
}

impl SumPlanes<'_> {
    fn write(&self, terms: &[(PathBuf, i64)], name: &str) -> Result<PathBuf, Error> {
        let source = |(path, _): &(PathBuf, i64)| SourceRef { path: path.clone(), step: None, tokens: None };
        let sources: Vec<SourceRef> = terms.iter().map(source).collect();
        let coefficients = Coefficients::new(terms.iter().map(|(_, sign)| *sign), 1)?;
        // The last of the merge's own sources has the files that travel.
        let newest = self.plan.policy.newest;
        let mut output =
            like(self.plan, OutputPlan::new(self.folder.join(name), "custom", &sources, &coefficients), newest);
        output.dtype = OutputDtype::F64;
        output.digest = DigestChoice::None;
        output.policy.model_card = false;
        output.policy.non_float = NonFloatPolicy::Newest;
        let options = ExecuteOptions { replace: Replace::Force, partial: PartialStage::Discard };
        let path = output.path.clone();
        execute_merge(&MergePlan::new(vec![output.of_model_alone()])?, options, self.cx)?;
        Ok(path)
    }

    /// Writes a sum, and tells whether all of its floating tensors are zero.
    fn write_is_zero(&self, terms: &[(PathBuf, i64)], name: &str) -> Result<bool, Error> {
        let path = self.write(terms, name)?;
        let checkpoint = self.cx.pool.open(&path, &Default::default())?;
        let mut buffer = Vec::new();
        for (t, entry) in checkpoint.catalog().entries().iter().enumerate() {
            if entry.dtype != Dtype::F64 {
                continue;
            }
            let n_elements = entry.n_elements();
            for first in (0..n_elements).step_by(to_index(LOOK_BYTES / 8)) {
                let range = first..n_elements.min(first + LOOK_BYTES / 8);
                buffer.resize(to_index(8 * (range.end - range.start)), 0);
                checkpoint.read_elements(t, range, &mut buffer).map_err(|source| {
                    Error::Merge(thalweg_merge::Error::Access { tensor: entry.name.to_string(), source })
                })?;
                // The sign of a zero does not count.
                if buffer.chunks_exact(8).any(|bytes| bytes[..7].iter().any(|byte| *byte != 0) || bytes[7] & 0x7f != 0)
                {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}
