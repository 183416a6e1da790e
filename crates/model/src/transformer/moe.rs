//! The mixture of experts: routing, the experts' MLPs over their rows, and the counts that balance them.

use super::{POOL, Pass};
use crate::kernel::linear::{Linear, Orientation, linear_backward_input, linear_backward_weight, linear_forward};
use crate::kernel::moe::{
    DispatchMut, RouteGradient, RouteMut, RouteShape, combine, combine_backward, dispatch, gather, route,
    route_backward,
};
use crate::kernel::norm::column_sums;
use crate::kernel::{Accumulate, Real};
use crate::layout::MoePlaces;
use crate::workspace::{LayerBuffers, MlpBuffers, MoeBuffers, MoeScratch};

/// Adds the probabilities of a layer to `probability_sums` and counts the rows of its experts.
pub(super) fn count<T: Real>(
    pass: &Pass<'_, T>,
    buffers: &LayerBuffers<T>,
    counts: &mut [u32],
    probability_sums: &mut [T],
) {
    let moe = &buffers.moe;
    for (count, rows) in counts.iter_mut().zip(moe.first_rows.windows(2)) {
        *count = rows[1] - rows[0];
    }
    column_sums(probability_sums, &moe.probabilities[..pass.n_tokens() * counts.len()]);
}

impl<T: Real> Pass<'_, T> {
    fn route_shape(&self) -> Option<RouteShape> {
        let moe = self.config.moe.as_ref()?;
        Some(RouteShape { n_experts: moe.n_experts, n_active: moe.n_active, weights: moe.weights })
    }

    fn router(&self, places: &MoePlaces) -> Linear<'_, T> {
        let weight = self.param(&places.router);
        let n_in = self.config.hidden;
        Linear { weight, orientation: Orientation::OutIn, bias: None, n_in, n_out: weight.len() / n_in }
    }

    /// Adds the experts' outputs to `out`.
    pub(super) fn moe_forward(&self, out: &mut [T], x: &[T], places: &MoePlaces, buffers: &mut MoeBuffers<T>) {
        let Some(shape) = self.route_shape() else { return };
        let (n, hidden) = (self.n_tokens(), self.config.hidden);
        let (k, n_rows) = (shape.n_active, n * shape.n_active);
        let probabilities = &mut buffers.probabilities[..n * shape.n_experts];
        linear_forward(probabilities, Accumulate::Replace, x, self.router(places), POOL);
        let (experts, coefficients) = (&mut buffers.experts[..n_rows], &mut buffers.coefficients[..n_rows]);
        let bias = places.balance_bias.as_ref().map(|range| self.param(range));
        route(RouteMut { probabilities, experts, coefficients }, bias, shape);
        let (choices, rows) = (&mut buffers.choices[..n_rows], &mut buffers.rows[..n_rows]);
        dispatch(DispatchMut { first_rows: &mut buffers.first_rows, choices, rows }, experts);
        gather(&mut buffers.x[..n_rows * hidden], x, choices, [k, hidden]);
        for (expert, first) in places.experts.iter().zip(buffers.first_rows.windows(2)) {
            let (first, end) = (first[0] as usize, first[1] as usize);
            let MlpBuffers { pre, inner } = &mut buffers.mlp;
            let width = expert.inner * self.config.mlp.gating.n_columns();
            let of_rows = [&mut pre[first * width..end * width], &mut inner[first * expert.inner..end * expert.inner]];
            let (x, y) = (&buffers.x[first * hidden..end * hidden], &mut buffers.y[first * hidden..end * hidden]);
            self.mlp_rows_forward(y, Accumulate::Replace, x, expert, of_rows);
        }
        combine(out, &buffers.y[..n_rows * hidden], rows, Some(coefficients), [k, hidden]);
    }

    /// Adds the gradient for the experts' and the router's input to `dx`, and those of their parameters to `gradients`.
    #[expect(clippy::too_many_arguments, reason = "the slices of one step each")]
    pub(super) fn moe_backward(
        &self,
        dx: &mut [T],
        d_out: &[T],
        x: &[T],
        places: &MoePlaces,
        buffers: &mut MoeBuffers<T>,
        scratch: (&mut MoeScratch<T>, &mut [T], &[T]),
        gradients: &mut [T],
    ) {
        let Some(shape) = self.route_shape() else { return };
        let (scratch, d_inner, d_balance) = scratch;
        let (n, hidden) = (self.n_tokens(), self.config.hidden);
        let (k, n_rows) = (shape.n_active, n * shape.n_active);
        let (choices, rows) = (&buffers.choices[..n_rows], &buffers.rows[..n_rows]);
        let coefficients = &buffers.coefficients[..n_rows];
        let (d_y, d_x) = (&mut scratch.d_y[..n_rows * hidden], &mut scratch.d_x[..n_rows * hidden]);
        let d_coefficients = &mut scratch.d_coefficients[..n_rows];
        combine_backward(d_y, d_coefficients, d_out, &buffers.y[..n_rows * hidden], choices, coefficients, [k, hidden]);
        for (expert, first) in places.experts.iter().zip(buffers.first_rows.windows(2)) {
            let (first, end) = (first[0] as usize, first[1] as usize);
            let MlpBuffers { pre, inner } = &mut buffers.mlp;
            let width = expert.inner * self.config.mlp.gating.n_columns();
            let (of_inner, of_hidden) = (first * expert.inner..end * expert.inner, first * hidden..end * hidden);
            let of_rows = [&mut pre[first * width..end * width], &mut inner[of_inner.clone()], &mut d_inner[of_inner]];
            let x = &buffers.x[of_hidden.clone()];
            self.mlp_rows_backward(
                &mut d_x[of_hidden.clone()],
                Accumulate::Replace,
                &d_y[of_hidden],
                x,
                expert,
                of_rows,
                gradients,
            );
        }
        combine(dx, d_x, rows, None, [k, hidden]);
        let d_logits = &mut scratch.d_logits[..n * shape.n_experts];
        let gradient = RouteGradient {
            probabilities: &buffers.probabilities[..n * shape.n_experts],
            experts: &buffers.experts[..n_rows],
            coefficients,
            rows,
            d_coefficients,
            d_balance,
        };
        route_backward(d_logits, gradient, shape);
        let router = self.router(places);
        linear_backward_weight(&mut gradients[places.router.clone()], d_logits, x, router, POOL);
        linear_backward_input(dx, Accumulate::Add, d_logits, router, POOL);
    }
}
