//! A folder from the local disk becomes a folder of a store.
//!
//! A marker is written first: while it exists, this program does not show the folder to its readers. The marker lists
//! the objects, so that an interrupted upload can be resumed or removed. The manifest is written last, then the marker
//! is removed. Notes beside the stage say which objects and parts the store has, with the hash of their bytes.

use std::collections::BTreeMap;
use std::future::ready;
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
use crate::{FileKind, LocalStorage, ReadAt, Storage, WriteAt};

const MARKER_KIND: &str = "thalweg-upload";
const MARKER_VERSION: u32 = 1;

/// Files of at most this size are one request. Stores take parts of 5 MiB at least.
const PART_BYTES: u64 = 8 << 20;
/// Stores take 10,000 parts of one object.
const MAX_PARTS: u64 = 9_000;
/// Parts under way at once: each is held in memory.
const PARTS_IN_FLIGHT: usize = 8;

/// What the marker says.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    kind: String,
    version: u32,
    /// Equal for uploads of the same output.
    token: String,
    manifest: String,
    objects: Vec<MarkedObject>,
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
/// `Remote`; `Io` for the stage.
pub(super) fn upload_folder(
    local: &LocalStorage,
    stage: &Path,
    (remote, key): (&Arc<Remote>, &str),
    manifest: &str,
) -> Result<(), Error> {
    let mut files = Vec::new();
    collect_files(local, stage, "", &mut files)?;
    let (last, rest): (Vec<MarkedObject>, Vec<MarkedObject>) =
        files.into_iter().partition(|file| file.name == manifest);
    let manifest_bytes = local.read_file(&stage.join(manifest), PART_BYTES * 32)?;
    let token = format!("{:016x}", number_of(&[manifest_bytes.as_slice(), key.as_bytes()].concat()));
    let notes = Notes::open(local, stage, &token)?;
    let mut upload = Upload { local, stage, remote, key, notes, objects: rest };
    upload.begin(&token, &last, manifest)?;
    upload.send_all()?;
    upload.check_all()?;
    remote.put(&join_key(key, manifest), manifest_bytes)?;
    remote.delete(&join_key(key, UPLOAD_MARKER))?;
    upload.notes.remove(local)?;
    local.remove(stage)
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

    /// Puts the marker, or takes up the upload whose marker is there.
    fn begin(&mut self, token: &str, last: &[MarkedObject], manifest: &str) -> Result<(), Error> {
        let found = read_marker(self.remote, self.key)?;
        let is_same = found.as_ref().is_some_and(|marker| marker.token == token);
        if let Some(marker) = found {
            if is_same && !self.notes.is_empty() {
                let ids: BTreeMap<String, Option<String>> =
                    marker.objects.into_iter().map(|object| (object.name, object.upload_id)).collect();
                for object in &mut self.objects {
                    object.upload_id = ids.get(&object.name).cloned().flatten();
                }
            } else {
                remove_marked(self.remote, self.key, &marker.objects)?;
                self.notes.clear(self.local)?;
            }
        } else {
            self.notes.clear(self.local)?;
        }
        self.put_marker(token, last, manifest)?;
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
        if has_new { self.put_marker(token, last, manifest) } else { Ok(()) }
    }

    fn put_marker(&self, token: &str, last: &[MarkedObject], manifest: &str) -> Result<(), Error> {
        let marker = Marker {
            kind: MARKER_KIND.to_owned(),
            version: MARKER_VERSION,
            token: token.to_owned(),
            manifest: manifest.to_owned(),
            objects: self.objects.iter().chain(last).cloned().collect(),
        };
        let bytes = serde_json::to_vec_pretty(&marker).map_err(|error| Error::Io {
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

    /// Sends everything but the manifest, several parts at once.
    fn send_all(&self) -> Result<(), Error> {
        let mut readers: Vec<Option<Arc<dyn ReadAt>>> = Vec::new();
        for object in &self.objects {
            readers.push(Some(self.local.open_file(&self.stage.join(&object.name))?));
        }
        let send = |job: Job| {
            let reader = readers[job.object].clone();
            async move { self.send(&job, reader).await }
        };
        let has_failed = AtomicBool::new(false);
        let jobs = stream::iter(self.jobs()).take_while(|_| ready(!has_failed.load(Ordering::Relaxed)));
        let sent = jobs.map(send).buffer_unordered(PARTS_IN_FLIGHT);
        self.remote.wait(async {
            let mut sent = std::pin::pin!(sent);
            let mut first_fault = Ok(());
            // After a fault nothing is begun, but what is in flight is waited for: a request that is abandoned may
            // arrive all the same, even after the upload was removed.
            while let Some(outcome) = sent.next().await {
                has_failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                first_fault = first_fault.and(outcome);
            }
            first_fault
        })?;
        self.remote.wait(async {
            for object in self.objects.iter().filter(|object| object.upload_id.is_some()) {
                self.complete(object).await?;
            }
            Ok(())
        })
    }

    /// Sends one object or part, unless the store has it.
    async fn send(&self, job: &Job, reader: Option<Arc<dyn ReadAt>>) -> Result<(), Error> {
        let object = &self.objects[job.object];
        if self
            .notes
            .find(&object.name, None)
            .is_some_and(|done| done.upload_id == object.upload_id && job.part.is_some())
        {
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
    fn check_all(&self) -> Result<(), Error> {
        let found = self.remote.lengths_below(self.key)?;
        for object in &self.objects {
            let len_bytes = found.get(&join_key(self.key, &object.name)).copied();
            if len_bytes != Some(object.len_bytes) {
                // Notes of what is not there would be believed by the next attempt as well.
                self.notes.remove(self.local)?;
                let found = len_bytes.map_or("nothing".to_owned(), |n| format!("{n} bytes"));
                let what = format!("{} bytes were sent, but the store has {found}", object.len_bytes);
                return Err(self.fail(&object.name, Fault::new(RemoteFault::Garbled, what)));
            }
        }
        Ok(())
    }
}

/// Lines beside a stage, one for each object and part that the store has.
struct Notes {
    path: PathBuf,
    file: Arc<dyn WriteAt>,
    state: Mutex<NotesState>,
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
        Ok(Self { path, file, state: Mutex::new(state) })
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
        self.remove(local)?;
        self.file = local.open_together(&self.path, 0)?;
        *self.state() = NotesState::default();
        Ok(())
    }

    fn remove(&self, local: &LocalStorage) -> Result<(), Error> {
        local.remove(&self.path)
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
