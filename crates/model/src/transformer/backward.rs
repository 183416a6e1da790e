//! Backward: from the gradient of the output matrix's input to that of every parameter.

use super::{POOL, Pass};
use crate::config::{NormPlace, Residual};
use crate::kernel::activation::activation_backward;
use crate::kernel::attention::{AttentionGradients, AttentionInput, attention_backward};
use crate::kernel::embedding::{embedding_backward, position_backward};
use crate::kernel::heads::{head_norm_backward, merge_heads, split_heads};
use crate::kernel::linear::{linear_backward_bias, linear_backward_input, linear_backward_weight};
use crate::kernel::norm::{RowStats, norm_backward_input, norm_backward_params};
use crate::kernel::rotary::RotaryTable;
use crate::kernel::{Accumulate, Real};
use crate::layout::{LayerPlaces, LinearPlaces, MlpPlaces, NormPlaces};
use crate::workspace::{LayerBuffers, Scratch, Workspace};

/// Adds the gradients of all parameters but the output matrix, given that of its input in `workspace.scratch.d_mlp_in`.
pub(crate) fn backward<T: Real>(pass: &Pass<'_, T>, tokens: &[u32], workspace: &mut Workspace<T>, gradients: &mut [T]) {
    let (n, hidden) = (pass.n_tokens(), pass.config.hidden);
    let len = n * hidden;
    let Workspace { layers, stream, rotary, scratch, balance, final_stats, .. } = workspace;
    let mut d_stream = std::mem::take(&mut scratch.d_stream);
    let dx = &mut d_stream[..len];
    let final_norm = &pass.places.final_norm;
    pass.norm_backward(
        dx,
        Accumulate::Replace,
        &scratch.d_mlp_in[..len],
        &stream[..len],
        final_norm,
        &final_stats[..n],
        gradients,
    );
    for (places, buffers) in pass.places.layers.iter().zip(layers).rev() {
        let layer = LayerBackward { pass, places, rotary: rotary.as_ref(), d_balance: &balance.gradients };
        layer.run(dx, buffers, scratch, gradients);
    }
    embedding_backward(&mut gradients[pass.places.embedding.clone()], tokens, dx, hidden);
    if let Some(positions) = &pass.places.positions {
        position_backward(&mut gradients[positions.clone()], dx, [pass.shape.sequence_length, hidden]);
    }
    scratch.d_stream = d_stream;
}

struct LayerBackward<'a, 'b, T: Real> {
    pass: &'a Pass<'b, T>,
    places: &'a LayerPlaces,
    rotary: Option<&'a RotaryTable<T>>,
    d_balance: &'a [T],
}

impl<T: Real> LayerBackward<'_, '_, T> {
    /// Turns the gradient of the layer's output, `dx`, into that of its input.
    fn run(&self, dx: &mut [T], buffers: &mut LayerBuffers<T>, scratch: &mut Scratch<T>, gradients: &mut [T]) {
        let (pass, places) = (self.pass, self.places);
        let (n, len) = (pass.n_tokens(), dx.len());
        // Taken out while other fields are borrowed; put back below. Moving a vector allocates nothing.
        let mut d_attention_in = std::mem::take(&mut scratch.d_attention_in);
        let mut d_mlp_in = std::mem::take(&mut scratch.d_mlp_in);
        let (d_a, d_m) = (&mut d_attention_in[..len], &mut d_mlp_in[..len]);
        match pass.config.norm_place {
            NormPlace::Pre => {
                self.feed_forward(d_m, Accumulate::Replace, dx, buffers, scratch, gradients);
                let is_parallel = pass.config.residual == Residual::Parallel;
                if is_parallel {
                    self.attention(d_a, Accumulate::Replace, dx, buffers, scratch, gradients);
                }
                let norm_2_in = if is_parallel { &buffers.norm_1_in } else { &buffers.norm_2_in };
                pass.norm_backward(
                    dx,
                    Accumulate::Add,
                    d_m,
                    &norm_2_in[..len],
                    &places.norm_2,
                    &buffers.norm_2_stats[..n],
                    gradients,
                );
                if !is_parallel {
                    self.attention(d_a, Accumulate::Replace, dx, buffers, scratch, gradients);
                }
                let norm_1_in = &buffers.norm_1_in[..len];
                pass.norm_backward(
                    dx,
                    Accumulate::Add,
                    d_a,
                    norm_1_in,
                    &places.norm_1,
                    &buffers.norm_1_stats[..n],
                    gradients,
                );
            }
            NormPlace::Post => {
                let norm_2_in = &buffers.norm_2_in[..len];
                pass.norm_backward(
                    d_m,
                    Accumulate::Replace,
                    dx,
                    norm_2_in,
                    &places.norm_2,
                    &buffers.norm_2_stats[..n],
                    gradients,
                );
                self.feed_forward(dx, Accumulate::Add, d_m, buffers, scratch, gradients);
                let norm_1_in = &buffers.norm_1_in[..len];
                pass.norm_backward(
                    d_a,
                    Accumulate::Replace,
                    dx,
                    norm_1_in,
                    &places.norm_1,
                    &buffers.norm_1_stats[..n],
                    gradients,
                );
                self.attention(dx, Accumulate::Add, d_a, buffers, scratch, gradients);
            }
        }
        scratch.d_attention_in = d_attention_in;
        scratch.d_mlp_in = d_mlp_in;
    }

