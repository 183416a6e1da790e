//! One output from stage to commit: found, staged, journalled, described, published.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use thalweg_checkpoint::format::huggingface::{FORMAT_NAME, INDEX_FILE_NAME};
use thalweg_checkpoint::{
    CONFIG_FILE_NAME, Checkpoint, LayoutEntry, OutputFile, OutputLayout, StagedCheckpoint, layout_output, shard_digest,
    updated_config,
};
use thalweg_storage::Storage;
use thalweg_storage::publish::{Replace, publish_folder};
use thalweg_tensor::digest::{DigestKind, ListHasher, bytes_digest};
use thalweg_tensor::{Digest, Dtype, TensorSink};

use crate::align::{MergeLayout, OpenSource};
use crate::card::model_card;
use crate::combine::output_dtype;
use crate::contents::{tied_pair, untied_note};
use crate::context::RunContext;
use crate::engine::{ExecuteOptions, MergeOutcome, Merged, PartialStage};
use crate::error::Error;
use crate::journal::{JOURNAL_NAME, Journal, JournalState, StageKey, UnitRecord};
use crate::ledger::TensorRecord;
use crate::plan::{MergePlan, OutputPlan};
use crate::receipt::{
    FileReceipt, MergeReceipt, RECEIPT_KIND, RECEIPT_NAME, RECEIPT_VERSION, SourceFile, SourceReceipt, TensorReceipt,
};
use crate::resume::stage_path;
use crate::side_files::travelling_files;

/// Keeps two processes from one stage.
const LOCK_NAME: &str = "thalweg-lock";
/// A receipt of a hundred thousand tensors has about 30 MB.
pub(crate) const MAX_RECEIPT_BYTES: u64 = 1 << 30;
const CARD_NAME: &str = "README.md";

/// The outputs of a plan, each already there or still to be made.
pub(crate) struct Pending<'a> {
    outputs: Vec<(&'a OutputPlan, Option<MergeReceipt>)>,
}

impl<'a> Pending<'a> {
    /// Looks at what stands where the outputs go.
    pub(crate) fn find(
        plan: &'a MergePlan,
        sources: &[OpenSource],
        options: ExecuteOptions,
        run: &RunContext<'_>,
    ) -> Result<Self, Error> {
        let storage = &*run.storage;
        let look = |output: &'a OutputPlan| {
            refuse_sources(storage, output, sources)?;
            let found = match options.replace {
                Replace::Never => find_existing(storage, output, sources)?,
                Replace::Force => None,
            };
            Ok((output, found))
        };
        Ok(Self { outputs: plan.outputs.iter().map(look).collect::<Result<_, Error>>()? })
    }

    /// Those that are to be made.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = &'a OutputPlan> + '_ {
        self.outputs.iter().filter(|(_, receipt)| receipt.is_none()).map(|(output, _)| *output)
    }

    /// Digest of what is merged in one reading: the cut of the work and the sources that are read depend on it.
    pub(crate) fn reading_digest(&self, sources: &[OpenSource]) -> Result<Digest, Error> {
        let mut text = String::new();
        for output in self.outputs() {
            text.push_str(&format!("{}\0", output.digest()?));
        }
        sources.iter().for_each(|source| text.push_str(&format!("{}\0", source.path.display())));
        Ok(bytes_digest(DigestKind::Blake3, text.as_bytes()))
    }

    /// All outcomes in the plan's order, `fresh` being those that were made.
    pub(crate) fn into_outcomes(self, fresh: Vec<MergeReceipt>) -> Vec<MergeOutcome> {
        let mut fresh = fresh.into_iter();
        let outcome = |(output, found): (&OutputPlan, Option<MergeReceipt>)| {
            let was_done = found.is_some();
            let receipt = found.or_else(|| fresh.next())?;
            Some(MergeOutcome { path: output.path.clone(), receipt, was_done })
        };
        self.outputs.into_iter().filter_map(outcome).collect()
    }
}

/// An output must not replace, or lie within, what it is made from.
fn refuse_sources(storage: &dyn Storage, output: &OutputPlan, sources: &[OpenSource]) -> Result<(), Error> {
    let target = storage.canonical_path(&output.path)?;
    for source in sources {
        let source = storage.canonical_path(&source.path)?;
        if source.starts_with(&target) {
            return Err(Error::OutputIsSource { path: output.path.clone() });
        }
    }
    Ok(())
}

