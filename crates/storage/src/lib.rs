//! The only code that touches the file system.
//!
//! Floor 0: files, folders, syncs and atomic publishing. It does not know tensors or formats.

mod address;
pub mod error;
pub mod guard;
mod host;
pub mod local;
mod machine;
pub mod memory;
mod names;
pub mod publish;
pub mod storage;

pub use address::check_local;
pub use error::Error;
pub use host::{Host, ProcessHost, Unwatched};
pub use local::LocalStorage;
pub use memory::MemoryStorage;
pub use storage::{CommitStyle, FileInfo, FileKind, FolderEntry, Lock, ReadAt, Storage, WriteAt};
