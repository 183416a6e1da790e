//! The storage of a process that reads addresses: each path goes to its store, every other to the local disk.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use object_store::ObjectStore;
use object_store::multipart::MultipartStore;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::CloudSettings;
use super::block_cache::BlockCache;
use super::key::{Location, parent_key};
use super::listing::Found;
use super::open_store::{OpenStore, open_store};
use super::pending_file::{PendingReader, check_length};
use super::remote::{Remote, Shared};
use super::remote_file::RemoteFile;
use super::stop::Stop;
use crate::error::Error;
use crate::host::ProcessHost;
use crate::names::stage_path;
use crate::{
    CommitStyle, FileInfo, FileKind, FolderEntry, LocalStorage, Lock, ReadAt, Storage, UploadWatcher, WriteAt,
};

/// How much is read at once over all stores, by the number of cores: what one request brings in a second is a matter
/// of the store, so a machine that can use more bytes needs more requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reach {
    /// Threads that wait for stores: enough to decrypt and copy while all cores compute.
    n_threads: usize,
    /// Requests for bytes that are under way.
    in_flight: usize,
    /// Memory for blocks that are read ahead.
    cache_bytes: u64,
}

impl Reach {
    fn of_cores(n_cores: usize) -> Self {
        const BYTES_EACH: u64 = 8 << 20;
        let in_flight = (4 * n_cores).clamp(32, 256);
        Self { n_threads: (n_cores / 2).clamp(2, 16), in_flight, cache_bytes: in_flight as u64 * BYTES_EACH }
    }

    fn of_machine() -> Self {
        Self::of_cores(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
    }
}

/// The local disk, and a store for each address.
#[derive(Debug)]
pub struct RoutedStorage {
    local: LocalStorage,
    settings: CloudSettings,
    shared: OnceLock<Shared>,
    remotes: Mutex<BTreeMap<String, Arc<Remote>>>,
}

/// The threads of all stores of the process. They are never stopped: a task may be the last to hold what it works on,
/// and a runtime cannot be dropped by its own task.
pub(super) fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let made =
        builder.worker_threads(Reach::of_machine().n_threads).thread_name("thalweg-store").enable_all().build()?;
    Ok(RUNTIME.get_or_init(|| made))
}

/// Where a path is.
enum Place {
    Local,
    Remote(Arc<Remote>, String),
}

impl RoutedStorage {
    /// The local disk; stores are opened when the first address of each is used.
    pub fn new(settings: CloudSettings) -> Self {
        Self { local: LocalStorage::new(), settings, shared: OnceLock::new(), remotes: Mutex::default() }
    }

    /// Uses `store` for the addresses that begin with `root`, such as `s3://bucket`.
    ///
    /// # Errors
    /// `Remote` if the threads of stores cannot be started.
    ///
    /// # Example
    /// ```
    /// use std::sync::Arc;
    /// use thalweg_storage::{CloudSettings, RoutedStorage};
    ///
    /// let store = Arc::new(object_store::memory::InMemory::new());
    /// let settings = CloudSettings::from_variables(std::env::vars_os(), &std::env::temp_dir());
    /// let storage = RoutedStorage::new(settings).with_store("s3://bucket", store)?;
    /// # Ok::<(), thalweg_storage::Error>(())
    /// ```
    pub fn with_store<S: ObjectStore + MultipartStore>(self, root: &str, store: Arc<S>) -> Result<Self, Error> {
        let open = OpenStore { store: Arc::<S>::clone(&store), parts: Some(store) };
        let remote = Remote::new(root.to_owned(), open, self.shared(Path::new(root))?);
        self.remotes.lock().unwrap_or_else(PoisonError::into_inner).insert(root.to_owned(), remote);
        Ok(self)
    }

