//! One output at its end: described by a receipt, given its side files, published. How it is staged is in `stage`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use thalweg_checkpoint::format::huggingface::FORMAT_NAME;
use thalweg_checkpoint::{
    CONFIG_FILE_NAME, Checkpoint, CommitRules, DcpExtras, LayoutEntry, Manifest, MegatronExtras, OutputFile,
    OutputLayout, SideFile, Template, commit_checkpoint, dcp_extras, kept_files, layout_dcp, layout_like,
    layout_megatron_dist, layout_npz, layout_orbax, layout_output, layout_torch, megatron_common, open_other_copy,
    orbax_extras, shard_digest, updated_config, without_quantisation,
};
use thalweg_storage::Storage;
use thalweg_storage::publish::Replace;
use thalweg_tensor::digest::{DigestKind, ListHasher, bytes_digest};
use thalweg_tensor::{Digest, Dtype, TensorSink};

use crate::aliases::check_aliases;
use crate::card::CARD_NAME;
use crate::card::model_card;
use crate::contents::{tied_pair, untied_note};
use crate::context::RunContext;
use crate::error::Error;
use crate::format_error::FormatError;
use crate::frame::{CopyTime, copy_frames, framed_receipts, write_copies};
use crate::huggingface::config_of;
use crate::kept_files::copied_files;
use crate::kept_files::replaced_files;
use crate::ledger::Merged;
use crate::ledger::TensorRecord;
use crate::merge_layout::{MergeLayout, output_dtype};
use crate::newest::Keeping;
use crate::newest::named_source;
use crate::newest::{kept_source, newest_of_format, newest_open};
use crate::open_source::OpenSource;
use crate::open_source::source_files;
use crate::output_kind::{OptimizerPolicy, OutputFormat};
use crate::own::MERGED_FOLDER;
use crate::plan::{OutputDtype, OutputPlan};
use crate::receipt::{
    FileReceipt, MergeReceipt, RECEIPT_KIND, RECEIPT_NAME, RECEIPT_VERSION, SourceReceipt, TensorReceipt,
};
use crate::seen_source::DequantisedWeights;
use crate::side_files::travelling_files;
use crate::stage::StagedOutput;
use crate::tensor_class::TensorClass;

/// Names, sizes and offsets of everything that an output's files will hold.
pub(crate) fn output_layout(
    output: &OutputPlan,
    layout: &MergeLayout,
    sources: &[OpenSource],
    storage: &Arc<dyn Storage>,
) -> Result<OutputLayout, Error> {
    let tensors = layout.catalog.entries().iter().zip(&layout.classes).map(|(entry, &class)| LayoutEntry {
        name: entry.name.clone(),
        dtype: output_dtype(class, entry.dtype, output.dtype),
        shape: entry.shape.clone(),
    });
    let tensors: Vec<LayoutEntry> = tensors.collect();
    let asked = output.policy.optimizer;
    if asked != OptimizerPolicy::Drop
        && let Some(newest) = newest_open(output, sources)
        && let Some(why) = output.format.obstacle(&newest.checkpoint, Keeping::of(output))
    {
        return Err(FormatError::NoOptimizer { asked, why }.into());
    }
    if output.format.is_safetensors() {
        return Ok(layout_output(&tensors, output.out_shard_bytes, &BTreeMap::new())?);
    }
    match kept_source(output, sources) {
        Some(newest) => {
            let laid_out = layout_like_newest(output, newest, sources, &tensors, storage)?;
            check_aliases(output, &laid_out, layout, sources)?;
            Ok(laid_out)
        }
        None => lay_out_from_scratch(output, sources, &tensors, storage),
    }
}

