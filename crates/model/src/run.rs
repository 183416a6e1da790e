//! A batch through a model: losses, logits, gradients.

use crate::Error;
use crate::config::ModelConfig;
use crate::kernel::linear::{linear_backward_input, linear_backward_weight};
use crate::kernel::loss::{LossScale, greedy_tokens, token_losses, token_losses_and_gradients};
use crate::kernel::{Accumulate, Real, Threads};
use crate::model::Model;
use crate::transformer::{Pass, backward, forward, logits_of_rows};
use crate::workspace::{BatchShape, Purpose, Workspace};

pub use crate::kernel::loss::NO_TARGET;

/// Tokens and targets that a model can read, checked.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    tokens: &'a [u32],
    targets: &'a [u32],
    shape: BatchShape,
}

impl<'a> Batch<'a> {
    /// Checks tokens and targets, both `[n_sequences * sequence_length]` and row-major; a target may be [`NO_TARGET`].
    ///
    /// # Errors
    /// `BatchSize` if they do not fill the shape, `TokenOutOfRange` outside the vocabulary, `SequenceTooLong` beyond
    /// what the model reads.
    pub fn new(config: &ModelConfig, tokens: &'a [u32], targets: &'a [u32], shape: BatchShape) -> Result<Self, Error> {
        let BatchShape { n_sequences, sequence_length } = shape;
        if tokens.len() != shape.n_tokens() || targets.len() != shape.n_tokens() {
            return Err(Error::BatchSize {
                n_sequences,
                sequence_length,
                n_tokens: tokens.len(),
                n_targets: targets.len(),
            });
        }
        config.check_length(sequence_length)?;
        let vocab_size = config.vocab_size;
        let is_outside = |token: u32| token as usize >= vocab_size;
        let wrong = tokens.iter().zip(targets).position(|(&x, &y)| is_outside(x) || (y != NO_TARGET && is_outside(y)));
        if let Some(position) = wrong {
            let token = if is_outside(tokens[position]) { tokens[position] } else { targets[position] };
            return Err(Error::TokenOutOfRange { position, token, vocab_size });
        }
        Ok(Self { tokens, targets, shape })
    }

    /// The tokens.
    pub fn tokens(&self) -> &'a [u32] {
        self.tokens
    }

    /// The targets.
    pub fn targets(&self) -> &'a [u32] {
        self.targets
    }

    /// Sequences and their length.
    pub fn shape(&self) -> BatchShape {
        self.shape
    }

    /// Positions that are scored.
    pub fn n_targets(&self) -> usize {
        self.targets.iter().filter(|&&target| target != NO_TARGET).count()
    }
}

/// What is minimised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossOptions {
    /// Targets of the whole step, over all of its micro-batches: the divisor of the sum of losses.
    pub n_targets_total: usize,
    /// Factor of the mean squared log-sum of logits (PaLM has 1e-4).
    pub z_loss: Option<f32>,
    /// Factor of the balance loss of a mixture of experts (Switch has 1e-2); 0 without.
    pub balance_loss: f32,
}

/// Losses of one micro-batch. What was minimised is `nll_sum_nats / n_targets_total + z_loss + balance_loss`, summed
/// over micro-batches.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepLoss {
    /// Sum of negative log-likelihoods, in nats.
    pub nll_sum_nats: f64,
    /// Positions scored.
    pub n_targets: usize,
    /// The z-loss term, its factor included.
    pub z_loss: f64,
    /// The balance term, its factor included: `E sum_e f_e P_e`, with f the share of tokens that chose an expert and P
    /// its mean probability, both over all layers (Switch, arXiv 2101.03961, as transformers computes it for Mixtral),
    /// times this micro-batch's share of the targets.
    pub balance_loss: f64,
}

impl<T: Real> Model<T> {
    pub(crate) fn run_score(
        &self,
        batch: Batch<'_>,
        workspace: &mut Workspace<T>,
        nlls: &mut [T],
        mut greedy: Option<&mut [u32]>,
    ) {
        let n = batch.shape.n_tokens();
        assert_eq!(nlls.len(), n, "one loss for each token");
        let pass = self.prepare(batch.tokens, batch.shape, Purpose::Score, workspace);
        let (hidden, vocab_size) = (self.config.hidden, self.config.vocab_size);
        let head = &mut workspace.head;
        for first in (0..n).step_by(head.n_rows) {
            let rows = first..n.min(first + head.n_rows);
            let logits = &mut head.logits[..rows.len() * vocab_size];
            let losses = &mut head.losses[..rows.len()];
            logits_of_rows(&pass, logits, &workspace.head_in[rows.start * hidden..rows.end * hidden]);
            token_losses(losses, logits, &batch.targets[rows.clone()], vocab_size);
            for (nll, loss) in nlls[rows.clone()].iter_mut().zip(losses) {
                *nll = T::from_f64(loss.nll_nats);
            }
            if let Some(greedy) = greedy.as_deref_mut() {
                greedy_tokens(&mut greedy[rows], logits, vocab_size);
            }
        }
    }

