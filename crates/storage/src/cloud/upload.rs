//! A folder from the local disk becomes a folder of a store.
//!
//! A marker is written first: while it exists, this program does not show the folder to its readers. The marker lists
//! the objects, so that an interrupted upload can be resumed or removed. The manifest is written last, then the marker
//! is removed. Notes beside the stage say which objects and parts the store has, with the hash of their bytes.

use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use futures_util::stream;
use object_store::PutPayload;
use object_store::multipart::PartId;
use object_store::path::Path as ObjectPath;
use serde::{Deserialize, Serialize};

use super::fault::{Fault, FaultKind};
use super::key::{UPLOAD_MARKER, join_key, number_of};
use super::remote::Remote;
use crate::error::{Error, RemoteFault};
use crate::{FileKind, LocalStorage, Lock, ReadAt, Storage, UploadWatcher, WriteAt};

const MARKER_KIND: &str = "thalweg-upload";
const MARKER_VERSION: u32 = 1;

/// Files of at most this size are one request. Stores take parts of 5 MiB at least.
const PART_BYTES: u64 = 8 << 20;
/// Stores take 10,000 parts of one object.
const MAX_PARTS: u64 = 9_000;
/// Parts of `PART_BYTES` that are under way at once; fewer if they are larger, because each is held in memory.
const PARTS_IN_FLIGHT: u64 = 8;

/// What the marker says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Marker {
    kind: String,
    version: u32,
    /// Equal for uploads of the same output.
    token: String,
    manifest: String,
    objects: Vec<MarkedObject>,
}

impl Default for Marker {
    fn default() -> Self {
        let (kind, version) = (MARKER_KIND.to_owned(), MARKER_VERSION);
        Self { kind, version, token: String::new(), manifest: String::new(), objects: Vec::new() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MarkedObject {
    name: String,
    len_bytes: u64,
    /// Of an upload in parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upload_id: Option<String>,
}

/// An upload that was begun and has not ended.
#[derive(Debug, Clone)]
pub struct LeftoverUpload {
    /// The folder.
    pub path: PathBuf,
    /// Files that it was to have.
    pub n_files: usize,
    /// Bytes that it was to have.
    pub len_bytes: u64,
    /// Whether everything is there, and only the marker was not removed.
    pub is_whole: bool,
    objects: Vec<MarkedObject>,
}

/// A line of the notes beside a stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Done {
    name: String,
    /// `None` for an object that is whole.
    part: Option<usize>,
    /// Of an upload in parts.
    upload_id: Option<String>,
    /// What the store calls the object or part.
    tag: String,
    /// Of the bytes that were sent.
    hash: String,
}

/// Uploads `stage` as the folder `key`, with the file `manifest` last, and removes the stage.
///
/// # Errors
/// `Remote`; `Io` for the stage; `Locked`.
pub(super) fn upload_folder(
    (local, stage): (&LocalStorage, &Path),
    (remote, key): (&Arc<Remote>, &str),
    manifest: &str,
    watcher: &dyn UploadWatcher,
) -> Result<(), Error> {
    let mut files = Vec::new();
    collect_files(local, stage, "", &mut files)?;
    let (last, rest): (Vec<MarkedObject>, Vec<MarkedObject>) =
        files.into_iter().partition(|file| file.name == manifest);
    let manifest_bytes = local.read_file(&stage.join(manifest), PART_BYTES * 32)?;
    let token = format!("{:016x}", number_of(&[manifest_bytes.as_slice(), key.as_bytes()].concat()));
    let notes = Notes::open(local, stage, &token)?;
    let mut upload = Upload { local, stage, remote, key, notes, objects: rest };
    let marker = Marker { token, manifest: manifest.to_owned(), objects: last, ..Marker::default() };
    if let Err(failed) = upload.attempt(&marker, watcher) {
        if !failed.is_lost {
            return Err(failed.error);
        }
        // A rule of the bucket may have removed parts that were sent long ago.
        upload.notes.clear(local)?;
        upload.attempt(&marker, watcher).map_err(|failed| failed.error)?;
    }
    remote.put(&join_key(key, manifest), manifest_bytes)?;
    remote.delete(&join_key(key, UPLOAD_MARKER))?;
    upload.notes.remove(local)?;
    local.remove(stage)
}

/// Why an attempt failed, and whether the store no longer has what the notes say.
struct Failed {
    error: Error,
    is_lost: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { is_lost: error.is_not_found(), error }
    }
}

fn collect_files(local: &LocalStorage, stage: &Path, inside: &str, files: &mut Vec<MarkedObject>) -> Result<(), Error> {
    for entry in local.list_folder(&stage.join(inside))? {
        let name = join_key(inside, &entry.name);
        match entry.kind {
            FileKind::Folder => collect_files(local, stage, &name, files)?,
            _ => files.push(MarkedObject { name, len_bytes: entry.len_bytes, upload_id: None }),
        }
    }
    Ok(())
}

struct Upload<'a> {
    local: &'a LocalStorage,
    stage: &'a Path,
    remote: &'a Arc<Remote>,
    key: &'a str,
    notes: Notes,
    /// All but the manifest.
    objects: Vec<MarkedObject>,
}