/// Bytes and number of the files of an output. Does not look into the newest source's files, but for a store that is
/// written anew.
pub(crate) fn output_size(
    output: &OutputPlan,
    layout: &MergeLayout,
    sources: &[OpenSource],
    storage: &Arc<dyn Storage>,
) -> Result<(u64, usize), Error> {
    if let Some(newest) = kept_source(output, sources).filter(|_| output.format != OutputFormat::Orbax) {
        let template = Template { checkpoint: &newest.checkpoint, other_copy: None, replaced: &BTreeSet::new() };
        let files = kept_files(&**storage, &template)?;
        return Ok((files.iter().map(|file| file.len_bytes).sum(), files.len()));
    }
    let layout = output_layout(output, layout, sources, storage)?;
    Ok((layout.len_bytes(), layout.files().len()))
}

/// Lays out an output that holds only the tensors, and what a format cannot do without.
fn lay_out_from_scratch(
    output: &OutputPlan,
    sources: &[OpenSource],
    tensors: &[LayoutEntry],
    storage: &Arc<dyn Storage>,
) -> Result<OutputLayout, Error> {
    let size = output.out_shard_bytes;
    match output.format {
        OutputFormat::Torch => Ok(layout_torch(tensors, size)?),
        OutputFormat::Npz => Ok(layout_npz(tensors)?),
        OutputFormat::Orbax => {
            let newest = newest_of_format(output, sources);
            let extras = newest.map(|newest| orbax_extras(storage, &newest.checkpoint)).transpose()?;
            Ok(layout_orbax(tensors, size, &extras.unwrap_or_default())?)
        }
        OutputFormat::Dcp => Ok(layout_dcp(tensors, size, &model_extras(output, sources, storage)?)?),
        OutputFormat::MegatronDist => {
            let objects = model_extras(output, sources, storage)?.objects;
            // Megatron-LM opens nothing without the arguments in it.
            let newest = newest_of_format(output, sources);
            let common = newest.map(|newest| megatron_common(&**storage, &newest.checkpoint)).transpose()?.flatten();
            Ok(layout_megatron_dist(tensors, size, &MegatronExtras { objects, common })?)
        }
        _ => Err(cannot_write_from_scratch(output, sources)),
    }
}

/// The key of the model in the newest source, and the extra state of its layers, if the output has the same format.
fn model_extras(output: &OutputPlan, sources: &[OpenSource], storage: &Arc<dyn Storage>) -> Result<DcpExtras, Error> {
    let Some(newest) = newest_of_format(output, sources) else { return Ok(DcpExtras::default()) };
    // Pieces in safetensors files have no metadata.
    if newest.checkpoint.files().iter().any(|file| file.name.ends_with(".safetensors")) {
        return Ok(DcpExtras::default());
    }
    let mut extras = dcp_extras(storage, &newest.path, output.reading.key.as_deref())?;
    extras.objects.retain(|object| object.name.contains("_extra_state"));
    Ok(extras)
}

fn layout_like_newest(
    output: &OutputPlan,
    newest: &OpenSource,
    sources: &[OpenSource],
    tensors: &[LayoutEntry],
    storage: &Arc<dyn Storage>,
) -> Result<OutputLayout, Error> {
    let other_copy = open_other_copy(storage, &newest.checkpoint, &output.reading)?;
    let replaced = replaced_files(output, sources, &**storage)?;
    let template = Template { checkpoint: &newest.checkpoint, other_copy: other_copy.as_ref(), replaced: &replaced };
    Ok(layout_like(storage, &template, tensors)?)
}

fn newest_format(output: &OutputPlan, sources: &[OpenSource]) -> &'static str {
    newest_open(output, sources).map_or("none", |newest| newest.checkpoint.format_name())
}

fn cannot_write_from_scratch(output: &OutputPlan, sources: &[OpenSource]) -> Error {
    let found = newest_format(output, sources);
    FormatError::OnlyFromItself { format: output.format, found }.into()
}

/// What `describe_output` needs besides the output itself.
pub(crate) struct CommitInput<'a> {
    pub(crate) merged: &'a Merged,
    pub(crate) sources: &'a [OpenSource],
    pub(crate) layout: &'a MergeLayout,
    pub(crate) replace: Replace,
    pub(crate) seconds: f64,
    /// Largest memory of the processes that did shares of the work.
    pub(crate) peak_memory_bytes: Option<u64>,
}

