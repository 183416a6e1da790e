//! Forward: tokens to the input of the output matrix, leaving in the workspace what backward needs.

use super::{POOL, Pass};
use crate::config::{NormPlace, Residual};
use crate::kept_tokens::{KeptLayer, KeptTokens};
use crate::kernel::activation::activation_forward;
use crate::kernel::attention::{AttentionInput, attention_forward};
use crate::kernel::attention_step::attention_step;
use crate::kernel::embedding::embedding_forward;
use crate::kernel::heads::{merge_heads, split_heads};
use crate::kernel::linear::linear_forward;
use crate::kernel::norm::{RowStats, norm_forward};
use crate::kernel::rotary::RotaryTable;
use crate::kernel::{Accumulate, Real};
use crate::layout::{LayerPlaces, MlpPlaces, NormPlaces};
use crate::workspace::{LayerBuffers, MlpBuffers, Purpose, Scratch, Workspace};

/// Runs all layers and the final norm; `workspace.head_in` holds the result.
pub(crate) fn forward<T: Real>(pass: &Pass<'_, T>, tokens: &[u32], purpose: Purpose, workspace: &mut Workspace<T>) {
    forward_after(pass, tokens, purpose, workspace, None);
}

/// The same for tokens that follow others, whose keys and values were kept; keeps those of the new ones too.
pub(crate) fn forward_after<T: Real>(
    pass: &Pass<'_, T>,
    tokens: &[u32],
    purpose: Purpose,
    workspace: &mut Workspace<T>,
    mut kept: Option<&mut KeptTokens<T>>,
) {
    let (n, hidden) = (pass.n_tokens(), pass.config.hidden);
    let Workspace { layers, stream, rotary, scratch, balance, final_stats, head_in, .. } = workspace;
    let first_position = kept.as_ref().map_or(0, |kept| kept.n_filled);
    // The table of a workspace may end before the last token that follows.
    let later = kept.as_ref().and_then(|kept| kept.rotary_rows(pass.shape.sequence_length));
    let rotary = later.as_ref().or(rotary.as_ref());
    let stream = &mut stream[..n * hidden];
    let positions = pass.places.positions.as_ref().map(|range| &pass.param(range)[first_position * hidden..]);
    embedding_forward(
        stream,
        tokens,
        pass.param(&pass.places.embedding),
        positions,
        [pass.shape.sequence_length, hidden],
    );
    balance.probability_sums.fill(T::ZERO);
    let n_experts = balance.probability_sums.len();
    for (layer_idx, places) in pass.places.layers.iter().enumerate() {
        // A workspace to score has one layer's buffers, which serve them all.
        let buffer_idx = layer_idx.min(layers.len() - 1);
        let buffers = &mut layers[buffer_idx];
        let kept = kept.as_mut().map(|kept| kept.layer(layer_idx, pass.shape));
        let mut layer = LayerPass { pass, places, rotary, purpose, kept };
        layer.run(stream, buffers, scratch);
        if places.moe.is_some() {
            let counts = &mut balance.counts[layer_idx * n_experts..][..n_experts];
            super::moe::count(pass, buffers, counts, &mut balance.probability_sums);
        }
    }
    norm_forward(
        &mut head_in[..n * hidden],
        Accumulate::Replace,
        stream,
        pass.norm(&pass.places.final_norm),
        &mut final_stats[..n],
    );
}

/// Logits of some rows of `head_in`.
pub(crate) fn logits_of_rows<T: Real>(pass: &Pass<'_, T>, out: &mut [T], head_in: &[T]) {
    linear_forward(out, Accumulate::Replace, head_in, pass.head(), POOL);
}

struct LayerPass<'a, 'b, T: Real> {
    pass: &'a Pass<'b, T>,
    places: &'a LayerPlaces,
    rotary: Option<&'a RotaryTable<T>>,
    purpose: Purpose,
    /// Keys and values of earlier tokens.
    kept: Option<KeptLayer<'a, T>>,
}

impl<T: Real> LayerPass<'_, '_, T> {
    fn run(&mut self, stream: &mut [T], buffers: &mut LayerBuffers<T>, scratch: &mut Scratch<T>) {
        let (pass, places) = (self.pass, self.places);
        let (n, len) = (pass.n_tokens(), stream.len());
        let purpose = self.purpose;
        let keep = |to: &mut [T], from: &[T]| {
            if purpose == Purpose::Train {
                to[..len].copy_from_slice(from);
            }
        };
        match pass.config.norm_place {
            NormPlace::Pre => {
                keep(&mut buffers.norm_1_in, stream);
                self.norm(&mut buffers.attention_in[..len], stream, &places.norm_1, &mut buffers.norm_1_stats[..n]);
                let is_parallel = pass.config.residual == Residual::Parallel;
                if is_parallel {
                    self.norm(&mut buffers.mlp_in[..len], stream, &places.norm_2, &mut buffers.norm_2_stats[..n]);
                }
                self.attention(stream, Accumulate::Add, buffers, scratch);
                if !is_parallel {
                    keep(&mut buffers.norm_2_in, stream);
                    self.norm(&mut buffers.mlp_in[..len], stream, &places.norm_2, &mut buffers.norm_2_stats[..n]);
                }
                self.feed_forward(stream, Accumulate::Add, buffers);
            }
            NormPlace::Post => {
                buffers.attention_in[..len].copy_from_slice(stream);
                let mut out = std::mem::take(&mut buffers.norm_1_in);
                self.attention(&mut out[..len], Accumulate::Replace, buffers, scratch);
                norm_forward(
                    stream,
                    Accumulate::Add,
                    &out[..len],
                    pass.norm(&places.norm_1),
                    &mut buffers.norm_1_stats[..n],
                );
                buffers.norm_1_in = out;
                buffers.mlp_in[..len].copy_from_slice(stream);
                let mut out = std::mem::take(&mut buffers.norm_2_in);
                self.feed_forward(&mut out[..len], Accumulate::Replace, buffers);
                norm_forward(
                    stream,
                    Accumulate::Add,
                    &out[..len],
                    pass.norm(&places.norm_2),
                    &mut buffers.norm_2_stats[..n],
                );
                buffers.norm_2_in = out;
            }
        }
    }

