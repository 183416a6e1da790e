//! What is read of a log.

use std::fmt;

/// What is read from a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogField {
    /// The step.
    Step,
    /// Training tokens so far.
    Tokens,
    /// Training loss.
    Loss,
    /// Learning rate.
    LearningRate,
    /// Norm of the gradient.
    GradNorm,
}

impl LogField {
    pub(super) const ALL: [Self; 5] = [Self::Step, Self::Tokens, Self::Loss, Self::LearningRate, Self::GradNorm];

    /// The simplified names that trainers use, best first: the first one that occurs is taken. The state of Hugging
    /// Face's Trainer ends with the mean `train_loss` of the whole run beside the `loss` of each step, and litgpt
    /// logs the `tokens` of one device beside `total_tokens`.
    pub(super) fn names(self) -> &'static [&'static str] {
        match self {
            Self::Step => &[
                "completed_steps",
                "completed_step",
                "optimizer_step",
                "optimizer_steps",
                "optim_step",
                "opt_step",
                "step",
                "global_step",
                "iteration",
                "_step",
                "num_updates",
                "time/batch",
                "steps",
                "iter",
                "iter_num",
            ],
            Self::Tokens => &[
                "total_tokens",
                "tokens",
                "num_tokens",
                "num_input_tokens_seen",
                "consumed_tokens",
                "n_tokens_seen",
                "tokens_seen",
                "throughput/total_tokens",
                "time/token",
            ],
            Self::Loss => &[
                "loss",
                "train_loss",
                "lm_loss",
                "loss_step",
                "train_loss_step",
                "loss/train",
                "loss_train",
                "loss/train/total",
                "global_avg_loss",
                "ce_loss",
                "crossentropyloss",
                "cross_entropy_loss",
                "reduced_train_loss",
                "training_loss",
            ],
            Self::LearningRate => {
                &["learning_rate", "lr", "lr_(group_0)", "lr_group0", "learning_rate_group0", "lr_group_0"]
            }
            Self::GradNorm => &[
                "grad_norm",
                "gradient_norm",
                "total_grad_norm",
                "global_grad_norm",
                "gnorm",
                "norm",
                "l2_norm/grad/global",
                "grad_2/0_norm_total",
            ],
        }
    }

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for LogField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Step => "step",
            Self::Tokens => "tokens",
            Self::Loss => "loss",
            Self::LearningRate => "learning rate",
            Self::GradNorm => "gradient norm",
        })
    }
}
