//! Cross entropy over a vocabulary, with the z-loss that keeps logits from drifting (Chowdhery et al. 2022, PaLM,
//! section 5).

use rayon::prelude::*;

use super::reduce::{max, sum, vectorised};
use super::{BLOCK_ROWS, Real};

/// A target that is not scored: padding, and what a window only reads as context.
pub const NO_TARGET: u32 = u32::MAX;

/// What one position says about its target.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TokenLoss {
    /// Negative log-likelihood in nats; 0 where there is no target.
    pub nll_nats: f64,
    /// Logarithm of the sum of exponentials of the logits; 0 where there is no target.
    pub log_sum: f64,
}

/// Factors of the gradient.
#[derive(Debug, Clone, Copy)]
pub struct LossScale<T> {
    /// Of the negative log-likelihood: one over the number of scored positions, for a mean.
    pub nll: T,
    /// Of the squared log-sum; zero without z-loss.
    pub z: T,
}

/// Losses of rows of logits, `[rows, vocabulary]`.
pub fn token_losses<T: Real>(losses: &mut [TokenLoss], logits: &[T], targets: &[u32], vocab_size: usize) {
    let rows = losses
        .par_chunks_mut(BLOCK_ROWS)
        .zip(logits.par_chunks(BLOCK_ROWS * vocab_size))
        .zip(targets.par_chunks(BLOCK_ROWS));
    rows.for_each(|((losses, logits), targets)| {
        for ((loss, logits), &target) in losses.iter_mut().zip(logits.chunks_exact(vocab_size)).zip(targets) {
            *loss = vectorised(
                #[inline(always)]
                || row_loss(logits, target),
            );
        }
    });
}

/// The token with the largest logit of each row, the first of equals; the first NaN if there is one.
pub fn greedy_tokens<T: Real>(tokens: &mut [u32], logits: &[T], vocab_size: usize) {
    tokens.par_chunks_mut(BLOCK_ROWS).zip(logits.par_chunks(BLOCK_ROWS * vocab_size)).for_each(|(tokens, logits)| {
        for (token, logits) in tokens.iter_mut().zip(logits.chunks_exact(vocab_size)) {
            let largest = vectorised(
                #[inline(always)]
                || max(logits),
            );
            let is_largest = |x: &T| *x >= largest || x.partial_cmp(x).is_none();
            *token = logits.iter().position(is_largest).and_then(|i| u32::try_from(i).ok()).unwrap_or_default();
        }
    });
}

/// Losses of rows of logits, and the logits replaced by the gradient for them.
pub fn token_losses_and_gradients<T: Real>(
    losses: &mut [TokenLoss],
    logits: &mut [T],
    targets: &[u32],
    vocab_size: usize,
    scale: LossScale<T>,
) {
    let rows = losses
        .par_chunks_mut(BLOCK_ROWS)
        .zip(logits.par_chunks_mut(BLOCK_ROWS * vocab_size))
        .zip(targets.par_chunks(BLOCK_ROWS));
    rows.for_each(|((losses, logits), targets)| {
        for ((loss, logits), &target) in losses.iter_mut().zip(logits.chunks_exact_mut(vocab_size)).zip(targets) {
            *loss = vectorised(
                #[inline(always)]
                || row_loss_and_gradient(logits, target, scale),
            );
        }
    });
}

#[inline(always)]
fn row_loss<T: Real>(logits: &[T], target: u32) -> TokenLoss {
    const LANES: usize = 16;
    let Some(&logit) = logits.get(target as usize) else { return TokenLoss::default() };
    let largest = max(logits);
    let mut lanes = [T::ZERO; LANES];
    let mut chunks = logits.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += (x - largest).exp();
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += (x - largest).exp();
    }
    let log_sum = largest.to_f64() + sum(&lanes).to_f64().ln();
    TokenLoss { nll_nats: log_sum - logit.to_f64(), log_sum }
}

#[inline(always)]
fn row_loss_and_gradient<T: Real>(logits: &mut [T], target: u32, scale: LossScale<T>) -> TokenLoss {
    let Some(&logit) = logits.get(target as usize) else {
        logits.fill(T::ZERO);
        return TokenLoss::default();
    };
    let largest = max(logits);
    for x in logits.iter_mut() {
        *x = (*x - largest).exp();
    }
    let total = sum(logits);
    let log_sum = largest.to_f64() + total.to_f64().ln();
    let factor = (scale.nll + (scale.z + scale.z) * T::from_f64(log_sum)) / total;
    for x in logits.iter_mut() {
        *x *= factor;
    }
    logits[target as usize] -= scale.nll;
    TokenLoss { nll_nats: log_sum - logit.to_f64(), log_sum }
}
