//! The config of the model that a checkpoint of torchtitan is: read for its heads, and compared with the tensors, because
//! it comes from elsewhere.

use std::path::{Path, PathBuf};

use serde_json::Value;
use thalweg_storage::{FileKind, Storage};
use thalweg_tensor::{TensorCatalog, display_name};

use super::LlamaHeads;
use crate::checkpoint::ConfigFile;
use crate::error::storage_error;
use crate::open::read_config;
use crate::side_files::{CONFIG_FILE_NAME, SideFile, find_in_listing};
use crate::Error;

/// A folder of config, tokenizer and the like, without tensors that matter.
#[derive(Debug, Clone, PartialEq)]
pub struct HuggingFaceAssets {
    /// Its path.
    pub path: PathBuf,
    /// Its files, sorted by name.
    pub side_files: Vec<SideFile>,
    config: ConfigFile,
}

impl HuggingFaceAssets {
    /// What its `config.json` says.
    pub fn config(&self) -> &Value {
        &self.config.value
    }
}

/// Opens a folder of assets.
///
/// # Errors
/// `NotFound`, `NoConfig` or `Config` for the folder or its `config.json`; `Storage`.
pub fn open_assets(storage: &dyn Storage, path: &Path) -> Result<HuggingFaceAssets, Error> {
    let info = storage.file_info(path).map_err(|error| storage_error(path, error))?;
    let entries = if info.kind == FileKind::Folder { storage.list_folder(path)? } else { Vec::new() };
    let side_files = find_in_listing(path, &entries, &|_| false);
    let config = side_files.iter().find(|file| file.name == CONFIG_FILE_NAME);
    let config = config.ok_or_else(|| Error::NoConfig { path: path.to_owned() })?;
    let config = read_config(storage, &config.path)?;
    Ok(HuggingFaceAssets { path: path.to_owned(), config, side_files })
}

/// Something in a config that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigFault {
    /// The config of another architecture.
    #[error("`model_type` is {found}, `\"llama\"` expected")]
    NotLlama {
        /// What it says.
        found: String,
    },
    /// A number that is missing or not a positive whole number.
    #[error("`{key}` is {found}, a positive number expected")]
    NotANumber {
        /// The key.
        key: &'static str,
        /// What it says.
        found: String,
    },
    /// An odd head, whose rows cannot be paired.
    #[error("a head has {head_dim} rows, an even number expected")]
    OddHead {
        /// Its rows.
        head_dim: u64,
    },
    /// A number that is not that of the tensors.
    #[error("`{key}` is {stated}, and {found} by tensor `{}`", display_name(tensor))]
    Differs {
        /// The key.
        key: &'static str,
        /// What the config says.
        stated: u64,
        /// What the tensor says.
        found: u64,
        /// The tensor.
        tensor: String,
    },
    /// A tensor that the config's model has.
    #[error("its model has a tensor `{}`, which the checkpoint lacks", display_name(tensor))]
    Lacks {
        /// The tensor.
        tensor: String,
    },
    /// A tensor that the config's model does not have.
    #[error("its model has {stated} layers, and the checkpoint has a tensor `{}`", display_name(tensor))]
    TooMany {
        /// `num_hidden_layers`.
        stated: u64,
        /// The tensor.
        tensor: String,
    },
    /// A key that asks for tensors that torchtitan's Llama does not have.
    #[error("`{key}` is {found}, which torchtitan's Llama does not have")]
    NotInTorchtitan {
        /// The key.
        key: &'static str,
        /// What it says.
        found: String,
    },
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "missing".to_owned(), |value| display_name(&value.to_string()))
}

/// A positive number of a config.
fn number(config: &Value, key: &'static str) -> Result<u64, ConfigFault> {
    let value = config.get(key);
    let number = value.and_then(Value::as_u64).filter(|number| *number > 0);
    number.ok_or_else(|| ConfigFault::NotANumber { key, found: shown(value) })
}

/// A positive number of a config, unless the key is missing or null.
fn optional_number(config: &Value, key: &'static str) -> Result<Option<u64>, ConfigFault> {
    let is_there = config.get(key).is_some_and(|value| !value.is_null());
    is_there.then(|| number(config, key)).transpose()
}

