//! Fetching a run whose checkpoints are revisions of one repository of a hub: which revisions, which files, in what
//! order, and the command that merges them.
//!
//! A revision appears in the local cache once all of its files are there and open.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::iter::{ParallelBridge, ParallelIterator};
use serde::{Serialize, Serializer};
use serde_json::Value;
use thalweg_checkpoint::{SideFileKind, needed_files, open_checkpoint};
use thalweg_merge::context::{RunContext, Stage};
use thalweg_storage::hub::{Hub, HubFile, HubFolder, HubProgress, HubRef, HubWish};
use thalweg_storage::{FileKind, FolderEntry, Storage};
use thalweg_tensor::{counted, match_pattern, shell_word, show_size};
use thalweg_trajectory::{NamePattern, TRAINER_STATE_NAME, Trajectory, TrajectoryOptions, WindowSpec, select_window};

use crate::Error;
use crate::request::{Resolver, Selection};

/// Files that are fetched at once, and listings that are asked for at once.
const N_CONNECTIONS: usize = 8;
/// Names that a message lists.
const MAX_LISTED: usize = 8;

/// What is to be fetched.
#[derive(Debug, Clone, Default)]
pub struct FetchRequest {
    /// `ORG/NAME`, or `ORG/NAME@REV` for one revision.
    pub repository: String,
    /// Patterns of branches and tags, in which `*` matches anything; none for all.
    pub revisions: Vec<String>,
    /// Which of them, by their steps; empty for all that match.
    pub selection: Selection,
    /// Which names have a step, such as `step{step}-unsharded`.
    pub checkpoint_pattern: Option<String>,
    /// Whether code beside the tensors is fetched too.
    pub code: bool,
}

/// A revision that is to be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FetchRevision {
    /// Its name.
    pub name: String,
    /// Its commit.
    pub commit: String,
    /// The step in its name.
    pub step: Option<u64>,
    /// The tokens in its name.
    pub tokens: Option<u64>,
    /// The files that a merge of it reads.
    #[serde(serialize_with = "paths_of")]
    pub files: Vec<HubFile>,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that were not in the cache when the plan was made.
    pub missing_bytes: u64,
}

fn paths_of<S: Serializer>(files: &[HubFile], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(files.iter().map(|file| &file.path))
}

/// Everything that is to be fetched.
#[derive(Debug, Clone)]
pub struct FetchPlan {
    /// `ORG/NAME`.
    pub repository: String,
    /// The folder of the repository in the local cache.
    pub folder: HubFolder,
    /// Branches and tags that the repository has.
    pub n_refs: usize,
    /// The revisions, oldest first where they have steps.
    pub revisions: Vec<FetchRevision>,
    pattern: Option<NamePattern>,
}

impl FetchPlan {
    /// The files of all revisions, each content once.
    fn files(&self) -> Vec<(&FetchRevision, &HubFile)> {
        let mut known = BTreeSet::new();
        let all = self.revisions.iter().flat_map(|revision| revision.files.iter().map(move |file| (revision, file)));
        all.filter(|(_, file)| known.insert(&file.digest)).collect()
    }

    fn missing(&self) -> Vec<(&FetchRevision, &HubFile)> {
        self.files().into_iter().filter(|(_, file)| !self.folder.has_blob(file)).collect()
    }

    /// How many different files there are, and their bytes.
    pub fn total(&self) -> (usize, u64) {
        let files = self.files();
        (files.len(), files.iter().map(|(_, file)| file.len_bytes).sum())
    }

    /// How many of them are not in the cache, and the bytes that have to be fetched.
    pub(crate) fn to_fetch(&self) -> (usize, u64) {
        let missing = self.missing();
        (missing.len(), missing.iter().map(|(_, file)| bytes_to_fetch(file, &self.folder)).sum())
    }
}

fn bytes_to_fetch(file: &HubFile, folder: &HubFolder) -> u64 {
    if folder.has_blob(file) { 0 } else { file.len_bytes - folder.partial_bytes(file) }
}

/// The root of the local cache, as the variables of the process name it, if they do.
///
/// # Errors
/// `Request` if there is none; `Storage` if it cannot be reached.
pub fn cache_root(named: Option<PathBuf>, storage: &dyn Storage) -> Result<PathBuf, Error> {
    let named = named.ok_or_else(|| {
        Error::request_with_hint(
            "there is no folder for the local Hugging Face cache",
            "set `HF_HOME` or `HF_HUB_CACHE`",
        )
    })?;
    Ok(storage.canonical_path(&named)?)
}

