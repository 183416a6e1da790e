//! Causal softmax attention over heads laid out as `[sequence, head, position, head_dim]`, in blocks of query rows.
//!
//! Probabilities are never kept: forward keeps one logarithm a row, and backward computes a block of them again, which
//! costs less than moving them through memory. A task owns one key-value head of one sequence with all query heads that
//! share it.

use rayon::prelude::*;

use super::heads::HeadShape;
use super::reduce::{dot, max, sum, vectorised};
use super::{Accumulate, Mat, MatMut, Real, Threads, matmul};

/// Query rows of a block: with the block above the diagonal skipped, the waste is at most this many columns a row.
const QUERY_ROWS: usize = 64;

/// Scratch numbers that forward and backward need together with this shape.
pub const fn scratch_len(shape: HeadShape) -> usize {
    shape.n_sequences.saturating_mul(shape.n_kv_heads).saturating_mul(task_scratch(shape))
}

const fn task_scratch(shape: HeadShape) -> usize {
    shape.sequence_length.saturating_mul(2 * QUERY_ROWS)
}

/// Queries, keys and values.
#[derive(Debug, Clone, Copy)]
pub struct AttentionInput<'a, T> {
    /// `[sequence, head, position, head_dim]`.
    pub q: &'a [T],
    /// `[sequence, kv head, position, head_dim]`.
    pub k: &'a [T],
    /// `[sequence, kv head, position, head_dim]`.
    pub v: &'a [T],
    /// Sizes.
    pub shape: HeadShape,
    /// Factor of the scores: one over the root of `head_dim` in all families here.
    pub scale: T,
}

/// `out = softmax(scale q k^T, causal) v`, laid out as `q`. Keeps the logarithm of each row's sum in `log_sums`,
/// `[sequence, head, position]`.
pub fn attention_forward<T: Real>(out: &mut [T], log_sums: &mut [T], input: AttentionInput<'_, T>, scratch: &mut [T]) {
    let AttentionInput { q, k, v, shape, .. } = input;
    let HeadShape { sequence_length: t, head_dim, n_heads, n_kv_heads, .. } = shape;
    let group = n_heads / n_kv_heads;
    let (q_len, kv_len) = (group * t * head_dim, t * head_dim);
    let inputs = q.par_chunks(q_len).zip(k.par_chunks(kv_len)).zip(v.par_chunks(kv_len));
    let outputs = out
        .par_chunks_mut(q_len)
        .zip(log_sums.par_chunks_mut(group * t))
        .zip(scratch.par_chunks_mut(task_scratch(shape)));
    outputs.zip(inputs).for_each(|(((out, log_sums), scratch), ((q, k), v))| {
        let heads = out.chunks_exact_mut(kv_len).zip(log_sums.chunks_exact_mut(t)).zip(q.chunks_exact(kv_len));
        for ((out, log_sums), q) in heads {
            for first in (0..t).step_by(QUERY_ROWS) {
                let rows = first..t.min(first + QUERY_ROWS);
                let scores = &mut scratch[..rows.len() * rows.end];
                block_scores(scores, rows.clone(), q, k, head_dim, input.scale);
                vectorised(
                    #[inline(always)]
                    || causal_softmax(scores, rows.start, rows.end, &mut log_sums[rows.clone()]),
                );
                matmul(
                    MatMut::packed(&mut out[rows.start * head_dim..rows.end * head_dim], [rows.len(), head_dim]),
                    Accumulate::Replace,
                    Mat::packed(scores, [rows.len(), rows.end]),
                    Mat::packed(&v[..rows.end * head_dim], [rows.end, head_dim]),
                    T::ONE,
                    Threads::One,
                );
            }
        }
    });
}

/// `scale q k^T` of the query rows against all keys up to the last of them.
fn block_scores<T: Real>(scores: &mut [T], rows: std::ops::Range<usize>, q: &[T], k: &[T], head_dim: usize, scale: T) {
    matmul(
        MatMut::packed(scores, [rows.len(), rows.end]),
        Accumulate::Replace,
        Mat::packed(&q[rows.start * head_dim..rows.end * head_dim], [rows.len(), head_dim]),
        Mat::packed(&k[..rows.end * head_dim], [rows.end, head_dim]).t(),
        scale,
        Threads::One,
    );
}

/// Softmax of each row over the columns up to its own position; zero beyond.
#[inline(always)]
fn causal_softmax<T: Real>(scores: &mut [T], first_position: usize, n_columns: usize, log_sums: &mut [T]) {
    for (i, (row, log_sum)) in scores.chunks_exact_mut(n_columns).zip(log_sums).enumerate() {
        let (seen, hidden) = row.split_at_mut(first_position + i + 1);
        hidden.fill(T::ZERO);
        let largest = max(seen);
        for x in seen.iter_mut() {
            *x = (*x - largest).exp();
        }
        let total = sum(seen);
        let inverse = T::ONE / total;
        for x in seen.iter_mut() {
            *x *= inverse;
        }
        *log_sum = largest + total.ln();
    }
}

/// The gradients of attention, each laid out as what it is the gradient of.
#[derive(Debug)]
pub struct AttentionGradients<'a, T> {
    /// For the queries; replaced.
    pub dq: &'a mut [T],
    /// For the keys; replaced.
    pub dk: &'a mut [T],
    /// For the values; replaced.
    pub dv: &'a mut [T],
}

