//! What can go wrong between a configuration, a file of parameters and a batch, and what to do about it.

use thalweg_tensor::display_name;

/// How many names a message lists before it only counts.
const MAX_LISTED: usize = 10;

/// A model that cannot be described, loaded or run as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is not a JSON object.
    #[error("a configuration must be a JSON object")]
    NotAnObject,
    /// The configuration lacks a key.
    #[error("the configuration has no `{key}`")]
    MissingKey {
        /// The key.
        key: &'static str,
    },
    /// A value of the wrong type or out of range.
    #[error("the configuration's `{}` is {}, which is not {expected}", display_name(key), display_name(value))]
    BadValue {
        /// The key.
        key: String,
        /// The value, as JSON.
        value: String,
        /// What would do.
        expected: &'static str,
    },
    /// A value that means another function than this crate computes.
    #[error("the configuration's `{}` is {}, which is not supported", display_name(key), display_name(value))]
    Unsupported {
        /// The key.
        key: String,
        /// The value, as JSON.
        value: String,
    },
    /// A key whose effect is unknown.
    #[error("the configuration has `{}`, whose effect on a `{model_type}` is unknown", display_name(key))]
    UnknownKey {
        /// The key.
        key: String,
        /// The family.
        model_type: &'static str,
    },
    /// A family that is not here.
    #[error("the model type `{}` is not supported", display_name(model_type))]
    UnknownFamily {
        /// What the configuration says.
        model_type: String,
    },
    /// Switches that no configuration file of the family can say.
    #[error("a `{model_type}` cannot have these switches: writing the configuration and reading it back changes it")]
    InconsistentConfig {
        /// The family.
        model_type: &'static str,
    },
    /// Sizes that cannot be held.
    #[error(
        "the configuration describes {n_params} parameters in {n_tensors} tensors, which is too large to hold in memory"
    )]
    TooLarge {
        /// Parameters.
        n_params: u128,
        /// Tensors.
        n_tensors: u128,
    },
    /// An arena that does not fit the configuration.
    #[error("the configuration needs {expected} parameters, but the arena has {found}")]
    ParamCount {
        /// Parameters of the configuration.
        expected: usize,
        /// Numbers handed in.
        found: usize,
    },
    /// Tensors that do not fit the configuration.
    #[error("the tensors do not fit the configuration: {}", list_problems(missing, extra, misfit))]
    ParamsMismatch {
        /// Tensors that are needed and not there.
        missing: Vec<String>,
        /// Tensors that are there and have no place.
        extra: Vec<String>,
        /// Tensors of another shape or of a dtype that is not a float, in words.
        misfit: Vec<String>,
    },
    /// The bytes of a tensor could not be had.
    #[error(transparent)]
    Access(#[from] thalweg_tensor::AccessError),
    /// A token that the vocabulary does not hold.
    #[error("token {token} at position {position} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// Position in the batch.
        position: usize,
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// Tokens or targets that do not fill the batch.
    #[error("a batch of {n_sequences} x {sequence_length} got {n_tokens} tokens and {n_targets} targets")]
    BatchSize {
        /// Sequences.
        n_sequences: usize,
        /// Tokens of each.
        sequence_length: usize,
        /// Tokens handed in.
        n_tokens: usize,
        /// Targets handed in.
        n_targets: usize,
    },
    /// Sequences longer than the model can read as the family defines it.
    #[error("a sequence of {sequence_length} is longer than {limit}, {reason}")]
    SequenceTooLong {
        /// Tokens of a sequence.
        sequence_length: usize,
        /// The most there may be.
        limit: usize,
        /// What sets the limit.
        reason: &'static str,
    },
}

impl Error {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownFamily { .. } => {
                let names: Vec<_> = crate::Family::ALL.iter().map(|family| family.model_type()).collect();
                Some(format!("supported model types: {}", names.join(", ")))
            }
            Self::UnknownKey { .. } => Some("remove the key if the model works the same without it".to_owned()),
            Self::SequenceTooLong { limit, .. } => Some(format!("cut sequences to {limit} tokens")),
            Self::TokenOutOfRange { .. } => Some("was the text encoded with this model's tokenizer?".to_owned()),
            Self::ParamsMismatch { .. } => Some("does `config.json` belong to this checkpoint?".to_owned()),
            _ => None,
        }
    }
}

fn list_problems(missing: &[String], extra: &[String], misfit: &[String]) -> String {
    let kinds = [("missing", missing), ("without a place", extra), ("of another shape or dtype", misfit)];
    let kinds = kinds.iter().filter(|(_, names)| !names.is_empty()).map(|(kind, names)| {
        let listed: Vec<_> = names.iter().take(MAX_LISTED).map(|name| format!("`{}`", display_name(name))).collect();
        let more = names.len().saturating_sub(MAX_LISTED);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{} {kind}: {}{rest}", names.len(), listed.join(", "))
    });
    kinds.collect::<Vec<_>>().join("; ")
}
