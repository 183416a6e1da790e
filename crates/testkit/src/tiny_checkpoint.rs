//! Checkpoints of a few hundred bytes, written by hand.
//!
//! The bytes follow the description of the safetensors format and share no code with the crate that reads it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use thalweg_storage::{LocalStorage, Storage};
use thalweg_tensor::Dtype;

use crate::exact_bytes::exact_bytes;

/// How tensors are spread over files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharding {
    /// One `model.safetensors`.
    Single,
    /// So many files with an index, each with as many tensors as the others or one fewer.
    Shards(usize),
}

#[derive(Debug, Clone)]
struct TinyTensor {
    name: String,
    dtype: Dtype,
    shape: Vec<u64>,
    bytes: Vec<u8>,
}

/// A checkpoint that is being built.
///
/// # Example
/// ```
/// use thalweg_tensor::Dtype;
/// use thalweg_testkit::TinyCheckpoint;
///
/// let files = TinyCheckpoint::new().tensor("w", Dtype::Bf16, &[2], &[1.0, -0.5]).files();
/// assert!(files["model.safetensors"].ends_with(&[0x80, 0x3f, 0x00, 0xbf]));
/// ```
#[derive(Debug, Clone)]
pub struct TinyCheckpoint {
    tensors: Vec<TinyTensor>,
    sharding: Sharding,
    side_files: BTreeMap<String, Vec<u8>>,
}

impl Default for TinyCheckpoint {
    fn default() -> Self {
        Self::new()
    }
}

impl TinyCheckpoint {
    /// No tensors, one file, nothing beside it.
    pub fn new() -> Self {
        Self { tensors: Vec::new(), sharding: Sharding::Single, side_files: BTreeMap::new() }
    }

