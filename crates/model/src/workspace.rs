//! `Workspace`: every activation and scratch buffer of a pass, allocated once.
//!
//! Letters in comments: n tokens of the batch, h `hidden`, q columns of all query heads, i inner units, k active
//! experts.

use crate::config::{ModelConfig, NormPlace, QkNorm};
use crate::kernel::Real;
use crate::kernel::attention;
use crate::kernel::heads::HeadShape;
use crate::kernel::loss::TokenLoss;
use crate::kernel::norm::RowStats;
use crate::kernel::rotary::RotaryTable;
use crate::model::rotary_table;

/// Numbers of the block of logits that is held at once; a block has between [`FEWEST_HEAD_ROWS`] rows and the whole
/// batch.
const HEAD_BLOCK: usize = 1 << 21;
const FEWEST_HEAD_ROWS: usize = 64;

/// A batch of equally long sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchShape {
    /// Sequences.
    pub n_sequences: usize,
    /// Tokens of each.
    pub sequence_length: usize,
}

impl BatchShape {
    /// Tokens of the batch.
    pub const fn n_tokens(&self) -> usize {
        self.n_sequences.saturating_mul(self.sequence_length)
    }
}

/// What a workspace is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Losses and logits: one layer's activations at a time.
    Score,
    /// Gradients as well: every layer's activations.
    Train,
}

/// All activations and scratch of a model's passes; nothing else is allocated by them.
///
/// Made for a shape, it serves every batch of no more tokens.
#[derive(Debug)]
pub struct Workspace<T: Real = f32> {
    pub(crate) n_tokens: usize,
    pub(crate) purpose: Purpose,
    pub(crate) rotary: Option<RotaryTable<T>>,
    /// One for each layer to train, one in all to score.
    pub(crate) layers: Vec<LayerBuffers<T>>,
    /// The residual stream, n x h.
    pub(crate) stream: Vec<T>,
    pub(crate) final_stats: Vec<RowStats<T>>,
    /// Output of the final norm, n x h.
    pub(crate) head_in: Vec<T>,
    pub(crate) head: HeadBuffers<T>,
    pub(crate) scratch: Scratch<T>,
    pub(crate) balance: BalanceBuffers<T>,
}

/// A block of rows of logits and its losses.
#[derive(Debug)]
pub(crate) struct HeadBuffers<T> {
    pub(crate) n_rows: usize,
    pub(crate) logits: Vec<T>,
    pub(crate) losses: Vec<TokenLoss>,
}

/// How tokens spread over experts in the last pass.
#[derive(Debug)]
pub(crate) struct BalanceBuffers<T> {
    /// layers x experts.
    pub(crate) counts: Vec<u32>,
    /// Sum of each expert's probability over tokens and layers.
    pub(crate) probability_sums: Vec<T>,
    /// Gradient of the balance loss for each probability.
    pub(crate) gradients: Vec<T>,
}

#[derive(Debug)]
pub(crate) struct LayerBuffers<T> {
    /// Input of the norm of attention, n x h.
    pub(crate) norm_1_in: Vec<T>,
    pub(crate) norm_1_stats: Vec<RowStats<T>>,
    /// What the joint projection reads, n x h.
    pub(crate) attention_in: Vec<T>,
    /// Output of the joint projection, kept only where queries and keys are normalised.
    pub(crate) qkv: Vec<T>,
    pub(crate) q_stats: Vec<RowStats<T>>,
    pub(crate) k_stats: Vec<RowStats<T>>,
    pub(crate) q: Vec<T>,
    pub(crate) k: Vec<T>,
    pub(crate) v: Vec<T>,
    /// Output of attention by heads.
    pub(crate) attended_heads: Vec<T>,
    pub(crate) log_sums: Vec<T>,
    /// Output of attention by tokens, n x q.
    pub(crate) attended: Vec<T>,
    /// Input of the norm of the MLP, n x h.
    pub(crate) norm_2_in: Vec<T>,
    pub(crate) norm_2_stats: Vec<RowStats<T>>,
    /// What the MLP reads, n x h.
    pub(crate) mlp_in: Vec<T>,
    /// Of the dense MLP, or the shared expert.
    pub(crate) mlp: MlpBuffers<T>,
    pub(crate) moe: MoeBuffers<T>,
}

#[derive(Debug)]
pub(crate) struct MlpBuffers<T> {
    /// Output of the first projection.
    pub(crate) pre: Vec<T>,
    /// Input of the second projection, rows x i.
    pub(crate) inner: Vec<T>,
}

/// Rows are sorted by expert: n k of them.
#[derive(Debug)]
pub(crate) struct MoeBuffers<T> {
    pub(crate) probabilities: Vec<T>,
    pub(crate) experts: Vec<u32>,
    pub(crate) coefficients: Vec<T>,
    pub(crate) first_rows: Vec<u32>,
    pub(crate) choices: Vec<u32>,
    pub(crate) rows: Vec<u32>,
    /// Inputs of the experts, n k x h.
    pub(crate) x: Vec<T>,
    pub(crate) mlp: MlpBuffers<T>,
    /// Outputs of the experts, n k x h.
    pub(crate) y: Vec<T>,
}

