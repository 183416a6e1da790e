//! Dtypes, shapes, catalogs and the correctly rounded weighted sum.
//!
//! Floor 0: this crate knows bytes and numbers. It does not know files, formats, runs or models.

pub mod catalog;
pub mod dtype;
pub mod name;
pub mod shape;
pub mod source;

pub use catalog::{Piece, TensorCatalog, TensorEntry};
pub use dtype::{Dtype, DtypeClass};
pub use name::display_name;
pub use shape::Shape;
pub use source::{AccessError, TensorSink, TensorSource};