/// Gradients for queries, keys and values, given those of the output (`d_out`), the output itself and what forward
/// kept.
pub fn attention_backward<T: Real>(
    gradients: AttentionGradients<'_, T>,
    d_out: &[T],
    out: &[T],
    log_sums: &[T],
    input: AttentionInput<'_, T>,
    scratch: &mut [T],
) {
    let shape = input.shape;
    let HeadShape { sequence_length: t, head_dim, n_heads, n_kv_heads, .. } = shape;
    let group = n_heads / n_kv_heads;
    let (q_len, kv_len) = (group * t * head_dim, t * head_dim);
    let AttentionGradients { dq, dk, dv } = gradients;
    let writes = dq.par_chunks_mut(q_len).zip(dk.par_chunks_mut(kv_len)).zip(dv.par_chunks_mut(kv_len));
    let writes = writes.zip(scratch.par_chunks_mut(task_scratch(shape)));
    let reads = input.q.par_chunks(q_len).zip(input.k.par_chunks(kv_len)).zip(input.v.par_chunks(kv_len));
    let reads = reads.zip(d_out.par_chunks(q_len)).zip(out.par_chunks(q_len)).zip(log_sums.par_chunks(group * t));
    writes.zip(reads).for_each(|((((dq, dk), dv), scratch), (((((q, k), v), d_out), out), log_sums))| {
        dk.fill(T::ZERO);
        dv.fill(T::ZERO);
        for head in 0..group {
            let of_head = head * kv_len..(head + 1) * kv_len;
            let head_in = HeadBackward {
                q: &q[of_head.clone()],
                k,
                v,
                d_out: &d_out[of_head.clone()],
                out: &out[of_head.clone()],
                log_sums: &log_sums[head * t..(head + 1) * t],
                head_dim,
                scale: input.scale,
            };
            head_in.run(&mut dq[of_head], dk, dv, scratch);
        }
    });
}

/// One query head of one sequence, going backward.
struct HeadBackward<'a, T> {
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    d_out: &'a [T],
    out: &'a [T],
    log_sums: &'a [T],
    head_dim: usize,
    scale: T,
}

impl<T: Real> HeadBackward<'_, T> {
    fn run(&self, dq: &mut [T], dk: &mut [T], dv: &mut [T], scratch: &mut [T]) {
        let (n, t) = (self.head_dim, self.log_sums.len());
        for first in (0..t).step_by(QUERY_ROWS) {
            let rows = first..t.min(first + QUERY_ROWS);
            let (n_rows, n_keys) = (rows.len(), rows.end);
            let (p, rest) = scratch.split_at_mut(n_rows * n_keys);
            let ds = &mut rest[..n_rows * n_keys];
            let of_rows = rows.start * n..rows.end * n;
            let d_out = Mat::packed(&self.d_out[of_rows.clone()], [n_rows, n]);
            block_scores(p, rows.clone(), self.q, self.k, n, self.scale);
            let v = Mat::packed(&self.v[..n_keys * n], [n_keys, n]);
            matmul(MatMut::packed(ds, [n_rows, n_keys]), Accumulate::Replace, d_out, v.t(), T::ONE, Threads::One);
            vectorised(
                #[inline(always)]
                || self.score_gradients(p, ds, rows.clone()),
            );
            let (p, ds) = (Mat::packed(p, [n_rows, n_keys]), Mat::packed(ds, [n_rows, n_keys]));
            let k = Mat::packed(&self.k[..n_keys * n], [n_keys, n]);
            let q = Mat::packed(&self.q[of_rows.clone()], [n_rows, n]);
            matmul(MatMut::packed(&mut dq[of_rows], [n_rows, n]), Accumulate::Replace, ds, k, T::ONE, Threads::One);
            matmul(
                MatMut::packed(&mut dk[..n_keys * n], [n_keys, n]),
                Accumulate::Add,
                ds.t(),
                q,
                T::ONE,
                Threads::One,
            );
            matmul(
                MatMut::packed(&mut dv[..n_keys * n], [n_keys, n]),
                Accumulate::Add,
                p.t(),
                d_out,
                T::ONE,
                Threads::One,
            );
        }
    }

    /// Turns scores into probabilities `p`, and `ds` from the gradient of the probabilities into that of the unscaled
    /// scores.
    #[inline(always)]
    fn score_gradients(&self, p: &mut [T], ds: &mut [T], rows: std::ops::Range<usize>) {
        let n = self.head_dim;
        for ((row, p), ds) in rows.clone().zip(p.chunks_exact_mut(rows.end)).zip(ds.chunks_exact_mut(rows.end)) {
            let log_sum = self.log_sums[row];
            let along = dot(&self.d_out[row * n..(row + 1) * n], &self.out[row * n..(row + 1) * n]);
            let (p, p_hidden) = p.split_at_mut(row + 1);
            let (ds, ds_hidden) = ds.split_at_mut(row + 1);
            p_hidden.fill(T::ZERO);
            ds_hidden.fill(T::ZERO);
            for (p, ds) in p.iter_mut().zip(ds) {
                *p = (*p - log_sum).exp();
                *ds = *p * (*ds - along) * self.scale;
            }
        }
    }
}