    /// From the gradient of attention's output, `d_out`, to that of its input.
    fn attention(
        &self,
        d_in: &mut [T],
        accumulate: Accumulate,
        d_out: &[T],
        buffers: &LayerBuffers<T>,
        scratch: &mut Scratch<T>,
        gradients: &mut [T],
    ) {
        let (pass, places) = (self.pass, self.places);
        let (n, shape, hidden) = (pass.n_tokens(), pass.shape, pass.config.hidden);
        let (q_len, kv_len) = (n * shape.q_width(), n * shape.kv_width());
        let d_attended = &mut scratch.d_attended[..q_len];
        let attended = &buffers.attended[..q_len];
        pass.linear_backward(
            Some((&mut *d_attended, Accumulate::Replace)),
            d_out,
            attended,
            &places.attention_out,
            shape.q_width(),
            gradients,
        );
        let d_heads = &mut scratch.d_attended_heads[..q_len];
        split_heads(d_heads, d_attended, pass.attended_part(), &mut [], shape);
        let input = AttentionInput {
            q: &buffers.q[..q_len],
            k: &buffers.k[..kv_len],
            v: &buffers.v[..kv_len],
            shape,
            scale: pass.attention_scale(),
        };
        let (dq, dk, dv) = (&mut scratch.dq[..q_len], &mut scratch.dk[..kv_len], &mut scratch.dv[..kv_len]);
        let out = &buffers.attended_heads[..q_len];
        let of_heads = AttentionGradients { dq: &mut *dq, dk: &mut *dk, dv: &mut *dv };
        attention_backward(
            of_heads,
            d_heads,
            out,
            &buffers.log_sums[..n * shape.n_heads],
            input,
            &mut scratch.attention,
        );
        let [q_part, k_part, v_part] = pass.parts(places, self.rotary);
        let d_qkv = &mut scratch.qkv[..n * shape.qkv_width()];
        merge_heads(d_qkv, dq, q_part, shape);
        merge_heads(d_qkv, dk, k_part, shape);
        merge_heads(d_qkv, dv, v_part, shape);
        for (part, range, stats) in
            [(q_part, &places.q_norm, &buffers.q_stats), (k_part, &places.k_norm, &buffers.k_stats)]
        {
            if let Some(range) = range {
                let (qkv, stats) = (&buffers.qkv[..n * shape.qkv_width()], &stats[..n * part.n_stats(shape)]);
                head_norm_backward(d_qkv, &mut gradients[range.clone()], qkv, part, stats, shape);
            }
        }
        let attention_in = &buffers.attention_in[..n * hidden];
        pass.linear_backward(Some((d_in, accumulate)), d_qkv, attention_in, &places.qkv, hidden, gradients);
    }

