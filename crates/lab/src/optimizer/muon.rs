//! Muon: momentum made orthogonal, in the order of operations of `torch.optim.Muon` (Jordan et al. 2024).
//!
//! b <- b + (1 - mu)(g - b); u = g + mu (b - g) (Nesterov); five Newton-Schulz steps of X <- a X + (b A + c A A) X with
//! A = X X^T from X = u / |u|; p <- p (1 - lr wd) - lr 0.2 sqrt(max(rows, columns)) X. The factor matches the size of
//! AdamW's updates (`adjust_lr_fn="match_rms_adamw"`), so that both share one learning rate. torch iterates in
//! bfloat16, this in f32.

use thalweg_model::kernel::{Accumulate, Mat, MatMut, Threads, matmul};

use super::{GlobalNorm, StepScale};
use crate::config::OptimizerSection;

/// Coefficients of the quintic and how often it is applied.
const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];
const N_ITERATIONS: usize = 5;
/// The least norm that is divided by.
const MIN_NORM: f64 = 1e-7;
/// Size of an update of AdamW, root mean square.
const MATCH_RMS: f64 = 0.2;

/// The constants of one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct MuonStep {
    gradient_scale: f32,
    momentum: f32,
    one_minus_momentum: f32,
    learning_rate: f64,
    keep: f32,
}

impl MuonStep {
    #[expect(clippy::cast_possible_truncation, reason = "the arithmetic is f32")]
    pub(super) fn new(section: &OptimizerSection, scale: StepScale) -> Self {
        Self {
            gradient_scale: scale.gradient_scale,
            momentum: section.momentum as f32,
            one_minus_momentum: (1.0 - section.momentum) as f32,
            learning_rate: scale.learning_rate,
            keep: (1.0 - scale.learning_rate * section.weight_decay) as f32,
        }
    }
}

/// Buffers that serve every matrix.
#[derive(Debug, Default)]
pub(super) struct MuonScratch {
    update: Vec<f32>,
    next: Vec<f32>,
    gram: Vec<f32>,
    polynomial: Vec<f32>,
    norm: GlobalNorm,
}

impl MuonScratch {
    pub(super) fn for_shapes(shapes: impl Iterator<Item = [usize; 2]>) -> Self {
        let (mut n_elements, mut n_gram) = (0, 0);
        for [rows, columns] in shapes {
            n_elements = n_elements.max(rows * columns);
            n_gram = n_gram.max(rows.min(columns).pow(2));
        }
        let zeros = |n| vec![0.0; n];
        Self {
            update: zeros(n_elements),
            next: zeros(n_elements),
            gram: zeros(n_gram),
            polynomial: zeros(n_gram),
            norm: GlobalNorm::for_len(n_elements),
        }
    }
}

/// One step on a matrix of `shape`, row-major.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "the arithmetic is f32")]
pub(super) fn muon_matrix(
    step: &MuonStep,
    shape: [usize; 2],
    params: &mut [f32],
    gradients: &[f32],
    momentum: &mut [f32],
    scratch: &mut MuonScratch,
) {
    let [rows, columns] = shape;
    let n = rows * columns;
    let MuonScratch { update, next, gram, polynomial, norm } = scratch;
    let (update, next) = (&mut update[..n], &mut next[..n]);
    for ((update, &gradient), momentum) in update.iter_mut().zip(gradients).zip(momentum.iter_mut()) {
        let gradient = gradient * step.gradient_scale;
        *momentum += step.one_minus_momentum * (gradient - *momentum);
        *update = gradient + step.momentum * (*momentum - gradient);
    }
    let norm = norm.of(update).max(MIN_NORM) as f32;
    update.iter_mut().for_each(|value| *value /= norm);
    let small = rows.min(columns);
    orthogonalise(shape, update, next, &mut gram[..small * small], &mut polynomial[..small * small]);
    let rate = (step.learning_rate * MATCH_RMS * (rows.max(columns) as f64).sqrt()) as f32;
    for (param, &update) in params.iter_mut().zip(update.iter()) {
        *param = *param * step.keep - rate * update;
    }
}

/// Newton-Schulz on `x` in place. The Gram matrix is taken on the smaller side: X X^T for wide matrices, X^T X for
/// tall.
fn orthogonalise(shape: [usize; 2], x: &mut [f32], next: &mut [f32], gram: &mut [f32], polynomial: &mut [f32]) {
    let [a, b, c] = COEFFICIENTS;
    let [rows, columns] = shape;
    let is_tall = rows > columns;
    let small = [rows.min(columns); 2];
    for _ in 0..N_ITERATIONS {
        let view = Mat::packed(x, shape);
        let (left, right) = if is_tall { (view.t(), view) } else { (view, view.t()) };
        matmul(MatMut::packed(gram, small), Accumulate::Replace, left, right, 1.0, Threads::Pool);
        polynomial.iter_mut().zip(gram.iter()).for_each(|(out, &gram)| *out = b * gram);
        let square = Mat::packed(gram, small);
        matmul(MatMut::packed(polynomial, small), Accumulate::Add, square, square, c, Threads::Pool);
        next.iter_mut().zip(x.iter()).for_each(|(out, &x)| *out = a * x);
        let factor = Mat::packed(polynomial, small);
        let (left, right) = if is_tall { (view, factor) } else { (factor, view) };
        matmul(MatMut::packed(next, shape), Accumulate::Add, left, right, 1.0, Threads::Pool);
        x.copy_from_slice(next);
    }
}
