//! What a watcher knows about the checkpoints of a run: which files each had when it was first seen, and whether it was
//! left behind when the run was rolled back.
//!
//! A run that is rolled back writes some of its steps again. Until it has written the later ones too, those are of the
//! run before, and no window may mix them with new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thalweg_checkpoint::{Checkpoint, ReadOptions};
use thalweg_merge::context::RunContext;
use thalweg_merge::plan::OutputPlan;
use thalweg_merge::receipt::{MergeReceipt, SourceFile, SourceReceipt};
use thalweg_merge::seen::{SeenFile, SeenSource, see_files};
use thalweg_merge::verify::has_digest;
use thalweg_storage::Storage;
use thalweg_storage::guard::OwnKind;
use thalweg_storage::publish::publish_file;
use thalweg_trajectory::Trajectory;

use crate::Error;
use crate::document::DocumentKind;

/// Name of the state in a watcher's folder.
pub(super) const STATE_NAME: &str = "watch-state.json";
const STATE: DocumentKind = DocumentKind::new("the state of a watcher", "thalweg-watch-state", 1);
/// A checkpoint takes a few hundred bytes for each of its files.
const MAX_STATE_BYTES: u64 = 1 << 30;

/// A file that is still to be written.
#[derive(Debug)]
pub(super) struct UnwrittenFile {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
    pub(super) kind: OwnKind<'static>,
}

impl UnwrittenFile {
    pub(super) fn publish(&self, storage: &dyn Storage) -> Result<(), Error> {
        Ok(publish_file(storage, &self.path, &self.bytes, self.kind)?)
    }
}

/// A checkpoint as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KnownCheckpoint {
    step: u64,
    /// Its files of tensors. Times of changed metadata are left out: a hard link or a new mode changes them.
    files: Vec<SourceFile>,
    /// Digest of its tensors, once a merge has read them.
    digest: Option<String>,
    /// The digest once more, with all that must be the same for it to be believed without another reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    taken: Option<TakenDigest>,
    /// Whether an earlier step was rewritten after this one was seen.
    is_left_behind: bool,
}

/// A digest, and the files that were read for it: their sizes, headers and times, those of changed metadata included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TakenDigest {
    digest: String,
    files: Vec<SeenFile>,
    /// How they were read.
    reading: ReadOptions,
}

/// The checkpoints of a run, by path.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KnownCheckpoints {
    kind: String,
    version: u64,
    /// Models of earlier ends were there before the first watcher and are not scored.
    pub(super) score_from_step: Option<u64>,
    checkpoints: BTreeMap<PathBuf, KnownCheckpoint>,
    #[serde(skip)]
    is_changed: bool,
}

impl KnownCheckpoints {
    pub(super) fn open(storage: &dyn Storage, folder: &Path) -> Result<Self, Error> {
        let path = folder.join(STATE_NAME);
        let bytes = match storage.read_file(&path, MAX_STATE_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => {
                let (kind, version) = (STATE.kind.to_owned(), STATE.version);
                let checkpoints = BTreeMap::new();
                return Ok(Self { kind, version, score_from_step: None, checkpoints, is_changed: false });
            }
            Err(error) => return Err(error.into()),
        };
        let hint = "choose another folder, or remove the file: checkpoints then count as new";
        STATE.parse(&bytes).map_err(|what| STATE.refuse(&path, &what, hint))
    }

    /// The folder of another run whose checkpoints these are, if none of them is in this run or in its `folders`.
    pub(super) fn other_run(&self, trajectory: &Trajectory, folders: &[&Path]) -> Option<&Path> {
        let is_own = |path: &PathBuf| {
            folders.iter().any(|folder| path.starts_with(folder))
                || trajectory.checkpoints().iter().any(|one| one.path == *path)
        };
        let first = self.checkpoints.keys().next()?;
        if self.checkpoints.keys().any(is_own) { None } else { first.parent() }
    }

    /// When the files of a checkpoint were last written, in seconds since 1970; `None` where that is not known.
    pub(super) fn written_seconds(&self, path: &Path) -> Option<f64> {
        let times = self.checkpoints.get(path)?.files.iter().filter_map(|file| file.modified_ns.parse::<f64>().ok());
        times.filter(|time| *time > 0.0).map(|time| time / 1e9).reduce(f64::max)
    }

    /// The state as a file, if it changed since it was last taken.
    pub(super) fn take_file(&mut self, folder: &Path) -> Result<Option<UnwrittenFile>, Error> {
        if !self.is_changed {
            return Ok(None);
        }
        let bytes = serde_json::to_vec(self).map_err(Error::Unwritable)?;
        self.is_changed = false;
        Ok(Some(UnwrittenFile { path: folder.join(STATE_NAME), bytes, kind: STATE.file() }))
    }

    /// Takes the file again next time: it could not be written.
    pub(super) fn forget_file(&mut self) {
        self.is_changed = true;
    }

    pub(super) fn publish(&mut self, storage: &dyn Storage, folder: &Path) -> Result<(), Error> {
        let file = self.take_file(folder)?;
        file.map_or(Ok(()), |file| file.publish(storage)).inspect_err(|_| self.forget_file())
    }

