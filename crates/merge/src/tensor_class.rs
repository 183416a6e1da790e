//! How one tensor of a merge is treated.

/// How one tensor is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorClass {
    /// Averaged.
    Float,
    /// A router or balancing bias: averaged or taken from the newest source, as the plan says.
    Router,
    /// Integers or booleans: copied if equal, or from the newest source.
    Discrete,
    /// State that a layer keeps for itself (`_extra_state`): from the newest source.
    ExtraState,
    /// From the newest source, because the plan names it.
    Newest,
    /// Element types that cannot be averaged: copied if equal.
    Opaque,
    /// A moment of the optimizer: averaged, in its own element type.
    Moment,
    /// Anything else of the optimizer's state: from the newest source.
    OptimizerState,
}