/// What no one reads later.
#[derive(Debug)]
pub(crate) struct Scratch<T> {
    pub(crate) attention: Vec<T>,
    /// Joint projection, then its gradient.
    pub(crate) qkv: Vec<T>,
    pub(crate) d_stream: Vec<T>,
    pub(crate) d_attention_in: Vec<T>,
    pub(crate) d_mlp_in: Vec<T>,
    /// Gradient of the output of attention by tokens, n x q, and by heads.
    pub(crate) d_attended: Vec<T>,
    pub(crate) d_attended_heads: Vec<T>,
    pub(crate) dq: Vec<T>,
    pub(crate) dk: Vec<T>,
    pub(crate) dv: Vec<T>,
    /// Gradient of the input of second projections.
    pub(crate) d_inner: Vec<T>,
    pub(crate) moe: MoeScratch<T>,
}

#[derive(Debug)]
pub(crate) struct MoeScratch<T> {
    pub(crate) d_y: Vec<T>,
    pub(crate) d_x: Vec<T>,
    pub(crate) d_coefficients: Vec<T>,
    pub(crate) d_logits: Vec<T>,
}

/// Allocates, or only counts bytes.
struct Allocator {
    counts_only: bool,
    n_bytes: u64,
}

impl Allocator {
    fn take<U: Clone + Default>(&mut self, dims: &[usize]) -> Vec<U> {
        let n = dims.iter().fold(1_u64, |n, &dim| n.saturating_mul(dim as u64));
        self.n_bytes = self.n_bytes.saturating_add(n.saturating_mul(size_of::<U>() as u64));
        if self.counts_only { Vec::new() } else { vec![U::default(); thalweg_tensor::to_index(n)] }
    }

    fn mlp<T: Real>(&mut self, config: &ModelConfig, n_rows: usize, inner: usize) -> MlpBuffers<T> {
        MlpBuffers {
            pre: self.take(&[n_rows, inner, config.mlp.gating.n_columns()]),
            inner: self.take(&[n_rows, inner]),
        }
    }

    fn moe<T: Real>(&mut self, config: &ModelConfig, n: usize) -> MoeBuffers<T> {
        let (n_experts, k) = config.moe.as_ref().map_or((0, 0), |moe| (moe.n_experts, moe.n_active));
        let n_first = if n_experts > 0 { n_experts + 1 } else { 0 };
        let n_rows = n.saturating_mul(k);
        MoeBuffers {
            probabilities: self.take(&[n, n_experts]),
            experts: self.take(&[n_rows]),
            coefficients: self.take(&[n_rows]),
            first_rows: self.take(&[n_first]),
            choices: self.take(&[n_rows]),
            rows: self.take(&[n_rows]),
            x: self.take(&[n_rows, config.hidden]),
            mlp: self.mlp(config, n_rows, config.mlp.inner),
            y: self.take(&[n_rows, config.hidden]),
        }
    }

    /// Buffers of a layer; to score, of whichever layer needs most.
    fn layer<T: Real>(
        &mut self,
        config: &ModelConfig,
        n: usize,
        purpose: Purpose,
        layer_idx: usize,
    ) -> LayerBuffers<T> {
        let ModelConfig { hidden, n_heads, n_kv_heads, head_dim, .. } = *config;
        let (is_train, is_post) = (purpose == Purpose::Train, config.norm_place == NormPlace::Post);
        let keeps_norm_in = if is_train || is_post { hidden } else { 0 };
        let (q_groups, k_groups) = match config.qk_norm {
            QkNorm::None => (0, 0),
            QkNorm::PerHead => (n_heads, n_kv_heads),
            QkNorm::Whole => (1, 1),
        };
        let keeps_qkv = if is_train && config.qk_norm != QkNorm::None { n_heads + 2 * n_kv_heads } else { 0 };
        let dense = match (purpose, &config.moe) {
            (Purpose::Score, Some(moe)) => moe.dense_inner.max(moe.shared_inner),
            _ => config.dense_inner(layer_idx),
        };
        let is_sparse = purpose == Purpose::Score || config.moe_of_layer(layer_idx).is_some();
        LayerBuffers {
            norm_1_in: self.take(&[n, keeps_norm_in]),
            norm_1_stats: self.take(&[n]),
            attention_in: self.take(&[n, hidden]),
            qkv: self.take(&[n, keeps_qkv, head_dim]),
            q_stats: self.take(&[n, q_groups]),
            k_stats: self.take(&[n, k_groups]),
            q: self.take(&[n, n_heads, head_dim]),
            k: self.take(&[n, n_kv_heads, head_dim]),
            v: self.take(&[n, n_kv_heads, head_dim]),
            attended_heads: self.take(&[n, n_heads, head_dim]),
            log_sums: self.take(&[n, n_heads]),
            attended: self.take(&[n, n_heads, head_dim]),
            norm_2_in: self.take(&[n, keeps_norm_in]),
            norm_2_stats: self.take(&[n]),
            mlp_in: self.take(&[n, hidden]),
            mlp: self.mlp(config, n, dense),
            moe: self.moe(config, if is_sparse { n } else { 0 }),
        }
    }