    fn shared(&self, path: &Path) -> Result<Shared, Error> {
        if let Some(shared) = self.shared.get() {
            return Ok(shared.clone());
        }
        let reach = Reach::of_machine();
        let shared = Shared {
            runtime: runtime().map_err(|source| Error::Io {
                act: "start threads for",
                path: path.to_owned(),
                source,
            })?,
            blocks: Arc::new(BlockCache::new(reach.cache_bytes)),
            in_flight: Arc::new(Semaphore::new(reach.in_flight)),
            clock: ProcessHost::start(),
            give_up_after: self.settings.give_up_after,
            stop: Stop::new(Arc::clone(&self.settings.interrupt)),
            waits: self.settings.waits.clone(),
        };
        Ok(self.shared.get_or_init(|| shared).clone())
    }

    fn place(&self, path: &Path) -> Result<Place, Error> {
        let Some(location) = Location::parse(path)? else { return Ok(Place::Local) };
        Ok(Place::Remote(self.remote(&location)?, location.key))
    }

    fn remote(&self, location: &Location) -> Result<Arc<Remote>, Error> {
        let root = location.root();
        let mut remotes = self.remotes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(remote) = remotes.get(&root) {
            return Ok(Arc::clone(remote));
        }
        let shared = self.shared(Path::new(&root))?;
        // Clients of some stores start tasks when they are made.
        let _inside = shared.runtime.enter();
        let remote = Remote::new(root.clone(), open_store(location, &self.settings)?, shared);
        remotes.insert(root, Arc::clone(&remote));
        Ok(remote)
    }

    /// The local path of the stage or lock of an address.
    fn local_for(&self, location: &Location, kind: &str) -> PathBuf {
        let mut path = self.settings.staging.join(kind).join(location.scheme.name());
        // Some file systems refuse colons in names.
        path.push(location.bucket.replace(':', "_"));
        path.push(&location.key);
        path
    }
}

impl Drop for RoutedStorage {
    fn drop(&mut self) {
        // Files that were never synced may be lost; this saves what it can.
        for remote in self.remotes.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let _ = remote.put_all();
        }
    }
}

fn info_at(remote: &Arc<Remote>, key: &str, act: &'static str) -> Result<FileInfo, Error> {
    if let Some(info) = remote.made_here(key) {
        return Ok(info);
    }
    let found = remote.find(key, act)?;
    found.info(key).ok_or_else(|| match found {
        Found::Unfinished => Error::UnfinishedUpload { path: remote.path_of(key) },
        _ => remote.missing(act, key),
    })
}

/// Checks that something new can be at a key: in a folder, where nothing is.
fn check_free(remote: &Arc<Remote>, key: &str, act: &'static str) -> Result<(), Error> {
    match info_at(remote, key, act) {
        Ok(_) => return Err(remote.io(act, key, io::ErrorKind::AlreadyExists)),
        Err(error) if error.is_free() => {}
        Err(error) => return Err(error),
    }
    let above = parent_key(key).unwrap_or_default();
    match info_at(remote, above, act) {
        Ok(info) if info.kind == FileKind::Folder => Ok(()),
        Ok(_) => Err(remote.io(act, key, io::ErrorKind::NotADirectory)),
        Err(error) if error.is_not_found() => Err(remote.io(act, key, io::ErrorKind::NotFound)),
        Err(error) => Err(error),
    }
}

