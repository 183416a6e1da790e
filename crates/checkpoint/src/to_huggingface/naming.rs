//! What torchtitan's Llama and Hugging Face's Llama call the same tensors; and whose names other checkpoints have, with
//! the program that exports those.

use thalweg_tensor::{TensorCatalog, match_pattern};

use super::LlamaHeads;

/// Names of tensors outside the layers: torchtitan's, which called the head `output` until April 2026, and Hugging
/// Face's.
const OUTER: [(&str, &str); 4] = [
    ("tok_embeddings.weight", "model.embed_tokens.weight"),
    ("norm.weight", "model.norm.weight"),
    ("lm_head.weight", "lm_head.weight"),
    ("output.weight", "lm_head.weight"),
];
/// Names within a layer, `layers.N.` there and `model.layers.N.` here. The projections of queries, keys and values have
/// been in a separate module since April 2026.
const INNER: [(&str, &str, Rows); 12] = [
    ("attention.wq.weight", "self_attn.q_proj.weight", Rows::Queries),
    ("attention.wk.weight", "self_attn.k_proj.weight", Rows::Keys),
    ("attention.wv.weight", "self_attn.v_proj.weight", Rows::Same),
    ("attention.qkv_linear.wq.weight", "self_attn.q_proj.weight", Rows::Queries),
    ("attention.qkv_linear.wk.weight", "self_attn.k_proj.weight", Rows::Keys),
    ("attention.qkv_linear.wv.weight", "self_attn.v_proj.weight", Rows::Same),
    ("attention.wo.weight", "self_attn.o_proj.weight", Rows::Same),
    ("feed_forward.w1.weight", "mlp.gate_proj.weight", Rows::Same),
    ("feed_forward.w2.weight", "mlp.down_proj.weight", Rows::Same),
    ("feed_forward.w3.weight", "mlp.up_proj.weight", Rows::Same),
    ("attention_norm.weight", "input_layernorm.weight", Rows::Same),
    ("ffn_norm.weight", "post_attention_layernorm.weight", Rows::Same),
];
/// The table of rotations, which torchtitan saved before August 2025 and Hugging Face computes from the config.
const ROTATIONS: &str = "freqs_cis";

/// In what order the rows of a tensor are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// The same in both.
    Same,
    /// Two rows that are rotated together are neighbours there, and half a head apart here: the heads of the queries.
    Queries,
    /// The same for the heads of the keys.
    Keys,
}

impl Rows {
    /// The heads whose rows get another order.
    pub(super) fn heads(self, heads: LlamaHeads) -> Option<u64> {
        match self {
            Self::Same => None,
            Self::Queries => Some(heads.num_attention_heads),
            Self::Keys => Some(heads.num_key_value_heads),
        }
    }
}

/// Where a tensor of torchtitan's Llama goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// It is a tensor of the other model.
    Tensor {
        /// Its name there.
        name: String,
        /// What becomes of its rows.
        rows: Rows,
    },
    /// The other model computes it.
    LeftOut,
}

/// Where a tensor goes; `None` if torchtitan's Llama has none of this name.
pub(super) fn place_of(name: &str) -> Option<Place> {
    if name == ROTATIONS {
        return Some(Place::LeftOut);
    }
    if let Some((_, to)) = OUTER.iter().find(|(from, _)| *from == name) {
        return Some(Place::Tensor { name: (*to).to_owned(), rows: Rows::Same });
    }
    let (number, inner) = name.strip_prefix("layers.")?.split_once('.')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let (_, to, rows) = INNER.iter().find(|(from, ..)| is_number && *from == inner)?;
    Some(Place::Tensor { name: format!("model.layers.{number}.{to}"), rows: *rows })
}

/// The Hugging Face name of a tensor of torchtitan's Llama that is called otherwise there.
///
/// # Example
/// ```
/// let name = thalweg_checkpoint::huggingface_name("layers.3.attention.wo.weight");
/// assert_eq!(name.as_deref(), Some("model.layers.3.self_attn.o_proj.weight"));
/// assert_eq!(thalweg_checkpoint::huggingface_name("lm_head.weight"), None);
/// ```
pub fn huggingface_name(torchtitan: &str) -> Option<String> {
    match place_of(torchtitan)? {
        Place::Tensor { name, .. } => Some(name).filter(|name| name != torchtitan),
        Place::LeftOut => None,
    }
}

/// The exporter of each trainer, for text that is put together when this is compiled.
macro_rules! exporter {
    (Torchtitan) => {
        "torchtitan's `scripts/checkpoint_conversion/convert_to_hf.py`"
    };
    (Megatron) => {
        "Megatron Bridge's `examples/conversion/convert_checkpoints.py export`"
    };
    (Nanotron) => {
        "nanotron's `examples/llama/convert_nanotron_to_hf.py`"
    };
    (GptNeox) => {
        "GPT-NeoX's `tools/ckpts/convert_neox_to_hf.py`"
    };
    (OlmoCore) => {
        "OLMo-core's `src/examples/huggingface/convert_checkpoint_to_hf.py`"
    };
    (Litgpt) => {
        "`litgpt convert_from_litgpt`"
    };
}

