//! Keys and values that decoding keeps.

use crate::kernel::Real;
use crate::kernel::attention_step::KeptHeads;
use crate::kernel::heads::HeadShape;
use crate::kernel::rotary::RotaryTable;

/// Keys and values of the tokens so far.
#[derive(Debug)]
pub(crate) struct KeptTokens<T> {
    /// Keys and values of each layer, `[sequence, kv head, capacity, head_dim]`.
    pub(crate) layers: Vec<[Vec<T>; 2]>,
    pub(crate) scores: Vec<T>,
    pub(crate) rotary: Option<RotaryTable<T>>,
    pub(crate) capacity: usize,
    pub(crate) n_filled: usize,
}

/// Those of one layer.
#[derive(Debug)]
pub(crate) struct KeptLayer<'a, T> {
    heads: &'a mut [Vec<T>; 2],
    scores: &'a mut [T],
    shape: HeadShape,
    capacity: usize,
    n_before: usize,
}

impl<T: Real> KeptTokens<T> {
    /// Rotations of the next `n` positions.
    pub(crate) fn rotary_rows(&self, n: usize) -> Option<RotaryTable<T>> {
        self.rotary.as_ref().map(|table| table.rows(self.n_filled..self.n_filled + n))
    }

    pub(crate) fn layer(&mut self, layer_idx: usize, shape: HeadShape) -> KeptLayer<'_, T> {
        let (capacity, n_before) = (self.capacity, self.n_filled);
        KeptLayer { heads: &mut self.layers[layer_idx], scores: &mut self.scores, shape, capacity, n_before }
    }
}

impl<T: Real> KeptLayer<'_, T> {
    /// Keeps keys and values of new tokens, `[sequence, kv head, position, head_dim]`; whether others were there
    /// before.
    pub(crate) fn keep(&mut self, k: &[T], v: &[T]) -> bool {
        let HeadShape { sequence_length, head_dim, .. } = self.shape;
        let new_len = sequence_length * head_dim;
        for (kept, new) in self.heads.iter_mut().zip([k, v]) {
            let places = kept.chunks_exact_mut(self.capacity * head_dim);
            for (kept, new) in places.zip(new.chunks_exact(new_len)) {
                kept[self.n_before * head_dim..][..new_len].copy_from_slice(new);
            }
        }
        self.n_before > 0
    }

    /// All keys and values, and room for scores.
    pub(crate) fn heads(&mut self) -> (KeptHeads<'_, T>, &mut [T]) {
        let n_filled = self.n_before + self.shape.sequence_length;
        let [k, v] = &*self.heads;
        (KeptHeads { k, v, capacity: self.capacity, n_filled }, self.scores)
    }
}
