//! `Float`: the types that models run in, and what runs them.

use crate::Error;
use crate::decode::Decoder;
use crate::kernel::Real;
use crate::model::Model;
use crate::run::{Batch, LossOptions, StepLoss};
use crate::workspace::{BatchShape, Workspace};

/// A type that models run in. What runs them in `f32` is compiled once, here, and not in each crate that runs a model;
/// in `f64`, for gradient checks, where it is used.
pub trait Float: Real {
    /// [`Model::score`].
    fn score(
        model: &Model<Self>,
        batch: Batch<'_>,
        workspace: &mut Workspace<Self>,
        nlls: &mut [Self],
        greedy: Option<&mut [u32]>,
    ) {
        model.run_score(batch, workspace, nlls, greedy);
    }

    /// [`Model::logits`].
    fn logits(
        model: &Model<Self>,
        tokens: &[u32],
        shape: BatchShape,
        workspace: &mut Workspace<Self>,
        out: &mut [Self],
    ) {
        model.run_logits(tokens, shape, workspace, out);
    }

    /// [`Model::loss_and_gradients`].
    fn loss_and_gradients(
        model: &Model<Self>,
        batch: Batch<'_>,
        loss: LossOptions,
        workspace: &mut Workspace<Self>,
        gradients: &mut [Self],
    ) -> StepLoss {
        model.run_loss_and_gradients(batch, loss, workspace, gradients)
    }

    /// [`Decoder::decode`].
    ///
    /// # Errors
    /// As there.
    fn decode(
        decoder: &mut Decoder<Self>,
        model: &Model<Self>,
        prompts: &[u32],
        shape: BatchShape,
        n_new: usize,
    ) -> Result<Vec<u32>, Error> {
        decoder.run_decode(model, prompts, shape, n_new)
    }
}

impl Float for f64 {}

// The same as above, but not generic: that is what has it compiled here.
impl Float for f32 {
    fn score(
        model: &Model,
        batch: Batch<'_>,
        workspace: &mut Workspace,
        nlls: &mut [Self],
        greedy: Option<&mut [u32]>,
    ) {
        model.run_score(batch, workspace, nlls, greedy);
    }

    fn logits(model: &Model, tokens: &[u32], shape: BatchShape, workspace: &mut Workspace, out: &mut [Self]) {
        model.run_logits(tokens, shape, workspace, out);
    }

    fn loss_and_gradients(
        model: &Model,
        batch: Batch<'_>,
        loss: LossOptions,
        workspace: &mut Workspace,
        gradients: &mut [Self],
    ) -> StepLoss {
        model.run_loss_and_gradients(batch, loss, workspace, gradients)
    }

    fn decode(
        decoder: &mut Decoder,
        model: &Model,
        prompts: &[u32],
        shape: BatchShape,
        n_new: usize,
    ) -> Result<Vec<u32>, Error> {
        decoder.run_decode(model, prompts, shape, n_new)
    }
}

impl<T: Float> Model<T> {
    /// Negative log-likelihood of each target in nats, 0 where there is none; the most probable token of each position
    /// in `greedy`, if wanted.
    ///
    /// # Panics
    /// When the workspace is for fewer tokens, or an output has another length than the batch.
    pub fn score(&self, batch: Batch<'_>, workspace: &mut Workspace<T>, nlls: &mut [T], greedy: Option<&mut [u32]>) {
        T::score(self, batch, workspace, nlls, greedy);
    }

    /// Logits of every position, `[n_sequences * sequence_length, vocab_size]`.
    ///
    /// # Panics
    /// When a token is outside the vocabulary, the workspace is for fewer tokens, or `out` has another length.
    pub fn logits(&self, tokens: &[u32], shape: BatchShape, workspace: &mut Workspace<T>, out: &mut [T]) {
        T::logits(self, tokens, shape, workspace, out);
    }

    /// Adds to `gradients`, an arena of the layout, those of the sum of losses over `loss.n_targets_total` and of the
    /// terms asked for.
    ///
    /// Micro-batches that share `n_targets_total` add up to the gradient of the whole (the balance loss is that of each
    /// micro-batch, weighted by targets).
    ///
    /// # Panics
    /// When the workspace is for fewer tokens or for scoring only, or `gradients` has another length than the layout.
    pub fn loss_and_gradients(
        &self,
        batch: Batch<'_>,
        loss: LossOptions,
        workspace: &mut Workspace<T>,
        gradients: &mut [T],
    ) -> StepLoss {
        T::loss_and_gradients(self, batch, loss, workspace, gradients)
    }
}

impl<T: Float> Decoder<T> {
    /// Continues prompts of equal length by `n_new` tokens each, row-major; of tokens that are equally probable, the
    /// first.
    ///
    /// Products of another shape round otherwise, so that a token may differ from that of a pass over the whole
    /// sequence where two tokens are as probable as rounding tells.
    ///
    /// # Errors
    /// `BatchSize`, `TokenOutOfRange`, `SequenceTooLong`.
    ///
    /// # Panics
    /// When the shape or `n_new` are larger than the decoder was made for, or a prompt is empty.
    pub fn decode(
        &mut self,
        model: &Model<T>,
        prompts: &[u32],
        shape: BatchShape,
        n_new: usize,
    ) -> Result<Vec<u32>, Error> {
        T::decode(self, model, prompts, shape, n_new)
    }
}
