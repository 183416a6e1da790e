//! The element types of the safetensors format, and which of them can be averaged.
//!
//! Does not convert numbers; see `convert`.

use std::fmt;

/// Element type of a tensor, by its safetensors name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the variants are the format's own names")]
pub enum Dtype {
    Bool,
    U8,
    I8,
    I16,
    U16,
    F16,
    Bf16,
    I32,
    U32,
    F32,
    F64,
    I64,
    U64,
    C64,
    F8E5M2,
    F8E4M3,
    F8E8M0,
    F8E5M2Fnuz,
    F8E4M3Fnuz,
    F6E2M3,
    F6E3M2,
    F4,
}

/// What a merge may do with an element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtypeClass {
    /// F64, F32, F16, BF16: averaged, correctly rounded.
    Mergeable,
    /// Integers and booleans: copied if equal in all sources, else by the plan's policy.
    Discrete,
    /// Scaled, packed or complex codes: averaging them has no meaning, refused by name.
    Refused,
}

const TABLE: [(Dtype, &str, u32, DtypeClass); 22] = {
    use DtypeClass::{Discrete, Mergeable, Refused};
    [
        (Dtype::Bool, "BOOL", 8, Discrete),
        (Dtype::U8, "U8", 8, Discrete),
        (Dtype::I8, "I8", 8, Discrete),
        (Dtype::I16, "I16", 16, Discrete),
        (Dtype::U16, "U16", 16, Discrete),
        (Dtype::F16, "F16", 16, Mergeable),
        (Dtype::Bf16, "BF16", 16, Mergeable),
        (Dtype::I32, "I32", 32, Discrete),
        (Dtype::U32, "U32", 32, Discrete),
        (Dtype::F32, "F32", 32, Mergeable),
        (Dtype::F64, "F64", 64, Mergeable),
        (Dtype::I64, "I64", 64, Discrete),
        (Dtype::U64, "U64", 64, Discrete),
        (Dtype::C64, "C64", 64, Refused),
        (Dtype::F8E5M2, "F8_E5M2", 8, Refused),
        (Dtype::F8E4M3, "F8_E4M3", 8, Refused),
        (Dtype::F8E8M0, "F8_E8M0", 8, Refused),
        (Dtype::F8E5M2Fnuz, "F8_E5M2FNUZ", 8, Refused),
        (Dtype::F8E4M3Fnuz, "F8_E4M3FNUZ", 8, Refused),
        (Dtype::F6E2M3, "F6_E2M3", 6, Refused),
        (Dtype::F6E3M2, "F6_E3M2", 6, Refused),
        (Dtype::F4, "F4", 4, Refused),
    ]
};

impl Dtype {
    /// All element types, in the order of their declaration.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> &'static (Self, &'static str, u32, DtypeClass) {
        // The table is in declaration order; a test keeps it there.
        &TABLE[self as usize]
    }

    /// Name in a safetensors header, such as `BF16`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The type with this safetensors name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// Bits of one element: 4, 6, 8, 16, 32 or 64.
    pub fn bits(self) -> u32 {
        self.row().2
    }

    /// Bytes of one element, or `None` for the packed types (F4, F6).
    pub fn bytes(self) -> Option<u64> {
        self.bits().is_multiple_of(8).then(|| u64::from(self.bits() / 8))
    }

    /// Bytes of `n_elements` elements; `None` on overflow or when they do not fill whole bytes.
    pub fn bytes_of(self, n_elements: u64) -> Option<u64> {
        let bits = n_elements.checked_mul(u64::from(self.bits()))?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// What a merge may do with it.
    pub fn class(self) -> DtypeClass {
        self.row().3
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_in_declaration_order_and_names_read_back() {
        for (i, dtype) in Dtype::all().enumerate() {
            assert_eq!(dtype as usize, i);
            assert_eq!(Dtype::from_name(dtype.name()), Some(dtype));
        }
        assert_eq!(Dtype::from_name("F128"), None);
    }

    #[test]
    fn packed_types_must_fill_whole_bytes() {
        assert_eq!(Dtype::F4.bytes_of(3), None);
        assert_eq!(Dtype::F4.bytes_of(4), Some(2));
        assert_eq!(Dtype::F6E2M3.bytes_of(4), Some(3));
        assert_eq!(Dtype::F64.bytes_of(u64::MAX), None);
    }
}
