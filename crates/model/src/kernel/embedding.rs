//! Token and learned position embeddings.

use rayon::prelude::*;

use super::reduce::vectorised;
use super::{BLOCK_ROWS, Real};

/// Vocabulary rows that one task owns when gradients are gathered.
const OWNED_ROWS: usize = 256;

/// `out[i] = table[tokens[i]]`, plus `positions[i mod sequence_length]` if positions are learned. Tables are `[n,
/// width]`.
///
/// # Panics
/// When a token is outside the table: callers check tokens where they come in.
pub fn embedding_forward<T: Real>(
    out: &mut [T],
    tokens: &[u32],
    table: &[T],
    positions: Option<&[T]>,
    [sequence_length, width]: [usize; 2],
) {
    out.par_chunks_mut(BLOCK_ROWS * width).zip(tokens.par_chunks(BLOCK_ROWS)).enumerate().for_each(
        |(block, (out, tokens))| {
            for (i, (out, &token)) in out.chunks_exact_mut(width).zip(tokens).enumerate() {
                out.copy_from_slice(&table[token as usize * width..][..width]);
                if let Some(positions) = positions {
                    let position = (block * BLOCK_ROWS + i) % sequence_length;
                    add(out, &positions[position * width..][..width]);
                }
            }
        },
    );
}

/// Adds each row of `d_out` to the row of `d_table` that its token names, in the order of the tokens.
pub fn embedding_backward<T: Real>(d_table: &mut [T], tokens: &[u32], d_out: &[T], width: usize) {
    d_table.par_chunks_mut(OWNED_ROWS * width).enumerate().for_each(|(task, d_table)| {
        let first = task * OWNED_ROWS;
        let n_owned = d_table.len() / width;
        for (&token, d_out) in tokens.iter().zip(d_out.chunks_exact(width)) {
            let token = token as usize;
            if token >= first && token - first < n_owned {
                add(&mut d_table[(token - first) * width..][..width], d_out);
            }
        }
    });
}

/// Adds each row of `d_out` to the row of its position.
pub fn position_backward<T: Real>(d_positions: &mut [T], d_out: &[T], [sequence_length, width]: [usize; 2]) {
    d_positions[..sequence_length * width].par_chunks_mut(width).enumerate().for_each(|(position, d_row)| {
        for d_sequence in d_out.chunks_exact(sequence_length * width) {
            add(d_row, &d_sequence[position * width..][..width]);
        }
    });
}

fn add<T: Real>(a: &mut [T], b: &[T]) {
    vectorised(
        #[inline(always)]
        || a.iter_mut().zip(b).for_each(|(a, &b)| *a += b),
    );
}
