//! What can be wrong with a scheme, its parameters or hand-given coefficients.

use crate::rational::{NumberError, Ratio};

/// Why there are no coefficients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemeError {
    /// A window without checkpoints.
    #[error("a window without checkpoints has no coefficients")]
    EmptyWindow,
    /// A divisor of 0.
    #[error("coefficients cannot be divided by 0")]
    ZeroDivisor,
    /// Nothing would be read.
    #[error("every coefficient is 0: nothing is left to merge")]
    AllZero,
    /// Hand-given coefficients that would scale the model.
    #[error("the coefficients sum to {sum}, not to 1: the merged model would be scaled by this sum")]
    SumNotOne {
        /// Their exact sum.
        sum: Box<Ratio>,
    },
    /// Normalising is impossible.
    #[error("the coefficients sum to 0 and cannot be divided by their sum")]
    SumZero,
    /// The same in a recipe that divides by the sum unless it says otherwise.
    #[error("the weights sum to 0 and cannot be divided by their sum")]
    RecipeSumZero,
    /// Text that is not a number.
    #[error(transparent)]
    Number(#[from] NumberError),
    /// A scheme name that does not exist.
    #[error("there is no scheme `{name}`")]
    UnknownScheme {
        /// What was asked for.
        name: String,
        /// The name that looks most like it.
        nearest: Option<&'static str>,
    },
    /// A parameter that the scheme needs.
    #[error("scheme `{scheme}` needs `{parameter}`")]
    ParameterMissing {
        /// The scheme's name.
        scheme: &'static str,
        /// The option's name.
        parameter: &'static str,
    },
    /// A parameter that the scheme has no use for.
    #[error("scheme `{scheme}` takes no `{parameter}`")]
    ParameterUnused {
        /// The scheme's name.
        scheme: &'static str,
        /// The option's name.
        parameter: &'static str,
    },
    /// A parameter given within the scheme's name and beside it.
    #[error("`{parameter}` is given twice: `{first}` and `{second}`")]
    ParameterTwice {
        /// The option's name.
        parameter: &'static str,
        /// Within the name.
        first: Box<Ratio>,
        /// Beside it.
        second: Box<Ratio>,
    },
    /// A share of the newest checkpoint outside of (0, 1].
    #[error("`alpha` is {alpha}; it must be above 0 and at most 1")]
    AlphaOutOfRange {
        /// What was asked for.
        alpha: Ratio,
    },
    /// A floor outside of [0, 1].
    #[error("`floor` is {floor}; it must be a share of the peak, from 0 to 1")]
    FloorOutOfRange {
        /// What was asked for.
        floor: Ratio,
    },
    /// A relative width that no power profile has.
    #[error("`sigma-rel` is {sigma_rel}; it must be at least 0.001 and below 1/sqrt(12) = 0.28867...")]
    SigmaRelOutOfRange {
        /// What was asked for.
        sigma_rel: Ratio,
    },
    /// Hand-given coefficients that do not match the window.
    #[error(
        "{} given for {}",
        thalweg_tensor::counted_are(*n_coefficients, "coefficient"),
        thalweg_tensor::counted(*n_checkpoints, "checkpoint")
    )]
    CountMismatch {
        /// Numbers given.
        n_coefficients: usize,
        /// Checkpoints in the window.
        n_checkpoints: usize,
    },
    /// Positions of checkpoints that do not increase.
    #[error("checkpoint {} is at {position}, but the one before it is at {previous}: positions must increase", idx + 1)]
    PositionsNotIncreasing {
        /// Index of the checkpoint, oldest is 0.
        idx: usize,
        /// Its position.
        position: Box<Ratio>,
        /// The position before it.
        previous: Box<Ratio>,
    },
    /// A divisor too large to be useful.
    #[error(
        "the exact divisor of {n_checkpoints} coefficients would have about {n_bits} bits, more than the limit of {max_bits}"
    )]
    DivisorTooLarge {
        /// Checkpoints in the window.
        n_checkpoints: usize,
        /// Size of the number.
        n_bits: u64,
        /// The limit.
        max_bits: u64,
    },
    /// An order of coefficients that does not exist.
    #[error("there is no order `{text}`")]
    UnknownOrder {
        /// What was asked for.
        text: String,
    },
    /// No snapshot that a reconstruction may use.
    #[error("there is no snapshot at or before step {target_step}")]
    NoSnapshots {
        /// Step of the wanted average.
        target_step: u64,
    },
    /// More snapshots than the exact solution is made for.
    #[error("{n_snapshots} snapshots are at or before the target, more than the limit of {max_snapshots}")]
    TooManySnapshots {
        /// Snapshots that could be used.
        n_snapshots: usize,
        /// The limit.
        max_snapshots: usize,
    },
    /// Two snapshots of one profile at one step.
    #[error("two snapshots of step {step} have the same `sigma-rel` {sigma_rel}")]
    SnapshotTwice {
        /// The step.
        step: u64,
        /// The width.
        sigma_rel: Ratio,
    },
    /// A snapshot at step 0, which has seen nothing.
    #[error("a power average at step 0 has no profile")]
    StepZero,
    /// The arithmetic library gave no number; a defect, or no memory.
    #[error("the arbitrary-precision arithmetic did not return a number")]
    ArithmeticFailed,
}

