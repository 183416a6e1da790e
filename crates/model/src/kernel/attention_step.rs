//! Attention of one new token of each sequence over the keys and values of all tokens before it, which were kept.

use rayon::prelude::*;

use super::Real;
use super::heads::HeadShape;
use super::reduce::{dot, max, sum, vectorised};

/// Keys and values that were kept, `[sequence, kv head, capacity, head_dim]` each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeptHeads<'a, T> {
    /// Keys.
    pub k: &'a [T],
    /// Values.
    pub v: &'a [T],
    /// Positions that there is room for.
    pub capacity: usize,
    /// Positions that are filled, the new one included.
    pub n_filled: usize,
}

/// `out = softmax(scale q k^T) v` for one query position of each sequence. `q` and `out` are `[sequence, head,
/// head_dim]`; `scores` has room for `[sequence, kv head, capacity]`.
pub(crate) fn attention_step<T: Real>(
    out: &mut [T],
    q: &[T],
    kept: KeptHeads<'_, T>,
    (shape, scale): (HeadShape, T),
    scores: &mut [T],
) {
    let HeadShape { head_dim, n_heads, n_kv_heads, .. } = shape;
    let group_len = n_heads / n_kv_heads * head_dim;
    let kept_len = kept.capacity * head_dim;
    let inputs = q.par_chunks(group_len).zip(kept.k.par_chunks(kept_len)).zip(kept.v.par_chunks(kept_len));
    let outputs = out.par_chunks_mut(group_len).zip(scores.par_chunks_mut(kept.capacity));
    outputs.zip(inputs).for_each(|((out, scores), ((q, k), v))| {
        let scores = &mut scores[..kept.n_filled];
        for (out, q) in out.chunks_exact_mut(head_dim).zip(q.chunks_exact(head_dim)) {
            vectorised(
                #[inline(always)]
                || attend(out, q, (k, v), scale, scores),
            );
        }
    });
}

#[inline(always)]
fn attend<T: Real>(out: &mut [T], q: &[T], (k, v): (&[T], &[T]), scale: T, scores: &mut [T]) {
    let n = q.len();
    for (score, k) in scores.iter_mut().zip(k.chunks_exact(n)) {
        *score = dot(q, k) * scale;
    }
    let largest = max(scores);
    for score in scores.iter_mut() {
        *score = (*score - largest).exp();
    }
    let inverse = T::ONE / sum(scores);
    out.fill(T::ZERO);
    for (&score, v) in scores.iter().zip(v.chunks_exact(n)) {
        let p = score * inverse;
        for (out, &v) in out.iter_mut().zip(v) {
            *out += p * v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_are_weighed_by_the_logistic_function_of_their_difference() {
        let shape = HeadShape { n_sequences: 1, sequence_length: 1, n_heads: 2, n_kv_heads: 1, head_dim: 1 };
        // Room for three positions, two of them filled; the third must not be read.
        let kept = KeptHeads { k: &[1.0, 3.0, 1e30], v: &[10.0, 20.0, 1e30], capacity: 3, n_filled: 2 };
        let mut out = [0.0_f64; 2];
        attention_step(&mut out, &[0.5, -1.0], kept, (shape, 1.0), &mut [0.0; 3]);
        let expected = [1.0_f64, -2.0].map(|difference| 10.0 + 10.0 / (1.0 + (-difference).exp()));
        for (got, want) in out.iter().zip(expected) {
            assert!((got - want).abs() < 1e-12, "{got} instead of {want}");
        }
    }
}
