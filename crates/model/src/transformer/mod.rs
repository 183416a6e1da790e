//! The layers of every family in terms of the kernels, forward and backward.
//!
//! Switches are read here and nowhere below; parameters, gradients and activations are slices of flat arenas.

mod backward;
mod forward;
mod moe;

use std::ops::Range;

use crate::config::{ModelConfig, QkNorm};
use crate::family::Family;
use crate::kernel::heads::{HeadNorm, HeadPart, HeadShape};
use crate::kernel::linear::Linear;
use crate::kernel::norm::Norm;
use crate::kernel::rotary::RotaryTable;
use crate::kernel::{Real, Threads};
use crate::layout::{LayerPlaces, LinearPlaces, NormPlaces, Places, orientation};
use crate::model::Model;
use crate::workspace::BatchShape;

pub(crate) use backward::backward;
pub(crate) use forward::{forward, forward_after, logits_of_rows};

/// What every step of a pass reads.
#[derive(Debug)]
pub(crate) struct Pass<'a, T: Real> {
    config: &'a ModelConfig,
    places: &'a Places,
    params: &'a [T],
    shape: HeadShape,
}

impl<'a, T: Real> Pass<'a, T> {
    pub(crate) fn new(model: &'a Model<T>, shape: BatchShape) -> Self {
        let ModelConfig { n_heads, n_kv_heads, head_dim, .. } = model.config;
        let BatchShape { n_sequences, sequence_length } = shape;
        Self {
            config: &model.config,
            places: &model.layout.places,
            params: &model.params,
            shape: HeadShape { n_sequences, sequence_length, n_heads, n_kv_heads, head_dim },
        }
    }

    fn n_tokens(&self) -> usize {
        self.shape.n_tokens()
    }

    fn param(&self, range: &Range<usize>) -> &'a [T] {
        &self.params[range.clone()]
    }

    fn norm(&self, places: &NormPlaces) -> Norm<'a, T> {
        Norm {
            kind: self.config.norm,
            weight: self.param(&places.weight),
            bias: places.bias.as_ref().map(|range| self.param(range)),
            epsilon: self.config.norm_epsilon,
        }
    }

    fn linear(&self, places: &LinearPlaces, n_in: usize) -> Linear<'a, T> {
        let weight = self.param(&places.weight);
        Linear {
            weight,
            orientation: orientation(self.config.family),
            bias: places.bias.as_ref().map(|range| self.param(range)),
            n_in,
            n_out: weight.len() / n_in,
        }
    }

    /// The output matrix, which every family stores as the embedding.
    pub(crate) fn head(&self) -> Linear<'a, T> {
        let weight = self.param(&self.places.head);
        let n_in = self.config.hidden;
        Linear {
            weight,
            orientation: crate::kernel::linear::Orientation::OutIn,
            bias: None,
            n_in,
            n_out: weight.len() / n_in,
        }
    }

    /// Queries, keys and values inside the joint projection.
    fn parts<'b>(&self, layer: &LayerPlaces, rotary: Option<&'b RotaryTable<T>>) -> [HeadPart<'b, T>; 3]
    where
        'a: 'b,
    {
        let HeadShape { n_heads, n_kv_heads, head_dim, .. } = self.shape;
        let (q_width, kv_width) = (self.shape.q_width(), self.shape.kv_width());
        // GPT-NeoX keeps query, key and value of each head side by side.
        let (head_stride, first_columns) = match self.config.family {
            Family::GptNeox => (3 * head_dim, [0, head_dim, 2 * head_dim]),
            _ => (head_dim, [0, q_width, q_width + kv_width]),
        };
        let norm = |range: &Option<Range<usize>>| {
            let epsilon = self.config.norm_epsilon;
            range.as_ref().map(|range| HeadNorm { weight: self.param(range), epsilon })
        };
        debug_assert!(
            self.config.qk_norm == QkNorm::None || head_stride == head_dim,
            "norms of heads that are not adjacent"
        );
        let row_width = self.shape.qkv_width();
        let [q, k, v] = first_columns;
        [
            HeadPart { row_width, first_column: q, head_stride, n_heads, norm: norm(&layer.q_norm), rotary },
            HeadPart {
                row_width,
                first_column: k,
                head_stride,
                n_heads: n_kv_heads,
                norm: norm(&layer.k_norm),
                rotary,
            },
            HeadPart { row_width, first_column: v, head_stride, n_heads: n_kv_heads, norm: None, rotary: None },
        ]
    }

    /// Heads of attention's output, by tokens.
    fn attended_part(&self) -> HeadPart<'static, T> {
        let HeadShape { n_heads, head_dim, .. } = self.shape;
        HeadPart {
            row_width: self.shape.q_width(),
            first_column: 0,
            head_stride: head_dim,
            n_heads,
            norm: None,
            rotary: None,
        }
    }
}

/// All products outside attention use every thread.
const POOL: Threads = Threads::Pool;