/// Finds out what is to be fetched. `root` is that of the local cache.
///
/// # Errors
/// `Request` for names that are not there; those of selecting; `Storage` for what the hub refuses; `Checkpoint` for a
/// revision without weights.
pub fn plan_fetch(
    request: &FetchRequest,
    hub: &dyn Hub,
    (root, resolver): (&Path, &Resolver<'_>),
) -> Result<FetchPlan, Error> {
    let (repository, patterns) = match request.repository.split_once('@') {
        Some((repository, revision)) if request.revisions.is_empty() => (repository, vec![revision.to_owned()]),
        _ => (&*request.repository, request.revisions.clone()),
    };
    let folder = HubFolder::new(root, repository).ok_or_else(|| {
        Error::request_with_hint(
            format!("`{}` is not a name of a repository", thalweg_tensor::display_name(repository)),
            "give it as `ORG/NAME`, as in the address of its page",
        )
    })?;
    let pattern: Option<NamePattern> = request.checkpoint_pattern.as_deref().map(str::parse).transpose()?;
    let refs = hub.list_refs(repository)?;
    let matching = refs_that_match(repository, &refs, &patterns)?;
    let mut revisions = match request.selection.is_empty() {
        false => by_selection(repository, &matching, (&request.selection, pattern.as_ref()), resolver)?,
        true if patterns.is_empty() => {
            return Err(Error::request_with_hint(
                format!("which revisions of `{repository}`? it has {}", list_refs(&refs)),
                match has_steps(repository, &matching, pattern.as_ref()) {
                    true => "for example `--last 10`, or `--revisions 'step*'`; `--every 1` takes all that have a step"
                        .to_owned(),
                    false => by_name_hint(&refs),
                },
            ));
        }
        true => all_of(repository, &matching, pattern.as_ref()),
    };
    let listed = in_parallel(revisions.len(), |number| Ok(hub.list_files(repository, &revisions[number].commit)?))?;
    for (revision, files) in revisions.iter_mut().zip(listed) {
        revision.files = choose_files(repository, revision, files, request.code)?;
        revision.bytes = revision.files.iter().map(|file| file.len_bytes).sum();
        revision.missing_bytes = revision.files.iter().map(|file| bytes_to_fetch(file, &folder)).sum();
    }
    Ok(FetchPlan { repository: repository.to_owned(), folder, n_refs: refs.len(), revisions, pattern })
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes that were fetched now.
    pub fetched_bytes: u64,
    /// The command that merges what was asked for, or shows it if it is one checkpoint.
    pub next: String,
}

/// Fetches what a plan says.
///
/// # Errors
/// `Request` if the disk is too small; `Storage`; `Checkpoint` for a revision that does not open; `Merge` with
/// `Interrupted` once a stop was asked for.
pub fn execute_fetch(plan: &FetchPlan, hub: &dyn Hub, cx: &RunContext<'_>) -> Result<Fetched, Error> {
    let missing = plan.missing();
    let (_, needed_bytes) = plan.to_fetch();
    if let Some(free_bytes) = cx.storage.free_bytes(plan.folder.path())?.filter(|free| *free < needed_bytes) {
        let (needed, free, path) = (show_size(needed_bytes), show_size(free_bytes), plan.folder.path().display());
        return Err(Error::request_with_hint(
            format!("`{path}` needs {needed}, but only {free} is free there"),
            "free some space, fetch fewer revisions, or set `HF_HUB_CACHE` to a folder on another disk",
        ));
    }
    cx.progress.begin(Stage::Fetch, missing.iter().map(|(_, file)| file.len_bytes).sum());
    let fetched = AtomicUsize::new(0);
    let watch = |progress: HubProgress| match progress {
        HubProgress::Resumed(n_bytes) => cx.progress.resume(n_bytes),
        HubProgress::Fetched(n_bytes) => {
            fetched.fetch_add(usize::try_from(n_bytes).unwrap_or(usize::MAX), Ordering::Relaxed);
            cx.progress.advance(n_bytes);
        }
    };
    let waiting = Waiting::new(plan, &missing);
    for revision in plan.revisions.iter().filter(|revision| waiting.is_complete(revision)) {
        publish(plan, revision, &cx.storage)?;
    }
    let outcome = in_parallel(missing.len(), |number| {
        cx.check_interrupt()?;
        let (revision, file) = missing[number];
        let wish = HubWish { repository: &plan.repository, commit: &revision.commit, file };
        hub.download(wish, &plan.folder, &watch)?;
        waiting.arrived(file).into_iter().try_for_each(|revision| publish(plan, revision, &cx.storage))
    });
    cx.check_interrupt()?;
    outcome?;
    Ok(Fetched { fetched_bytes: fetched.into_inner() as u64, next: next_command(plan, &cx.storage)? })
}

/// What is fetched, and what came of it: the document of `thalweg fetch --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FetchReport {
    kind: &'static str,
    version: u32,
    /// `ORG/NAME`.
    pub repository: String,
    /// The folder of the repository in the local cache.
    pub folder: PathBuf,
    /// Branches and tags that the repository has.
    pub n_refs: usize,
    /// The revisions, oldest first where they have steps.
    pub revisions: Vec<FetchRevision>,
    /// Different files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that were not in the cache before.
    pub missing_bytes: u64,
    /// Bytes that were fetched; `None` as long as nothing was.
    pub fetched_bytes: Option<u64>,
    /// The command that merges what was fetched.
    pub next: Option<String>,
}

