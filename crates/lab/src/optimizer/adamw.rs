//! AdamW: Loshchilov and Hutter 2019 (arXiv 1711.05101), in the order of operations of `torch.optim.AdamW`.
//!
//! In f32: p <- p (1 - lr wd); m <- m + (1 - b1)(g - m); v <- b2 v + (1 - b2) g g;
//! p <- p - (lr / (1 - b1^t)) m / (sqrt(v) / sqrt(1 - b2^t) + eps). The constants are computed in doubles.

use super::{Decay, StepScale};
use crate::config::OptimizerSection;

/// The constants of one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct AdamwStep {
    gradient_scale: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    keep: f32,
    step_size: f32,
    root_correction2: f32,
    epsilon: f32,
}

impl AdamwStep {
    #[expect(clippy::cast_possible_truncation, reason = "the arithmetic is f32")]
    pub(super) fn new(section: &OptimizerSection, scale: StepScale) -> Self {
        let n_updates = i32::try_from(scale.n_updates).unwrap_or(i32::MAX);
        let correction = |beta: f64| 1.0 - beta.powi(n_updates);
        Self {
            gradient_scale: scale.gradient_scale,
            one_minus_beta1: (1.0 - section.beta1) as f32,
            beta2: section.beta2 as f32,
            one_minus_beta2: (1.0 - section.beta2) as f32,
            keep: (1.0 - scale.learning_rate * section.weight_decay) as f32,
            step_size: (scale.learning_rate / correction(section.beta1)) as f32,
            root_correction2: correction(section.beta2).sqrt() as f32,
            epsilon: section.epsilon as f32,
        }
    }
}

/// One step on slices of one length.
pub(super) fn adamw_block(
    step: &AdamwStep,
    decay: Decay,
    params: &mut [f32],
    gradients: &[f32],
    first_moments: &mut [f32],
    second_moments: &mut [f32],
) {
    let keep = match decay {
        Decay::Yes => step.keep,
        Decay::No => 1.0,
    };
    let step = *step;
    pulp::Arch::new().dispatch(
        #[inline(always)]
        move || {
            let moments = first_moments.iter_mut().zip(second_moments.iter_mut());
            for ((param, &gradient), (first, second)) in params.iter_mut().zip(gradients).zip(moments) {
                let gradient = gradient * step.gradient_scale;
                *first += step.one_minus_beta1 * (gradient - *first);
                *second = step.beta2 * *second + step.one_minus_beta2 * gradient * gradient;
                let denominator = second.sqrt() / step.root_correction2 + step.epsilon;
                *param = *param * keep - step.step_size * (*first / denominator);
            }
        },
    );
}
