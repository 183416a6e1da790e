//! Distributed checkpoints of Megatron-Core (`torch_dist`): a distributed checkpoint of PyTorch beside `metadata.json`,
//! which names the back end, and `common.pt`, which holds what is not sharded.
//!
//! Names are stored without the path to the model, and layers are stacked along a first dimension unless they differ.

use std::sync::Arc;

use serde_json::Value as Json;
use thalweg_storage::{FileKind, FolderEntry, Storage};
use thalweg_tensor::display_name;

use super::dcp::error::DcpError;
use super::dcp::write::{Paths, lay_folder};
use super::dcp::{
    self, DcpExtras, DcpFolder, DcpObject, Entry, Reading, fingerprint_of, has_all_below, open_folder, select_model,
};
use super::stated_step::{StatedStep, compare_step, step_in_name};
use super::torch::TorchFile;
use super::torch::archive_write::lay_archive;
use super::{Format, FormatContent, Place};
use crate::error::UnfinishedFault;
use crate::frame_builder::FrameBuilder;
use crate::layout::{CopiedBytes, Document, LayoutEntry, OutputLayout};
use crate::pickle::{PickleWriter, Value};
use crate::{CatalogCache, Checkpoint, Error, Note, Params, ReadOptions};

/// The file by which Megatron-Core recognises its own distributed checkpoints.
const METADATA_FILE_NAME: &str = "metadata.json";
const COMMON_FILE_NAME: &str = "common.pt";
const MAX_METADATA_BYTES: u64 = 1 << 20;
/// How Megatron names the folder of an iteration.
pub(super) const ITERATION_START: &str = "iter_";
const BACKEND: &str = "torch_dist";
/// The folder in a checkpoint of NeMo 2 that is one of Megatron-Core, and the one beside it.
const NEMO_WEIGHTS: &str = "weights";
const NEMO_CONTEXT: &str = "context";
/// Where the optimizer keeps what it has for each parameter, one key for each kind.
const STATE_START: &str = "optimizer.state.";
/// Where optimizers keep the masters, under the names of the parameters: the optimizer of 16-bit models, and the
/// distributed optimizer with `--dist-ckpt-optim-fully-reshardable`.
const MASTER_KEYS: [&str; 2] = ["optimizer.state.fp32_param", "optimizer.state.param"];

/// A folder `iter_0000020` of Megatron-Core.
#[derive(Debug, Clone, Copy)]
pub struct MegatronDist;

impl Format for MegatronDist {
    fn name(&self) -> &'static str {
        "megatron-dist"
    }

    fn marks(&self) -> &'static [&'static str] {
        &["weights/metadata.json"]
    }

    fn stores_elements_once(&self) -> bool {
        true
    }

    fn other_params(&self, _place: &Place, params: Option<Params>) -> Option<Params> {
        Some(if params == Some(Params::Master) { Params::Module } else { Params::Master })
    }

    fn recognises(&self, place: &Place) -> bool {
        is_nemo(place) || is_ours(place)
    }

    fn open(
        &self,
        storage: &Arc<dyn Storage>,
        place: &Place,
        options: &ReadOptions,
        cache: &CatalogCache,
    ) -> Result<FormatContent, Error> {
        let (place, prefix) = &weights_of(storage, place)?;
        let path = place.folder().join(METADATA_FILE_NAME);
        let bytes = storage.read_file(&path, MAX_METADATA_BYTES)?;
        check_backend(&bytes).map_err(|source| Error::Dcp { path, source: Box::new(source) })?;
        check_common(place)?;
        let folder = DcpFolder { path: place.folder().to_owned(), prefix: prefix.clone() };
        let choose = |entries: &[Entry<'_>], _| {
            let is_there = |key: &&str| entries.iter().any(|entry| is_below(entry.fqn, key));
            let masters = MASTER_KEYS.into_iter().find(is_there);
            let key = match (options.key.as_deref(), options.params) {
                (Some(key), _) => Some(key),
                (None, Some(Params::Module)) => None,
                (None, Some(Params::Master)) => Some(masters.unwrap_or(MASTER_KEYS[0])),
                // Without masters of every tensor, the model would be incomplete.
                (None, None) => masters.filter(|key| has_all_below(entries, key)),
            };
            let mut model = select_model(entries, key, false)?;
            let are_masters = options.key.is_none() && key.is_some();
            model.params = if are_masters { Some(Params::Master) } else { options.params };
            Ok(if options.optimizer { model.with_optimizer(entries, &is_whole_state) } else { model })
        };
        let reading = Reading { choose: &choose, fingerprint: fingerprint_of(self.name(), options) };
        let mut content = open_folder(storage, &folder, &reading, cache)?;
        content.notes.extend(content.findings.params.map(|params| Note::ParamsChosen { params }));
        content.notes.extend(note_common(storage, place));
        Ok(content)
    }
}