impl FetchReport {
    /// What a plan says, made before it is executed: what the cache lacks in all is counted now, while the
    /// `missing_bytes` of the revisions are from planning.
    pub fn of_plan(plan: &FetchPlan) -> Self {
        let (files, bytes) = plan.total();
        Self {
            kind: "thalweg-fetch",
            version: 1,
            repository: plan.repository.clone(),
            folder: plan.folder.path().to_owned(),
            n_refs: plan.n_refs,
            revisions: plan.revisions.clone(),
            files,
            bytes,
            missing_bytes: plan.to_fetch().1,
            fetched_bytes: None,
            next: None,
        }
    }

    /// Adds what came of it.
    #[must_use]
    pub fn with_outcome(self, fetched: &Fetched) -> Self {
        Self { fetched_bytes: Some(fetched.fetched_bytes), next: Some(fetched.next.clone()), ..self }
    }

    /// The report as JSON.
    ///
    /// # Errors
    /// `Request` where the path of the cache is not text.
    pub fn to_json(&self) -> Result<Value, Error> {
        serde_json::to_value(self)
            .map_err(|error| Error::request(format!("the report cannot be written as JSON: {error}")))
    }
}

/// Which revisions wait for which files.
struct Waiting<'a>(Mutex<BTreeMap<&'a str, (&'a FetchRevision, BTreeSet<&'a str>)>>);

impl<'a> Waiting<'a> {
    fn new(plan: &'a FetchPlan, missing: &[(&FetchRevision, &HubFile)]) -> Self {
        let missing: BTreeSet<&str> = missing.iter().map(|(_, file)| file.digest.digits()).collect();
        let of = |revision: &'a FetchRevision| {
            let files = revision.files.iter().map(|file| file.digest.digits());
            (&*revision.name, (revision, files.filter(|digits| missing.contains(digits)).collect()))
        };
        Self(Mutex::new(plan.revisions.iter().map(of).collect()))
    }

    fn is_complete(&self, revision: &FetchRevision) -> bool {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.get(&*revision.name).is_some_and(|(_, files)| files.is_empty())
    }

    /// The revisions that waited for this file alone.
    fn arrived(&self, file: &HubFile) -> Vec<&'a FetchRevision> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let complete = waiting.values_mut().filter_map(|(revision, files)| {
            let was_last = files.remove(file.digest.digits()) && files.is_empty();
            was_last.then_some(*revision)
        });
        complete.collect()
    }
}

/// Lets a revision appear in the cache, once it opens.
fn publish(plan: &FetchPlan, revision: &FetchRevision, storage: &Arc<dyn Storage>) -> Result<(), Error> {
    let snapshot = plan.folder.link_snapshot(&revision.commit, &revision.files)?;
    open_checkpoint(storage, &snapshot)?;
    Ok(plan.folder.write_ref(&revision.name, &revision.commit)?)
}