/// An output whose files are all written, but for its receipt. Some may not be on the medium yet.
pub(crate) struct DescribedOutput<'a> {
    output: StagedOutput<'a>,
    receipt: MergeReceipt,
    json: Vec<u8>,
}

impl DescribedOutput<'_> {
    /// Bytes of its receipt, in memory until it is published.
    pub(crate) fn manifest_bytes(&self) -> usize {
        self.json.len()
    }

    /// Writes the receipt and publishes. Before this returns there is no output.
    pub(crate) fn publish(self, replace: Replace, run: &RunContext<'_>) -> Result<MergeReceipt, Error> {
        let StagedOutput { plan, staged, leftovers, .. } = self.output;
        let rules = CommitRules { replace, own: MERGED_FOLDER, leftovers: &leftovers };
        commit_checkpoint(staged, &plan.path, Manifest { name: RECEIPT_NAME, bytes: &self.json }, rules, run)?;
        Ok(self.receipt)
    }
}

/// Adds side files and card, and makes the receipt of output `k` of a merge.
pub(crate) fn describe_output<'a>(
    k: usize,
    mut output: StagedOutput<'a>,
    input: &CommitInput<'_>,
    run: &RunContext<'_>,
) -> Result<DescribedOutput<'a>, Error> {
    let records: Vec<TensorRecord> = input.merged.finished.output(k).collect();
    copy_frames([&output.staged], CopyTime::Last, run)?;
    write_copies(&output.staged, run)?;
    output.staged.write_checksums()?;
    note_untied(&output, &records, input, run);
    let mut receipt = describe(&output, &records, input, run)?;
    add_side_files(&mut output, input, &mut receipt, run)?;
    receipt.bytes_written = receipt.files.iter().map(|file| file.len_bytes).sum();
    let json = receipt.seal()?;
    Ok(DescribedOutput { output, receipt, json })
}

/// JSON has no NaN and no infinities: a receipt with one would not read back as it was written.
fn finite(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite())
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
    for ((entry, record), class) in entries.iter().zip(records).zip(&input.layout.classes) {
        list.add_tensor(&entry.name, entry.dtype, &entry.shape, &record.digest);
        tensors.push(TensorReceipt {
            name: entry.name.to_string(),
            dtype: entry.dtype.name().to_owned(),
            shape: entry.shape.0.to_vec(),
            digest: kind.map(|_| record.digest.to_string()),
            distance_to_newest: finite(record.stats.sum_squared_distance.map(f64::sqrt)),
            max_abs_change: finite(record.stats.max_abs_change),
            norm_of_newest: finite(record.stats.newest_squares.map(f64::sqrt)),
            n_non_finite: record.stats.n_non_finite,
            router: (*class == TensorClass::Router).then_some(output.plan.policy.router),
            dequantised: is_dequantised(&entry.name, output.plan, input.sources),
        });
    }
    Ok(MergeReceipt {
        kind: RECEIPT_KIND.to_owned(),
        version: RECEIPT_VERSION,
        tool: run.tool.to_owned(),
        plan: output.plan.clone(),
        plan_digest: output.plan_digest.clone(),
        sources: output
            .plan
            .sources
            .iter()
            .map(|source| source_receipt(source, output, input, run))
            .collect::<Result<_, _>>()?,
        digest: kind.map(|_| list.finish().to_string()),
        files: file_receipts(output, records, kind, run)?,
        tensors,
        finished_unix_seconds: run.host.unix_seconds(),
        seconds: input.seconds,
        bytes_read: input.merged.bytes_read,
        bytes_written: 0,
        peak_memory_bytes: run.host.peak_memory_bytes().max(input.peak_memory_bytes),
        n_threads: run.limits.n_threads.get(),
        receipt_digest: None,
    })
}