    /// Compares the finished checkpoints of a run with what is known; returns notes for the user.
    ///
    /// # Errors
    /// What reading a checkpoint gives that was written again; one that vanishes meanwhile is ignored.
    pub(super) fn see(
        &mut self,
        trajectory: &Trajectory,
        reading: &ReadOptions,
        cx: &RunContext<'_>,
    ) -> Result<Vec<String>, Error> {
        let finished: Vec<_> = trajectory.finished().collect();
        let paths: Vec<PathBuf> = finished.iter().map(|one| one.path.clone()).collect();
        // Those that were written again, and those that were not there before: with step and time.
        let mut rewritten: Vec<(u64, Option<u128>)> = Vec::new();
        let mut appeared: Vec<(PathBuf, Option<u128>)> = Vec::new();
        let mut changed: BTreeSet<PathBuf> = BTreeSet::new();
        for (one, opened) in finished.iter().zip(cx.pool.open_all(&paths, reading)) {
            let Ok(checkpoint) = opened else { continue };
            let files = files_of(&checkpoint);
            let Some(known) = self.checkpoints.get_mut(&one.path) else {
                appeared.push((one.path.clone(), last_write_ns(&files)));
                let fresh =
                    KnownCheckpoint { step: one.step.0, files, digest: None, taken: None, is_left_behind: false };
                self.checkpoints.insert(one.path.clone(), fresh);
                self.is_changed = true;
                continue;
            };
            if known.files == files {
                continue;
            }
            let written_ns = last_write_ns(&files);
            (known.files, self.is_changed) = (files, true);
            // A copy of the same bytes is the same checkpoint.
            if let Some(digest) = &known.digest
                && has_digest(&*checkpoint, digest, cx)?
            {
                continue;
            }
            (known.digest, known.taken, known.is_left_behind) = (None, None, false);
            rewritten.push((known.step, written_ns));
            changed.insert(one.path.clone());
        }
        let Some((first, since_ns)) = rewritten.into_iter().min_by_key(|(step, _)| *step) else {
            return Ok(Vec::new());
        };
        // If the last look was long ago, the run may have written more steps since it was rolled back.
        let is_since = |ns: Option<u128>| ns.zip(since_ns).is_some_and(|(ns, since_ns)| ns >= since_ns);
        changed.extend(appeared.into_iter().filter(|(_, ns)| is_since(*ns)).map(|(path, _)| path));
        Ok(self.leave_behind(first, &changed))
    }

    /// Marks what follows the first step that was rewritten, unless it was written since.
    fn leave_behind(&mut self, first: u64, changed: &BTreeSet<PathBuf>) -> Vec<String> {
        let mut left: Vec<u64> = Vec::new();
        for (path, known) in &mut self.checkpoints {
            if known.step > first && !changed.contains(path) && !known.is_left_behind {
                known.is_left_behind = true;
                left.push(known.step);
            }
        }
        left.sort_unstable();
        let mut note = format!("step {first} was rewritten");
        if let (Some(from), Some(to)) = (left.first(), left.last()) {
            let which = if from == to { format!("step {from} is") } else { format!("steps {from} to {to} are") };
            note.push_str(&format!(
                "; {which} from before the rollback, not merged until the run writes them again (if \
                 step {first} was only repaired, remove `{STATE_NAME}` beside the record)"
            ));
        }
        vec![note]
    }

    /// Why a checkpoint may not be merged, if it may not.
    pub(super) fn obstacle(&self, path: &Path) -> Option<String> {
        let known = self.checkpoints.get(path)?;
        known.is_left_behind.then(|| "an earlier step was rewritten after this one".to_owned())
    }

    /// Whether the checkpoint at a path is the one that a merge read.
    pub(super) fn is_source(&self, path: &Path, source: &SourceReceipt) -> bool {
        let Some(known) = self.checkpoints.get(path) else { return false };
        let has_digest = || known.digest.is_some() && known.digest == source.digest;
        !known.is_left_behind && (known.files == without_change_times(&source.files) || has_digest())
    }

    /// Whether two paths were last seen with the same files.
    pub(super) fn are_alike(&self, a: &Path, b: &Path) -> bool {
        let files = |path: &Path| self.checkpoints.get(path).map(|known| &known.files);
        files(a).is_some() && files(a) == files(b)
    }

    /// Whether a link to a checkpoint has all the files with which it was last seen.
    pub(super) fn is_whole(&self, checkpoint: &Path, link: &Path, storage: &dyn Storage) -> bool {
        let Some(known) = self.checkpoints.get(checkpoint) else { return true };
        let info_of = |name: &str| {
            let inside = storage.file_info(&link.join(name));
            // A checkpoint of one file is that file.
            if inside.is_err() && known.files.len() == 1 { storage.file_info(link) } else { inside }
        };
        known.files.iter().all(|file| info_of(&file.name).is_ok_and(|info| info.len_bytes == file.len_bytes))
    }

