//! The arithmetic of the transformer: plain functions on slices, forward beside backward, generic over `f32` and `f64`.
//!
//! Every reduction runs over blocks whose borders depend on the shapes alone, so results do not depend on the number of
//! threads. No function here knows of layers, names or files. Elementwise loops are compiled for each vector width by
//! `pulp` and chosen at run time.

pub mod activation;
pub mod attention;
pub mod attention_step;
pub mod embedding;
pub mod heads;
pub mod linear;
pub mod loss;
pub mod matmul;
pub mod moe;
pub mod norm;
pub mod real;
mod reduce;
pub mod rotary;
#[cfg(test)]
mod tests;

pub use matmul::{Accumulate, Mat, MatMut, Threads, matmul};
pub use real::Real;

/// Rows that one task handles in row-wise kernels: a constant, so that sums over rows are grouped the same way for any
/// number of threads.
pub const BLOCK_ROWS: usize = 64;