macro_rules! hint {
    ($trainer:ident) => {
        concat!(
            "leave out `--to-huggingface`, write the checkpoint in its trainer's format (`--format same`), and export it with ",
            exporter!($trainer)
        )
    };
}

/// Whose names the tensors of a checkpoint have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Naming {
    /// torchtitan's Llama, all of it: what `--to-huggingface` translates.
    TorchtitanLlama,
    /// Another model of torchtitan.
    Torchtitan,
    /// A model of torchtitan that was saved with its projections fused.
    TorchtitanFused,
    /// Hugging Face.
    HuggingFace,
    /// Megatron-Core and Megatron-LM.
    Megatron,
    /// nanotron.
    Nanotron,
    /// The training library GPT-NeoX.
    GptNeox,
    /// OLMo-core.
    OlmoCore,
    /// litgpt.
    Litgpt,
    /// None of these.
    Unknown,
}

/// Names by which each is known, in this order; `*` matches anything.
const MARKS: [(&str, Naming); 15] = [
    ("model.layers.*.self_attn.*", Naming::HuggingFace),
    ("model.embed_tokens.weight", Naming::HuggingFace),
    ("gpt_neox.layers.*", Naming::HuggingFace),
    ("*.pp_block.*", Naming::Nanotron),
    ("*.linear_qkv.weight", Naming::Megatron),
    ("*.linear_qkv.*", Naming::Megatron),
    ("*decoder.layers.*.self_attention.*", Naming::Megatron),
    ("*encoder.layers.*.query_key_value.*", Naming::Megatron),
    ("sequential.*.attention.query_key_value.*", Naming::GptNeox),
    ("*.attention.query_key_value.*", Naming::GptNeox),
    ("blocks.*.attention.w_*", Naming::OlmoCore),
    ("transformer.h.*.attn.qkv.weight", Naming::Litgpt),
    ("transformer.h.*", Naming::HuggingFace),
    ("layers.*.attention.*wqkv.*", Naming::TorchtitanFused),
    ("tok_embeddings.weight", Naming::Torchtitan),
];

/// Whose names the tensors of a checkpoint have, by the first mark that any of them has.
pub fn naming_of(catalog: &TensorCatalog) -> Naming {
    let is_llama = catalog.entries().iter().all(|entry| place_of(&entry.name).is_some())
        && catalog.find("tok_embeddings.weight").is_some();
    if is_llama {
        return Naming::TorchtitanLlama;
    }
    mark_of(catalog).map_or(Naming::Unknown, |(_, naming)| naming)
}

/// The first tensor by which the naming of a checkpoint is known, and the naming.
pub(super) fn mark_of(catalog: &TensorCatalog) -> Option<(&str, Naming)> {
    let has = |mark: &str| catalog.entries().iter().find(|entry| match_pattern(mark, &entry.name).is_some());
    MARKS.iter().find_map(|(mark, naming)| Some((&*has(mark)?.name, *naming)))
}

