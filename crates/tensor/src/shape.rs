//! Shapes: dimensions, row-major, with checked products.

use std::fmt;

/// Dimensions of a tensor, outermost first. `[]` is a scalar (one element).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(pub Box<[u64]>);

impl Shape {
    /// A shape from its dimensions.
    pub fn new(dims: impl Into<Box<[u64]>>) -> Self {
        Self(dims.into())
    }

    /// Product of the dimensions, `None` if it overflows 64 bits.
    ///
    /// A zero dimension after an overflowing prefix still overflows: such a shape is hostile.
    pub fn n_elements(&self) -> Option<u64> {
        self.0.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}