/// A request to make.
struct Job {
    object: usize,
    /// `None` for a whole object.
    part: Option<usize>,
    start: u64,
    len_bytes: u64,
}

fn part_bytes(len_bytes: u64) -> u64 {
    PART_BYTES.max(len_bytes.div_ceil(MAX_PARTS).next_multiple_of(1 << 20))
}

impl Upload<'_> {
    fn fail(&self, name: &str, fault: Fault) -> Error {
        self.remote.fail("write", &join_key(self.key, name), fault)
    }

    fn object_path(&self, name: &str) -> Result<ObjectPath, Error> {
        let unfit = |_| self.fail(name, Fault::new(RemoteFault::Unsupported, "its name is not a valid object key"));
        ObjectPath::parse(join_key(self.key, name)).map_err(unfit)
    }

    /// Sends everything but the manifest. `marker` lists the manifest.
    fn attempt(&mut self, marker: &Marker, watcher: &dyn UploadWatcher) -> Result<(), Failed> {
        self.begin(marker)?;
        self.send_all(watcher)?;
        self.check_all()
    }

    /// Puts the marker, or takes up the upload whose marker is there.
    fn begin(&mut self, marker: &Marker) -> Result<(), Error> {
        let found = read_marker(self.remote, self.key)?;
        let is_same = found.as_ref().is_some_and(|found| found.token == marker.token) && !self.notes.is_empty();
        let found = found.map(|found| found.objects).unwrap_or_default();
        let ids: BTreeMap<&str, &Option<String>> =
            found.iter().map(|object| (&*object.name, &object.upload_id)).collect();
        for object in &mut self.objects {
            let id = ids.get(&*object.name).filter(|_| is_same);
            object.upload_id = id.and_then(|id| (*id).clone());
        }
        if !is_same {
            if !found.is_empty() {
                remove_marked(self.remote, self.key, &found)?;
            }
            self.notes.clear(self.local)?;
        }
        self.put_marker(marker)?;
        let mut has_new = false;
        for k in 0..self.objects.len() {
            let object = &self.objects[k];
            if object.len_bytes > PART_BYTES && object.upload_id.is_none() {
                let path = self.object_path(&object.name)?;
                let parts = self.remote.parts("write", self.key)?;
                let id = self.remote.wait(self.remote.persist(|| parts.create_multipart(&path)));
                self.objects[k].upload_id = Some(id.map_err(|fault| self.fail(&self.objects[k].name, fault))?);
                has_new = true;
            }
        }
        if has_new { self.put_marker(marker) } else { Ok(()) }
    }

    fn put_marker(&self, marker: &Marker) -> Result<(), Error> {
        let objects = self.objects.iter().chain(&marker.objects).cloned().collect();
        let bytes = serde_json::to_vec_pretty(&Marker { objects, ..marker.clone() }).map_err(|error| Error::Io {
            act: "write",
            path: self.remote.path_of(&join_key(self.key, UPLOAD_MARKER)),
            source: error.into(),
        })?;
        self.remote.put(&join_key(self.key, UPLOAD_MARKER), bytes)
    }

    fn jobs(&self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for (number, object) in self.objects.iter().enumerate() {
            if object.upload_id.is_none() {
                jobs.push(Job { object: number, part: None, start: 0, len_bytes: object.len_bytes });
                continue;
            }
            let step = part_bytes(object.len_bytes);
            for (part, start) in (0..object.len_bytes).step_by(to_index(step)).enumerate() {
                let len_bytes = step.min(object.len_bytes - start);
                jobs.push(Job { object: number, part: Some(part), start, len_bytes });
            }
        }
        jobs
    }

    /// Sends what the store does not have, several parts at once.
    fn send_all(&self, watcher: &dyn UploadWatcher) -> Result<(), Error> {
        let jobs = self.jobs();
        let total_bytes = jobs.iter().map(|job| job.len_bytes).sum();
        watcher.begin_upload(total_bytes, jobs.iter().filter(|job| self.is_noted(job)).map(|job| job.len_bytes).sum());
        let largest = jobs.iter().map(|job| job.len_bytes).max().unwrap_or(0).max(PART_BYTES);
        let n_in_flight = to_index((PARTS_IN_FLIGHT * PART_BYTES / largest).max(2));
        let mut readers: Vec<Option<Arc<dyn ReadAt>>> = Vec::new();
        for object in &self.objects {
            readers.push(Some(self.local.open_file(&self.stage.join(&object.name))?));
        }
        let send = |job: Job| {
            let reader = readers[job.object].clone();
            async move {
                let was_noted = self.is_noted(&job);
                self.send(&job, reader).await?;
                if !was_noted {
                    watcher.advance_upload(job.len_bytes);
                }
                Ok(())
            }
        };
        self.do_all(jobs, n_in_flight, send)?;
        let in_parts = self.objects.iter().filter(|object| object.upload_id.is_some());
        self.do_all(in_parts.collect(), n_in_flight, |object| self.complete(object))
    }

    /// Makes requests, up to `n_in_flight` of them at once.
    fn do_all<T, F>(&self, jobs: Vec<T>, n_in_flight: usize, make: impl Fn(T) -> F) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Error>>,
    {
        let has_failed = AtomicBool::new(false);
        let may_begin = |_: &T| ready(!has_failed.load(Ordering::Relaxed) && !self.remote.is_stopping());
        let made = stream::iter(jobs).take_while(may_begin).map(make).buffer_unordered(n_in_flight);
        self.remote.wait(async {
            let mut made = std::pin::pin!(made);
            let mut first_fault = Ok(());
            // After a fault nothing is begun, but what is in flight is waited for: a request that is abandoned may
            // arrive all the same, even after the upload was removed.
            while let Some(outcome) = made.next().await {
                has_failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                first_fault = first_fault.and(outcome);
            }
            first_fault
        })?;
        if self.remote.is_stopping() { Err(self.fail("", Fault::interrupted())) } else { Ok(()) }
    }

    /// Whether the notes say that the store has what a job sends.
    fn is_noted(&self, job: &Job) -> bool {
        let object = &self.objects[job.object];
        let has = |part| self.notes.find(&object.name, part).is_some_and(|done| done.upload_id == object.upload_id);
        has(job.part) || has(None)
    }

    /// Sends one object or part, unless the store has it.
    async fn send(&self, job: &Job, reader: Option<Arc<dyn ReadAt>>) -> Result<(), Error> {
        let object = &self.objects[job.object];
        let whole = self.notes.find(&object.name, None);
        if job.part.is_some() && whole.is_some_and(|done| done.upload_id == object.upload_id) {
            return Ok(());
        }
        let mut bytes = vec![0; to_index(job.len_bytes)];
        if let Some(reader) = reader {
            reader.read_exact_at(job.start, &mut bytes)?;
        }
        let hash = format!("{:016x}", number_of(&bytes));
        let known = self.notes.find(&object.name, job.part);
        if known.is_some_and(|done| done.hash == hash && done.upload_id == object.upload_id) {
            return Ok(());
        }
        let tag = match (job.part, &object.upload_id) {
            (Some(part), Some(id)) => {
                let (path, store) = (self.object_path(&object.name)?, self.remote.parts("write", self.key)?);
                let payload = PutPayload::from(bytes);
                let put = || store.put_part(&path, id, part, payload.clone());
                self.remote.persist(put).await.map_err(|fault| self.fail(&object.name, fault))?.content_id
            }
            _ => {
                let put = self.remote.put_object(&join_key(self.key, &object.name), bytes).await;
                put.map_err(|fault| self.fail(&object.name, fault))?.unwrap_or_default()
            }
        };
        let (name, upload_id) = (object.name.clone(), object.upload_id.clone());
        self.notes.add(Done { name, part: job.part, upload_id, tag, hash })
    }

    /// Makes one object of its parts.
    async fn complete(&self, object: &MarkedObject) -> Result<(), Error> {
        let Some(id) = &object.upload_id else { return Ok(()) };
        if self.notes.find(&object.name, None).is_some_and(|done| done.upload_id.as_ref() == Some(id)) {
            return Ok(());
        }
        let n_parts = to_index(object.len_bytes.div_ceil(part_bytes(object.len_bytes)));
        let part = |number| self.notes.find(&object.name, Some(number)).map(|done| PartId { content_id: done.tag });
        let parts: Option<Vec<PartId>> = (0..n_parts).map(part).collect();
        let lost = || self.fail(&object.name, Fault::new(RemoteFault::Garbled, "one of its parts was not recorded"));
        let parts = parts.ok_or_else(lost)?;
        let (path, store) = (self.object_path(&object.name)?, self.remote.parts("write", self.key)?);
        let completed = self.remote.persist(|| store.complete_multipart(&path, id, parts.clone())).await;
        let tag = match completed {
            Ok(put) => put.e_tag.unwrap_or_default(),
            // A first attempt may have succeeded although its answer was lost: `check_all` decides.
            Err(Fault { kind: FaultKind::NotFound, .. }) => String::new(),
            Err(fault) => return Err(self.fail(&object.name, fault)),
        };
        let done =
            Done { name: object.name.clone(), part: None, upload_id: Some(id.clone()), tag, hash: String::new() };
        self.notes.add(done)
    }

    /// Checks by one listing that every object is there with its length.
    fn check_all(&self) -> Result<(), Failed> {
        let found = self.remote.lengths_below(self.key)?;
        for object in &self.objects {
            let len_bytes = found.get(&join_key(self.key, &object.name)).copied();
            if len_bytes != Some(object.len_bytes) {
                let found = len_bytes.map_or("nothing".to_owned(), |n| format!("{n} bytes"));
                let what = format!("{} bytes were sent, but the store has {found}", object.len_bytes);
                let error = self.fail(&object.name, Fault::new(RemoteFault::Garbled, what));
                return Err(Failed { error, is_lost: true });
            }
        }
        Ok(())
    }
}

