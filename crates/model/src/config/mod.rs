//! `ModelConfig`: one description with switches that covers every family, and the checks that bound it.
//!
//! Does not read or write JSON; see `json`.

mod json;
mod rotary;

pub use rotary::{Rotary, RotaryScaling};

use crate::Error;
use crate::family::Family;
use crate::kernel::activation::{Activation, Gating};
use crate::kernel::moe::TopKWeights;
use crate::kernel::norm::NormKind;

/// Tensors a configuration may describe, so that names of a hostile one do not fill memory.
const MAX_TENSORS: u128 = 1 << 20;

/// Where the two norms of a layer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlace {
    /// Before attention and MLP.
    Pre,
    /// After them, before the residual sum (OLMo2).
    Post,
}

/// How MLP and attention meet the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residual {
    /// The MLP reads what attention has written.
    Sequential,
    /// Both read the layer's input (GPT-NeoX).
    Parallel,
}

/// RMSNorm of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// Each head alone, with one weight for all (Qwen3).
    PerHead,
    /// The whole projection at once (OLMo2, OLMoE).
    Whole,
}

/// Whether the linear layers of a kind have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    /// They have.
    Present,
    /// They have not.
    Absent,
}

/// The feed-forward part of a layer, or of one expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mlp {
    /// Inner units.
    pub inner: usize,
    /// The non-linearity.
    pub activation: Activation,
    /// Plain or gated.
    pub gating: Gating,
    /// Biases of its projections.
    pub bias: Bias,
}

/// A mixture of experts in place of MLPs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moe {
    /// Experts; each is `ModelConfig::mlp`.
    pub n_experts: usize,
    /// Experts of each token.
    pub n_active: usize,
    /// What multiplies them.
    pub weights: TopKWeights,
    /// Inner units of the expert that every token passes; 0 without one.
    pub shared_inner: usize,
    /// Whether a bias on the choice balances the experts (arXiv 2408.15664).
    pub balance_bias: Bias,
    /// Layers that keep an MLP instead, ascending.
    pub dense_layers: Vec<usize>,
    /// Inner units of that MLP.
    pub dense_inner: usize,
}

/// A decoder transformer: sizes and switches.
///
/// Built by [`ModelConfig::from_json`], or as a value and then checked by [`ModelConfig::validate`].
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Names, layouts and configuration keys.
    pub family: Family,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Numbers of a head.
    pub head_dim: usize,
    /// Positions it was made for; a limit only where positions are learned.
    pub max_positions: usize,
    /// Whether the output matrix is the embedding.
    pub tied_head: bool,
    /// Norm of the residual stream.
    pub norm: NormKind,
    /// Added to each variance.
    pub norm_epsilon: f64,
    /// Where the norms are.
    pub norm_place: NormPlace,
    /// Sequential or parallel.
    pub residual: Residual,
    /// Norm of queries and keys.
    pub qk_norm: QkNorm,
    /// Rotary positions; without them positions are learned.
    pub rotary: Option<Rotary>,
    /// Biases of queries, keys and values.
    pub qkv_bias: Bias,
    /// Bias of the projection after attention.
    pub attention_out_bias: Bias,
    /// The MLP, or each expert.
    pub mlp: Mlp,
    /// The mixture of experts, if there is one.
    pub moe: Option<Moe>,
    /// Tokens that attention sees back, where that is bounded: longer sequences are refused.
    pub sliding_window: Option<usize>,
}

impl ModelConfig {
    /// Checks what `from_json` checks, for a value built by hand.
    ///
    /// # Errors
    /// `BadValue` for sizes that do not fit together, `TooLarge`, and `InconsistentConfig` if the family's
    /// `config.json` cannot say these switches.
    pub fn validate(&self) -> Result<(), Error> {
        self.check_sizes()?;
        match Self::from_json(&self.to_json()) {
            Ok(read_back) if read_back == *self => Ok(()),
            _ => Err(Error::InconsistentConfig { model_type: self.family.model_type() }),
        }
    }

    /// Checks that sequences of this length mean what the family says.
    ///
    /// # Errors
    /// `SequenceTooLong` beyond learned positions or a sliding window.
    pub fn check_length(&self, sequence_length: usize) -> Result<(), Error> {
        let too_long = |limit, reason| Err(Error::SequenceTooLong { sequence_length, limit, reason });
        match self.sliding_window {
            Some(window) if sequence_length > window => return too_long(window, "the sliding window of its attention"),
            _ => {}
        }
        if self.rotary.is_none() && sequence_length > self.max_positions {
            return too_long(self.max_positions, "the number of its learned positions");
        }
        Ok(())
    }

