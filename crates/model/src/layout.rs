//! `ParamLayout`: the names of every family and where each parameter is in the flat arena.
//!
//! Parameters are in the order of use. Matrices that are multiplied together (queries, keys, values; gate, up) are
//! adjacent, so that one product serves them.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::config::{Bias, Mlp, ModelConfig, QkNorm};
use crate::family::Family;
use crate::kernel::activation::Gating;
use crate::kernel::linear::Orientation;
use crate::kernel::norm::NormKind;

/// What a parameter is, for optimizers and initialisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ParamRole {
    /// Token or position embedding, `[n, hidden]`.
    Embedding,
    /// Output matrix, `[vocab_size, hidden]`; absent where it is tied.
    Head,
    /// Any other matrix.
    Matrix,
    /// Matrix of a router, `[n_experts, hidden]`.
    Router,
    /// Scale of a norm.
    Norm,
    /// Bias of a linear layer or norm.
    Bias,
    /// Bias that balances experts: moved by counts of tokens, not by gradients, which are always zero here.
    BalanceBias,
}

/// One parameter tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamSpec {
    /// Hugging Face name.
    pub name: String,
    /// Dimensions as stored.
    pub shape: Vec<usize>,
    /// Elements of the arena, row-major.
    pub range: Range<usize>,
    /// What it is.
    pub role: ParamRole,
}

/// Every parameter of a configuration and its place.
#[derive(Debug, Clone)]
pub struct ParamLayout {
    specs: Vec<ParamSpec>,
    by_name: BTreeMap<String, usize>,
    n_params: usize,
    pub(crate) places: Places,
}

/// Places of what a forward pass reads.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) embedding: Range<usize>,
    pub(crate) positions: Option<Range<usize>>,
    pub(crate) layers: Vec<LayerPlaces>,
    pub(crate) final_norm: NormPlaces,
    /// The output matrix, or the embedding where it is tied.
    pub(crate) head: Range<usize>,
}

#[derive(Debug, Clone)]
pub(crate) struct LayerPlaces {
    /// Of attention.
    pub(crate) norm_1: NormPlaces,
    pub(crate) qkv: LinearPlaces,
    pub(crate) q_norm: Option<Range<usize>>,
    pub(crate) k_norm: Option<Range<usize>>,
    pub(crate) attention_out: LinearPlaces,
    /// Of the MLP.
    pub(crate) norm_2: NormPlaces,
    pub(crate) mlp: Option<MlpPlaces>,
    pub(crate) moe: Option<MoePlaces>,
}

#[derive(Debug, Clone)]
pub(crate) struct NormPlaces {
    pub(crate) weight: Range<usize>,
    pub(crate) bias: Option<Range<usize>>,
}

#[derive(Debug, Clone)]
pub(crate) struct LinearPlaces {
    pub(crate) weight: Range<usize>,
    pub(crate) bias: Option<Range<usize>>,
}

#[derive(Debug, Clone)]
pub(crate) struct MlpPlaces {
    /// Gate and up of a gated MLP as one.
    pub(crate) first: LinearPlaces,
    pub(crate) second: LinearPlaces,
    pub(crate) inner: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct MoePlaces {
    pub(crate) router: Range<usize>,
    pub(crate) balance_bias: Option<Range<usize>>,
    pub(crate) experts: Vec<MlpPlaces>,
    pub(crate) shared: Option<MlpPlaces>,
}

impl ModelConfig {
    /// Where each parameter is.
    ///
    /// # Panics
    /// When the sizes overflow: [`ModelConfig::validate`] says so first.
    pub fn layout(&self) -> ParamLayout {
        ParamLayout::new(self)
    }
}

impl ParamLayout {
    /// The parameters, in the order of the arena.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// Elements of the arena.
    pub fn n_params(&self) -> usize {
        self.n_params
    }

    /// The parameter with this name.
    pub fn find(&self, name: &str) -> Option<&ParamSpec> {
        self.by_name.get(name).map(|&i| &self.specs[i])
    }