impl Naming {
    /// The name, as `inspect` prints it.
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::TorchtitanLlama => "torchtitan-llama",
            Self::Torchtitan | Self::TorchtitanFused => "torchtitan",
            Self::HuggingFace => "huggingface",
            Self::Megatron => "megatron",
            Self::Nanotron => "nanotron",
            Self::GptNeox => "gpt-neox",
            Self::OlmoCore => "olmo-core",
            Self::Litgpt => "litgpt",
            Self::Unknown => return None,
        })
    }

    /// What is said of a tensor with such a name.
    pub(super) fn what(self) -> &'static str {
        match self {
            Self::TorchtitanLlama | Self::Torchtitan => "is not in torchtitan's Llama",
            Self::TorchtitanFused => "holds queries, keys and values fused",
            Self::HuggingFace => "has a Hugging Face name",
            Self::Megatron => "has one of Megatron's names",
            Self::Nanotron => "has one of nanotron's names",
            Self::GptNeox => "has one of GPT-NeoX's names",
            Self::OlmoCore => "has one of OLMo-core's names",
            Self::Litgpt => "has one of litgpt's names",
            Self::Unknown => "has an unknown name",
        }
    }

    /// The program that exports checkpoints with these names.
    pub fn exporter(self) -> Option<&'static str> {
        Some(match self {
            Self::TorchtitanLlama | Self::HuggingFace | Self::Unknown => return None,
            Self::Torchtitan | Self::TorchtitanFused => exporter!(Torchtitan),
            Self::Megatron => exporter!(Megatron),
            Self::Nanotron => exporter!(Nanotron),
            Self::GptNeox => exporter!(GptNeox),
            Self::OlmoCore => exporter!(OlmoCore),
            Self::Litgpt => exporter!(Litgpt),
        })
    }

    /// What to do to get a checkpoint with Hugging Face names.
    pub(super) fn hint(self) -> &'static str {
        match self {
            Self::Torchtitan | Self::TorchtitanFused => hint!(Torchtitan),
            Self::Megatron => hint!(Megatron),
            Self::Nanotron => hint!(Nanotron),
            Self::GptNeox => hint!(GptNeox),
            Self::OlmoCore => hint!(OlmoCore),
            Self::Litgpt => hint!(Litgpt),
            Self::TorchtitanLlama | Self::HuggingFace | Self::Unknown => {
                "use the trainer's exporter, or, if only the names differ, rename the tensors with `--rename FILE`"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use thalweg_tensor::{Dtype, Shape, TensorEntry};

    use super::*;

    fn catalog(names: &[&str]) -> TensorCatalog {
        let entry = |name: &&str| TensorEntry {
            name: (*name).into(),
            dtype: Dtype::F32,
            shape: Shape::new([0]),
            pieces: Box::default(),
        };
        TensorCatalog::new(names.iter().map(entry).collect()).unwrap()
    }

    #[test]
    fn names_of_both_versions_of_torchtitan_have_one_place() {
        for (from, to, rows) in [
            ("tok_embeddings.weight", "model.embed_tokens.weight", Rows::Same),
            ("output.weight", "lm_head.weight", Rows::Same),
            ("lm_head.weight", "lm_head.weight", Rows::Same),
            ("layers.0.attention.wq.weight", "model.layers.0.self_attn.q_proj.weight", Rows::Queries),
            ("layers.31.attention.qkv_linear.wq.weight", "model.layers.31.self_attn.q_proj.weight", Rows::Queries),
            ("layers.1.attention.qkv_linear.wk.weight", "model.layers.1.self_attn.k_proj.weight", Rows::Keys),
            ("layers.1.attention.wv.weight", "model.layers.1.self_attn.v_proj.weight", Rows::Same),
            ("layers.7.feed_forward.w2.weight", "model.layers.7.mlp.down_proj.weight", Rows::Same),
            ("layers.7.feed_forward.w3.weight", "model.layers.7.mlp.up_proj.weight", Rows::Same),
            ("layers.7.ffn_norm.weight", "model.layers.7.post_attention_layernorm.weight", Rows::Same),
        ] {
            assert_eq!(place_of(from), Some(Place::Tensor { name: to.to_owned(), rows }), "{from}");
        }
        assert_eq!(place_of("freqs_cis"), Some(Place::LeftOut));
        for other in [
            "layers.x.attention.wq.weight",
            "layers..attention.wq.weight",
            "layers.0.attention.wq.bias",
            "layers.0.attention.q_norm.weight",
            "layers.0.moe.router.gate.weight",
            "model.layers.0.attention.wq.weight",
            "wq.weight",
            "",
        ] {
            assert_eq!(place_of(other), None, "{other}");
        }
    }

    #[test]
    fn each_trainer_is_known_by_its_names() {
        for (names, naming) in [
            (&["tok_embeddings.weight", "layers.0.attention.wq.weight"][..], Naming::TorchtitanLlama),
            (&["tok_embeddings.weight", "layers.0.moe.experts.w1"], Naming::Torchtitan),
            (&["tok_embeddings.weight", "layers.0.attention.q_norm.weight"], Naming::Torchtitan),
            (&["tok_embeddings.weight", "layers.0.attention.qkv_linear.wqkv.weight"], Naming::TorchtitanFused),
            (&["model.layers.0.self_attn.q_proj.weight", "lm_head.weight"], Naming::HuggingFace),
            (&["transformer.h.0.attn.c_attn.weight"], Naming::HuggingFace),
            (&["gpt_neox.layers.0.attention.query_key_value.weight"], Naming::HuggingFace),
            (&["decoder.layers.0.self_attention.linear_qkv.weight"], Naming::Megatron),
            (&["decoder.layers.self_attention.linear_qkv.weight"], Naming::Megatron),
            (&["language_model.encoder.layers.0.self_attention.query_key_value.weight"], Naming::Megatron),
            (&["model.decoder.0.pp_block.attn.qkv_proj.weight"], Naming::Nanotron),
            (&["sequential.2.attention.query_key_value.weight"], Naming::GptNeox),
            (&["blocks.0.attention.w_q.weight"], Naming::OlmoCore),
            (&["transformer.h.0.attn.qkv.weight"], Naming::Litgpt),
            (&["encoder.weight"], Naming::Unknown),
            (&[], Naming::Unknown),
        ] {
            let found = naming_of(&catalog(names));
            assert_eq!(found, naming, "{names:?}");
            let is_exported = !matches!(naming, Naming::TorchtitanLlama | Naming::HuggingFace | Naming::Unknown);
            assert_eq!(found.exporter().is_some(), is_exported);
            let exporter = found.exporter().and_then(|exporter| exporter.split('`').nth(1)).unwrap_or_default();
            assert!(found.hint().contains(exporter), "{} and {exporter}", found.hint());
        }
    }
}
