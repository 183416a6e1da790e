//! Rules that merge experts: models that were trained from one base.
//!
//! A scheme gives every checkpoint one coefficient. A rule looks at the values: it is a function of the elements that
//! the base (b) and the experts (x_1 .. x_n) have of one tensor. d_i = x_i - b are the deltas, w_i the coefficients
//! that the user gives the experts, L is `lambda`. A plan carries its rule whole ([`PlanRule`]), so that the plan and
//! the inputs determine every bit of the output.
//!
//! # Three families
//!
//! - **Affine**: task arithmetic, and every linear rule at density 1. The coefficients do not depend on values:
//!   c_i = L w_i, and the base gets the rest. This is the exact sum of `combine`, in one pass.
//! - **Element-wise** (`DeltaSelector` of the kernels): a selector keeps some elements of each delta and scales them
//!   (TIES by rank, DARE at random, DELLA at random weighted by rank, breadcrumbs by rank without outliers, SCE by the
//!   variance over the experts), then the kept ones are added, either all of them or those that agree in sign.
//!   Arithmetic is in f64, and one rounding gives the output's element type.
//! - **Per tensor** (`geometry`): SLERP, multi-SLERP, Karcher mean and model stock are linear combinations whose
//!   coefficients follow from the inner products of a tensor. `gram` computes these in one pass, and the exact sum
//!   does the rest in a second one.
//!
//! # Passes and memory
//!
//! No model is loaded whole. Ranks come from histograms of magnitudes: one pass counts the upper half of the bits of
//! |d| as f32, one the lower half of those in the bucket of the threshold. If only some of several equal
//! elements are kept, a third pass finds the last of them. [`RuleKind::passes`] says how often sources are
//! read. Histograms take 1.5 MiB for each expert and thread ([`held_bytes`]).
//!
//! # Chance
//!
//! The mask of DARE and DELLA is a function of the seed, the tensor's name, the number of the expert and the number of
//! the element (`stream_key`): independent of threads, memory limits, shards and resumes.
//!
//! # Conventions
//!
//! Where a paper and mergekit differ, [`Convention`] chooses: `paper` by default, `mergekit` in its recipes.
//!
//! | question | paper | mergekit |
//! |---|---|---|
//! | TIES: the largest share of what | of the whole model | of each tensor |
//! | TIES: elements equal to the smallest kept one | all kept | as many as make the count, first ones first |
//! | sign of a sum of zero | none: nothing agrees | positive |
//! | DARE and DELLA: rescaling | 1/density, 1/(1 - p_i) | to the delta's L1 norm, tensor by tensor |
//! | DARE with signs, breadcrumbs with signs | mean of those that agree | sum of those that agree |
//! | DELLA: range of the probabilities | density +- epsilon/2 (not checked against the paper) | density +- epsilon |
//! | SCE: equal coefficients where the squares of the deltas are | zero | below 1e-6 on average |
//! | SLERP: linear where the vectors are | parallel or opposite | within 1.8 degrees of that |
//! | Karcher mean: iterations | at most 100, until the step is below 1e-12 | at most 10, until 1e-5 |
//!
//! In two places both conventions are our own. A row of DELLA is the last axis of a tensor; mergekit ranks
//! tensors of three axes along the second. Directions that cancel have no multi-SLERP: the plain mean is taken, where
//! mergekit stops with an error if there are more than two experts.

mod della;
mod geometry;
mod norms;
mod plan;
mod prepare;
mod rank;
mod scan;
mod spread;
mod table;

pub use plan::{PlanRule, RuleError};
pub use table::{Convention, RULES, Rescale, RuleEntry, RuleKind};

pub(crate) use della::RowRanks;
pub(crate) use prepare::{DeltaWork, RuleInputs, RuleWork, held_bytes, prepare_rules};
pub(crate) use scan::{Scan, Seen, read_widened};

#[cfg(test)]
mod tests;