/// The receipt of an output that this very plan made from these very sources.
fn find_existing(
    storage: &dyn Storage,
    output: &OutputPlan,
    sources: &[OpenSource],
) -> Result<Option<MergeReceipt>, Error> {
    match storage.file_info(&output.path) {
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
        Ok(_) => {}
    }
    let exists = |is_receipt| Error::OutputExists { path: output.path.clone(), is_receipt };
    let receipt_path = output.path.join(RECEIPT_NAME);
    let bytes = storage.read_file(&receipt_path, MAX_RECEIPT_BYTES).map_err(|_| exists(false))?;
    let receipt = MergeReceipt::from_json(&bytes, &receipt_path).map_err(|_| exists(false))?;
    let is_same_plan = receipt.plan_digest == output.digest()?;
    let is_whole = receipt.files.iter().all(|file| {
        storage.file_info(&output.path.join(&file.name)).is_ok_and(|info| info.len_bytes == file.len_bytes)
    });
    let is_same_source = |known: &SourceReceipt| {
        sources.iter().any(|source| source.path == known.path && source_files(source) == known.files)
    };
    if is_same_plan && is_whole && receipt.sources.iter().all(is_same_source) {
        // It may stand there only in memory: the run that published it may have been stopped before this sync.
        storage.sync_folder(output.path.parent().unwrap_or(Path::new("/")))?;
        return Ok(Some(receipt));
    }
    Err(exists(true))
}

fn source_files(source: &OpenSource) -> Vec<SourceFile> {
    source.checkpoint.files().iter().map(|file| SourceFile::new(&file.name, &file.info)).collect()
}

/// Says no before the first byte is written when a disk cannot hold its outputs.
pub(crate) fn check_disk_space(pending: &Pending<'_>, layout: &MergeLayout, run: &RunContext<'_>) -> Result<(), Error> {
    let mut needed_bytes = 0;
    for output in pending.outputs() {
        needed_bytes += output_layout(output, layout)?.len_bytes();
        let staged_bytes = run
            .storage
            .list_folder(&stage_path(&output.path))
            .map_or(0, |entries| entries.iter().map(|entry| entry.len_bytes).sum());
        let Some(free_bytes) = run.storage.free_bytes(&output.path)? else { continue };
        if needed_bytes > free_bytes.saturating_add(staged_bytes) {
            return Err(Error::DiskFull { path: output.path.clone(), needed_bytes, free_bytes });
        }
    }
    Ok(())
}

/// Names, sizes and offsets of everything that an output's shards will hold.
pub(crate) fn output_layout(output: &OutputPlan, layout: &MergeLayout) -> Result<OutputLayout, Error> {
    let tensors = layout.catalog.entries().iter().zip(&layout.classes).map(|(entry, &class)| LayoutEntry {
        name: entry.name.clone(),
        dtype: output_dtype(class, entry.dtype, output.dtype),
        shape: entry.shape.clone(),
    });
    let tensors: Vec<LayoutEntry> = tensors.collect();
    Ok(layout_output(&tensors, output.out_shard_bytes, &BTreeMap::new())?)
}

/// An output that is being written.
pub(crate) struct StagedOutput<'a> {
    pub(crate) plan: &'a OutputPlan,
    pub(crate) staged: StagedCheckpoint,
    pub(crate) journal: Journal,
    /// What an earlier run's journal says.
    pub(crate) found: Vec<UnitRecord>,
    plan_digest: String,
    _lock: Box<dyn Debug + Send + Sync>,
}

/// Opens the stage of an interrupted run of this plan, or makes a new one.
pub(crate) fn stage_output<'a>(
    output: &'a OutputPlan,
    sources: &[OpenSource],
    layout: &MergeLayout,
    reading: &Digest,
    options: ExecuteOptions,
    run: &RunContext<'_>,
) -> Result<StagedOutput<'a>, Error> {
    let storage = &run.storage;
    let stage = stage_path(&output.path);
    storage.create_folder(&stage)?;
    let lock = storage.lock(&stage.join(LOCK_NAME))?;
    let plan_digest = output.digest()?;
    let key = stage_key(output, &plan_digest, sources, reading);
    let output_layout = Arc::new(output_layout(output, layout)?);
    let journal_path = stage.join(JOURNAL_NAME);
    if options.partial == PartialStage::Resume {
        match Journal::open(&**storage, &journal_path, &key)? {
            JournalState::Foreign(what) => return Err(Error::ForeignStage { path: stage, what }),
            JournalState::Ours(journal, found) => {
                if let Ok(staged) = StagedCheckpoint::reopen(storage, &stage, Arc::clone(&output_layout)) {
                    return Ok(StagedOutput { plan: output, staged, journal, found, plan_digest, _lock: lock });
                }
            }
            JournalState::Absent => {}
        }
    }
    empty_stage(&**storage, &stage)?;
    let journal = Journal::create(&**storage, &journal_path, &key)?;
    let staged = StagedCheckpoint::create(storage, &stage, output_layout)?;
    Ok(StagedOutput { plan: output, staged, journal, found: Vec::new(), plan_digest, _lock: lock })
}