    fn new(config: &ModelConfig) -> Self {
        let mut b = Builder { specs: Vec::new(), end: 0 };
        let names = Names::of(config.family);
        let hidden = config.hidden;
        let embedding = b.push(names.embedding.to_owned(), vec![config.vocab_size, hidden], ParamRole::Embedding);
        let positions = config.rotary.is_none().then(|| {
            b.push("transformer.wpe.weight".to_owned(), vec![config.max_positions, hidden], ParamRole::Embedding)
        });
        let layers = (0..config.n_layers).map(|i| b.layer(config, &names, i)).collect();
        let final_norm = b.norm(config, names.final_norm);
        let head = match config.tied_head {
            true => embedding.clone(),
            false => b.push(names.head.to_owned(), vec![config.vocab_size, hidden], ParamRole::Head),
        };
        let by_name = b.specs.iter().enumerate().map(|(i, spec)| (spec.name.clone(), i)).collect();
        Self {
            specs: b.specs,
            by_name,
            n_params: b.end,
            places: Places { embedding, positions, layers, final_norm, head },
        }
    }
}

/// Whether a tensor that has no place may be left out: buffers that older files carry, and aliases of a tied head.
pub(crate) fn is_ignored(config: &ModelConfig, name: &str) -> bool {
    let is_buffer = match config.family {
        Family::GptNeox => {
            [".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"].iter().any(|end| name.ends_with(end))
        }
        Family::Gpt2 => [".attn.bias", ".attn.masked_bias"].iter().any(|end| name.ends_with(end)),
        _ => name.ends_with(".rotary_emb.inv_freq"),
    };
    is_buffer || (config.tied_head && name == Names::of(config.family).head)
}

/// Names that differ between families. Those of a layer follow its prefix.
struct Names {
    embedding: &'static str,
    layers: &'static str,
    norm_1: &'static str,
    attention: &'static str,
    attention_out: &'static str,
    norm_2: &'static str,
    mlp: &'static str,
    router: &'static str,
    /// Gate, up, down; or the two of a plain MLP.
    projections: &'static [&'static str],
    final_norm: &'static str,
    head: &'static str,
}

impl Names {
    const fn of(family: Family) -> Self {
        let llama = Self {
            embedding: "model.embed_tokens.weight",
            layers: "model.layers",
            norm_1: "input_layernorm",
            attention: "self_attn",
            attention_out: "self_attn.o_proj",
            norm_2: "post_attention_layernorm",
            mlp: "mlp",
            router: "mlp.gate",
            projections: &["gate_proj", "up_proj", "down_proj"],
            final_norm: "model.norm",
            head: "lm_head.weight",
        };
        match family {
            Family::Olmo2 => Self { norm_1: "post_attention_layernorm", norm_2: "post_feedforward_layernorm", ..llama },
            Family::Mixtral => Self {
                mlp: "block_sparse_moe",
                router: "block_sparse_moe.gate",
                projections: &["w1", "w3", "w2"],
                ..llama
            },
            Family::GptNeox => Self {
                embedding: "gpt_neox.embed_in.weight",
                layers: "gpt_neox.layers",
                attention: "attention",
                attention_out: "attention.dense",
                projections: &["dense_h_to_4h", "dense_4h_to_h"],
                final_norm: "gpt_neox.final_layer_norm",
                head: "embed_out.weight",
                ..llama
            },
            Family::Gpt2 => Self {
                embedding: "transformer.wte.weight",
                layers: "transformer.h",
                norm_1: "ln_1",
                attention: "attn",
                attention_out: "attn.c_proj",
                norm_2: "ln_2",
                projections: &["c_fc", "c_proj"],
                final_norm: "transformer.ln_f",
                ..llama
            },
            _ => llama,
        }
    }
}

/// How the family stores the matrices of linear layers.
pub(crate) const fn orientation(family: Family) -> Orientation {
    match family {
        Family::Gpt2 => Orientation::InOut,
        _ => Orientation::OutIn,
    }
}

struct Builder {
    specs: Vec<ParamSpec>,
    end: usize,
}

impl Builder {
    fn push(&mut self, name: String, shape: Vec<usize>, role: ParamRole) -> Range<usize> {
        let range = self.end..self.end + shape.iter().product::<usize>();
        self.end = range.end;
        self.specs.push(ParamSpec { name, shape, range: range.clone(), role });
        range
    }

    fn norm(&mut self, config: &ModelConfig, name: &str) -> NormPlaces {
        let weight = self.push(format!("{name}.weight"), vec![config.hidden], ParamRole::Norm);
        let has_bias = config.norm == NormKind::Layer;
        NormPlaces {
            weight,
            bias: has_bias.then(|| self.push(format!("{name}.bias"), vec![config.hidden], ParamRole::Bias)),
        }
    }