    fn scratch<T: Real>(&mut self, config: &ModelConfig, shape: BatchShape, purpose: Purpose) -> Scratch<T> {
        let ModelConfig { hidden, n_heads, n_kv_heads, head_dim, .. } = *config;
        let n = shape.n_tokens();
        let n_train = if purpose == Purpose::Train { n } else { 0 };
        let (n_experts, k) = config.moe.as_ref().map_or((0, 0), |moe| (moe.n_experts, moe.n_active));
        let n_rows = n_train.saturating_mul(k);
        let inner = match &config.moe {
            None => config.mlp.inner,
            Some(moe) => config.mlp.inner.saturating_mul(k).max(moe.shared_inner).max(moe.dense_inner),
        };
        let heads = HeadShape { n_sequences: 1, sequence_length: n, n_heads, n_kv_heads, head_dim };
        Scratch {
            attention: self.take(&[attention::scratch_len(heads)]),
            qkv: self.take(&[n, n_heads + 2 * n_kv_heads, head_dim]),
            d_stream: self.take(&[n_train, hidden]),
            d_attention_in: self.take(&[n_train, hidden]),
            d_mlp_in: self.take(&[n_train, hidden]),
            d_attended: self.take(&[n_train, n_heads, head_dim]),
            d_attended_heads: self.take(&[n_train, n_heads, head_dim]),
            dq: self.take(&[n_train, n_heads, head_dim]),
            dk: self.take(&[n_train, n_kv_heads, head_dim]),
            dv: self.take(&[n_train, n_kv_heads, head_dim]),
            d_inner: self.take(&[n_train, inner]),
            moe: MoeScratch {
                d_y: self.take(&[n_rows, hidden]),
                d_x: self.take(&[n_rows, hidden]),
                d_coefficients: self.take(&[n_rows]),
                d_logits: self.take(&[n_train, n_experts]),
            },
        }
    }

    fn workspace<T: Real>(&mut self, config: &ModelConfig, shape: BatchShape, purpose: Purpose) -> Workspace<T> {
        let n = shape.n_tokens();
        let n_layers = match purpose {
            Purpose::Score => config.n_layers.min(1),
            Purpose::Train => config.n_layers,
        };
        let n_experts = config.moe.as_ref().map_or(0, |moe| moe.n_experts);
        let n_head_rows = (HEAD_BLOCK / config.vocab_size).max(FEWEST_HEAD_ROWS).min(n.max(1));
        // As many positions as the longest sequence that fits, but no more than anybody asks for.
        let n_positions = n.min(config.max_positions.max(shape.sequence_length));
        let n_rotated = config.rotary.map_or(0, |rotary| rotary.n_rotated(config.head_dim));
        self.n_bytes =
            self.n_bytes.saturating_add((n_positions as u64).saturating_mul((n_rotated * size_of::<T>()) as u64));
        Workspace {
            n_tokens: n,
            purpose,
            rotary: rotary_table(config, if self.counts_only { 0 } else { n_positions }),
            layers: (0..n_layers).map(|layer_idx| self.layer(config, n, purpose, layer_idx)).collect(),
            stream: self.take(&[n, config.hidden]),
            final_stats: self.take(&[n]),
            head_in: self.take(&[n, config.hidden]),
            head: HeadBuffers {
                n_rows: n_head_rows,
                logits: self.take(&[n_head_rows, config.vocab_size]),
                losses: self.take(&[n_head_rows]),
            },
            scratch: self.scratch(config, shape, purpose),
            balance: BalanceBuffers {
                counts: self.take(&[config.n_layers, n_experts]),
                probability_sums: self.take(&[n_experts]),
                gradients: self.take(&[n_experts]),
            },
        }
    }
}

impl<T: Real> Workspace<T> {
    /// Allocates what batches of this shape, or of no more tokens, need.
    pub fn new(config: &ModelConfig, shape: BatchShape, purpose: Purpose) -> Self {
        Allocator { counts_only: false, n_bytes: 0 }.workspace(config, shape, purpose)
    }

    /// Bytes that [`Workspace::new`] will allocate, without allocating them; `u64::MAX` if they cannot be counted.
    pub fn bytes(config: &ModelConfig, shape: BatchShape, purpose: Purpose) -> u64 {
        let mut allocator = Allocator { counts_only: true, n_bytes: 0 };
        let _counted: Self = allocator.workspace(config, shape, purpose);
        allocator.n_bytes
    }

    /// Tokens routed to each expert in the last pass, `[layer, expert]`; empty without experts.
    pub fn expert_counts(&self) -> &[u32] {
        &self.balance.counts
    }
}