fn source_receipt(
    planned: &crate::plan::PlanSource,
    output: &StagedOutput<'_>,
    input: &CommitInput<'_>,
    run: &RunContext<'_>,
) -> Result<SourceReceipt, Error> {
    let position = input.sources.iter().position(|source| source.path == planned.path);
    let read_by = |t: usize| input.merged.read_by[t].as_slice();
    let whole = position.filter(|&source_idx| input.layout.is_whole_source(source_idx));
    let known = position.and_then(|i| input.sources[i].known_digest);
    let digest = whole.zip(output.plan.digest.kind()).and_then(|(source_idx, kind)| {
        input.merged.finished.source_digest(&input.layout.catalog, (source_idx, known), kind, &read_by)
    });
    let checkpoint = position.map(|i| &*input.sources[i].checkpoint);
    let (format, findings) = (checkpoint.map(Checkpoint::format_name), checkpoint.map(Checkpoint::findings));
    let is_newest = output.plan.newest_source().is_some_and(|newest| newest.path == planned.path);
    Ok(SourceReceipt {
        path: planned.path.clone(),
        step: planned.step,
        tokens: planned.tokens,
        coefficient: planned.coefficient,
        format: format.filter(|name| *name != FORMAT_NAME).map(str::to_owned),
        key: findings.and_then(|found| found.key.clone()),
        params: findings.and_then(|found| found.params),
        dequantised: checkpoint.and_then(Checkpoint::dequantised_weights).map(DequantisedWeights::new),
        digest: digest.map(|digest| digest.to_string()),
        digest_is_earlier: digest.is_some() && known.is_some(),
        files: position.map(|i| source_files(&input.sources[i])).unwrap_or_default(),
        kept_files: if is_newest { copied_files(output, input.sources, run)? } else { Vec::new() },
    })
}

/// Whether some source of an output holds FP8 codes for a tensor, which were read as numbers.
fn is_dequantised(tensor: &str, output: &OutputPlan, sources: &[OpenSource]) -> bool {
    let is_source = |source: &&OpenSource| output.sources.iter().any(|planned| planned.path == source.path);
    let mut seen = sources.iter().filter(|source| source.checkpoint.dequantised_weights().is_some()).filter(is_source);
    seen.any(|source| {
        let found = source.checkpoint.catalog().find(tensor);
        found.is_some_and(|t| source.checkpoint.is_dequantised(t))
    })
}

fn file_receipts(
    output: &StagedOutput<'_>,
    records: &[TensorRecord],
    kind: Option<DigestKind>,
    run: &RunContext<'_>,
) -> Result<Vec<FileReceipt>, Error> {
    let layout = output.staged.layout();
    let documents =
        layout.documents().iter().map(|document| FileReceipt::of_bytes(&document.name, &document.bytes, kind));
    if !output.plan.format.is_safetensors() {
        let files = framed_receipts(&output.staged, kind, run)?;
        return Ok(files.into_iter().chain(documents).collect());
    }
    let of_shard = |file: &OutputFile| {
        let digests: Vec<Digest> = file.tensors.iter().map(|&t| records[t].digest).collect();
        let digest = kind.map(|kind| shard_digest(kind, file.header(), &digests).to_string());
        FileReceipt { name: file.name.clone(), len_bytes: file.len_bytes, digest, frame_digest: None }
    };
    Ok(layout.files().iter().map(of_shard).chain(documents).collect())
}

/// A config that ties what came out unequal describes another model than the one that loads.
fn note_untied(output: &StagedOutput<'_>, records: &[TensorRecord], input: &CommitInput<'_>, run: &RunContext<'_>) {
    let source = named_source(output.plan, input.sources);
    let config = source.and_then(|source| config_of(output.plan, &source.checkpoint, &*run.storage).ok()?);
    let Some((_, config)) = config else { return };
    let catalog = &input.layout.catalog;
    if let Some((head, embedding)) = tied_pair(catalog, &config)
        && records[head].digest != records[embedding].digest
    {
        run.progress.note(&untied_note(catalog, (head, embedding)));
    }
}