    /// `stream` to the input of attention or MLP.
    fn norm(&self, out: &mut [T], stream: &[T], places: &NormPlaces, stats: &mut [RowStats<T>]) {
        norm_forward(out, Accumulate::Replace, stream, self.pass.norm(places), stats);
    }

    /// `attention_in` to `out`.
    fn attention(
        &mut self,
        out: &mut [T],
        accumulate: Accumulate,
        buffers: &mut LayerBuffers<T>,
        scratch: &mut Scratch<T>,
    ) {
        let (pass, places) = (self.pass, self.places);
        let (n, shape, hidden) = (pass.n_tokens(), pass.shape, pass.config.hidden);
        let keeps_qkv = !buffers.qkv.is_empty();
        let qkv = if keeps_qkv { &mut buffers.qkv } else { &mut scratch.qkv };
        let qkv = &mut qkv[..n * shape.qkv_width()];
        linear_forward(
            qkv,
            Accumulate::Replace,
            &buffers.attention_in[..n * hidden],
            pass.linear(&places.qkv, hidden),
            POOL,
        );
        let [q_part, k_part, v_part] = pass.parts(places, self.rotary);
        let (q_len, kv_len) = (n * shape.q_width(), n * shape.kv_width());
        split_heads(&mut buffers.q[..q_len], qkv, q_part, &mut buffers.q_stats[..n * q_part.n_stats(shape)], shape);
        split_heads(&mut buffers.k[..kv_len], qkv, k_part, &mut buffers.k_stats[..n * k_part.n_stats(shape)], shape);
        split_heads(&mut buffers.v[..kv_len], qkv, v_part, &mut [], shape);
        let input = AttentionInput {
            q: &buffers.q[..q_len],
            k: &buffers.k[..kv_len],
            v: &buffers.v[..kv_len],
            shape,
            scale: pass.attention_scale(),
        };
        let attended = &mut buffers.attended_heads[..q_len];
        let follows = self.kept.as_mut().is_some_and(|kept| kept.keep(input.k, input.v));
        match self.kept.as_mut().filter(|_| follows) {
            Some(kept) => {
                let (heads, scores) = kept.heads();
                attention_step(attended, input.q, heads, (shape, input.scale), scores);
            }
            None => {
                let log_sums = &mut buffers.log_sums[..n * shape.n_heads];
                attention_forward(attended, log_sums, input, &mut scratch.attention);
            }
        }
        merge_heads(&mut buffers.attended[..q_len], &buffers.attended_heads[..q_len], pass.attended_part(), shape);
        linear_forward(
            out,
            accumulate,
            &buffers.attended[..q_len],
            pass.linear(&places.attention_out, shape.q_width()),
            POOL,
        );
    }

    /// `mlp_in` to `out`: the MLP, or the experts.
    fn feed_forward(&self, out: &mut [T], accumulate: Accumulate, buffers: &mut LayerBuffers<T>) {
        let pass = self.pass;
        let x = &buffers.mlp_in[..pass.n_tokens() * pass.config.hidden];
        if let Some(mlp) = &self.places.mlp {
            pass.mlp_forward(out, accumulate, x, mlp, &mut buffers.mlp);
        }
        if let Some(moe) = &self.places.moe {
            match (&moe.shared, accumulate) {
                (Some(shared), _) => pass.mlp_forward(out, accumulate, x, shared, &mut buffers.mlp),
                (None, Accumulate::Replace) => out.fill(T::ZERO),
                (None, Accumulate::Add) => {}
            }
            pass.moe_forward(out, x, moe, &mut buffers.moe);
        }
    }
}

impl<T: Real> Pass<'_, T> {
    /// One over the root of the head's size.
    pub(super) fn attention_scale(&self) -> T {
        let head_dim = f64::from(u32::try_from(self.shape.head_dim).unwrap_or(u32::MAX));
        T::from_f64(1.0 / head_dim.sqrt())
    }

    pub(super) fn mlp_forward(
        &self,
        out: &mut [T],
        accumulate: Accumulate,
        x: &[T],
        places: &MlpPlaces,
        buffers: &mut MlpBuffers<T>,
    ) {
        let n_rows = x.len() / self.config.hidden;
        let width = places.inner * self.config.mlp.gating.n_columns();
        self.mlp_rows_forward(
            out,
            accumulate,
            x,
            places,
            [&mut buffers.pre[..n_rows * width], &mut buffers.inner[..n_rows * places.inner]],
        );
    }

    /// The MLP over some rows; `[pre, inner]` are those rows of its buffers.
    pub(super) fn mlp_rows_forward(
        &self,
        out: &mut [T],
        accumulate: Accumulate,
        x: &[T],
        places: &MlpPlaces,
        [pre, inner]: [&mut [T]; 2],
    ) {
        let mlp = self.config.mlp;
        linear_forward(pre, Accumulate::Replace, x, self.linear(&places.first, self.config.hidden), POOL);
        activation_forward(inner, pre, places.inner, mlp.activation, mlp.gating);
        linear_forward(out, accumulate, inner, self.linear(&places.second, places.inner), POOL);
    }
}