/// Lines beside a stage, one for each object and part that the store has, with a lock: two uploads of one stage would
/// spoil each other's.
struct Notes {
    path: PathBuf,
    file: Arc<dyn WriteAt>,
    state: Mutex<NotesState>,
    lock_path: PathBuf,
    _lock: Lock,
}

#[derive(Default)]
struct NotesState {
    end: u64,
    done: BTreeMap<(String, Option<usize>), Done>,
}

impl Notes {
    /// Those of an upload with this token; others are emptied.
    fn open(local: &LocalStorage, stage: &Path, token: &str) -> Result<Self, Error> {
        const MAX_BYTES: u64 = 256 << 20;
        let mut path = stage.as_os_str().to_owned();
        path.push(format!("-upload-{token}"));
        let path = PathBuf::from(path);
        let lock_path = PathBuf::from([path.as_os_str(), ".lock".as_ref()].join("".as_ref()));
        let lock = local.lock(&lock_path)?;
        let bytes = match local.read_file(&path, MAX_BYTES) {
            Err(error) if error.is_not_found() => Vec::new(),
            bytes => bytes?,
        };
        let file = local.open_together(&path, 0)?;
        let mut state = NotesState::default();
        // A line that a kill cut off is written again.
        for line in bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            let Ok(done) = serde_json::from_slice::<Done>(line) else { break };
            state.end += line.len() as u64;
            state.done.insert((done.name.clone(), done.part), done);
        }
        Ok(Self { path, file, state: Mutex::new(state), lock_path, _lock: lock })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, NotesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_empty(&self) -> bool {
        self.state().done.is_empty()
    }