    pub(crate) fn run_logits(&self, tokens: &[u32], shape: BatchShape, workspace: &mut Workspace<T>, out: &mut [T]) {
        assert_eq!(out.len(), shape.n_tokens() * self.config.vocab_size, "one row of logits for each token");
        let pass = self.prepare(tokens, shape, Purpose::Score, workspace);
        logits_of_rows(&pass, out, &workspace.head_in[..shape.n_tokens() * self.config.hidden]);
    }

    pub(crate) fn run_loss_and_gradients(
        &self,
        batch: Batch<'_>,
        loss: LossOptions,
        workspace: &mut Workspace<T>,
        gradients: &mut [T],
    ) -> StepLoss {
        assert_eq!(gradients.len(), self.layout.n_params(), "the gradients have another length than the layout");
        assert_eq!(workspace.purpose, Purpose::Train, "the workspace keeps no activations for gradients");
        let pass = self.prepare(batch.tokens, batch.shape, Purpose::Train, workspace);
        let mut step = self.head_and_gradients(&pass, batch, loss, workspace, gradients);
        let share = as_f64(step.n_targets) / as_f64(loss.n_targets_total.max(1));
        step.balance_loss = self.balance(f64::from(loss.balance_loss) * share, batch.shape.n_tokens(), workspace);
        backward(&pass, batch.tokens, workspace, gradients);
        step
    }

    /// Runs the layers.
    fn prepare<'a>(
        &'a self,
        tokens: &[u32],
        shape: BatchShape,
        purpose: Purpose,
        workspace: &mut Workspace<T>,
    ) -> Pass<'a, T> {
        let n = shape.n_tokens();
        assert_eq!(tokens.len(), n, "the tokens do not fill the batch");
        assert!(n <= workspace.n_tokens, "a batch of {n} tokens in a workspace for {}", workspace.n_tokens);
        let n_positions = workspace.rotary.as_ref().map_or(usize::MAX, crate::kernel::rotary::RotaryTable::n_positions);
        assert!(shape.sequence_length <= n_positions, "a sequence is longer than the workspace has positions");
        let pass = Pass::new(self, shape);
        forward(&pass, tokens, purpose, workspace);
        pass
    }

    /// The output matrix and the loss, in blocks of rows, forward and backward. Leaves the gradient of `head_in` in
    /// `scratch.d_mlp_in`.
    fn head_and_gradients(
        &self,
        pass: &Pass<'_, T>,
        batch: Batch<'_>,
        loss: LossOptions,
        workspace: &mut Workspace<T>,
        gradients: &mut [T],
    ) -> StepLoss {
        let (n, hidden, vocab_size) = (batch.shape.n_tokens(), self.config.hidden, self.config.vocab_size);
        let n_total = as_f64(loss.n_targets_total.max(1));
        let z_loss = f64::from(loss.z_loss.unwrap_or(0.0)) / n_total;
        let scale = LossScale { nll: T::from_f64(1.0 / n_total), z: T::from_f64(z_loss) };
        let d_head = &mut gradients[self.layout.places.head.clone()];
        let mut step = StepLoss { n_targets: batch.n_targets(), ..StepLoss::default() };
        let head = &mut workspace.head;
        for first in (0..n).step_by(head.n_rows) {
            let rows = first..n.min(first + head.n_rows);
            let of_hidden = rows.start * hidden..rows.end * hidden;
            let logits = &mut head.logits[..rows.len() * vocab_size];
            let losses = &mut head.losses[..rows.len()];
            let head_in = &workspace.head_in[of_hidden.clone()];
            logits_of_rows(pass, logits, head_in);
            token_losses_and_gradients(losses, logits, &batch.targets[rows], vocab_size, scale);
            for loss in losses.iter() {
                step.nll_sum_nats += loss.nll_nats;
                step.z_loss += z_loss * loss.log_sum * loss.log_sum;
            }
            linear_backward_weight(d_head, logits, head_in, pass.head(), Threads::Pool);
            linear_backward_input(
                &mut workspace.scratch.d_mlp_in[of_hidden],
                Accumulate::Replace,
                logits,
                pass.head(),
                Threads::Pool,
            );
        }
        step
    }

    /// The balance loss times `factor`; its gradient for each expert's probability goes to the workspace.
    fn balance(&self, factor: f64, n_tokens: usize, workspace: &mut Workspace<T>) -> f64 {
        let balance = &mut workspace.balance;
        let n_experts = balance.gradients.len();
        let n_routed = as_f64(n_tokens * self.config.n_sparse_layers()).max(1.0);
        let mut total = 0.0;
        for expert in 0..n_experts {
            let count: u64 = balance.counts.iter().skip(expert).step_by(n_experts).map(|&count| u64::from(count)).sum();
            let share = as_f64(thalweg_tensor::to_index(count)) / n_routed;
            total += share * balance.probability_sums[expert].to_f64() / n_routed;
            balance.gradients[expert] = T::from_f64(factor * as_f64(n_experts) * share / n_routed);
        }
        factor * as_f64(n_experts) * total
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of tokens are far below 2^53")]
const fn as_f64(n: usize) -> f64 {
    n as f64
}