impl SchemeError {
    /// What to do next, where there is something.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::UnknownScheme { nearest: Some(nearest), .. } => format!("did you mean `{nearest}`?"),
            Self::UnknownScheme { nearest: None, .. } => {
                let names: Vec<&str> = super::SCHEMES.iter().map(|entry| entry.name).collect();
                format!("one of {}", names.join(", "))
            }
            Self::ParameterMissing { parameter: "alpha", scheme } => {
                format!("the share of the newest checkpoint: `--alpha 0.2`, or `{scheme}:0.2`")
            }
            Self::ParameterMissing { parameter: "sigma-rel", scheme } => {
                format!("the profile's relative width: `--sigma-rel 0.1`, or `{scheme}:0.1`")
            }
            Self::ParameterMissing { parameter: "coefficients", .. } => {
                "one number for each checkpoint, oldest first: `--coefficients 0.5,0.3,0.2`".to_owned()
            }
            Self::SumNotOne { sum } if sum.is_zero() => {
                "if you mean a difference of checkpoints, `--allow-sum` keeps the coefficients as they are".to_owned()
            }
            Self::SumNotOne { .. } => {
                "`--normalize` divides them by their sum; if you mean that sum, `--allow-sum` keeps them".to_owned()
            }
            Self::RecipeSumZero => {
                "write `normalize: false` under `parameters` of the recipe and give `--allow-sum`, which uses the \
                                    weights as they are"
                    .to_owned()
            }
            Self::SumZero => "`--allow-sum` instead of `--normalize` uses the coefficients as they are".to_owned(),
            Self::Number(NumberError::NumberTooLong { .. }) => "write the number with fewer digits".to_owned(),
            Self::DivisorTooLarge { .. } => {
                "give the parameter with fewer digits, or merge fewer checkpoints".to_owned()
            }
            Self::CountMismatch { .. } => "give one coefficient for each checkpoint, oldest first".to_owned(),
            Self::UnknownOrder { .. } => "one of `as-is`, `given`, `reverse` or `scramble:SEED`".to_owned(),
            Self::PositionsNotIncreasing { .. } => {
                "`--order given` treats the checkpoints as equally spaced, in the order given".to_owned()
            }
            Self::NoSnapshots { .. } => "choose a later target step, or give earlier snapshots".to_owned(),
            Self::TooManySnapshots { .. } => "use every second snapshot: a few dozen are enough".to_owned(),
            _ => return None,
        })
    }
}