    fn find(&self, name: &str, part: Option<usize>) -> Option<Done> {
        self.state().done.get(&(name.to_owned(), part)).cloned()
    }

    fn add(&self, done: Done) -> Result<(), Error> {
        let mut line = serde_json::to_vec(&done).map_err(|error| Error::Io {
            act: "write",
            path: self.path.clone(),
            source: error.into(),
        })?;
        line.push(b'\n');
        let mut state = self.state();
        self.file.write_all_at(state.end, &line)?;
        state.end += line.len() as u64;
        state.done.insert((done.name.clone(), done.part), done);
        Ok(())
    }

    fn clear(&mut self, local: &LocalStorage) -> Result<(), Error> {
        local.remove(&self.path)?;
        self.file = local.open_together(&self.path, 0)?;
        *self.state() = NotesState::default();
        Ok(())
    }

    fn remove(&self, local: &LocalStorage) -> Result<(), Error> {
        local.remove(&self.path)?;
        local.remove(&self.lock_path)
    }
}

/// The marker in a folder, if an upload to it has not ended.
fn read_marker(remote: &Arc<Remote>, key: &str) -> Result<Option<Marker>, Error> {
    let place = join_key(key, UPLOAD_MARKER);
    let Some(bytes) = remote.get_whole(&place)? else { return Ok(None) };
    let marker: Option<Marker> = serde_json::from_slice(&bytes).ok();
    match marker.filter(|marker| marker.kind == MARKER_KIND && marker.version == MARKER_VERSION) {
        Some(marker) => Ok(Some(marker)),
        None => {
            let what = "it is not a marker written by this version of the program";
            Err(remote.fail("read", &place, Fault::new(RemoteFault::Other, what)))
        }
    }
}

