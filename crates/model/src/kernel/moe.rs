//! Routing tokens to experts and back: top-k choice, a stable counting sort, gather and weighted sum.
//!
//! Nothing here adds in an order that threads could change: a token's experts are summed in the order of their choice.

use rayon::prelude::*;

use super::reduce::{dot, max, sum, vectorised};
use super::{BLOCK_ROWS, Real};

/// What happens to the probabilities of the chosen experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopKWeights {
    /// They multiply the experts as they are.
    Raw,
    /// They are divided by their sum first.
    Normalised,
}

/// Sizes of a routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteShape {
    /// Experts.
    pub n_experts: usize,
    /// Experts of each token.
    pub n_active: usize,
    /// What multiplies them.
    pub weights: TopKWeights,
}

/// The choice of each token, borrowed from a workspace.
#[derive(Debug)]
pub struct RouteMut<'a, T> {
    /// `[token, expert]`: logits on entry, their softmax on return.
    pub probabilities: &'a mut [T],
    /// `[token, n_active]`: the chosen experts, most probable first, the lower number first among equals.
    pub experts: &'a mut [u32],
    /// `[token, n_active]`: what multiplies each.
    pub coefficients: &'a mut [T],
}

/// Softmax of the router's logits and the choice of the largest; `bias` (`[expert]`) is added for the choice only
/// (arXiv 2408.15664).
pub fn route<T: Real>(out: RouteMut<'_, T>, bias: Option<&[T]>, shape: RouteShape) {
    let RouteShape { n_experts, n_active, weights } = shape;
    let rows =
        out.probabilities.par_chunks_mut(BLOCK_ROWS * n_experts).zip(out.experts.par_chunks_mut(BLOCK_ROWS * n_active));
    rows.zip(out.coefficients.par_chunks_mut(BLOCK_ROWS * n_active)).for_each(
        |((probabilities, experts), coefficients)| {
            vectorised(
                #[inline(always)]
                || probabilities.chunks_exact_mut(n_experts).for_each(softmax),
            );
            let tokens = probabilities.chunks_exact(n_experts).zip(experts.chunks_exact_mut(n_active));
            for ((p, experts), coefficients) in tokens.zip(coefficients.chunks_exact_mut(n_active)) {
                choose(experts, p, bias);
                for (c, &e) in coefficients.iter_mut().zip(&*experts) {
                    *c = p[e as usize];
                }
                if weights == TopKWeights::Normalised {
                    let total = coefficients.iter().fold(T::ZERO, |total, &c| total + c);
                    coefficients.iter_mut().for_each(|c| *c = *c / total);
                }
            }
        },
    );
}

#[inline(always)]
fn softmax<T: Real>(row: &mut [T]) {
    let largest = max(row);
    for x in row.iter_mut() {
        *x = (*x - largest).exp();
    }
    let total = sum(row);
    for x in row.iter_mut() {
        *x = *x / total;
    }
}

fn choose<T: Real>(experts: &mut [u32], p: &[T], bias: Option<&[T]>) {
    let score = |e: usize| bias.map_or(p[e], |bias| p[e] + bias[e]);
    for i in 0..experts.len() {
        let (chosen, rest) = experts.split_at_mut(i);
        let mut best: Option<usize> = None;
        for e in 0..p.len() {
            // Not "greater or equal": the first of equals stays. A NaN is chosen only where nothing else is left.
            if best.is_none_or(|b| score(e) > score(b)) && !chosen.iter().any(|&c| c as usize == e) {
                best = Some(e);
            }
        }
        rest[0] = u32::try_from(best.unwrap_or_default()).unwrap_or_default();
    }
}

/// Where the rows of each expert are once tokens are sorted by expert.
#[derive(Debug)]
pub struct DispatchMut<'a> {
    /// `[n_experts + 1]`: first row of each expert, and the number of rows.
    pub first_rows: &'a mut [u32],
    /// `[row]`: which choice (token * `n_active` + i) a row serves.
    pub choices: &'a mut [u32],
    /// `[choice]`: the row that serves it.
    pub rows: &'a mut [u32],
}

/// Sorts choices by expert, keeping the order of tokens.
pub fn dispatch(out: DispatchMut<'_>, experts: &[u32]) {
    let n_experts = out.first_rows.len() - 1;
    out.first_rows.fill(0);
    for &e in experts {
        out.first_rows[e as usize + 1] += 1;
    }
    for e in 0..n_experts {
        out.first_rows[e + 1] += out.first_rows[e];
    }
    for (choice, &e) in (0_u32..).zip(experts) {
        let row = out.first_rows[e as usize];
        out.first_rows[e as usize] += 1;
        out.choices[row as usize] = choice;
        out.rows[choice as usize] = row;
    }
    // Each entry is now where the next expert begins.
    out.first_rows.copy_within(..n_experts, 1);
    out.first_rows[0] = 0;
}

/// `out[row] = x[token of the row]`; both `[_, width]`.
pub fn gather<T: Real>(out: &mut [T], x: &[T], choices: &[u32], [n_active, width]: [usize; 2]) {
    out.par_chunks_mut(BLOCK_ROWS * width).zip(choices.par_chunks(BLOCK_ROWS)).for_each(|(out, choices)| {
        for (out, &choice) in out.chunks_exact_mut(width).zip(choices) {
            out.copy_from_slice(&x[choice as usize / n_active * width..][..width]);
        }
    });
}