    /// From the gradient of the MLP's output, `d_out`, to that of its input.
    fn feed_forward(
        &self,
        d_in: &mut [T],
        accumulate: Accumulate,
        d_out: &[T],
        buffers: &mut LayerBuffers<T>,
        scratch: &mut Scratch<T>,
        gradients: &mut [T],
    ) {
        let pass = self.pass;
        let n = pass.n_tokens();
        let x = &buffers.mlp_in[..n * pass.config.hidden];
        let shared = self.places.moe.as_ref().and_then(|moe| moe.shared.as_ref());
        match self.places.mlp.as_ref().or(shared) {
            Some(mlp) => {
                let width = mlp.inner * pass.config.mlp.gating.n_columns();
                let (pre, inner) = (&mut buffers.mlp.pre[..n * width], &mut buffers.mlp.inner[..n * mlp.inner]);
                let of_rows = [pre, inner, &mut scratch.d_inner[..n * mlp.inner]];
                pass.mlp_rows_backward(d_in, accumulate, d_out, x, mlp, of_rows, gradients);
            }
            None if accumulate == Accumulate::Replace => d_in.fill(T::ZERO),
            None => {}
        }
        if let Some(moe) = &self.places.moe {
            let of_moe = (&mut scratch.moe, &mut *scratch.d_inner, self.d_balance);
            pass.moe_backward(d_in, d_out, x, moe, &mut buffers.moe, of_moe, gradients);
        }
    }
}

impl<T: Real> Pass<'_, T> {
    #[expect(clippy::too_many_arguments, reason = "the slices of one step each")]
    fn norm_backward(
        &self,
        dx: &mut [T],
        accumulate: Accumulate,
        dy: &[T],
        x: &[T],
        places: &NormPlaces,
        stats: &[RowStats<T>],
        gradients: &mut [T],
    ) {
        let (d_weight, d_bias) = two_parts(gradients, &places.weight, places.bias.as_ref());
        norm_backward_params(d_weight, d_bias, dy, x, stats);
        norm_backward_input(dx, accumulate, dy, x, self.norm(places), stats);
    }

    /// Gradients of a linear layer: for weight and bias, and for the input where it is wanted.
    fn linear_backward(
        &self,
        dx: Option<(&mut [T], Accumulate)>,
        dy: &[T],
        x: &[T],
        places: &LinearPlaces,
        n_in: usize,
        gradients: &mut [T],
    ) {
        let layer = self.linear(places, n_in);
        let (d_weight, d_bias) = two_parts(gradients, &places.weight, places.bias.as_ref());
        linear_backward_weight(d_weight, dy, x, layer, POOL);
        if let Some(d_bias) = d_bias {
            linear_backward_bias(d_bias, dy);
        }
        if let Some((dx, accumulate)) = dx {
            linear_backward_input(dx, accumulate, dy, layer, POOL);
        }
    }

    /// Backward of the MLP over some rows; `[pre, inner, d_inner]` are those rows of its buffers, of which `pre` is
    /// used up.
    #[expect(clippy::too_many_arguments, reason = "the slices of one step each")]
    pub(super) fn mlp_rows_backward(
        &self,
        dx: &mut [T],
        accumulate: Accumulate,
        d_out: &[T],
        x: &[T],
        places: &MlpPlaces,
        [pre, inner, d_inner]: [&mut [T]; 3],
        gradients: &mut [T],
    ) {
        let mlp = self.config.mlp;
        self.linear_backward(
            Some((&mut *d_inner, Accumulate::Replace)),
            d_out,
            inner,
            &places.second,
            places.inner,
            gradients,
        );
        activation_backward(pre, d_inner, places.inner, mlp.activation, mlp.gating);
        self.linear_backward(Some((dx, accumulate)), pre, x, &places.first, self.config.hidden, gradients);
    }
}

/// The gradients of a weight and of the bias that follows it in the arena.
fn two_parts<'a, T>(
    gradients: &'a mut [T],
    weight: &std::ops::Range<usize>,
    bias: Option<&std::ops::Range<usize>>,
) -> (&'a mut [T], Option<&'a mut [T]>) {
    let end = bias.map_or(weight.end, |bias| bias.end);
    let (weight, bias_part) = gradients[weight.start..end].split_at_mut(weight.len());
    (weight, bias.is_some().then_some(bias_part))
}