/// The heads of the Llama that a config describes.
///
/// # Errors
/// `NotLlama`, `NotANumber` or `OddHead`.
pub fn llama_heads(config: &Value) -> Result<LlamaHeads, ConfigFault> {
    let model_type = config.get("model_type");
    if model_type.and_then(Value::as_str) != Some("llama") {
        return Err(ConfigFault::NotLlama { found: shown(model_type) });
    }
    let num_attention_heads = number(config, "num_attention_heads")?;
    let num_key_value_heads = optional_number(config, "num_key_value_heads")?.unwrap_or(num_attention_heads);
    let head_dim = match optional_number(config, "head_dim")? {
        Some(head_dim) => head_dim,
        None => number(config, "hidden_size")? / num_attention_heads,
    };
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        return Err(ConfigFault::OddHead { head_dim });
    }
    Ok(LlamaHeads { num_attention_heads, num_key_value_heads, head_dim })
}

/// Compares a config with the tensors under their new names; every difference.
///
/// # Errors
/// As [`llama_heads`], if the config is not of a Llama.
pub fn check_llama_config(config: &Value, catalog: &TensorCatalog) -> Result<Vec<ConfigFault>, ConfigFault> {
    let heads = llama_heads(config)?;
    let (hidden, inner) = (number(config, "hidden_size")?, number(config, "intermediate_size")?);
    let (vocabulary, layers) = (number(config, "vocab_size")?, number(config, "num_hidden_layers")?);
    let rows = |n: u64| n.checked_mul(heads.head_dim).unwrap_or(u64::MAX);
    let (q, kv) = (rows(heads.num_attention_heads), rows(heads.num_key_value_heads));
    let mut faults = extra_features(config);
    let mut expect = |name: &str, sides: &[Side], is_needed: bool| {
        let Some(tensor) = catalog.find(name).and_then(|i| catalog.entries().get(i)) else {
            faults.extend(is_needed.then(|| ConfigFault::Lacks { tensor: name.to_owned() }));
            return;
        };
        let found = (0..sides.len()).map(|dim| tensor.shape.0.get(dim).copied().unwrap_or(0));
        let wrong = sides.iter().zip(found).find(|((_, size), found)| size != found);
        if let Some((&(key, stated), found)) = wrong {
            faults.push(ConfigFault::Differs { key, stated, found, tensor: name.to_owned() });
        }
    };
    let (hidden, inner) = (("hidden_size", hidden), ("intermediate_size", inner));
    let (vocabulary, q, kv) = (("vocab_size", vocabulary), ("num_attention_heads", q), ("num_key_value_heads", kv));
    let is_tied = config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false);
    expect("model.embed_tokens.weight", &[vocabulary, hidden], true);
    expect("model.norm.weight", &[hidden], true);
    expect("lm_head.weight", &[vocabulary, hidden], !is_tied);
    let of_layer: [(&str, &[Side]); 9] = [
        ("self_attn.q_proj.weight", &[q, hidden]),
        ("self_attn.k_proj.weight", &[kv, hidden]),
        ("self_attn.v_proj.weight", &[kv, hidden]),
        ("self_attn.o_proj.weight", &[hidden, q]),
        ("mlp.gate_proj.weight", &[inner, hidden]),
        ("mlp.up_proj.weight", &[inner, hidden]),
        ("mlp.down_proj.weight", &[hidden, inner]),
        ("input_layernorm.weight", &[hidden]),
        ("post_attention_layernorm.weight", &[hidden]),
    ];
    // A config may state any number of layers; more than there are tensors are not looked for.
    for layer in 0..layers.min(catalog.entries().len() as u64 + 1) {
        of_layer.iter().for_each(|(name, sides)| expect(&format!("model.layers.{layer}.{name}"), sides, true));
    }
    let beyond = catalog.entries().iter().find(|entry| layer_of(&entry.name).is_some_and(|layer| layer >= layers));
    faults.extend(beyond.map(|entry| ConfigFault::TooMany { stated: layers, tensor: entry.name.to_string() }));
    Ok(faults)
}

/// The key that states a size, and the size.
type Side = (&'static str, u64);

fn layer_of(name: &str) -> Option<u64> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

/// Keys that add something to a Llama.
fn extra_features(config: &Value) -> Vec<ConfigFault> {
    const KEYS: [&str; 3] = ["attention_bias", "mlp_bias", "quantization_config"];
    let is_set = |value: &&Value| !value.is_null() && value.as_bool() != Some(false);
    let fault = |key: &'static str| {
        let found = config.get(key).filter(is_set)?;
        let found = if found.is_boolean() { found.to_string() } else { "set".to_owned() };
        Some(ConfigFault::NotInTorchtitan { key, found })
    };
    KEYS.into_iter().filter_map(fault).collect()
}