/// Calls `act` with every number below `n`, a few at a time; the results in their order, or the first error.
fn in_parallel<T: Send>(n: usize, act: impl Fn(usize) -> Result<T, Error> + Sync + Send) -> Result<Vec<T>, Error> {
    if n == 0 {
        return Ok(Vec::new());
    }
    // Where the system refuses threads, one after another is slower and works.
    let Ok(pool) = rayon::ThreadPoolBuilder::new().num_threads(n.min(N_CONNECTIONS)).build() else {
        return (0..n).map(act).collect();
    };
    // Numbers are handed out one after another, so that the first revisions are complete first.
    let results = (0..n).par_bridge().map(|number| Ok((number, act(number)?)));
    let results: Result<BTreeMap<usize, T>, Error> = pool.install(|| results.collect());
    Ok(results?.into_values().collect())
}

/// The revisions that match a pattern; each pattern must match one.
fn refs_that_match<'a>(repository: &str, refs: &'a [HubRef], patterns: &[String]) -> Result<Vec<&'a HubRef>, Error> {
    let matches = |pattern: &str, found: &HubRef| match_pattern(pattern, &found.name).is_some();
    if let Some(pattern) = patterns.iter().find(|pattern| !refs.iter().any(|found| matches(pattern, found))) {
        let pattern = thalweg_tensor::display_name(pattern);
        return Err(Error::request_with_hint(
            format!("no revision of `{repository}` is called `{pattern}`: it has {}", list_refs(refs)),
            "`--revisions` takes names of branches and tags, in which `*` matches anything",
        ));
    }
    let is_meant = |found: &&HubRef| patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, found));
    Ok(refs.iter().filter(is_meant).collect())
}

fn list_refs(refs: &[HubRef]) -> String {
    let first: Vec<String> = refs.iter().take(MAX_LISTED).map(|found| format!("`{}`", found.name)).collect();
    let more = if refs.len() > first.len() { format!(" and {} more", refs.len() - first.len()) } else { String::new() };
    if refs.is_empty() { "none".to_owned() } else { format!("{}{more}", first.join(", ")) }
}

/// A revision whose files are not listed yet.
fn chosen(found: &HubRef, step: Option<u64>, tokens: Option<u64>) -> FetchRevision {
    let (name, commit) = (found.name.clone(), found.commit.clone());
    FetchRevision { name, commit, step, tokens, files: Vec::new(), bytes: 0, missing_bytes: 0 }
}

fn names<'a>(refs: &'a [&HubRef]) -> impl Iterator<Item = &'a str> {
    refs.iter().map(|found| &*found.name)
}

fn has_steps(repository: &str, refs: &[&HubRef], pattern: Option<&NamePattern>) -> bool {
    !Trajectory::of_names(Path::new(repository), names(refs), pattern).checkpoints().is_empty()
}

/// What works for a repository of a single model.
fn by_name_hint(refs: &[HubRef]) -> String {
    let name = refs.iter().find(|found| found.name == "main").or(refs.first()).map_or("main", |found| &found.name);
    format!("`--revisions {}` fetches one by its name", thalweg_tensor::shell_word(name))
}

fn by_selection(
    repository: &str,
    refs: &[&HubRef],
    (selection, pattern): (&Selection, Option<&NamePattern>),
    resolver: &Resolver<'_>,
) -> Result<Vec<FetchRevision>, Error> {
    let run = Trajectory::of_names(Path::new(repository), names(refs), pattern);
    if run.checkpoints().is_empty() {
        let refs: Vec<HubRef> = refs.iter().map(|found| (*found).clone()).collect();
        return Err(Error::request_with_hint(
            format!("no revision of `{repository}` has a step in its name: there are {}", list_refs(&refs)),
            format!("{}; or say where the step is, as in `--checkpoint-pattern 'ckpt_{{step}}'`", by_name_hint(&refs)),
        ));
    }
    let sources = resolver.select(&run, selection)?;
    let by_name: BTreeMap<&Path, &HubRef> = refs.iter().map(|found| (Path::new(&found.name), *found)).collect();
    let of = |source: &thalweg_merge::plan::SourceRef| {
        by_name.get(&*source.path).map(|found| chosen(found, source.step, source.tokens))
    };
    Ok(sources.iter().filter_map(of).collect())
}