    /// A Llama of one layer and 40 parameters, with config and tokenizer. All parameters are `value`, which the type
    /// must have exactly.
    pub fn llama(dtype: Dtype, value: f64) -> Self {
        let tensors: [(&str, &[u64]); 12] = [
            ("model.embed_tokens.weight", &[3, 2]),
            ("model.layers.0.self_attn.q_proj.weight", &[2, 2]),
            ("model.layers.0.self_attn.k_proj.weight", &[2, 2]),
            ("model.layers.0.self_attn.v_proj.weight", &[2, 2]),
            ("model.layers.0.self_attn.o_proj.weight", &[2, 2]),
            ("model.layers.0.mlp.gate_proj.weight", &[1, 2]),
            ("model.layers.0.mlp.up_proj.weight", &[1, 2]),
            ("model.layers.0.mlp.down_proj.weight", &[2, 1]),
            ("model.layers.0.input_layernorm.weight", &[2]),
            ("model.layers.0.post_attention_layernorm.weight", &[2]),
            ("model.norm.weight", &[2]),
            ("lm_head.weight", &[3, 2]),
        ];
        let torch_dtype = match dtype {
            Dtype::F64 => "float64",
            Dtype::F16 => "float16",
            Dtype::Bf16 => "bfloat16",
            _ => "float32",
        };
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": torch_dtype,
            "vocab_size": 3, "hidden_size": 2, "intermediate_size": 1, "num_hidden_layers": 1,
            "num_attention_heads": 1, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": false
        });
        let checkpoint = tensors.iter().fold(Self::new(), |made, (name, shape)| {
            let n_elements = usize::try_from(shape.iter().product::<u64>()).unwrap();
            made.tensor(name, dtype, shape, &vec![value; n_elements])
        });
        checkpoint.config(&config).tokenizer()
    }

    /// Adds a tensor, row by row. The type must have the values exactly; see [`exact_bytes`].
    ///
    /// # Panics
    /// If the shape does not hold this many values.
    pub fn tensor(self, name: &str, dtype: Dtype, shape: &[u64], values: &[f64]) -> Self {
        let n_elements: u64 = shape.iter().product();
        assert_eq!(values.len() as u64, n_elements, "tensor `{name}` of shape {shape:?}");
        let bytes: Vec<u8> = values.iter().flat_map(|value| exact_bytes(dtype, *value)).collect();
        self.raw_tensor(name, dtype, shape, &bytes)
    }

    /// Adds a tensor by its bytes, which need not fit its shape.
    pub fn raw_tensor(mut self, name: &str, dtype: Dtype, shape: &[u64], bytes: &[u8]) -> Self {
        let (name, shape, bytes) = (name.to_owned(), shape.to_vec(), bytes.to_vec());
        self.tensors.push(TinyTensor { name, dtype, shape, bytes });
        self
    }

    /// Spreads the tensors over files.
    pub fn sharding(mut self, sharding: Sharding) -> Self {
        self.sharding = sharding;
        self
    }

    /// Adds `config.json`.
    pub fn config(self, config: &Value) -> Self {
        self.side_file("config.json", config.to_string().as_bytes())
    }

    /// Adds a tokenizer of three words.
    pub fn tokenizer(self) -> Self {
        let vocab = json!({"<s>": 0, "a": 1, "b": 2});
        let tokenizer = json!({"version": "1.0", "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<s>"}});
        self.side_file("tokenizer.json", tokenizer.to_string().as_bytes())
            .side_file("tokenizer_config.json", br#"{"tokenizer_class":"PreTrainedTokenizerFast"}"#)
    }

    /// Adds any file, or replaces it.
    pub fn side_file(mut self, name: &str, bytes: &[u8]) -> Self {
        self.side_files.insert(name.to_owned(), bytes.to_vec());
        self
    }

    /// Every file by its name.
    ///
    /// # Panics
    /// If there are more shards than tensors.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = self.side_files.clone();
        let Sharding::Shards(n_shards) = self.sharding else {
            files.insert("model.safetensors".to_owned(), safetensors_bytes(&self.tensors));
            return files;
        };
        let n_tensors = self.tensors.len();
        assert!((1..=n_tensors).contains(&n_shards), "{n_shards} shards of {n_tensors} tensors");
        let mut weight_map = serde_json::Map::new();
        for shard in 0..n_shards {
            let tensors = &self.tensors[shard * n_tensors / n_shards..(shard + 1) * n_tensors / n_shards];
            let name = format!("model-{:05}-of-{n_shards:05}.safetensors", shard + 1);
            weight_map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), json!(name))));
            files.insert(name, safetensors_bytes(tensors));
        }
        let total_size: usize = self.tensors.iter().map(|tensor| tensor.bytes.len()).sum();
        let index = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
        files.insert("model.safetensors.index.json".to_owned(), index.to_string().into_bytes());
        files
    }

    /// The tensors as one file, whatever the sharding.
    pub fn single_file(&self) -> Vec<u8> {
        safetensors_bytes(&self.tensors)
    }

    /// Writes every file into a folder, which is made.
    pub fn write_to(&self, storage: &dyn Storage, folder: &Path) {
        for (name, bytes) in self.files() {
            crate::put_file(storage, &folder.join(name), &bytes);
        }
    }

    /// Writes every file into a folder of the machine's own disk.
    pub fn write_to_disk(&self, folder: &Path) {
        self.write_to(&LocalStorage::new(), folder);
    }
}

/// Length of the header as eight bytes, the header with spaces up to a multiple of eight, the tensors without gaps.
fn safetensors_bytes(tensors: &[TinyTensor]) -> Vec<u8> {
    let mut header = serde_json::Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
    let mut data = Vec::new();
    for tensor in tensors {
        let start = data.len();
        data.extend_from_slice(&tensor.bytes);
        let entry = json!({"dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [start, data.len()]});
        let before = header.insert(tensor.name.clone(), entry);
        assert!(before.is_none(), "two tensors are called `{}`", tensor.name);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut header);
    bytes.append(&mut data);
    bytes
}
