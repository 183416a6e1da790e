//! Fixtures as tensor sources, and comparisons.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use thalweg_model::{Model, ModelConfig, ParamRole};
use thalweg_tensor::{AccessError, Dtype, Piece, Shape, TensorCatalog, TensorEntry, TensorSource};

pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// A safetensors file in memory, read by the format's own crate.
pub(crate) struct FileSource {
    bytes: Vec<u8>,
    catalog: TensorCatalog,
}

impl FileSource {
    pub(crate) fn open(path: PathBuf) -> Self {
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let entries = file.iter().map(|(name, view)| TensorEntry {
            name: name.into(),
            dtype: Dtype::from_name(&view.dtype().to_string()).unwrap(),
            shape: Shape::new(view.shape().iter().map(|&n| n as u64).collect::<Vec<_>>()),
            pieces: Box::new([Piece::whole(0, view.data().as_ptr() as u64 - bytes.as_ptr() as u64)]),
        });
        let catalog = TensorCatalog::new(entries.collect()).unwrap();
        Self { bytes, catalog }
    }

    fn raw(&self, name: &str) -> &[u8] {
        let entry = &self.catalog.entries()[self.catalog.find(name).unwrap_or_else(|| panic!("no `{name}`"))];
        let first = usize::try_from(entry.pieces[0].offset).unwrap();
        &self.bytes[first..first + usize::try_from(entry.n_bytes()).unwrap()]
    }

    pub(crate) fn f32s(&self, name: &str) -> Vec<f32> {
        self.raw(name).as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }

    pub(crate) fn tokens(&self, name: &str) -> Vec<u32> {
        self.raw(name).as_chunks::<8>().0.iter().map(|&b| u32::try_from(i64::from_le_bytes(b)).unwrap()).collect()
    }
}

impl TensorSource for FileSource {
    fn catalog(&self) -> &TensorCatalog {
        &self.catalog
    }

    fn read_elements(&self, tensor_idx: usize, elements: Range<u64>, out: &mut [u8]) -> Result<(), AccessError> {
        let entry = &self.catalog.entries()[tensor_idx];
        let width = entry.dtype.bytes().unwrap();
        let first = usize::try_from(entry.pieces[0].offset + elements.start * width).unwrap();
        out.copy_from_slice(&self.bytes[first..first + out.len()]);
        Ok(())
    }
}

pub(crate) fn read_json(path: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

pub(crate) fn read_config(folder: &str) -> ModelConfig {
    let json = read_json(&fixture(folder).join("config.json"));
    ModelConfig::from_json(&json).unwrap_or_else(|error| panic!("{folder}: {error}"))
}

pub(crate) fn load(folder: &str) -> Model {
    let source = FileSource::open(fixture(folder).join("model.safetensors"));
    Model::load(read_config(folder), &source).unwrap_or_else(|error| panic!("{folder}: {error}"))
}

/// The same model in f64: its parameters are those of the file exactly.
pub(crate) fn widened(model: &Model) -> Model<f64> {
    Model::from_params(model.config().clone(), model.params().iter().map(|&x| f64::from(x)).collect()).unwrap()
}

/// Tiny configurations of every family, and of the switches that no fixture has.
pub(crate) fn tiny_configs() -> Vec<(&'static str, ModelConfig)> {
    let llama = json!({
        "vocab_size": 19, "hidden_size": 12, "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 16, "head_dim": 4,
    });
    let with = |model_type: &str, keys: Value| {
        let mut map = llama.as_object().unwrap().clone();
        if matches!(model_type, "qwen2" | "olmo2" | "olmoe") {
            map.remove("head_dim");
            map.insert("num_attention_heads".to_owned(), json!(2));
            map.insert("num_key_value_heads".to_owned(), json!(1));
        }
        map.insert("model_type".to_owned(), json!(model_type));
        map.extend(keys.as_object().unwrap().clone());
        Value::Object(map)
    };
    let experts =
        json!({"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 6, "norm_topk_prob": true});
    let mut ours = experts.clone();
    ours.as_object_mut().unwrap().extend(
        json!({"shared_intermediate_size": 5, "balance_bias": true, "mlp_only_layers": [0], "intermediate_size": 7})
            .as_object()
            .unwrap()
            .clone(),
    );
    let mixtral = json!({"num_local_experts": 4, "num_experts_per_tok": 2});
    let olmoe = json!({"num_experts": 4, "num_experts_per_tok": 3});
    let neox = |keys: Value| {
        let mut map = json!({
            "model_type": "gpt_neox", "vocab_size": 19, "hidden_size": 16, "intermediate_size": 10, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 16,
        });
        map.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        map
    };
    let gpt2 = |keys: Value| {
        let mut map = json!({"model_type": "gpt2", "vocab_size": 19, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 8, "n_inner": 10});
        map.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        map
    };
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
    let all = [
        ("llama", with("llama", json!({"attention_bias": true, "mlp_bias": true}))),
        ("llama tied, yarn", with("llama", json!({"tie_word_embeddings": true, "rope_scaling": yarn}))),
        ("qwen2", with("qwen2", json!({}))),
        ("qwen3", with("qwen3", json!({"attention_bias": true}))),
        ("olmo2", with("olmo2", json!({}))),
        ("gpt_neox", neox(json!({}))),
        (
            "gpt_neox serial, no attention bias",
            neox(json!({"use_parallel_residual": false, "rotary_pct": 1.0, "attention_bias": false})),
        ),
        ("gpt2", gpt2(json!({}))),
        ("gpt2 untied, exact gelu", gpt2(json!({"tie_word_embeddings": false, "activation_function": "gelu"}))),
        ("mixtral", with("mixtral", mixtral)),
        ("qwen3_moe", with("qwen3_moe", experts)),
        ("olmoe", with("olmoe", olmoe)),
        ("thalweg_moe", with("thalweg_moe", ours)),
    ];
    all.into_iter()
        .map(|(name, json)| (name, ModelConfig::from_json(&json).unwrap_or_else(|error| panic!("{name}: {error}"))))
        .collect()
}

/// A model whose parameters are far from fresh ones, so that nothing is one or zero by chance.
pub(crate) fn rough_model(config: ModelConfig) -> Model<f64> {
    let mut model = Model::<f64>::init(config, 3);
    for spec in model.layout().specs().to_vec() {
        let own = if spec.role == ParamRole::Norm { 1.0 } else { 10.0 };
        for i in spec.range {
            let x = i as f64;
            model.params_mut()[i] = own * model.params()[i] + 0.1 * (x * 0.739).sin() + 0.1 * (x * x * 0.0137).cos();
        }
    }
    model
}

/// Numbers that look like chance, below `n`.
pub(crate) fn tokens_below(n: usize, count: usize) -> Vec<u32> {
    (0..count).map(|i| u32::try_from((i * i * 7 + i * 3 + 5) % n).unwrap()).collect()
}