    /// The mixture of a layer; none where it has an MLP.
    pub(crate) fn moe_of_layer(&self, layer_idx: usize) -> Option<&Moe> {
        self.moe.as_ref().filter(|moe| !moe.dense_layers.contains(&layer_idx))
    }

    /// Layers with a mixture.
    pub(crate) fn n_sparse_layers(&self) -> usize {
        self.moe.as_ref().map_or(0, |moe| self.n_layers - moe.dense_layers.len())
    }

    /// Inner units of a layer's MLP: of the dense one, or the shared expert's.
    pub(crate) fn dense_inner(&self, layer_idx: usize) -> usize {
        match (&self.moe, self.moe_of_layer(layer_idx)) {
            (None, _) => self.mlp.inner,
            (Some(moe), None) => moe.dense_inner,
            (Some(moe), Some(_)) => moe.shared_inner,
        }
    }

    fn check_sizes(&self) -> Result<(), Error> {
        let bad = |key: &str, value: usize, expected| {
            Err(Error::BadValue { key: key.to_owned(), value: value.to_string(), expected })
        };
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden),
            ("num_hidden_layers", self.n_layers),
            ("num_attention_heads", self.n_heads),
            ("num_key_value_heads", self.n_kv_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_positions),
            ("intermediate_size", self.mlp.inner),
        ];
        for (key, value) in sizes {
            if value == 0 || u32::try_from(value).is_err() {
                return bad(key, value, "a size between 1 and 2^32 - 1");
            }
        }
        if u32::try_from(self.vocab_size) == Ok(u32::MAX) {
            return bad("vocab_size", self.vocab_size, "below 2^32 - 1, which means no target");
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return bad("num_key_value_heads", self.n_kv_heads, "a divisor of the number of heads");
        }
        if let Some(rotary) = &self.rotary {
            rotary.check(self.head_dim)?;
        }
        if let Some(moe) = &self.moe {
            if moe.n_experts == 0 || moe.n_experts > 1 << 16 {
                return bad("num_experts", moe.n_experts, "between 1 and 65536");
            }
            if moe.n_active == 0 || moe.n_active > moe.n_experts {
                return bad("num_experts_per_tok", moe.n_active, "between 1 and the number of experts");
            }
            if u32::try_from(moe.shared_inner).is_err() {
                return bad("shared_intermediate_size", moe.shared_inner, "below 2^32");
            }
            if u32::try_from(moe.dense_inner).is_err() || (moe.dense_inner == 0 && !moe.dense_layers.is_empty()) {
                return bad("intermediate_size", moe.dense_inner, "a size between 1 and 2^32 - 1");
            }
            if let Some(&layer) = moe.dense_layers.iter().find(|&&layer| layer >= self.n_layers) {
                return bad("mlp_only_layers", layer, "the number of a layer");
            }
        }
        self.check_total()
    }

    /// An upper bound of parameters and tensors, in integers that cannot overflow.
    fn check_total(&self) -> Result<(), Error> {
        let wide = |x: usize| x as u128;
        let hidden = wide(self.hidden);
        let n_experts = self.moe.as_ref().map_or(1, |moe| wide(moe.n_experts));
        let attention = (4 * wide(self.n_heads) * wide(self.head_dim) + 4) * (hidden + 1);
        let mlp = n_experts * 3 * (wide(self.mlp.inner) + 1) * (hidden + 1);
        let shared = 3 * self.moe.as_ref().map_or(0, |moe| wide(moe.shared_inner) + wide(moe.dense_inner)) * hidden
            + n_experts * (hidden + 1);
        let n_layers = wide(self.n_layers);
        let n_params = n_layers * (attention + mlp + shared + 4 * hidden)
            + (2 * wide(self.vocab_size) + wide(self.max_positions) + 2) * hidden;
        let n_tensors = n_layers * (20 + 3 * n_experts) + 6;
        if n_params > isize::MAX.unsigned_abs() as u128 / 16 || n_tensors > MAX_TENSORS {
            return Err(Error::TooLarge { n_params, n_tensors });
        }
        Ok(())
    }
}
