//! The only code that touches the file system.
//!
//! Floor 0: files, folders, syncs and atomic publishing. It does not know tensors or formats.

pub mod error;
pub mod local;
pub mod machine;
pub mod memory;
pub mod publish;
pub mod storage;

pub use error::Error;
pub use local::LocalStorage;
pub use memory::MemoryStorage;
pub use storage::{CommitStyle, FileInfo, FileKind, FolderEntry, ReadAt, Storage, WriteAt};
