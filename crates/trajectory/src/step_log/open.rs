//! Opens logs: files of every kind, folders in the way of TensorBoard, and several of these as one log.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_storage::{FileKind, ReadAt, Storage};

use super::builder::LogBuilder;
use super::console::Console;
use super::csv::Csv;
use super::events::{SeriesFolder, read_events};
use super::json::{JsonLines, has_history, read_list, read_state};
use super::kind::{LogKind, sniff_kind};
use super::lines::{LineCutter, LineFormat, read_text};
use super::sqlite::{Database, LOG_HEADER_BYTES};
use super::trackers::{SteppedMetrics, read_metric_file, read_tracker};
use super::wandb::WandbLines;
use super::{LogError, LogOptions, MAX_LOG_BYTES, StepLog};
use crate::Error;

/// Bytes of a text log that are read at a time.
const PIECE_BYTES: usize = 1 << 18;
/// Limits of a folder of logs. Whatever is deeper or beyond them is ignored.
const MAX_DEPTH: usize = 8;
const MAX_FOLDERS: usize = 10_000;
const MAX_FILES: usize = 10_000;
/// Names of text logs in a folder without event files, such as Lightning's `version_0/metrics.csv`.
const TEXT_NAMES: [&str; 8] = [
    "log.jsonl",
    "train_log.jsonl",
    "metrics.jsonl",
    "steps.jsonl",
    "log.csv",
    "train_log.csv",
    "metrics.csv",
    "steps.csv",
];

/// A file of a log.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    folder: SeriesFolder,
    /// The run of a database that is meant.
    run: Option<String>,
}

impl LogFile {
    fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), folder: SeriesFolder::default(), run: None }
    }
}

/// A path, and the run that it names behind a `#`, unless there is a file of the whole name.
fn split_run(storage: &Arc<dyn Storage>, path: &Path) -> LogFile {
    let whole = LogFile::of(path);
    let split = path.to_str().and_then(|text| text.rsplit_once('#'));
    let Some((file, run)) = split.filter(|_| storage.file_info(path).is_err()) else { return whole };
    LogFile { run: Some(run.to_owned()), ..LogFile::of(Path::new(file)) }
}

impl StepLog {
    /// Reads files and folders as one log.
    ///
    /// Of a database, the run behind a `#` is read, or the only one. Of a run's folder that mlflow wrote, all metrics
    /// are read. Of another folder, all event files in and below it are read, as TensorBoard does. If there are none,
    /// the text logs with known names are read. Event files are ordered by the time in their names. Other files are
    /// read as given, except that a log that begins and ends before the previous one does is moved before it. Where a
    /// log goes back to an earlier step, everything that was logged from that step on is discarded.
    ///
    /// # Errors
    /// `NotFound`; `Log` with what is wrong; `Storage`, also if a file is larger than [`MAX_LOG_BYTES`].
    pub fn open_all(storage: &Arc<dyn Storage>, paths: &[PathBuf], options: &LogOptions) -> Result<Self, Error> {
        let mut files = Vec::new();
        for path in paths {
            let file = split_run(storage, path);
            let info = storage.file_info(&file.path).map_err(|error| Error::from_storage(path, error))?;
            match info.kind {
                FileKind::Folder if is_mlflow_run(storage, path) => files.push(file),
                FileKind::Folder => files.extend(list_tree(storage, path)?),
                _ => files.push(file),
            }
        }
        let mut builder = LogBuilder::with_options(options);
        for file in &files {
            let name = file_name(&file.path);
            let label = (files.len() > 1).then_some(&*name);
            builder.begin_file(label, begun_at(&name));
            read_file(storage, file, &name, options, &mut builder)?;
            builder.end_file().map_err(|source| refuse(&file.path, source))?;
        }
        let first = paths.first().map_or(Path::new(""), PathBuf::as_path);
        builder.finish().map_err(|source| refuse(first, source))
    }
}