fn empty_stage(storage: &dyn Storage, stage: &Path) -> Result<(), Error> {
    for entry in storage.list_folder(stage)? {
        if entry.name != LOCK_NAME {
            storage.remove(&stage.join(&entry.name))?;
        }
    }
    Ok(())
}

/// What a stage must share with the run that resumes it: the plan, and the sources' sizes and times.
fn stage_key(output: &OutputPlan, plan_digest: &str, sources: &[OpenSource], reading: &Digest) -> StageKey {
    let mut identity = String::new();
    for planned in &output.sources {
        let source = sources.iter().find(|source| source.path == planned.path);
        for file in source.map(source_files).unwrap_or_default() {
            identity.push_str(&format!("{}\0{}\0{}\0", file.name, file.len_bytes, file.modified_ns));
        }
    }
    let mut key = [0; 96];
    key[..32].copy_from_slice(&bytes_digest(DigestKind::Blake3, plan_digest.as_bytes()).to_bytes());
    key[32..64].copy_from_slice(&bytes_digest(DigestKind::Blake3, identity.as_bytes()).to_bytes());
    key[64..].copy_from_slice(&reading.to_bytes());
    key
}

/// What `commit_output` needs besides the output itself.
pub(crate) struct CommitInput<'a> {
    pub(crate) merged: &'a Merged,
    pub(crate) sources: &'a [OpenSource],
    pub(crate) layout: &'a MergeLayout,
    pub(crate) replace: Replace,
    pub(crate) seconds: f64,
}

/// Adds side files and card, writes the receipt and publishes. Before this returns there is no output.
pub(crate) fn commit_output(
    k: usize,
    mut output: StagedOutput<'_>,
    input: &CommitInput<'_>,
    run: &RunContext<'_>,
) -> Result<MergeReceipt, Error> {
    let records: Vec<TensorRecord> = input.merged.finished.output(k).collect();
    note_untied(&output, &records, input, run);
    let mut receipt = describe(&output, &records, input, run)?;
    add_side_files(&mut output, input, &mut receipt, run)?;
    receipt.bytes_written = receipt.files.iter().map(|file| file.len_bytes).sum();
    let mut json = serde_json::to_vec_pretty(&receipt)
        .map_err(|error| Error::PlanInvalid { what: format!("the receipt cannot be written: {error}") })?;
    json.push(b'\n');
    output.staged.seal(RECEIPT_NAME, &json)?;
    publish_folder(&*run.storage, output.staged.folder(), &output.plan.path, input.replace)?;
    Ok(receipt)
}

fn describe(
    output: &StagedOutput<'_>,
    records: &[TensorRecord],
    input: &CommitInput<'_>,
    run: &RunContext<'_>,
) -> Result<MergeReceipt, Error> {
    let kind = output.plan.digest.kind();
    let entries = output.staged.catalog().entries();
    let mut list = ListHasher::new(kind.unwrap_or(DigestKind::Xxh3));
    let mut tensors = Vec::with_capacity(entries.len());
    for (entry, record) in entries.iter().zip(records) {
        list.add_tensor(&entry.name, entry.dtype, &entry.shape, &record.digest);
        tensors.push(TensorReceipt {
            name: entry.name.to_string(),
            dtype: entry.dtype.name().to_owned(),
            shape: entry.shape.0.to_vec(),
            digest: kind.map(|_| record.digest.to_string()),
            distance_to_newest: record.stats.sum_squared_distance.map(f64::sqrt),
            max_abs_change: record.stats.max_abs_change,
            n_non_finite: record.stats.n_non_finite,
        });
    }
    Ok(MergeReceipt {
        kind: RECEIPT_KIND.to_owned(),
        version: RECEIPT_VERSION,
        tool: run.tool.to_owned(),
        plan: output.plan.clone(),
        plan_digest: output.plan_digest.clone(),
        sources: output.plan.sources.iter().map(|source| source_receipt(source, output, input)).collect(),
        digest: kind.map(|_| list.finish().to_string()),
        files: shard_receipts(output, records, kind),
        tensors,
        finished_unix_seconds: run.host.unix_seconds(),
        seconds: input.seconds,
        bytes_read: input.merged.bytes_read,
        bytes_written: 0,
        peak_memory_bytes: run.host.peak_memory_bytes(),
        n_threads: run.limits.n_threads.get(),
    })
}

