//! Dtypes, shapes, catalogs and the correctly rounded weighted sum.
//!
//! Floor 0: this crate knows bytes and numbers. It does not know files, formats, runs or models.

pub mod block_scale;
pub mod catalog;
pub mod count;
pub mod digest;
pub mod dtype;
pub mod finite;
#[expect(unsafe_code, reason = "vector instructions; each block says why it is sound")]
pub mod kernel;
pub mod name;
pub mod nearest;
pub mod pattern;
pub mod piece;
pub mod random;
pub mod shape;
pub mod shell;
pub mod source;

pub use block_scale::BlockGrid;
pub use catalog::{TensorCatalog, TensorEntry};
pub use count::{CountError, counted, counted_are, parse_count, parse_size, part_of, part_of_are, show_size};
pub use digest::Digest;
pub use dtype::{Dtype, DtypeClass};
pub use name::display_name;
pub use nearest::nearest_name;
pub use pattern::match_pattern;
pub use piece::{CoverFault, Piece};
pub use random::SplitMix;
pub use shape::Shape;
pub use shell::{shell_path, shell_word};
pub use source::{AccessError, TensorSink, TensorSource};

#[cfg(not(target_pointer_width = "64"))]
compile_error!("thalweg holds sizes of tensors in usize and needs a 64-bit target");

/// A count or offset as an index: lossless, because only 64-bit targets compile.
#[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits here")]
pub const fn to_index(n: u64) -> usize {
    n as usize
}