fn refuse(path: &Path, source: LogError) -> Error {
    Error::Log { path: path.to_owned(), source: Box::new(source) }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Seconds since 1970 in the name of an event file: `events.out.tfevents.1700000000.host`.
fn begun_at(name: &str) -> Option<u64> {
    let (_, rest) = name.split_once("tfevents.")?;
    let n_digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest.get(..n_digits)?.parse().ok()
}

fn read_file(
    storage: &Arc<dyn Storage>,
    file: &LogFile,
    name: &str,
    options: &LogOptions,
    builder: &mut LogBuilder<'_>,
) -> Result<(), Error> {
    let path = &file.path;
    if storage.file_info(path)?.kind == FileKind::Folder {
        return read_mlflow_run(storage, path, builder);
    }
    let reader = storage.open_file(path)?;
    let found_bytes = reader.info().len_bytes;
    if found_bytes > MAX_LOG_BYTES {
        return Err(
            thalweg_storage::Error::TooLarge { path: path.clone(), limit_bytes: MAX_LOG_BYTES, found_bytes }.into()
        );
    }
    let mut head = vec![0; PIECE_BYTES.min(usize::try_from(found_bytes).unwrap_or(PIECE_BYTES))];
    reader.read_exact_at(0, &mut head)?;
    let kind = sniff_kind(name, &head, &options.columns).ok_or_else(|| refuse(path, LogError::UnknownKind))?;
    let read = match kind {
        LogKind::Events => read_events(&storage.read_file(path, MAX_LOG_BYTES)?, &file.folder, builder),
        LogKind::JsonDocument => read_document(&storage.read_file(path, MAX_LOG_BYTES)?, builder),
        LogKind::Database => return read_database(storage, file, builder),
        LogKind::WandbLines => return read_pieces(&*reader, head, path, &mut WandbLines, builder),
        LogKind::JsonLines => return read_pieces(&*reader, head, path, &mut JsonLines, builder),
        LogKind::Csv => return read_pieces(&*reader, head, path, &mut Csv::default(), builder),
        LogKind::Console => {
            read_pieces(&*reader, head, path, &mut Console::default(), builder)?;
            // Text that is not a log reads like console output without a record.
            if builder.is_file_empty() { Err(LogError::UnknownKind) } else { Ok(()) }
        }
    };
    read.map_err(|source| refuse(path, source))
}

/// Whether a folder is that of a run, as mlflow wrote it before 3.7.
fn is_mlflow_run(storage: &Arc<dyn Storage>, path: &Path) -> bool {
    let is_there = |name: &str| storage.file_info(&path.join(name)).is_ok();
    is_there("meta.yaml") && is_there("metrics")
}

/// Reads the files of all metrics: slashes in a metric's name are folders.
fn read_mlflow_run(storage: &Arc<dyn Storage>, path: &Path, builder: &mut LogBuilder<'_>) -> Result<(), Error> {
    let (mut steps, root) = (SteppedMetrics::default(), path.join("metrics"));
    let mut folders = vec![String::new()];
    let mut n_files = 0;
    while let Some(folder) = folders.pop() {
        for entry in storage.list_folder(&root.join(&folder))? {
            let name = if folder.is_empty() { entry.name } else { format!("{folder}/{}", entry.name) };
            match entry.kind {
                FileKind::Folder if name.matches('/').count() < MAX_DEPTH => folders.push(name),
                FileKind::File if n_files < MAX_FILES => {
                    n_files += 1;
                    let text = storage.read_file(&root.join(&name), MAX_LOG_BYTES)?;
                    let text = String::from_utf8_lossy(&text);
                    read_metric_file(&text, &name, &mut steps).map_err(|source| refuse(path, source))?;
                }
                _ => {}
            }
        }
    }
    steps.write_to(builder).map_err(|source| refuse(path, source))
}

/// A database, as it was between two writes of the program that keeps it.
fn read_database(storage: &Arc<dyn Storage>, file: &LogFile, builder: &mut LogBuilder<'_>) -> Result<(), Error> {
    /// Looks until nothing was written in between.
    const N_TRIES: usize = 5;
    let mut log_path = file.path.clone().into_os_string();
    log_path.push("-wal");
    let read_log = || match storage.read_file(Path::new(&log_path), MAX_LOG_BYTES) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    };
    let (mut bytes, mut log) = (Vec::new(), None);
    for _ in 0..N_TRIES {
        let before = storage.file_info(&file.path)?;
        log = read_log()?;
        bytes = storage.read_file(&file.path, MAX_LOG_BYTES)?;
        // A log that was begun anew has another header; one that only grew does not matter.
        let header = |log: &Option<Vec<u8>>| log.as_ref().map(|log| log.get(..LOG_HEADER_BYTES).map(<[u8]>::to_vec));
        if storage.file_info(&file.path)? == before && header(&log) == header(&read_log()?) {
            break;
        }
    }
    let read = Database::open(&bytes, log.as_deref())
        .and_then(|database| read_tracker(&database, file.run.as_deref(), builder));
    read.map_err(|source| refuse(&file.path, source))
}