/// Removes what an upload has put, the marker last.
fn remove_marked(remote: &Arc<Remote>, key: &str, objects: &[MarkedObject]) -> Result<(), Error> {
    let parts = remote.parts("remove", key)?;
    let found = remote.lengths_below(key)?;
    for object in objects {
        let place = join_key(key, &object.name);
        if let Some(id) = &object.upload_id
            && let Ok(path) = ObjectPath::parse(&place)
        {
            match remote.wait(remote.persist(|| parts.abort_multipart(&path, id))) {
                Ok(()) | Err(Fault { kind: FaultKind::NotFound, .. }) => {}
                Err(fault) => return Err(remote.fail("remove", &place, fault)),
            }
        }
        if found.contains_key(&place) {
            remote.delete(&place)?;
        }
    }
    remote.delete(&join_key(key, UPLOAD_MARKER))
}

/// Uploads at or below a key that have not ended.
pub(super) fn find_leftovers(remote: &Arc<Remote>, key: &str) -> Result<Vec<LeftoverUpload>, Error> {
    let found = remote.lengths_below(key)?;
    let mut leftovers = Vec::new();
    for place in found.keys() {
        let folder = match place.strip_suffix(UPLOAD_MARKER) {
            Some(folder) if folder.is_empty() || folder.ends_with('/') => folder.trim_end_matches('/'),
            _ => continue,
        };
        let Some(marker) = read_marker(remote, folder)? else { continue };
        leftovers.push(LeftoverUpload {
            path: remote.path_of(folder),
            n_files: marker.objects.len(),
            len_bytes: marker.objects.iter().map(|object| object.len_bytes).sum(),
            is_whole: found.contains_key(&join_key(folder, &marker.manifest)),
            objects: marker.objects,
        });
    }
    Ok(leftovers)
}

/// Removes a leftover; of one that is whole only the marker.
pub(super) fn remove_leftover(remote: &Arc<Remote>, key: &str, leftover: &LeftoverUpload) -> Result<(), Error> {
    match leftover.is_whole {
        true => remote.delete(&join_key(key, UPLOAD_MARKER)),
        false => remove_marked(remote, key, &leftover.objects),
    }
}

/// Lengths of slices that exist fit.
fn to_index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
