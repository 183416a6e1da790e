//! From the joint projection, `[token, (heads + 2 kv heads) * head_dim]`, to heads that attention reads without
//! strides, and back.
//!
//! On the way queries and keys are normalised (QK-norm) and rotated; on the way back gradients go through both
//! transposed.

use rayon::prelude::*;

use super::norm::{NormKind, RowStats, row_stats};
use super::reduce::{dot3, sum_down_columns, vectorised};
use super::rotary::RotaryTable;
use super::{BLOCK_ROWS, Real};

/// Sizes of an attention layer over a batch of equally long sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// Sequences in the batch.
    pub n_sequences: usize,
    /// Tokens of each.
    pub sequence_length: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Numbers of a head.
    pub head_dim: usize,
}

impl HeadShape {
    /// Tokens of the batch.
    pub const fn n_tokens(&self) -> usize {
        self.n_sequences * self.sequence_length
    }

    /// Columns of the queries.
    pub const fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Columns of the keys, and of the values.
    pub const fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Columns of the joint projection.
    pub(crate) const fn qkv_width(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }
}

/// RMSNorm of the queries or of the keys.
#[derive(Debug, Clone, Copy)]
pub struct HeadNorm<'a, T> {
    /// `[head_dim]` if each head is normalised alone, else as long as all heads together.
    pub weight: &'a [T],
    /// Added to the mean square.
    pub epsilon: f64,
}

/// One of the three parts of the joint projection.
#[derive(Debug, Clone, Copy)]
pub struct HeadPart<'a, T> {
    /// Columns of a row of the matrix that holds the part.
    pub row_width: usize,
    /// First column of the first head.
    pub first_column: usize,
    /// Columns from one head to the next: `head_dim`, or more where queries, keys and values of a head are adjacent
    /// (GPT-NeoX).
    pub head_stride: usize,
    /// Heads of this part.
    pub n_heads: usize,
    /// QK-norm; none for values.
    pub norm: Option<HeadNorm<'a, T>>,
    /// The rotation; none for values and where positions are learned.
    pub rotary: Option<&'a RotaryTable<T>>,
}

impl<T: Real> HeadPart<'_, T> {
    /// Numbers that are normalised together.
    fn norm_width(&self) -> usize {
        self.norm.map_or(1, |norm| norm.weight.len())
    }

    fn n_groups(&self, shape: HeadShape) -> usize {
        self.n_heads * shape.head_dim / self.norm_width()
    }

    /// Statistics that one token needs; none without a norm.
    pub fn n_stats(&self, shape: HeadShape) -> usize {
        if self.norm.is_some() { self.n_groups(shape) } else { 0 }
    }
}

/// Copies a part of `qkv` to `out` as `[sequence, head, position, head_dim]`, normalised and rotated. Keeps row
/// statistics in `stats`, if it has a norm.
pub fn split_heads<T: Real>(
    out: &mut [T],
    qkv: &[T],
    part: HeadPart<'_, T>,
    stats: &mut [RowStats<T>],
    shape: HeadShape,
) {
    let HeadShape { sequence_length, head_dim, .. } = shape;
    let (width, n_groups) = (part.row_width, part.n_groups(shape));
    if let Some(norm) = part.norm {
        stats.par_chunks_mut(BLOCK_ROWS * n_groups).zip(qkv.par_chunks(BLOCK_ROWS * width)).for_each(|(stats, qkv)| {
            vectorised(
                #[inline(always)]
                || {
                    for (stats, row) in stats.chunks_exact_mut(n_groups).zip(qkv.chunks_exact(width)) {
                        let row = &row[part.first_column..][..part.n_heads * head_dim];
                        for (stats, group) in stats.iter_mut().zip(row.chunks_exact(norm.weight.len())) {
                            *stats = row_stats(group, NormKind::Rms, norm.epsilon);
                        }
                    }
                },
            );
        });
    }
    let stats = &*stats;
    out.par_chunks_mut(sequence_length * head_dim).enumerate().for_each(|(i, out)| {
        let (sequence, head) = (i / part.n_heads, i % part.n_heads);
        let first_row = sequence * sequence_length;
        vectorised(
            #[inline(always)]
            || {
                for (position, out) in out.chunks_exact_mut(head_dim).enumerate() {
                    let row = first_row + position;
                    let head_in = &qkv[row * width + part.first_column + head * part.head_stride..][..head_dim];
                    out.copy_from_slice(head_in);
                    if let Some(norm) = part.norm {
                        let first = head * head_dim;
                        let inverse = stats[row * n_groups + first / norm.weight.len()].inverse_deviation;
                        for (out, &w) in out.iter_mut().zip(&norm.weight[first % norm.weight.len()..]) {
                            *out = *out * inverse * w;
                        }
                    }
                    if let Some(rotary) = part.rotary {
                        rotary.rotate(out, position);
                    }
                }
            },
        );
    });
}

