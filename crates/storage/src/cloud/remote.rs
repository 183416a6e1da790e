//! One bucket: what is in it, its bytes, and what this process writes to it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, LocalBoxFuture};
use object_store::multipart::MultipartStore;
use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::block_cache::{BlockCache, BlockKey};
use super::fault::{Fault, FaultKind};
use super::key::{join_key, parent_key};
use super::listing::{Cover, Found, Listing, Listings, MAX_LISTED, Object, folder_info};
use super::open_store::OpenStore;
use super::pending_file::{FileStore, PendingFile, PendingFiles};
use super::stop::{Patience, Stop};
use super::wait_notes::{QUIET, WaitNotes};
use crate::error::{Error, RemoteFault};
use crate::host::{Host, ProcessHost};
use crate::{FileInfo, FileKind, FolderEntry};

/// How long a store that was given up is not asked again. Many questions are about files that need not be there, and
/// their errors mean no: a command must not continue as if nothing were there, nor wait for each of them.
const GIVEN_UP_SECONDS: f64 = 60.0;

/// What all stores of a process share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) runtime: &'static Runtime,
    pub(super) blocks: Arc<BlockCache>,
    pub(super) in_flight: Arc<Semaphore>,
    pub(super) clock: ProcessHost,
    pub(super) give_up_after: Duration,
    pub(super) stop: Stop,
    pub(super) waits: WaitNotes,
}

/// A bucket, a container, or a server of files.
pub(super) struct Remote {
    root: String,
    store: Arc<dyn ObjectStore>,
    parts: Option<Arc<dyn MultipartStore>>,
    shared: Shared,
    listings: Mutex<Listings>,
    pending: PendingFiles,
    /// Folders that this process made: a store has none, only keys.
    folders: Mutex<BTreeSet<String>>,
    /// Lock files, which are on the local disk.
    locks: Mutex<BTreeSet<String>>,
    /// Why the store as a whole was given up, and when.
    given_up: Mutex<Option<(f64, Fault)>>,
    n_files: AtomicU64,
}

/// Without the client, which shows its key.
impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("root", &self.root).finish_non_exhaustive()
    }
}