    /// Knows a link by what is known of the checkpoint that it holds.
    pub(super) fn copy_known(&mut self, from: &Path, to: &Path) {
        if let Some(known) = self.checkpoints.get(from).cloned() {
            self.checkpoints.insert(to.to_owned(), known);
            self.is_changed = true;
        }
    }

    /// Steps that were ever seen from this one on.
    pub(super) fn steps_from(&self, first: u64) -> BTreeSet<u64> {
        let known = self.checkpoints.values().filter(|known| known.step >= first && !known.is_left_behind);
        known.map(|known| known.step).collect()
    }

    /// The digest of a checkpoint's tensors, once a merge has read them.
    pub(super) fn digest_of(&self, path: &Path) -> Option<&String> {
        self.checkpoints.get(path)?.digest.as_ref()
    }

    /// Sets from which end on models are scored. Only the first watcher does.
    pub(super) fn begin_scores_at(&mut self, step: u64) {
        self.is_changed |= self.score_from_step.is_none();
        self.score_from_step.get_or_insert(step);
    }

    /// Takes the digests of checkpoints from the receipt of a merge that read them.
    pub(super) fn learn_digests(&mut self, receipt: &MergeReceipt, cx: &RunContext<'_>) {
        for (i, source) in receipt.sources.iter().enumerate() {
            let Some((known, digest)) = self.checkpoints.get_mut(&source.path).zip(source.digest.as_ref()) else {
                continue;
            };
            if known.files != without_change_times(&source.files) {
                continue;
            }
            if known.digest.is_none() {
                known.digest = Some(digest.clone());
                self.is_changed = true;
            }
            let reading = receipt.plan.reading_of(i);
            let is_taken = |taken: &TakenDigest| taken.digest == *digest && has_times(&taken.files, &source.files);
            if known.taken.as_ref().is_some_and(|taken| is_taken(taken) && taken.reading == reading) {
                continue;
            }
            // Codes that were read as numbers depend on what else was merged.
            let opened = cx.pool.open(&source.path, &reading).ok().filter(|_| source.dequantised.is_none());
            let files = opened.map(|checkpoint| see_files(&checkpoint)).unwrap_or_default();
            if has_times(&files, &source.files) {
                known.taken = Some(TakenDigest { digest: digest.clone(), files, reading });
                self.is_changed = true;
            }
        }
    }

    /// The sources of some outputs whose digests need not be taken again: their files have the sizes, times and headers
    /// that they had when it was taken.
    pub(super) fn with_digests(&self, outputs: &[OutputPlan], cx: &RunContext<'_>) -> Vec<SeenSource> {
        let mut seen: BTreeMap<&Path, SeenSource> = BTreeMap::new();
        for output in outputs {
            for (i, source) in output.sources.iter().enumerate().filter(|(_, source)| !source.is_sum) {
                let taken = self.checkpoints.get(&source.path).and_then(|known| known.taken.as_ref());
                let Some(taken) = taken.filter(|_| !seen.contains_key(&*source.path)) else { continue };
                let reading = output.reading_of(i);
                let Ok(digest) = taken.digest.parse() else { continue };
                let opened = cx.pool.open(&source.path, &reading).ok().filter(|_| taken.reading == reading);
                if opened.is_some_and(|checkpoint| see_files(&checkpoint) == taken.files) {
                    let (path, files) = (source.path.clone(), taken.files.clone());
                    let known = SeenSource { path, files, side_files: None, dequantised: None, digest: Some(digest) };
                    seen.insert(&source.path, known);
                }
            }
        }
        seen.into_values().collect()
    }

    /// The files of the sources at these paths, as text: equal if none changed.
    pub(super) fn identity_of<'a>(&self, paths: impl Iterator<Item = &'a PathBuf>) -> String {
        let known = paths.filter_map(|path| self.checkpoints.get(path));
        known.map(|known| format!("{:?}", known.files)).collect()
    }
}

fn files_of(checkpoint: &Checkpoint) -> Vec<SourceFile> {
    let files: Vec<SourceFile> =
        checkpoint.files().iter().map(|file| SourceFile::new(&file.name, &file.info)).collect();
    without_change_times(&files)
}

/// When the last of some files was written, where that is known.
fn last_write_ns(files: &[SourceFile]) -> Option<u128> {
    files.iter().filter_map(|file| file.modified_ns.parse().ok()).filter(|ns| *ns > 0).max()
}

/// Whether files have the names, sizes and times that a receipt tells. Where the system has no times of changed
/// metadata, a digest is taken each time.
fn has_times(files: &[SeenFile], receipt: &[SourceFile]) -> bool {
    let is_same = |(seen, known): (&SeenFile, &SourceFile)| {
        (&seen.name, seen.len_bytes, &seen.modified_ns) == (&known.name, known.len_bytes, &known.modified_ns)
            && seen.changed_ns.is_some()
            && seen.changed_ns == known.changed_ns
    };
    !files.is_empty() && files.len() == receipt.len() && files.iter().zip(receipt).all(is_same)
}

fn without_change_times(files: &[SourceFile]) -> Vec<SourceFile> {
    files.iter().map(|file| SourceFile { changed_ns: None, ..file.clone() }).collect()
}