fn source_receipt(
    planned: &crate::plan::PlanSource,
    output: &StagedOutput<'_>,
    input: &CommitInput<'_>,
) -> SourceReceipt {
    let position = input.sources.iter().position(|source| source.path == planned.path);
    let read_by = |t: usize| input.merged.read_by[t].as_slice();
    let whole = position.filter(|&source_idx| input.layout.is_whole_source(source_idx));
    let digest = whole.zip(output.plan.digest.kind()).and_then(|(source_idx, kind)| {
        input.merged.finished.source_digest(&input.layout.catalog, source_idx, kind, &read_by)
    });
    let checkpoint = position.map(|i| &input.sources[i].checkpoint);
    let (format, findings) = (checkpoint.map(Checkpoint::format_name), checkpoint.map(Checkpoint::findings));
    SourceReceipt {
        path: planned.path.clone(),
        step: planned.step,
        tokens: planned.tokens,
        coefficient: planned.coefficient,
        format: format.filter(|name| *name != FORMAT_NAME).map(str::to_owned),
        key: findings.and_then(|found| found.key.clone()),
        params: findings.and_then(|found| found.params),
        digest: digest.map(|digest| digest.to_string()),
        files: position.map(|i| source_files(&input.sources[i])).unwrap_or_default(),
    }
}

fn shard_receipts(output: &StagedOutput<'_>, records: &[TensorRecord], kind: Option<DigestKind>) -> Vec<FileReceipt> {
    let of_shard = |file: &OutputFile| {
        let digests: Vec<Digest> = file.tensors.iter().map(|&t| records[t].digest).collect();
        let digest = kind.map(|kind| shard_digest(kind, &file.header, &digests).to_string());
        FileReceipt { name: file.name.clone(), len_bytes: file.len_bytes, digest }
    };
    let layout = output.staged.layout();
    let index = layout.index_bytes().map(|bytes| FileReceipt::of_bytes(INDEX_FILE_NAME, bytes, kind));
    layout.files().iter().map(of_shard).chain(index).collect()
}

/// A config that ties what came out unequal describes another model than the one that loads.
fn note_untied(output: &StagedOutput<'_>, records: &[TensorRecord], input: &CommitInput<'_>, run: &RunContext<'_>) {
    let from = output.plan.sources.get(output.plan.policy.side_files_from).map(|source| &source.path);
    let source = input.sources.iter().find(|source| Some(&source.path) == from);
    let Some(config) = source.and_then(|source| source.checkpoint.config()) else { return };
    let catalog = &input.layout.catalog;
    if let Some((head, embedding)) = tied_pair(catalog, config)
        && records[head].digest != records[embedding].digest
    {
        run.progress.note(&untied_note(catalog, (head, embedding)));
    }
}

/// Config, tokenizer and the like from the named source, byte for byte, then the card.
fn add_side_files(
    output: &mut StagedOutput<'_>,
    input: &CommitInput<'_>,
    receipt: &mut MergeReceipt,
    run: &RunContext<'_>,
) -> Result<(), Error> {
    let new_dtype = config_dtype(output, input);
    let mut add = |name: &str, bytes: &[u8]| -> Result<(), Error> {
        output.staged.add_file(name, bytes)?;
        receipt.files.push(FileReceipt::of_bytes(name, bytes, output.plan.digest.kind()));
        Ok(())
    };
    for file in travelling_files(output.plan, input.sources) {
        let bytes = file.read(&*run.storage)?;
        // A config that does not read travels as it is: the tensors do not depend on it.
        let updated = new_dtype.filter(|_| file.name == CONFIG_FILE_NAME);
        let updated = updated.and_then(|dtype| updated_config(&bytes, dtype).ok());
        add(&file.name, updated.as_deref().unwrap_or(&bytes))?;
    }
    let card = output.plan.policy.model_card.then(|| model_card(output.plan, run.tool));
    card.map_or(Ok(()), |card| add(CARD_NAME, card.as_bytes()))
}

/// The element type that config.json should name, where the merge changed it.
fn config_dtype(output: &StagedOutput<'_>, input: &CommitInput<'_>) -> Option<Dtype> {
    let mut inputs = input
        .layout
        .catalog
        .entries()
        .iter()
        .filter(|entry| matches!(entry.dtype.class(), thalweg_tensor::DtypeClass::Mergeable));
    let first = inputs.next()?.dtype;
    let wanted = output.plan.dtype.resolve(first);
    (wanted != first || inputs.any(|entry| output.plan.dtype.resolve(entry.dtype) != entry.dtype)).then_some(wanted)
}