/// All revisions: by step, and those without one before them.
fn all_of(repository: &str, refs: &[&HubRef], pattern: Option<&NamePattern>) -> Vec<FetchRevision> {
    let run = Trajectory::of_names(Path::new(repository), names(refs), pattern);
    let known: BTreeMap<&str, _> = run.checkpoints().iter().map(|one| (&*one.name, (one.step.0, one.tokens))).collect();
    let of = |found: &&HubRef| {
        let said = known.get(&*found.name);
        chosen(found, said.map(|(step, _)| *step), said.and_then(|(_, tokens)| tokens.map(|tokens| tokens.0)))
    };
    let mut all: Vec<FetchRevision> = refs.iter().map(of).collect();
    all.sort_by(|a, b| (a.step, &a.name).cmp(&(b.step, &b.name)));
    all
}

/// The files of a revision that a merge reads: they are at its top.
fn choose_files(
    repository: &str,
    revision: &FetchRevision,
    files: Vec<HubFile>,
    code: bool,
) -> Result<Vec<HubFile>, Error> {
    let mut entries: BTreeMap<String, FolderEntry> = BTreeMap::new();
    for file in &files {
        let (name, kind, len_bytes) = match file.path.split_once('/') {
            Some((folder, _)) => (folder, FileKind::Folder, 0),
            None => (&*file.path, FileKind::File, file.len_bytes),
        };
        entries.insert(name.to_owned(), FolderEntry { name: name.to_owned(), kind, len_bytes });
    }
    let also = |name: &str, kind| name == TRAINER_STATE_NAME || (code && kind == SideFileKind::Code);
    let path = PathBuf::from(format!("{repository}@{}", revision.name));
    let needed: BTreeSet<String> = needed_files(&path, entries.into_values().collect(), &also)?.into_iter().collect();
    Ok(files.into_iter().filter(|file| needed.contains(&file.path)).collect())
}

/// The command that merges what was fetched: as short as it can be for what the cache holds.
fn next_command(plan: &FetchPlan, storage: &Arc<dyn Storage>) -> Result<String, Error> {
    let repository = shell_word(&plan.repository);
    if let [only] = &*plan.revisions {
        return Ok(format!("thalweg inspect {}", shell_word(&format!("{}@{}", plan.repository, only.name))));
    }
    let pattern = plan.pattern.clone();
    let with = pattern
        .as_ref()
        .map_or_else(String::new, |pattern| format!(" --checkpoint-pattern {}", shell_word(&pattern.to_string())));
    let options = TrajectoryOptions { pattern, ..TrajectoryOptions::default() };
    let run = Trajectory::open(storage, plan.folder.path(), &options);
    let wanted: Vec<&str> = plan.revisions.iter().map(|revision| &*revision.name).collect();
    let steps: Option<Vec<_>> =
        plan.revisions.iter().map(|revision| revision.step.map(thalweg_trajectory::Step)).collect();
    let gives = |spec: &WindowSpec| {
        let window = run.as_ref().ok().and_then(|run| select_window(run, spec).ok());
        window.is_some_and(|window| window.checkpoints().iter().map(|one| &*one.name).eq(wanted.iter().copied()))
    };
    let n_checkpoints = wanted.len();
    let selection = if gives(&WindowSpec::Last { n_checkpoints, end: thalweg_trajectory::WindowEnd::Newest }) {
        Some(format!("--last {n_checkpoints}"))
    } else {
        steps.filter(|steps| gives(&WindowSpec::Steps(steps.clone()))).map(|steps| {
            let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
            format!("--steps {}", steps.join(","))
        })
    };
    Ok(match selection {
        Some(selection) => format!("thalweg merge {repository} {selection}{with} -o merged"),
        None => {
            let named = wanted.iter().map(|name| shell_word(&format!("{}@{name}", plan.repository)));
            format!("thalweg merge {} -o merged", named.collect::<Vec<_>>().join(" "))
        }
    })
}

/// What a plan says, as one line.
pub fn describe_fetch(plan: &FetchPlan) -> String {
    let (n_files, n_bytes) = plan.total();
    let (n_missing, missing_bytes) = plan.to_fetch();
    let what = format!("{} of `{}`", counted(plan.revisions.len(), "revision"), plan.repository);
    let files = format!("{}, {}", counted(n_files, "file"), show_size(n_bytes));
    match n_missing {
        0 => format!("{what}: {files}, all of them in the cache"),
        _ => format!(
            "{what}: {files}, of which {} in {} are not in the cache",
            show_size(missing_bytes),
            counted(n_missing, "file")
        ),
    }
}