fn is_ours(place: &Place) -> bool {
    let has = |wanted: &str| place.file_names().any(|name| name == wanted);
    has(METADATA_FILE_NAME) && (has(COMMON_FILE_NAME) || dcp::is_ours(place))
}

fn is_nemo(place: &Place) -> bool {
    let has = |wanted: &str| place.folder_names().any(|name| name == wanted);
    has(NEMO_WEIGHTS) && has(NEMO_CONTEXT)
}

/// The folder that Megatron-Core wrote, and the path from the checkpoint's folder to its files: NeMo puts it beside the
/// model's configuration.
fn weights_of(storage: &Arc<dyn Storage>, place: &Place) -> Result<(Place, String), Error> {
    if is_ours(place) || !is_nemo(place) {
        return Ok((place.clone(), String::new()));
    }
    let path = place.folder().join(NEMO_WEIGHTS);
    let entries = storage.list_folder(&path)?;
    if !entries.iter().any(|entry| entry.name == METADATA_FILE_NAME) {
        let faults = vec![UnfinishedFault::NotCommitted { file: format!("{NEMO_WEIGHTS}/{METADATA_FILE_NAME}") }];
        return Err(Error::Unfinished { path: place.folder().to_owned(), faults });
    }
    Ok((Place::Folder { path, entries }, format!("{NEMO_WEIGHTS}/")))
}

/// A note if the values that are not sharded, which an output gets as they are, are from another iteration than the
/// name of the folder. A file that cannot be read says nothing: it is copied, not interpreted.
fn note_common(storage: &Arc<dyn Storage>, place: &Place) -> Option<Note> {
    let named = step_in_name(place.folder(), &[ITERATION_START])?;
    place.file_names().find(|name| *name == COMMON_FILE_NAME)?;
    let reader = storage.open_file(&place.folder().join(COMMON_FILE_NAME)).ok()?;
    let torch = TorchFile::open(&*reader, 0..reader.info().len_bytes, &[]).ok()?;
    let step = torch.pickle.root().get("iteration").and_then(Value::as_u64)?;
    compare_step(&StatedStep { file: COMMON_FILE_NAME.to_owned(), step }, Some(named), None).ok()?
}

/// Refuses a `common.pt` without a byte, which a save that ran out of space leaves: Megatron loads nothing from such a
/// folder, and would load nothing from an output with a copy of it.
fn check_common(place: &Place) -> Result<(), Error> {
    let Place::Folder { path, entries } = place else { return Ok(()) };
    let is_empty = |entry: &FolderEntry| entry.name == COMMON_FILE_NAME && entry.len_bytes == 0;
    if !entries.iter().any(|entry| entry.kind == FileKind::File && is_empty(entry)) {
        return Ok(());
    }
    let faults = vec![UnfinishedFault::EmptyFile { file: COMMON_FILE_NAME.to_owned() }];
    Err(Error::Unfinished { path: path.clone(), faults })
}

fn is_below(name: &str, key: &str) -> bool {
    name.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'))
}

/// Whether a tensor of the optimizer's state is stored whole, under the name of its parameter, and is not a master,
/// which is the other copy of the parameters. Flat buckets of `dp_reshardable` have uninitialised memory between
/// parameters.
fn is_whole_state(name: &str) -> bool {
    name.starts_with(STATE_START) && !MASTER_KEYS.iter().any(|key| is_below(name, key))
}

fn check_backend(bytes: &[u8]) -> Result<(), DcpError> {
    let json: Json =
        serde_json::from_slice(bytes).map_err(|_| DcpError::Malformed { what: "`metadata.json` of Megatron-Core" })?;
    let backend = json.get("sharded_backend").and_then(Json::as_str);
    let version = json.get("sharded_backend_version").and_then(Json::as_u64);
    match (backend, version) {
        (Some(BACKEND), Some(1)) => Ok(()),
        _ => {
            let shown =
                |key| json.get(key).map_or_else(|| "none".to_owned(), |value: &Json| display_name(&value.to_string()));
            let (found, version) = (shown("sharded_backend"), shown("sharded_backend_version"));
            Err(DcpError::Backend { found, version })
        }
    }
}