fn open_at(remote: &Arc<Remote>, key: &str, path: &Path) -> Result<Arc<dyn ReadAt>, Error> {
    if let Some(file) = remote.pending(key) {
        return Ok(Arc::new(PendingReader::new(file)));
    }
    if remote.made_here(key).is_some() {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    match remote.find(key, "open")? {
        Found::File(object) => Ok(Arc::new(RemoteFile::new(remote, key, object))),
        Found::Folder => Err(Error::NotAFile { path: path.to_owned() }),
        Found::Unfinished | Found::Nothing => {
            Err(info_at(remote, key, "open").err().unwrap_or_else(|| remote.missing("open", key)))
        }
    }
}

fn list_at(remote: &Arc<Remote>, key: &str) -> Result<Vec<FolderEntry>, Error> {
    let is_made_here = remote.made_here(key);
    if is_made_here.is_some_and(|info| info.kind == FileKind::File) {
        return Err(remote.io("list", key, io::ErrorKind::NotADirectory));
    }
    let mut entries = match remote.list(key) {
        Err(error) if error.is_not_found() && is_made_here.is_some() => Vec::new(),
        listed => listed?,
    };
    for here in remote.names_here(key) {
        entries.retain(|entry| entry.name != here.name);
        entries.push(here);
    }
    crate::storage::sort_entries(&mut entries);
    Ok(entries)
}

/// Folders of a store are its keys: those that this process made are seen by it alone.
fn make_folder_at(remote: &Arc<Remote>, key: &str) -> Result<(), Error> {
    remote.parts("create", key)?;
    match info_at(remote, key, "create") {
        Ok(info) if info.kind == FileKind::File => return Err(remote.io("create", key, io::ErrorKind::AlreadyExists)),
        Err(error) if !error.is_free() => return Err(error),
        _ => {}
    }
    remote.make_folders(key);
    Ok(())
}

fn remove_at(remote: &Arc<Remote>, key: &str) -> Result<(), Error> {
    if key.is_empty() {
        return Err(remote.io("remove", key, io::ErrorKind::InvalidInput));
    }
    let known = info_at(remote, key, "remove")?;
    let was_here = remote.drop_pending(key);
    let keys = match known.kind {
        FileKind::File => vec![key.to_owned()],
        _ => remote.lengths_below(key)?.into_keys().collect(),
    };
    if keys.is_empty() && !was_here {
        return Err(remote.missing("remove", key));
    }
    keys.iter().try_for_each(|key| remote.delete(key))
}

/// A lock that another process holds, as that of the address.
fn of_address<T>(lock: Result<T, Error>, path: &Path) -> Result<T, Error> {
    lock.map_err(|error| match error {
        Error::Locked { .. } => Error::Locked { path: path.to_owned() },
        error => error,
    })
}

fn unsupported(act: &'static str, path: &Path) -> Error {
    Error::Io { act, path: path.to_owned(), source: io::ErrorKind::Unsupported.into() }
}

impl Storage for RoutedStorage {
    fn file_info(&self, path: &Path) -> Result<FileInfo, Error> {
        match self.place(path)? {
            Place::Local => self.local.file_info(path),
            Place::Remote(remote, key) => info_at(&remote, &key, "read"),
        }
    }

    fn link_target(&self, path: &Path) -> Result<Option<PathBuf>, Error> {
        match self.place(path)? {
            Place::Local => self.local.link_target(path),
            Place::Remote(..) => Ok(None),
        }
    }

    fn keeps_folder(&self, path: &Path) -> Result<Option<&'static str>, Error> {
        match self.place(path)? {
            Place::Local => self.local.keeps_folder(path),
            Place::Remote(..) => Ok(None),
        }
    }

    fn count_entries(&self, path: &Path) -> Result<usize, Error> {
        match self.place(path)? {
            Place::Local => self.local.count_entries(path),
            Place::Remote(remote, key) => Ok(list_at(&remote, &key)?.len()),
        }
    }

    fn list_folder(&self, path: &Path) -> Result<Vec<FolderEntry>, Error> {
        match self.place(path)? {
            Place::Local => self.local.list_folder(path),
            Place::Remote(remote, key) => list_at(&remote, &key),
        }
    }

    fn open_file(&self, path: &Path) -> Result<Arc<dyn ReadAt>, Error> {
        match self.place(path)? {
            Place::Local => self.local.open_file(path),
            Place::Remote(remote, key) => open_at(&remote, &key, path),
        }
    }

    fn set_io_memory(&self, n_written: usize, n_read: usize, limit_bytes: u64) -> u64 {
        self.local.set_io_memory(n_written, n_read, limit_bytes)
    }

    fn create_file(&self, path: &Path, len_bytes: u64) -> Result<Arc<dyn WriteAt>, Error> {
        match self.place(path)? {
            Place::Local => self.local.create_file(path, len_bytes),
            Place::Remote(remote, key) => {
                remote.parts("create", &key)?;
                check_free(&remote, &key, "create")?;
                Ok(remote.add_pending(&key, vec![0; check_length(len_bytes, path)?]))
            }
        }
    }

    fn open_for_update(&self, path: &Path) -> Result<Arc<dyn WriteAt>, Error> {
        match self.place(path)? {
            Place::Local => self.local.open_for_update(path),
            Place::Remote(remote, key) => {
                if let Some(file) = remote.pending(&key) {
                    return Ok(file);
                }
                let file = open_at(&remote, &key, path)?;
                let mut bytes = vec![0; check_length(file.info().len_bytes, path)?];
                file.read_exact_at(0, &mut bytes)?;
                Ok(remote.add_pending(&key, bytes))
            }
        }
    }

    fn open_together(&self, path: &Path, len_bytes: u64) -> Result<Arc<dyn WriteAt>, Error> {
        match self.place(path)? {
            Place::Local => self.local.open_together(path, len_bytes),
            Place::Remote(remote, key) => {
                let file = match remote.pending(&key) {
                    Some(file) => file as Arc<dyn WriteAt>,
                    None if info_at(&remote, &key, "open").is_ok() => self.open_for_update(path)?,
                    None => return self.create_file(path, len_bytes),
                };
                if file.len_bytes()? < len_bytes {
                    file.write_all_at(len_bytes - 1, &[0])?;
                }
                Ok(file)
            }
        }
    }

    fn create_folder(&self, path: &Path) -> Result<(), Error> {
        match self.place(path)? {
            Place::Local => self.local.create_folder(path),
            Place::Remote(remote, key) => make_folder_at(&remote, &key),
        }
    }

    fn sync_folder(&self, path: &Path) -> Result<(), Error> {
        match self.place(path)? {
            Place::Local => self.local.sync_folder(path),
            Place::Remote(remote, key) => match info_at(&remote, &key, "sync")?.kind {
                FileKind::Folder => Ok(()),
                _ => Err(remote.io("sync", &key, io::ErrorKind::NotADirectory)),
            },
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        match (self.place(from)?, self.place(to)?) {
            (Place::Local, Place::Local) => self.local.rename(from, to),
            _ => Err(unsupported("rename", from)),
        }
    }

    fn link_file(&self, from: &Path, to: &Path) -> Result<(), Error> {
        match (self.place(from)?, self.place(to)?) {
            (Place::Local, Place::Local) => self.local.link_file(from, to),
            _ => Err(unsupported("link", from)),
        }
    }

    fn exchange(&self, a: &Path, b: &Path) -> Result<(), Error> {
        match (self.place(a)?, self.place(b)?) {
            (Place::Local, Place::Local) => self.local.exchange(a, b),
            _ => Err(unsupported("exchange", a)),
        }
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        match self.place(path)? {
            Place::Local => self.local.remove(path),
            Place::Remote(remote, key) => remove_at(&remote, &key),
        }
    }

    fn free_bytes(&self, path: &Path) -> Result<Option<u64>, Error> {
        match Location::parse(path)? {
            None => self.local.free_bytes(path),
            // What is uploaded is written here first.
            Some(_) => self.local.free_bytes(&self.settings.staging),
        }
    }

    fn canonical_path(&self, path: &Path) -> Result<PathBuf, Error> {
        match Location::parse(path)? {
            None => self.local.canonical_path(path),
            Some(location) => Ok(location.path()),
        }
    }

    fn lock(&self, path: &Path) -> Result<Lock, Error> {
        match Location::parse(path)? {
            None => self.local.lock(path),
            Some(location) => of_address(self.local.lock(&self.lock_for(&location)?), path),
        }
    }

    fn lock_shared(&self, path: &Path) -> Result<Lock, Error> {
        match Location::parse(path)? {
            None => self.local.lock_shared(path),
            Some(location) => of_address(self.local.lock_shared(&self.lock_for(&location)?), path),
        }
    }

    fn commit_style(&self, path: &Path) -> CommitStyle {
        match Location::parse(path) {
            Ok(None) => CommitStyle::RenameFolder,
            _ => CommitStyle::Upload,
        }
    }

    fn stage_path(&self, target: &Path) -> PathBuf {
        match Location::parse(target) {
            Ok(Some(location)) => stage_path(&self.local_for(&location, "stages")),
            _ => stage_path(target),
        }
    }

    fn upload_folder(
        &self,
        stage: &Path,
        target: &Path,
        manifest: &str,
        watcher: &dyn UploadWatcher,
    ) -> Result<(), Error> {
        match self.place(target)? {
            Place::Local => self.local.upload_folder(stage, target, manifest, watcher),
            Place::Remote(remote, key) => {
                let uploaded = super::upload::upload_folder((&self.local, stage), (&remote, &key), manifest, watcher);
                of_address(uploaded, target)
            }
        }
    }

    fn will_open(&self, paths: &[PathBuf]) {
        for path in paths {
            if let Ok(Place::Remote(remote, key)) = self.place(path)
                && let Ok(Found::File(object)) = remote.find(&key, "open")
            {
                RemoteFile::new(&remote, &key, object).ask_head();
            }
        }
    }
}

impl RoutedStorage {
    /// A local file that is locked instead of an address: it keeps other processes of this machine away.
    fn lock_for(&self, location: &Location) -> Result<PathBuf, Error> {
        let (remote, key) = (self.remote(location)?, &location.key);
        remote.parts("lock", key)?;
        let above = parent_key(key).unwrap_or_default();
        if info_at(&remote, above, "lock")?.kind != FileKind::Folder {
            return Err(remote.io("lock", key, io::ErrorKind::NotADirectory));
        }
        match info_at(&remote, key, "lock") {
            Ok(info) if info.kind != FileKind::File => return Err(Error::NotAFile { path: location.path() }),
            Err(error) if !error.is_not_found() => return Err(error),
            Err(_) => remote.add_lock(key),
            Ok(_) => {}
        }
        let mut path = self.local_for(location, "locks").into_os_string();
        path.push(".lock");
        let path = PathBuf::from(path);
        self.local.create_folder(path.parent().unwrap_or(&self.settings.staging))?;
        Ok(path)
    }

    /// Uploads below an address that were begun and have not ended.
    ///
    /// # Errors
    /// `Remote`; `UnsupportedScheme` for a path.
    pub fn leftover_uploads(&self, path: &Path) -> Result<Vec<super::LeftoverUpload>, Error> {
        match self.place(path)? {
            Place::Local => Err(Error::NoPlace {
                path: path.to_owned(),
                what: "it is not the address of a store, and only stores have unfinished uploads".to_owned(),
            }),
            Place::Remote(remote, key) => super::upload::find_leftovers(&remote, &key),
        }
    }

    /// Removes what one of [`leftover_uploads`](Self::leftover_uploads) left.
    ///
    /// # Errors
    /// `Remote`.
    pub fn remove_leftover(&self, leftover: &super::LeftoverUpload) -> Result<(), Error> {
        match self.place(&leftover.path)? {
            Place::Local => Ok(()),
            Place::Remote(remote, key) => super::upload::remove_leftover(&remote, &key, leftover),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_machine_reads_more_at_once() {
        let of = |n_cores| {
            let reach = Reach::of_cores(n_cores);
            (reach.n_threads, reach.in_flight, reach.cache_bytes >> 20)
        };
        assert_eq!(
            [1, 2, 8, 64, 256].map(of),
            [(2, 32, 256), (2, 32, 256), (4, 32, 256), (16, 256, 2048), (16, 256, 2048)]
        );
    }
}