/// Makes one request; what it finds is put elsewhere.
type Attempt<'a> = dyn Fn() -> BoxFuture<'a, Result<(), Fault>> + Sync + 'a;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Remote {
    pub(super) fn new(root: String, open: OpenStore, shared: Shared) -> Arc<Self> {
        Arc::new(Self {
            root,
            store: open.store,
            parts: open.parts,
            shared,
            listings: Mutex::default(),
            pending: Mutex::default(),
            folders: Mutex::default(),
            locks: Mutex::default(),
            given_up: Mutex::default(),
            n_files: AtomicU64::new(0),
        })
    }

    pub(super) fn path_of(&self, key: &str) -> PathBuf {
        if key.is_empty() { self.root.clone().into() } else { format!("{}/{key}", self.root).into() }
    }

    pub(super) fn blocks(&self) -> &BlockCache {
        &self.shared.blocks
    }

    pub(super) fn block_name(&self, key: &str, object: &Object) -> Arc<str> {
        let tag = object.e_tag.as_deref().unwrap_or_default();
        format!("{}/{key}#{tag}#{}#{}", self.root, object.len_bytes, object.modified_ns).into()
    }

    /// Whether objects can be written and listed.
    pub(super) fn is_read_only(&self) -> bool {
        self.parts.is_none()
    }

    pub(super) fn io(&self, act: &'static str, key: &str, kind: io::ErrorKind) -> Error {
        Error::Io { act, path: self.path_of(key), source: kind.into() }
    }

    fn object_path(&self, key: &str) -> Result<ObjectPath, Fault> {
        ObjectPath::parse(key).map_err(|_| Fault::new(RemoteFault::Unsupported, "its name is not a valid object key"))
    }

    /// The client for uploads in parts.
    pub(super) fn parts(&self, act: &'static str, key: &str) -> Result<&dyn MultipartStore, Error> {
        let parts = self.parts.as_deref();
        parts.ok_or_else(|| self.fail(act, key, Fault::new(RemoteFault::Unsupported, "this server is read-only")))
    }

    pub(super) fn fail(&self, act: &'static str, key: &str, fault: Fault) -> Error {
        fault.into_error(act, &self.path_of(key))
    }

    /// Whether a stop was asked for: nothing more is begun then.
    pub(super) fn is_stopping(&self) -> bool {
        self.shared.stop.is_asked()
    }

    /// Waits for a future on the runtime of stores.
    pub(super) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        // In a box: the runtime's loop is compiled for each type of what is waited for, and is not small.
        let future: LocalBoxFuture<'_, T> = Box::pin(future);
        self.shared.runtime.block_on(future)
    }

    /// Makes a request and retries it while that may help, up to the time limit, or until a stop is asked for. Every
    /// wait for a store is in here.
    pub(super) async fn persist<T, F>(&self, request: impl Fn() -> F + Sync) -> Result<T, Fault>
    where
        T: Send,
        F: Future<Output = object_store::Result<T>> + Send,
    {
        self.persist_with(|| async { request().await.map_err(|error| Fault::of(&error)) }).await
    }

    /// The same for a request that names its own faults. What is compiled for each request is small.
    async fn persist_with<T, F>(&self, request: impl Fn() -> F + Sync) -> Result<T, Fault>
    where
        T: Send,
        F: Future<Output = Result<T, Fault>> + Send,
    {
        let found = Mutex::new(None);
        let attempt = || -> BoxFuture<'_, Result<(), Fault>> {
            let request = request();
            Box::pin(async {
                let value = request.await?;
                *locked(&found) = Some(value);
                Ok(())
            })
        };
        let attempts: BoxFuture<'_, Result<(), Fault>> = Box::pin(self.attempt(&attempt));
        attempts.await?;
        let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.ok_or_else(|| Fault::new(RemoteFault::Unreachable, "no answer"))
    }

    /// Makes attempts until one succeeds.
    async fn attempt<'a>(&self, request: &'a Attempt<'a>) -> Result<(), Fault> {
        const FIRST_WAIT: Duration = Duration::from_millis(100);
        const MAX_WAIT: Duration = Duration::from_secs(5);
        let began = self.shared.clock.elapsed_seconds();
        if let Some((at, fault)) = &*locked(&self.given_up)
            && began - at < GIVEN_UP_SECONDS
        {
            return Err(fault.clone());
        }
        let limit = self.shared.give_up_after.as_secs_f64();
        let mut wait = FIRST_WAIT;
        let mut last = None;
        for n_attempts in 1.. {
            let left = limit - (self.shared.clock.elapsed_seconds() - began);
            let attempt = tokio::time::timeout(Duration::from_secs_f64(left.max(0.1)), request());
            let fault = match self.shared.stop.wait(Patience::Request, attempt).await {
                Some(Ok(Ok(()))) => return Ok(()),
                Some(Ok(Err(fault))) => fault,
                None => return Err(Fault::interrupted()),
                // The last failure says more than the timeout.
                Some(Err(_)) => {
                    last.take().unwrap_or_else(|| Fault::new(RemoteFault::Unreachable, "the request timed out"))
                }
            };
            let seconds = self.shared.clock.elapsed_seconds() - began;
            if !fault.may_pass() || seconds + wait.as_secs_f64() >= limit {
                let fault = fault.after(n_attempts, seconds);
                if fault.is_of_whole_store() {
                    *locked(&self.given_up) = Some((self.now(), fault.clone()));
                }
                return Err(fault);
            }
            if seconds + wait.as_secs_f64() > QUIET.as_secs_f64() {
                self.shared.waits.add_retry(&format!("`{}`", self.root), fault.what(), limit);
            }
            last = Some(fault);
            if self.shared.stop.wait(Patience::Pause, tokio::time::sleep(wait)).await.is_none() {
                return Err(Fault::interrupted());
            }
            wait = (wait * 2).min(MAX_WAIT);
        }
        Err(Fault::new(RemoteFault::Unreachable, "no answer"))
    }

    // What is there.

    fn now(&self) -> f64 {
        self.shared.clock.elapsed_seconds()
    }

    /// What is at a key.
    ///
    /// # Errors
    /// `Remote`.
    pub(super) fn find(self: &Arc<Self>, key: &str, act: &'static str) -> Result<Found, Error> {
        if self.is_read_only() {
            return self.head(key, act);
        }
        if key.is_empty() {
            return self.check_bucket(act).map(|()| Found::Folder);
        }
        let cover = locked(&self.listings).cover(key, self.now());
        match cover {
            Cover::Fresh(prefix) => return Ok(self.find_in(&prefix, key)),
            Cover::Stale(prefix) => {
                if self.list_whole(&prefix, act)? {
                    return Ok(self.find_in(&prefix, key));
                }
            }
            Cover::Unknown => {}
        }
        if !self.list_whole(key, act)? {
            return Ok(Found::Folder);
        }
        Ok(self.find_in(key, key))
    }

    fn find_in(&self, prefix: &str, key: &str) -> Found {
        locked(&self.listings).get(prefix).map_or(Found::Nothing, |listing| listing.find(key))
    }

    /// Whether the bucket is there: its first page of names tells.
    fn check_bucket(&self, act: &'static str) -> Result<(), Error> {
        let first = || async { self.store.list(None).next().await.transpose().map(|_| ()) };
        self.wait(self.persist(first)).map_err(|fault| self.fail(act, "", self.no_bucket(fault)))
    }

    /// Nothing found where there need not be anything means that there is no bucket.
    fn no_bucket(&self, fault: Fault) -> Fault {
        match fault.kind {
            FaultKind::NotFound => Fault::new(RemoteFault::NoBucket, "there is no such bucket"),
            _ => fault,
        }
    }

    /// Asks for one object.
    fn head(&self, key: &str, act: &'static str) -> Result<Found, Error> {
        let fail = |fault| self.fail(act, key, fault);
        if key.is_empty() {
            return Ok(Found::Folder);
        }
        let path = self.object_path(key).map_err(fail)?;
        match self.wait(self.persist(|| self.store.head(&path))) {
            Ok(meta) => Ok(Found::File(Object::of(&meta))),
            Err(Fault { kind: FaultKind::NotFound, .. }) => Ok(Found::Nothing),
            Err(fault) => Err(fail(fault)),
        }
    }

    /// Lists everything below a prefix, or the one object of that name. `false` if it is too much.
    fn list_whole(&self, prefix: &str, act: &'static str) -> Result<bool, Error> {
        if locked(&self.listings).is_large(prefix) {
            return Ok(false);
        }
        let fail = |fault: Fault| self.fail(act, prefix, self.no_bucket(fault));
        let taken_seconds = self.now();
        let path = self.object_path(prefix).map_err(fail)?;
        let list = || async {
            let mut objects = BTreeMap::new();
            let mut found = self.store.list(Some(&path));
            while let Some(meta) = found.next().await.transpose()? {
                if objects.len() >= MAX_LISTED {
                    return Ok(None);
                }
                objects.insert(meta.location.to_string(), Object::of(&meta));
            }
            Ok(Some(objects))
        };
        let Some(objects) = self.wait(self.persist(list)).map_err(fail)? else {
            locked(&self.listings).note_large(prefix);
            return Ok(false);
        };
        let mut listing = Listing::new(objects, taken_seconds);
        if listing.is_empty()
            && let Found::File(object) = self.head(prefix, act)?
        {
            listing = Listing::new([(prefix.to_owned(), object)], taken_seconds);
        }
        locked(&self.listings).put(prefix, listing);
        Ok(true)
    }

    /// The names in a folder of the store.
    ///
    /// # Errors
    /// `Io` where there is no folder; `Remote`.
    pub(super) fn list(self: &Arc<Self>, key: &str) -> Result<Vec<FolderEntry>, Error> {
        if self.is_read_only() {
            let fault = Fault::new(RemoteFault::Unsupported, "a plain web server does not list folders");
            return Err(self.fail("list", key, fault));
        }
        if key.is_empty() {
            return self.list_names(key);
        }
        match self.find(key, "list")? {
            Found::File(_) => return Err(self.io("list", key, io::ErrorKind::NotADirectory)),
            Found::Nothing | Found::Unfinished => return Err(self.missing("list", key)),
            Found::Folder => {}
        }
        let cover = locked(&self.listings).cover(key, self.now());
        if let Cover::Fresh(prefix) | Cover::Stale(prefix) = cover
            && let Some(listing) = locked(&self.listings).get(&prefix)
        {
            return Ok(listing.children(key));
        }
        self.list_names(key)
    }

    /// Asks for the names in a folder alone.
    fn list_names(&self, key: &str) -> Result<Vec<FolderEntry>, Error> {
        if let Some(entries) = locked(&self.listings).names(key, self.now()) {
            return Ok(entries);
        }
        let fail = |fault: Fault| self.fail("list", key, self.no_bucket(fault));
        let path = self.object_path(key).map_err(fail)?;
        let prefix = (!key.is_empty()).then_some(&path);
        let found = self.wait(self.persist(|| self.store.list_with_delimiter(prefix))).map_err(fail)?;
        let files = found.objects.iter().filter_map(|meta| {
            let name = meta.location.filename()?.to_owned();
            Some(FolderEntry { name, kind: FileKind::File, len_bytes: meta.size })
        });
        let folders = found.common_prefixes.iter().filter_map(|prefix| {
            Some(FolderEntry { name: prefix.filename()?.to_owned(), kind: FileKind::Folder, len_bytes: 0 })
        });
        let mut entries: Vec<FolderEntry> = folders.chain(files).collect();
        crate::storage::sort_entries(&mut entries);
        entries.dedup_by(|b, a| a.name == b.name);
        locked(&self.listings).put_names(key, &entries, self.now());
        Ok(entries)
    }

    /// The lengths of all objects below a folder, those of an unfinished upload included.
    pub(super) fn lengths_below(&self, key: &str) -> Result<BTreeMap<String, u64>, Error> {
        let fail = |fault: Fault| self.fail("list", key, self.no_bucket(fault));
        let path = self.object_path(key).map_err(fail)?;
        let list = || async {
            let mut lengths = BTreeMap::new();
            let mut found = self.store.list(Some(&path).filter(|_| !key.is_empty()));
            while let Some(meta) = found.next().await.transpose()? {
                lengths.insert(meta.location.to_string(), meta.size);
            }
            Ok(lengths)
        };
        self.wait(self.persist(list)).map_err(fail)
    }

    /// A small object whole, also one that is hidden because its upload has not ended.
    pub(super) fn get_whole(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        const MAX_BYTES: u64 = 64 << 20;
        let fail = |fault: Fault| self.fail("read", key, fault);
        let path = self.object_path(key).map_err(fail)?;
        let get = || async {
            let found = self.store.get(&path).await?;
            if found.meta.size > MAX_BYTES { Ok(None) } else { found.bytes().await.map(Some) }
        };
        match self.wait(self.persist(get)) {
            Ok(Some(bytes)) => Ok(Some(bytes.to_vec())),
            Ok(None) => Err(fail(Fault::new(RemoteFault::Other, "it is too large for a file of this kind"))),
            Err(Fault { kind: FaultKind::NotFound, .. }) => Ok(None),
            Err(fault) => Err(fail(fault)),
        }
    }

    /// The error for a key with nothing at it: a file in the place of a folder differs from nothing at all.
    pub(super) fn missing(self: &Arc<Self>, act: &'static str, key: &str) -> Error {
        let above = parent_key(key).filter(|above| !above.is_empty());
        let is_below_file = above.is_some_and(|above| {
            self.pending(above).is_some()
                || (!locked(&self.folders).contains(above) && matches!(self.known(above, act), Ok(Found::File(_))))
        });
        self.io(act, key, if is_below_file { io::ErrorKind::NotADirectory } else { io::ErrorKind::NotFound })
    }

    /// What is at a key by any listing that there is, or else by a question for one object.
    fn known(&self, key: &str, act: &'static str) -> Result<Found, Error> {
        let cover = locked(&self.listings).cover(key, self.now());
        match cover {
            Cover::Fresh(prefix) | Cover::Stale(prefix) => return Ok(self.find_in(&prefix, key)),
            Cover::Unknown => {}
        }
        self.head(key, act)
    }

    // Bytes.

    /// Begins to fetch a block for the cache, which has a place for it.
    pub(super) fn fetch_block(self: &Arc<Self>, block: BlockKey, key: &str, object: &Object, range: Range<u64>) {
        let (remote, key, object) = (Arc::clone(self), key.to_owned(), object.clone());
        let n_bytes = range.end - range.start;
        self.shared.runtime.spawn(async move {
            // The semaphore is never closed.
            let permit = remote.shared.stop.wait(Patience::Request, remote.shared.in_flight.acquire()).await;
            let outcome = match permit {
                Some(_permit) => remote.get(&key, &object, range).await,
                None => Err(Fault::interrupted()),
            };
            remote.shared.blocks.put(&block, n_bytes, outcome);
        });
    }

    /// The bytes of a range of one version of an object.
    async fn get(&self, key: &str, object: &Object, range: Range<u64>) -> Result<Vec<u8>, Fault> {
        let path = self.object_path(key)?;
        let n_bytes = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        self.persist_with(|| async {
            let mut options = GetOptions::new().with_range(Some(range.clone()));
            // A weak tag is refused in this header by the standard; the answer is compared below.
            options.if_match = object.e_tag.clone().filter(|tag| !tag.starts_with("W/"));
            let found = self.store.get_opts(&path, options).await.map_err(|error| match Fault::of(&error) {
                // Removed, or shorter than the range: it is not the object that was opened.
                Fault { kind: FaultKind::NotFound, .. } => Fault::changed(),
                fault => fault,
            })?;
            let now = Object::of(&found.meta);
            if now.e_tag != object.e_tag || now.len_bytes != object.len_bytes {
                return Err(Fault::changed());
            }
            let mut bytes = self.shared.blocks.buffer(n_bytes);
            let mut stream = found.into_stream();
            while let Some(part) = stream.next().await.transpose().map_err(|error| Fault::of(&error))? {
                bytes.extend_from_slice(&part);
                if bytes.len() > n_bytes {
                    break;
                }
            }
            match bytes.len() == n_bytes {
                true => Ok(bytes),
                false => {
                    let what = format!("{n_bytes} bytes expected, but the store sent {}", bytes.len());
                    Err(Fault::new(RemoteFault::Garbled, what))
                }
            }
        })
        .await
    }

    // What this process writes.

    /// Writes one object whole.
    ///
    /// # Errors
    /// `Remote`.
    pub(super) fn put(&self, key: &str, bytes: Vec<u8>) -> Result<(), Error> {
        self.parts("write", key)?;
        let fail = |fault: Fault| self.fail("write", key, self.no_bucket(fault));
        let path = self.object_path(key).map_err(fail)?;
        let payload = PutPayload::from(bytes);
        let done = self.wait(self.persist(|| self.store.put(&path, payload.clone())));
        self.forget();
        done.map(|_| ()).map_err(fail)
    }

    pub(super) async fn put_object(&self, key: &str, bytes: Vec<u8>) -> Result<Option<String>, Fault> {
        let path = self.object_path(key)?;
        let payload = PutPayload::from(bytes);
        Ok(self.persist(|| self.store.put(&path, payload.clone())).await?.e_tag)
    }

    /// Removes one object.
    pub(super) fn delete(&self, key: &str) -> Result<(), Error> {
        self.parts("remove", key)?;
        let fail = |fault: Fault| self.fail("remove", key, fault);
        let path = self.object_path(key).map_err(fail)?;
        let done = self.wait(self.persist(|| self.store.delete(&path)));
        self.forget();
        match done {
            Err(Fault { kind: FaultKind::NotFound, .. }) => Ok(()),
            done => done.map_err(fail),
        }
    }

    /// Discards all listings after a write.
    pub(super) fn forget(&self) {
        locked(&self.listings).clear();
    }

    /// The file at a key that this process has written. One that is put and not in use any more is read from the store.
    pub(super) fn pending(&self, key: &str) -> Option<Arc<PendingFile>> {
        let mut pending = locked(&self.pending);
        let file = pending.get(key)?;
        if Arc::strong_count(file) == 1 && file.is_put() {
            pending.remove(key);
            return None;
        }
        pending.get(key).cloned()
    }

    pub(super) fn add_pending(self: &Arc<Self>, key: &str, bytes: Vec<u8>) -> Arc<PendingFile> {
        let number = self.n_files.fetch_add(1, Ordering::Relaxed);
        let remote: Arc<dyn FileStore> = Arc::<Self>::clone(self);
        let file = PendingFile::new(remote, (self.path_of(key), key), number, bytes);
        locked(&self.pending).insert(key.to_owned(), Arc::clone(&file));
        file
    }

    /// Forgets files and folders of this process at or below a key. Returns whether there were any.
    pub(super) fn drop_pending(&self, key: &str) -> bool {
        let mut n_dropped = 0;
        let mut keep = |known: &str| {
            let keeps = !super::key::is_within(known, key);
            n_dropped += usize::from(!keeps);
            keeps
        };
        locked(&self.pending).retain(|known, _| keep(known));
        locked(&self.folders).retain(|known| keep(known));
        locked(&self.locks).retain(|known| keep(known));
        n_dropped > 0
    }

    /// Puts what was written and never synced.
    pub(super) fn put_all(&self) -> Result<(), Error> {
        let files: Vec<Arc<PendingFile>> = locked(&self.pending).values().cloned().collect();
        files.iter().try_for_each(|file| file.put())
    }

    /// Makes folders that only this process sees, down to `key`.
    pub(super) fn make_folders(&self, key: &str) {
        let mut folders = locked(&self.folders);
        let mut folder = Some(key);
        while let Some(key) = folder {
            folders.insert(key.to_owned());
            folder = parent_key(key);
        }
    }

    /// What this process made at a key, or below it.
    pub(super) fn made_here(&self, key: &str) -> Option<FileInfo> {
        if let Some(file) = self.pending(key) {
            return Some(file.info());
        }
        if locked(&self.locks).contains(key) {
            return Some(FileInfo { kind: FileKind::File, ..folder_info(key) });
        }
        locked(&self.folders).contains(key).then(|| folder_info(key))
    }

    /// Notes that a lock file is at a key, as far as this process is concerned.
    pub(super) fn add_lock(&self, key: &str) {
        locked(&self.locks).insert(key.to_owned());
    }

    /// Names that this process made in a folder, with their kinds and lengths.
    pub(super) fn names_here(&self, key: &str) -> Vec<FolderEntry> {
        let inside = join_key(key, "");
        let name_of = |known: &str| {
            let name = known.strip_prefix(&inside)?;
            (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
        };
        let mut entries = Vec::new();
        for (known, file) in &*locked(&self.pending) {
            if let Some(name) = name_of(known) {
                entries.push(FolderEntry { name, kind: FileKind::File, len_bytes: file.info().len_bytes });
            }
        }
        let folders = locked(&self.folders);
        let names = folders.iter().filter_map(|known| name_of(known));
        entries.extend(names.map(|name| FolderEntry { name, kind: FileKind::Folder, len_bytes: 0 }));
        entries
    }
}

impl FileStore for Remote {
    fn put_whole(&self, key: &str, bytes: Vec<u8>) -> Result<(), Error> {
        self.put(key, bytes)
    }

    fn pending_info(&self, key: &str) -> Option<FileInfo> {
        self.pending(key).map(|file| file.info())
    }
}