/// What a new checkpoint of Megatron-Core takes over from another besides tensors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MegatronExtras {
    /// Entries that are not tensors, such as extra state of layers.
    pub objects: Vec<DcpObject>,
    /// The file of values that are not sharded; without one, an empty one is written.
    pub common: Option<CopiedBytes>,
}

/// The file of values that are not sharded in the folder of a checkpoint of Megatron-Core, if it has one.
///
/// # Errors
/// `Storage` if the folder cannot be listed.
pub fn megatron_common(storage: &dyn Storage, checkpoint: &Checkpoint) -> Result<Option<CopiedBytes>, Error> {
    let Some(folder) = checkpoint.files().first().and_then(|file| file.path.parent()) else { return Ok(None) };
    let entries = storage.list_folder(folder)?;
    let found = entries.into_iter().find(|entry| entry.name == COMMON_FILE_NAME && entry.kind == FileKind::File);
    Ok(found.map(|entry| CopiedBytes { path: folder.join(entry.name), offset: 0, len_bytes: entry.len_bytes }))
}

/// Lays out a checkpoint of Megatron-Core of the form `torch_dist`: as [`layout_dcp`](crate::layout_dcp), without
/// paths, with `common.pt` and `metadata.json`.
///
/// # Errors
/// As [`layout_dcp`](crate::layout_dcp).
pub fn layout_megatron_dist(
    entries: &[LayoutEntry],
    max_shard_bytes: u64,
    extras: &MegatronExtras,
) -> Result<OutputLayout, Error> {
    let objects = DcpExtras { key: Vec::new(), objects: extras.objects.clone() };
    let layout = lay_folder(entries, max_shard_bytes, &objects, Paths::Absent)?;
    let mut files = layout.files().to_vec();
    let mut common = FrameBuilder::default();
    match &extras.common {
        Some(copied) => common.copy(copied),
        None => {
            let mut writer = PickleWriter::new();
            writer.dict();
            lay_archive(&mut common, COMMON_FILE_NAME.trim_end_matches(".pt"), &writer.finish(), []);
        }
    }
    files.push(common.finish(COMMON_FILE_NAME.to_owned()));
    let back_end = serde_json::json!({
        "sharded_backend": BACKEND, "sharded_backend_version": 1, "common_backend": "torch", "common_backend_version": 1,
    });
    let back_end = Document { name: METADATA_FILE_NAME.to_owned(), bytes: back_end.to_string().into_bytes() };
    let documents = layout.documents().iter().cloned().chain([back_end]).collect();
    Ok(OutputLayout::new(files, Arc::clone(layout.catalog()), documents))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_and_flat_buckets_are_not_moments_stored_whole() {
        for (name, expected) in [
            ("optimizer.state.exp_avg.decoder.final_layernorm.weight", true),
            ("optimizer.state.step.decoder.final_layernorm.weight", true),
            ("optimizer.state.param.decoder.final_layernorm.weight", false),
            ("optimizer.state.fp32_param.decoder.final_layernorm.weight", false),
            ("optimizer.distributed.dp_group_idx_0.gbuf_idx_0.bucket_idx_0.exp_avg", false),
        ] {
            assert_eq!(is_whole_state(name), expected, "{name}");
        }
    }

    #[test]
    fn only_the_known_back_end_is_read() {
        let known = br#"{"sharded_backend": "torch_dist", "sharded_backend_version": 1, "more": []}"#;
        assert_eq!(check_backend(known), Ok(()));
        let refused = |text: &str| check_backend(text.as_bytes()).unwrap_err().to_string();
        assert!(refused(r#"{"sharded_backend": "zarr", "sharded_backend_version": 1}"#).contains("`\"zarr\"`"));
        assert!(refused(r#"{"sharded_backend": "torch_dist", "sharded_backend_version": 2}"#).contains("version 2"));
        assert!(refused("{}").contains("none"));
        assert!(refused("[").contains("metadata.json"));
    }
}
