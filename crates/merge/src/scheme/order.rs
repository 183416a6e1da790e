//! Which checkpoint gets which coefficient: by step, in the order given, or deliberately the wrong one.
//!
//! Control experiments give the same coefficients to the wrong checkpoints.
//! If a scheme beats a plain mean only because its coefficients are unequal, and not because the right checkpoints
//! get the large ones, then the reversed and the scrambled order do as well as the true one.

use std::fmt;
use std::str::FromStr;

use thalweg_tensor::SplitMix;

use super::SchemeError;
use crate::Coefficients;

/// Order in which coefficients are given to checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CoefficientOrder {
    /// As the scheme says: oldest first, by step where every checkpoint has one.
    #[default]
    AsIs,
    /// As the scheme says, with the checkpoints in the order given, the first as the oldest, whatever their steps.
    Given,
    /// The oldest checkpoint gets the newest one's coefficient.
    Reverse,
    /// A permutation that depends on the seed and the number of checkpoints alone.
    Scramble {
        /// Any number.
        seed: u64,
    },
}

impl CoefficientOrder {
    /// The same coefficients in this order.
    ///
    /// # Example
    /// ```
    /// use thalweg_merge::{Coefficients, scheme::CoefficientOrder};
    ///
    /// let rising = Coefficients::new([1, 2, 3], 6)?;
    /// assert_eq!("reverse".parse::<CoefficientOrder>()?.apply(&rising), Coefficients::new([3, 2, 1], 6)?);
    /// # Ok::<(), thalweg_merge::scheme::SchemeError>(())
    /// ```
    pub fn apply(self, coefficients: &Coefficients) -> Coefficients {
        coefficients.permuted(&self.permutation(coefficients.n_checkpoints()))
    }

    /// Position i gets coefficient `permutation[i]`.
    fn permutation(self, n: usize) -> Vec<usize> {
        match self {
            Self::AsIs | Self::Given => (0..n).collect(),
            Self::Reverse => (0..n).rev().collect(),
            Self::Scramble { seed } => scramble(n, seed),
        }
    }
}

fn scramble(n: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    SplitMix::new(seed).shuffle(&mut order);
    order
}

impl fmt::Display for CoefficientOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AsIs => f.write_str("as-is"),
            Self::Given => f.write_str("given"),
            Self::Reverse => f.write_str("reverse"),
            Self::Scramble { seed } => write!(f, "scramble:{seed}"),
        }
    }
}

impl FromStr for CoefficientOrder {
    type Err = SchemeError;

    fn from_str(text: &str) -> Result<Self, SchemeError> {
        let fail =
            || SchemeError::UnknownOrder { text: text.chars().take(40).flat_map(char::escape_default).collect() };
        match (text, text.split_once(':')) {
            ("as-is", _) => Ok(Self::AsIs),
            ("given", _) => Ok(Self::Given),
            ("reverse", _) => Ok(Self::Reverse),
            (_, Some(("scramble", seed))) if seed.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(Self::Scramble { seed: seed.parse().map_err(|_| fail())? })
            }
            _ => Err(fail()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_keep_the_coefficients_and_their_sum() {
        let coefficients = Coefficients::new(1..=10, 55).unwrap();
        for text in ["as-is", "given", "reverse", "scramble:0", "scramble:42"] {
            let order: CoefficientOrder = text.parse().unwrap();
            assert_eq!(order.to_string(), text);
            let moved = order.apply(&coefficients);
            assert!(moved.is_affine());
            let mut numerators = moved.numerators().to_vec();
            numerators.sort();
            assert_eq!(numerators, coefficients.numerators());
        }
        assert_eq!(CoefficientOrder::AsIs.apply(&coefficients), coefficients);
        assert_eq!(CoefficientOrder::Reverse.apply(&CoefficientOrder::Reverse.apply(&coefficients)), coefficients);
    }

    #[test]
    fn a_seed_means_one_permutation_for_ever() {
        // From an implementation of the documented generator in another language.
        assert_eq!(scramble(10, 0), EXPECTED_SEED_0);
        assert_eq!(scramble(10, 42), EXPECTED_SEED_42);
        assert_eq!(scramble(1, 7), [0]);
        assert!(scramble(0, 7).is_empty());
    }

    const EXPECTED_SEED_0: [usize; 10] = [4, 9, 2, 5, 1, 7, 6, 0, 3, 8];
    const EXPECTED_SEED_42: [usize; 10] = [8, 3, 6, 5, 4, 0, 9, 2, 1, 7];

    #[test]
    fn other_orders_are_refused() {
        for text in
            ["", "random", "scramble", "scramble:", "scramble:-1", "scramble:+1", "scramble:99999999999999999999"]
        {
            assert!(text.parse::<CoefficientOrder>().is_err(), "{text}");
        }
    }
}
