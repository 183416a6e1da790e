//! See ARCHITECTURE.md.

pub mod coefficients;
mod nearest;
pub mod rational;
pub mod scheme;

pub use coefficients::Coefficients;
pub use rational::Ratio;