/// Copies `heads`, `[sequence, head, position, head_dim]`, into a part of the rows of `out`, rotated back. Gradients of
/// queries, keys and values go this way.
pub fn merge_heads<T: Real>(out: &mut [T], heads: &[T], part: HeadPart<'_, T>, shape: HeadShape) {
    let HeadShape { sequence_length, head_dim, .. } = shape;
    let width = part.row_width;
    out.par_chunks_mut(BLOCK_ROWS * width).enumerate().for_each(|(block, rows)| {
        vectorised(
            #[inline(always)]
            || {
                for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                    let token = block * BLOCK_ROWS + i;
                    let (sequence, position) = (token / sequence_length, token % sequence_length);
                    for head in 0..part.n_heads {
                        let out = &mut row[part.first_column + head * part.head_stride..][..head_dim];
                        let from = ((sequence * part.n_heads + head) * sequence_length + position) * head_dim;
                        out.copy_from_slice(&heads[from..from + head_dim]);
                        if let Some(rotary) = part.rotary {
                            rotary.rotate_back(out, position);
                        }
                    }
                }
            },
        );
    });
}

/// Takes the gradient of a normalised part whose heads are adjacent in the joint projection through its QK-norm, in
/// place, and adds that of the norm's weight to `d_weight`.
pub fn head_norm_backward<T: Real>(
    d_qkv: &mut [T],
    d_weight: &mut [T],
    qkv: &[T],
    part: HeadPart<'_, T>,
    stats: &[RowStats<T>],
    shape: HeadShape,
) {
    let Some(norm) = part.norm else { return };
    let (width, n_norm) = (part.row_width, norm.weight.len());
    let (n_groups, part_width) = (part.n_groups(shape), part.n_heads * shape.head_dim);
    let gradients = &*d_qkv;
    sum_down_columns(
        d_weight,
        shape.n_tokens() * n_groups,
        #[inline(always)]
        |group_row, columns, sums| {
            let (row, group) = (group_row / n_groups, group_row % n_groups);
            let first = row * width + part.first_column + group * n_norm;
            let inverse = stats[group_row].inverse_deviation;
            let (dy, x) = (&gradients[first..][columns.clone()], &qkv[first..][columns]);
            for ((sum, &dy), &x) in sums.iter_mut().zip(dy).zip(x) {
                *sum += dy * x * inverse;
            }
        },
    );
    let rows = d_qkv.par_chunks_mut(BLOCK_ROWS * width).zip(qkv.par_chunks(BLOCK_ROWS * width));
    rows.zip(stats.par_chunks(BLOCK_ROWS * n_groups)).for_each(|((d_qkv, qkv), stats)| {
        vectorised(
            #[inline(always)]
            || {
                for ((d_row, row), stats) in
                    d_qkv.chunks_exact_mut(width).zip(qkv.chunks_exact(width)).zip(stats.chunks_exact(n_groups))
                {
                    let d_groups = d_row[part.first_column..][..part_width].chunks_exact_mut(n_norm);
                    let groups = row[part.first_column..][..part_width].chunks_exact(n_norm);
                    for ((dy, x), stats) in d_groups.zip(groups).zip(stats) {
                        group_backward(dy, x, norm.weight, stats.inverse_deviation);
                    }
                }
            },
        );
    });
}

#[inline(always)]
fn group_backward<T: Real>(dy: &mut [T], x: &[T], weight: &[T], inverse: T) {
    let n = T::from_f64(f64::from(u32::try_from(x.len()).unwrap_or(u32::MAX)));
    let projected = dot3(dy, weight, x) * inverse * inverse / n;
    for ((dy, &x), &w) in dy.iter_mut().zip(x).zip(weight) {
        *dy = (*dy * w - x * projected) * inverse;
    }
}