/// Config, tokenizer and the like from the named source, then the card. All but the config are copied byte for byte.
fn add_side_files(
    output: &mut StagedOutput<'_>,
    input: &CommitInput<'_>,
    receipt: &mut MergeReceipt,
    run: &RunContext<'_>,
) -> Result<(), Error> {
    let kept = output.staged.names();
    let mut add = |name: &str, bytes: &[u8]| -> Result<(), Error> {
        output.staged.add_file(name, bytes)?;
        receipt.files.push(FileReceipt::of_bytes(name, bytes, output.plan.digest.kind()));
        Ok(())
    };
    for file in travelling_files(output.plan, input.sources, &*run.storage)? {
        if kept.contains(&file.name) {
            continue;
        }
        let bytes = file.read(&*run.storage)?;
        add(&file.name, &as_written(&file.name, bytes, output.plan, (input.sources, input.layout)))?;
    }
    let card = output.plan.policy.model_card.then(|| model_card(output.plan, run.tool));
    card.map_or(Ok(()), |card| add(CARD_NAME, card.as_bytes()))
}

/// Whether the files that travelled to an output are those that would travel now. Files that the output keeps of its
/// newest source are compared elsewhere.
pub(crate) fn has_same_side_files(
    receipt: &MergeReceipt,
    (sources, layout): (&[OpenSource], &MergeLayout),
    storage: &Arc<dyn Storage>,
) -> Result<bool, Error> {
    let Some(kind) = receipt.plan.digest.kind() else { return Ok(true) };
    let laid_out = output_layout(&receipt.plan, layout, sources, storage)?;
    // The format writes files of these names, with other content.
    let is_laid_out = |file: &SideFile| laid_out.names().any(|name| name == file.name);
    for file in travelling_files(&receipt.plan, sources, &**storage)? {
        let known = receipt.files.iter().find(|known| known.name == file.name && !is_laid_out(&file));
        let Some(known) = known.and_then(|known| known.digest.as_deref()) else { continue };
        let bytes = file.read(&**storage)?;
        let is_known = |bytes: &[u8]| bytes_digest(kind, bytes).to_string() == known;
        if !is_known(&bytes) && !is_known(&as_written(&file.name, bytes, &receipt.plan, (sources, layout))) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The content of a file that travels, as the output has it: its config names the merged tensors' element type.
fn as_written(
    name: &str,
    bytes: Vec<u8>,
    output: &OutputPlan,
    (sources, layout): (&[OpenSource], &MergeLayout),
) -> Vec<u8> {
    if name != CONFIG_FILE_NAME {
        return bytes;
    }
    // A config that does not read travels as it is: the tensors do not depend on it.
    let is_dequantised =
        named_source(output, sources).is_some_and(|source| source.checkpoint.dequantised_weights().is_some());
    let plain = is_dequantised.then(|| without_quantisation(&bytes).ok()).flatten().unwrap_or(bytes);
    config_dtype(output, layout).and_then(|dtype| updated_config(&plain, dtype).ok()).unwrap_or(plain)
}

/// The element type that config.json should name, where the merge changed it.
fn config_dtype(output: &OutputPlan, layout: &MergeLayout) -> Option<Dtype> {
    let mut inputs = layout
        .catalog
        .entries()
        .iter()
        .filter(|entry| matches!(entry.dtype.class(), thalweg_tensor::DtypeClass::Mergeable));
    let first = inputs.next()?.dtype;
    let wanted = output.dtype.resolve(first);
    // Sums are doubles, so their mean states the element type even where none was asked for.
    if output.mean.as_ref().is_some_and(|mean| mean.dtype == OutputDtype::Same) {
        return output.policy.hf_assets.is_some().then_some(wanted);
    }
    // The config did not come with these tensors.
    if output.policy.hf_assets.is_some() {
        return Some(wanted);
    }
    (wanted != first || inputs.any(|entry| output.dtype.resolve(entry.dtype) != entry.dtype)).then_some(wanted)
}