/// A trainer's state, a list of records, or JSON lines in a file whose name or first line looks like one document.
fn read_document(bytes: &[u8], builder: &mut LogBuilder<'_>) -> Result<(), LogError> {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if text.trim_ascii_start().starts_with(b"[") {
        return read_list(text, builder);
    }
    if has_history(text)
        || text.trim_ascii_start().split(|byte| *byte == b'\n').next().is_some_and(|line| line.trim_ascii() == b"{")
    {
        return read_state(text, builder);
    }
    read_text(text, &mut JsonLines, builder)
}

/// Reads text piece by piece, to bound memory.
fn read_pieces(
    reader: &dyn ReadAt,
    mut piece: Vec<u8>,
    path: &Path,
    format: &mut dyn LineFormat,
    builder: &mut LogBuilder<'_>,
) -> Result<(), Error> {
    let len_bytes = reader.info().len_bytes;
    let mut cutter = LineCutter::default();
    let mut at = 0;
    loop {
        cutter.push(&piece, format, builder).map_err(|source| refuse(path, source))?;
        at += piece.len() as u64;
        let left = usize::try_from(len_bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        if left == 0 {
            break;
        }
        piece.resize(left.min(PIECE_BYTES), 0);
        reader.read_exact_at(at, &mut piece)?;
    }
    cutter.end(format, builder).map_err(|source| refuse(path, source))
}

/// The log files in a folder and in the folders below it.
fn list_tree(storage: &Arc<dyn Storage>, root: &Path) -> Result<Vec<LogFile>, Error> {
    let mut tree = Tree { storage, seen: BTreeSet::new(), events: Vec::new(), texts: Vec::new() };
    tree.visit(root, &mut Vec::new())?;
    let Tree { events, texts, .. } = tree;
    let files = if events.is_empty() { texts } else { events };
    if files.is_empty() { Err(refuse(root, LogError::UnknownKind)) } else { Ok(files) }
}

#[derive(Debug)]
struct Tree<'a> {
    storage: &'a Arc<dyn Storage>,
    /// Folders that were listed already: links may lead back to them.
    seen: BTreeSet<PathBuf>,
    events: Vec<LogFile>,
    texts: Vec<LogFile>,
}

impl Tree<'_> {
    fn visit(&mut self, folder: &Path, names: &mut Vec<String>) -> Result<(), Error> {
        if names.len() > MAX_DEPTH || self.seen.len() >= MAX_FOLDERS {
            return Ok(());
        }
        if !self.seen.insert(self.storage.canonical_path(folder)?) {
            return Ok(());
        }
        let mut entries = self.storage.list_folder(folder)?;
        entries.sort_by(|a, b| compare_naturally(&a.name, &b.name));
        for entry in entries {
            let path = folder.join(&entry.name);
            if entry.kind == FileKind::Folder {
                names.push(entry.name);
                self.visit(&path, names)?;
                names.pop();
                continue;
            }
            let list = match () {
                () if entry.kind != FileKind::File => continue,
                () if entry.name.contains("tfevents") => &mut self.events,
                () if TEXT_NAMES.contains(&&*entry.name) => &mut self.texts,
                () => continue,
            };
            if list.len() < MAX_FILES {
                list.push(LogFile { folder: SeriesFolder { names: names.clone() }, ..LogFile::of(&path) });
            }
        }
        Ok(())
    }
}

/// Compares names so that `version_2` comes before `version_10`.
fn compare_naturally(a: &str, b: &str) -> Ordering {
    let (mut a_rest, mut b_rest) = (a, b);
    while let (Some(x), Some(y)) = (a_rest.chars().next(), b_rest.chars().next()) {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (n, m) = (digits(a_rest), digits(b_rest));
        let order = if n > 0 && m > 0 {
            let (x, y) = (a_rest.split_at(n).0.trim_start_matches('0'), b_rest.split_at(m).0.trim_start_matches('0'));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y))
        } else {
            x.cmp(&y)
        };
        if order != Ordering::Equal {
            return order;
        }
        let (n, m) = if n > 0 && m > 0 { (n, m) } else { (x.len_utf8(), y.len_utf8()) };
        (a_rest, b_rest) = (a_rest.split_at(n).1, b_rest.split_at(m).1);
    }
    a_rest.len().cmp(&b_rest.len()).then_with(|| a.cmp(b))
}
