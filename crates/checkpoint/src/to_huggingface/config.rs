//! The config of the model that a checkpoint of torchtitan is: read for its heads, and compared with the tensors,
//! because it comes from elsewhere.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use thalweg_storage::{FileKind, Storage};
use thalweg_tensor::{TensorCatalog, display_name};

use super::{ConfigFault, LlamaHeads};
use crate::Error;
use crate::checkpoint::ConfigFile;
use crate::error::storage_error;
use crate::open::read_config;
use crate::side_files::{CONFIG_FILE_NAME, SideFile, find_in_listing};

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
    let side = |key, size| Side { key, size, rows_each: 1 };
    let of_heads = |key, n_heads| Side { key, size: n_heads, rows_each: heads.head_dim };
    let mut faults = extra_features(config);
    let mut expect = |name: &str, sides: &[Side], is_needed: bool| {
        let Some(tensor) = catalog.find(name).and_then(|i| catalog.entries().get(i)) else {
            faults.extend(is_needed.then(|| ConfigFault::Lacks { tensor: name.to_owned() }));
            return;
        };
        let found = (0..sides.len()).map(|dim| tensor.shape.0.get(dim).copied().unwrap_or(0));
        if let Some((side, found)) = sides.iter().zip(found).find(|(side, found)| !side.fits(*found)) {
            let stated = side.to_string();
            faults.push(ConfigFault::Differs { key: side.key, stated, found, tensor: name.to_owned() });
        }
    };
    let (hidden, inner) = (side("hidden_size", hidden), side("intermediate_size", inner));
    let vocabulary = side("vocab_size", vocabulary);
    let q = of_heads("num_attention_heads", heads.num_attention_heads);
    let kv = of_heads("num_key_value_heads", heads.num_key_value_heads);
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

/// A side of a tensor: the key that states its size, and the rows of each.
#[derive(Debug, Clone, Copy)]
struct Side {
    key: &'static str,
    size: u64,
    rows_each: u64,
}

impl Side {
    fn fits(self, found: u64) -> bool {
        self.size.checked_mul(self.rows_each) == Some(found)
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rows_each {
            1 => write!(f, "{}", self.size),
            rows => write!(f, "{} heads of {rows} rows", self.size),
        }
    }
}

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
    let mut faults: Vec<ConfigFault> = KEYS.into_iter().filter_map(fault).collect();
    // torchtitan's feed-forward layers use SiLU, and have no key that could say otherwise.
    if let Some(found) = config.get("hidden_act").filter(|act| !matches!(act.as_str(), Some("silu" | "swish"))) {
        faults.push(ConfigFault::NotInTorchtitan { key: "hidden_act", found: found.to_string() });
    }
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use thalweg_tensor::{Dtype, Piece, Shape, TensorEntry};

    use super::*;

    fn config() -> Value {
        json!({
            "model_type": "llama", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1
        })
    }

    fn catalog(without: &str) -> TensorCatalog {
        let mut entries = vec![("model.embed_tokens.weight".to_owned(), vec![11, 8])];
        entries.push(("model.norm.weight".to_owned(), vec![8]));
        entries.push(("lm_head.weight".to_owned(), vec![11, 8]));
        for layer in 0..2 {
            for (name, shape) in [
                ("self_attn.q_proj", vec![8, 8]),
                ("self_attn.k_proj", vec![4, 8]),
                ("self_attn.v_proj", vec![4, 8]),
                ("self_attn.o_proj", vec![8, 8]),
                ("mlp.gate_proj", vec![6, 8]),
                ("mlp.up_proj", vec![6, 8]),
                ("mlp.down_proj", vec![8, 6]),
                ("input_layernorm", vec![8]),
                ("post_attention_layernorm", vec![8]),
            ] {
                entries.push((format!("model.layers.{layer}.{name}.weight"), shape));
            }
        }
        let entry = |(name, shape): (String, Vec<u64>)| {
            let pieces = vec![Piece::whole(0, 0)];
            TensorEntry::of_pieces(name.into(), Dtype::F32, Shape::new(shape), pieces).unwrap()
        };
        TensorCatalog::new(entries.into_iter().filter(|(name, _)| name != without).map(entry).collect()).unwrap()
    }

    /// The faults of the config with these keys, over a checkpoint without this tensor.
    fn faults(keys: &Value, without: &str) -> Vec<String> {
        let mut config = config();
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let faults = check_llama_config(&config, &catalog(without)).unwrap_or_else(|fault| vec![fault]);
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_config_of_the_checkpoint_fits() {
        for keys in [
            json!({}),
            json!({"head_dim": 4, "tie_word_embeddings": true, "attention_bias": false, "quantization_config": null}),
            json!({"head_dim": null, "mlp_bias": false, "rope_theta": 5e5}),
        ] {
            assert_eq!(faults(&keys, ""), [""; 0], "{keys}");
        }
        assert_eq!(faults(&json!({"tie_word_embeddings": true}), "lm_head.weight"), [""; 0]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (keys, without, words) in [
            (json!({"model_type": "qwen3"}), "", "`model_type` is \"qwen3\", `\"llama\"` expected"),
            (json!({"model_type": null}), "", "`model_type` is null"),
            (json!({"num_attention_heads": 0}), "", "`num_attention_heads` is 0, a positive number expected"),
            (json!({"num_attention_heads": "8"}), "", "`num_attention_heads` is \"8\""),
            (json!({"num_key_value_heads": -1}), "", "`num_key_value_heads` is -1"),
            (json!({"head_dim": 3}), "", "a head has 3 rows, an even number expected"),
            (json!({"num_attention_heads": 16}), "", "a head has 0 rows"),
            (json!({"hidden_size": 4, "head_dim": 4}), "", "`hidden_size` is 4, but 8 by tensor `model.embed_tokens"),
            (json!({"vocab_size": 12}), "", "`vocab_size` is 12, but 11 by tensor `model.embed_tokens.weight`"),
            (json!({"intermediate_size": 7}), "", "`intermediate_size` is 7, but 6 by tensor"),
            (json!({"num_attention_heads": 4, "head_dim": 4}), "", "`num_attention_heads` is 4 heads of 4 rows"),
            (json!({"num_key_value_heads": 2}), "", "`num_key_value_heads` is 2 heads of 4 rows"),
            (json!({"num_hidden_layers": 1}), "", "its model has 1 layer, but the checkpoint has a tensor"),
            (json!({"num_hidden_layers": 3}), "", "`model.layers.2.self_attn.q_proj.weight`, which the checkpoint"),
            (json!({"num_hidden_layers": u64::MAX}), "", "which the checkpoint lacks"),
            (json!({}), "lm_head.weight", "its model has a tensor `lm_head.weight`, which the checkpoint lacks"),
            (json!({}), "model.norm.weight", "`model.norm.weight`, which the checkpoint lacks"),
            (json!({"attention_bias": true}), "", "`attention_bias` is true, which torchtitan's Llama does not have"),
            (json!({"mlp_bias": true}), "", "`mlp_bias` is true"),
            (json!({"hidden_act": "gelu"}), "", "`hidden_act` is \"gelu\""),
            (json!({"quantization_config": {"bits": 4}}), "", "`quantization_config` is set"),
        ] {
            let found = faults(&keys, without);
            assert!(found.iter().any(|fault| fault.contains(words)), "{keys}: `{words}` is not in {found:?}");
        }
    }
}