    /// Linear layers that read the same input, as one: `parts` are (name, outputs).
    fn linears(
        &mut self,
        orientation: Orientation,
        n_in: usize,
        parts: &[(String, usize)],
        bias: Bias,
    ) -> LinearPlaces {
        let start = self.end;
        for (name, n_out) in parts {
            let shape = match orientation {
                Orientation::OutIn => vec![*n_out, n_in],
                Orientation::InOut => vec![n_in, *n_out],
            };
            self.push(format!("{name}.weight"), shape, ParamRole::Matrix);
        }
        let weight = start..self.end;
        if bias == Bias::Present {
            for (name, n_out) in parts {
                self.push(format!("{name}.bias"), vec![*n_out], ParamRole::Bias);
            }
        }
        let bias = (bias == Bias::Present).then_some(weight.end..self.end);
        LinearPlaces { weight, bias }
    }

    fn mlp(&mut self, config: &ModelConfig, names: &Names, prefix: &str, inner: usize) -> MlpPlaces {
        let Mlp { gating, bias, .. } = config.mlp;
        let (first, last) = names.projections.split_at(names.projections.len() - 1);
        debug_assert_eq!(first.len(), gating.n_columns(), "names of a gated MLP are three, of a plain one two");
        let part = |name: &&str, n| (format!("{prefix}.{name}"), n);
        let first: Vec<_> = first.iter().map(|name| part(name, inner)).collect();
        let last: Vec<_> = last.iter().map(|name| part(name, config.hidden)).collect();
        let orientation = orientation(config.family);
        MlpPlaces {
            first: self.linears(orientation, config.hidden, &first, bias),
            second: self.linears(orientation, inner, &last, bias),
            inner,
        }
    }

    fn layer(&mut self, config: &ModelConfig, names: &Names, layer_idx: usize) -> LayerPlaces {
        let prefix = format!("{}.{layer_idx}", names.layers);
        let ModelConfig { family, hidden, n_heads, n_kv_heads, head_dim, .. } = *config;
        let orientation = orientation(family);
        let attention = format!("{prefix}.{}", names.attention);
        let (q_width, kv_width) = (n_heads * head_dim, n_kv_heads * head_dim);
        let qkv_parts = match family {
            Family::GptNeox => vec![(format!("{attention}.query_key_value"), q_width + 2 * kv_width)],
            Family::Gpt2 => vec![(format!("{attention}.c_attn"), q_width + 2 * kv_width)],
            _ => [("q_proj", q_width), ("k_proj", kv_width), ("v_proj", kv_width)]
                .map(|(name, n)| (format!("{attention}.{name}"), n))
                .to_vec(),
        };
        let norm_1 = self.norm(config, &format!("{prefix}.{}", names.norm_1));
        let qkv = self.linears(orientation, hidden, &qkv_parts, config.qkv_bias);
        let mut head_norm = |name: &str, whole: usize| {
            let width = match config.qk_norm {
                QkNorm::None => return None,
                QkNorm::PerHead => head_dim,
                QkNorm::Whole => whole,
            };
            Some(self.push(format!("{attention}.{name}.weight"), vec![width], ParamRole::Norm))
        };
        let (q_norm, k_norm) = (head_norm("q_norm", q_width), head_norm("k_norm", kv_width));
        let out = [(format!("{prefix}.{}", names.attention_out), hidden)];
        let attention_out = self.linears(orientation, q_width, &out, config.attention_out_bias);
        let norm_2 = self.norm(config, &format!("{prefix}.{}", names.norm_2));
        let mlp_prefix = format!("{prefix}.{}", names.mlp);
        let mlp = config
            .moe_of_layer(layer_idx)
            .is_none()
            .then(|| self.mlp(config, names, &mlp_prefix, config.dense_inner(layer_idx)));
        let moe = config.moe_of_layer(layer_idx).map(|moe| MoePlaces {
            router: self.push(
                format!("{prefix}.{}.weight", names.router),
                vec![moe.n_experts, hidden],
                ParamRole::Router,
            ),
            balance_bias: (moe.balance_bias == Bias::Present).then(|| {
                self.push(
                    format!("{prefix}.{}.e_score_correction_bias", names.router),
                    vec![moe.n_experts],
                    ParamRole::BalanceBias,
                )
            }),
            experts: (0..moe.n_experts)
                .map(|e| self.mlp(config, names, &format!("{mlp_prefix}.experts.{e}"), config.mlp.inner))
                .collect(),
            shared: (moe.shared_inner > 0)
                .then(|| self.mlp(config, names, &format!("{mlp_prefix}.shared_experts"), moe.shared_inner)),
        });
        debug_assert!(config.mlp.gating == Gating::Gated || moe.is_none(), "experts are gated in every family");
        LayerPlaces { norm_1, qkv, q_norm, k_norm, attention_out, norm_2, mlp, moe }
    }
}
