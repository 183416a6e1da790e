//! Files of a local disk read and written past the page cache.
//!
//! An output is synced before it is published, so the page cache saves it nothing, and neither does it save sources
//! that are read once and do not fit into it. It costs a page for every 4 KiB, which takes memory from what else is
//! cached, such as what a trainer reads, and on a busy machine more time than the sums.

mod pool;
mod read;
mod write;

pub(crate) use read::{AheadState, DirectReaders, ReadAhead, files_within};
pub(crate) use write::{DirectFile, DirectWriters};
