//! The config and the other files of outputs that get Hugging Face names. They come from a folder of assets, or from
//! beside the tensors, and must describe the tensors.

use std::path::{Path, PathBuf};

use serde_json::Value;
use thalweg_checkpoint::{
    CONFIG_FILE_NAME, Checkpoint, ConfigFault, Error as CheckpointError, HuggingFaceAssets, LlamaHeads, Naming,
    check_llama_config, check_torchtitan_names, llama_heads, naming_of, open_assets,
};
use thalweg_storage::Storage;
use thalweg_tensor::TensorCatalog;

use crate::error::Error;
use crate::newest::named_source;
use crate::open_source::OpenSource;
use crate::plan::{MergePlan, OutputPlan};

/// The folder that an output takes its other files from instead of those beside the tensors, if it names one.
pub(crate) fn assets_of(
    output: &OutputPlan,
    storage: &dyn Storage,
) -> Result<Option<HuggingFaceAssets>, CheckpointError> {
    output.policy.hf_assets.as_ref().map(|path| open_assets(storage, path)).transpose()
}

/// The config of an output, and its path. `checkpoint` is the source whose other files travel by default.
pub(crate) fn config_of(
    output: &OutputPlan,
    checkpoint: &Checkpoint,
    storage: &dyn Storage,
) -> Result<Option<(PathBuf, Value)>, CheckpointError> {
    Ok(match assets_of(output, storage)? {
        Some(assets) => Some((assets.path.join(CONFIG_FILE_NAME), assets.config().clone())),
        None => {
            let file = checkpoint.side_files().iter().find(|file| file.name == CONFIG_FILE_NAME);
            file.zip(checkpoint.config()).map(|(file, config)| (file.path.clone(), config.clone()))
        }
    })
}

/// The heads that the config of an output states, for [`ReadOptions::to_huggingface`]. `checkpoint` is the source whose
/// other files travel by default, and `translated` one that gets other names: both not yet translated.
///
/// # Errors
/// `ToHuggingFace` if that is not a Llama of torchtitan; `NoHeads` without a config; `OtherConfig` if it does not
/// describe a Llama; what opening the assets gives.
///
/// [`ReadOptions::to_huggingface`]: thalweg_checkpoint::ReadOptions::to_huggingface
pub fn heads_of_output(
    output: &OutputPlan,
    (checkpoint, translated): (&Checkpoint, &Checkpoint),
    storage: &dyn Storage,
) -> Result<LlamaHeads, Error> {
    // First: where the names are others, no config helps.
    let names = check_torchtitan_names(translated.catalog());
    names.map_err(|source| CheckpointError::ToHuggingFace {
        path: translated.path().to_owned(),
        source: Box::new(source),
    })?;
    let (path, config) = needed_config(output, checkpoint, storage)?;
    let heads = llama_heads(&config);
    Ok(heads.map_err(|fault| other_config(path, checkpoint.path(), vec![fault]))?)
}

fn needed_config(
    output: &OutputPlan,
    checkpoint: &Checkpoint,
    storage: &dyn Storage,
) -> Result<(PathBuf, Value), CheckpointError> {
    let config = config_of(output, checkpoint, storage)?;
    config.ok_or_else(|| CheckpointError::NoHeads { path: checkpoint.path().to_owned() })
}

fn other_config(path: PathBuf, checkpoint: &Path, faults: Vec<ConfigFault>) -> CheckpointError {
    CheckpointError::OtherConfig { path, checkpoint: checkpoint.to_owned(), faults }
}

/// Checks that the configs of the outputs describe the tensors that the sources were translated to.
///
/// # Errors
/// `OtherConfig` with every difference; `PlanInvalid` if a plan has other heads; otherwise as [`heads_of_output`].
pub(crate) fn check_configs(
    plan: &MergePlan,
    sources: &[OpenSource],
    catalog: &TensorCatalog,
    storage: &dyn Storage,
) -> Result<(), Error> {
    for output in &plan.outputs {
        let heads = output.reading.to_huggingface;
        let Some(source) = named_source(output, sources) else { continue };
        if heads.is_none() && output.policy.hf_assets.is_none() {
            continue;
        }
        let (path, config) = needed_config(output, &source.checkpoint, storage)?;
        // A folder's config without a translation may be that of any model, of which only Llama is known here.
        if heads.is_none() && (llama_heads(&config).is_err() || naming_of(catalog) != Naming::HuggingFace) {
            continue;
        }
        let mut faults = check_llama_config(&config, catalog).unwrap_or_else(|fault| vec![fault]);
        // Features that torchtitan lacks are fine in a model that was Hugging Face's all along.
        faults.retain(|fault| heads.is_some() || matches!(fault, ConfigFault::Differs { .. }));
        if !faults.is_empty() {
            return Err(other_config(path, &source.path, faults).into());
        }
        if heads.is_some_and(|heads| llama_heads(&config) != Ok(heads)) {
            let what = format!("`{}` states different attention heads than the plan", path.display());
            return Err(Error::PlanInvalid { what });
        }
    }
    Ok(())
}
