//! The only code that touches the file system and the network.
//!
//! Floor 0: files, folders, syncs, atomic publishing, object stores. It does not know tensors or formats.

mod address;
#[cfg(feature = "cloud")]
pub mod cloud;
mod direct;
pub mod error;
pub mod guard;
mod host;
pub mod hub;
pub mod local;
mod machine;
pub mod memory;
mod mutex;
mod names;
pub mod publish;
mod stdin;
pub mod storage;
mod text;

pub use address::{is_address, tidy_path};
#[cfg(feature = "cloud")]
pub use cloud::{CloudSettings, HubClient, HubSettings, RoutedStorage, WaitNotes};
pub use error::{Error, HubFault, RemoteFault};
pub use host::{Host, ProcessHost, Unwatched, UploadWatcher};
pub use local::{LocalStorage, check_local};
pub use memory::MemoryStorage;
pub use stdin::STDIN_PATH;
pub use storage::{CommitStyle, FileInfo, FileKind, FolderEntry, Lock, ReadAt, Storage, WriteAt};
pub use text::{skip_mark, text_of};