/// `out[token] += sum over its choices of coefficient * y[row]`; without coefficients they are 1.
pub fn combine<T: Real>(
    out: &mut [T],
    y: &[T],
    rows: &[u32],
    coefficients: Option<&[T]>,
    [n_active, width]: [usize; 2],
) {
    out.par_chunks_mut(BLOCK_ROWS * width).enumerate().for_each(|(block, out)| {
        vectorised(
            #[inline(always)]
            || {
                for (i, out) in out.chunks_exact_mut(width).enumerate() {
                    let first = (block * BLOCK_ROWS + i) * n_active;
                    for choice in first..first + n_active {
                        let c = coefficients.map_or(T::ONE, |c| c[choice]);
                        for (out, &y) in out.iter_mut().zip(&y[rows[choice] as usize * width..][..width]) {
                            *out += c * y;
                        }
                    }
                }
            },
        );
    });
}

/// Gradients of [`combine`]: `dy[row] = coefficient * d_out[token]`, and that of each row's coefficient, by row, in
/// `d_coefficients`.
pub fn combine_backward<T: Real>(
    dy: &mut [T],
    d_coefficients: &mut [T],
    d_out: &[T],
    y: &[T],
    choices: &[u32],
    coefficients: &[T],
    [n_active, width]: [usize; 2],
) {
    let rows = dy.par_chunks_mut(BLOCK_ROWS * width).zip(d_coefficients.par_chunks_mut(BLOCK_ROWS));
    let rows = rows.zip(y.par_chunks(BLOCK_ROWS * width)).zip(choices.par_chunks(BLOCK_ROWS));
    rows.for_each(|(((dy, d_coefficients), y), choices)| {
        vectorised(
            #[inline(always)]
            || {
                let rows = dy.chunks_exact_mut(width).zip(d_coefficients).zip(y.chunks_exact(width)).zip(choices);
                for (((dy, d_coefficient), y), &choice) in rows {
                    let d_out = &d_out[choice as usize / n_active * width..][..width];
                    let c = coefficients[choice as usize];
                    *d_coefficient = dot(d_out, y);
                    for (dy, &d_out) in dy.iter_mut().zip(d_out) {
                        *dy = c * d_out;
                    }
                }
            },
        );
    });
}

/// The choice a routing made and the gradient of its coefficients.
#[derive(Debug, Clone, Copy)]
pub struct RouteGradient<'a, T> {
    /// `[token, expert]`.
    pub probabilities: &'a [T],
    /// `[token, n_active]`.
    pub experts: &'a [u32],
    /// `[token, n_active]`.
    pub coefficients: &'a [T],
    /// `[choice]`: the row that served it.
    pub rows: &'a [u32],
    /// `[row]`: gradient of the coefficient.
    pub d_coefficients: &'a [T],
    /// `[expert]`: gradient of every token's probability, from the balance loss.
    pub d_balance: &'a [T],
}

/// Gradient for the router's logits, `[token, expert]`, the choice held fixed.
pub fn route_backward<T: Real>(d_logits: &mut [T], route: RouteGradient<'_, T>, shape: RouteShape) {
    let RouteShape { n_experts, n_active, weights } = shape;
    d_logits.par_chunks_mut(BLOCK_ROWS * n_experts).enumerate().for_each(|(block, d_logits)| {
        for (i, d) in d_logits.chunks_exact_mut(n_experts).enumerate() {
            let token = block * BLOCK_ROWS + i;
            let choices = token * n_active..(token + 1) * n_active;
            let p = &route.probabilities[token * n_experts..][..n_experts];
            let (experts, coefficients) = (&route.experts[choices.clone()], &route.coefficients[choices.clone()]);
            let d_coefficient = |i: usize| route.d_coefficients[route.rows[choices.start + i] as usize];
            d.copy_from_slice(route.d_balance);
            // c_i = p_i / s with s the sum of the chosen: dp_i = (dc_i - sum_j dc_j c_j) / s.
            let (mean, total) = match weights {
                TopKWeights::Raw => (T::ZERO, T::ONE),
                TopKWeights::Normalised => (
                    coefficients.iter().enumerate().fold(T::ZERO, |sum, (i, &c)| sum + c * d_coefficient(i)),
                    experts.iter().fold(T::ZERO, |sum, &e| sum + p[e as usize]),
                ),
            };
            for (i, &e) in experts.iter().enumerate() {
                d[e as usize] += (d_coefficient(i) - mean) / total;
            }
            let along = dot(d, p);
            for (d, &p) in d.iter_mut().zip(p) {
                *d = p * (*d - along);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_is_the_largest_and_the_first_of_equals() {
        let mut experts = [9; 3];
        choose(&mut experts, &[0.1, 0.3, 0.3, 0.2], None);
        assert_eq!(experts, [1, 2, 3]);
        choose(&mut experts, &[0.1, 0.3, 0.3, 0.2], Some(&[1.0, 0.0, 0.1, 0.0]));
        assert_eq!(experts, [0, 2, 1]);
        choose(&mut experts, &[f64::NAN, 0.3, f64::NAN, 0.2], None);
        assert!(experts.iter().all(|&e| e < 4) && experts[0] != experts[1]);
    }

    #[test]
    fn dispatch_sorts_by_expert_and_keeps_tokens_in_order() {
        let (mut first_rows, mut choices, mut rows) = ([7; 5], [7; 6], [7; 6]);
        dispatch(
            DispatchMut { first_rows: &mut first_rows, choices: &mut choices, rows: &mut rows },
            &[2, 0, 3, 2, 0, 2],
        );
        assert_eq!(first_rows, [0, 2, 2, 5, 6]);
        assert_eq!(choices, [1, 4, 0, 3, 5, 2]);
        assert_eq!(rows, [2, 0, 5, 3, 1, 4]);
    }
}
