//! The record of a watcher: what was merged and scored, one JSON object per line.
//!
//! It is published whole, so a reader never sees half a line. A line that a kill kept from being written is written
//! again from the receipt of the merge.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thalweg_merge::receipt::MergeReceipt;
use thalweg_storage::Storage;
use thalweg_storage::publish::publish_file;

use crate::Error;
use crate::document::DocumentKind;
use crate::record::{ForecastRow, ProposalRow, RawRow, ScoreRow, SuiteRow};

/// Name of the record in a watcher's folder.
pub const RECORD_NAME: &str = "watch.jsonl";
/// The scheme in the line of a raw checkpoint.
pub(super) const RAW_SCHEME: &str = "raw";
/// The scheme in the line of a checkpoint that was really annealed.
pub(super) const ANNEALED_SCHEME: &str = "annealed";
/// The scheme in the line of a forecast.
pub(super) const FORECAST_SCHEME: &str = "forecast";
/// Folder of the event file, in a watcher's folder.
pub const EVENTS_NAME: &str = "tensorboard";
const RECORD: DocumentKind = DocumentKind::new("the record of a watcher", "thalweg-watch", 1);
/// A line has a few hundred bytes.
const MAX_RECORD_BYTES: u64 = 1 << 30;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WatchEvent {
    /// A merge was written.
    Merged,
    /// A merge, a raw checkpoint or an annealed one was scored.
    #[default]
    Scored,
    /// An anneal was forecast, or it was found that it cannot be.
    Forecast,
}

/// One line of the record.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct WatchRow {
    /// Always `thalweg-watch`.
    pub kind: String,
    /// Always 1.
    pub version: u64,
    /// What happened.
    pub event: WatchEvent,
    /// The step at which the window ends; of a raw checkpoint, its step.
    pub end_step: u64,
    /// Name of the merge's folder, beside the record; of a raw checkpoint, its name.
    pub name: String,
    /// The scheme, or `raw`, `annealed` or `forecast`.
    pub scheme: String,
    /// Checkpoints in the window.
    pub n_checkpoints: usize,
    /// Steps of the window, oldest first.
    pub steps: Vec<u64>,
    /// Training tokens behind the newest checkpoint of the window, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_tokens: Option<u64>,
    /// Digest of the merged tensors, where digests are taken.
    pub digest: Option<String>,
    /// When the merge ended, or the scores came, in seconds since 1970-01-01 UTC.
    pub unix_seconds: u64,
    /// What they were scored on; empty in older records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suites: Vec<SuiteRow>,
    /// The scores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<ScoreRow>,
    /// What an anneal that ended here would score.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forecasts: Vec<ForecastRow>,
    /// Why there is no forecast, or none of some scores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
    /// The window that the scores behind the forecast propose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<ProposalRow>,
}

impl WatchRow {
    /// The line of a merge, from its receipt.
    pub(super) fn merged(name: String, receipt: &MergeReceipt) -> Self {
        let steps: Vec<u64> = receipt.plan.sources.iter().filter_map(|source| source.step).collect();
        let end_step = steps.iter().copied().max().unwrap_or(0);
        Self {
            event: WatchEvent::Merged,
            name,
            scheme: receipt.plan.scheme.clone(),
            n_checkpoints: receipt.plan.sources.len(),
            steps,
            end_tokens: receipt.plan.newest_source().and_then(|newest| newest.tokens),
            digest: receipt.digest.clone(),
            ..Self::scored(end_step, receipt.finished_unix_seconds)
        }
    }

    /// A line of scores without a model yet.
    pub(super) fn scored(end_step: u64, unix_seconds: u64) -> Self {
        Self { kind: RECORD.kind.to_owned(), version: RECORD.version, end_step, unix_seconds, ..Self::default() }
    }

    /// A checkpoint of the run, or an annealed one, as a record of a study has it.
    pub(super) fn raw(&self) -> RawRow {
        let (path, params_digest) = (self.name.clone(), self.digest.clone());
        RawRow { step: self.end_step, path, params_digest, scores: self.scores.clone() }
    }

    /// Whether it has scores of something else than `suites`.
    fn is_scored_otherwise(&self, suites: &[SuiteRow]) -> bool {
        let same = |a: &SuiteRow, b: &SuiteRow| (&a.name, &a.digest) == (&b.name, &b.digest);
        if self.suites.is_empty() {
            // Only the names are known.
            return self.scores.iter().any(|score| suites.iter().all(|suite| suite.name != score.suite));
        }
        self.suites.len() != suites.len() || !self.suites.iter().all(|one| suites.iter().any(|other| same(one, other)))
    }

    /// Whether both say the same about the same thing, whenever it happened.
    fn is_about_the_same(&self, other: &Self) -> bool {
        (self.event, &self.name, &self.digest, &self.steps) == (other.event, &other.name, &other.digest, &other.steps)
    }
}

/// The record in a folder.
#[derive(Debug)]
pub(super) struct WatchRecord {
    path: PathBuf,
    rows: Vec<WatchRow>,
    is_changed: bool,
    is_torn: bool,
}

impl WatchRecord {
    pub(super) fn open(storage: &dyn Storage, folder: &Path) -> Result<Self, Error> {
        let path = folder.join(RECORD_NAME);
        let (rows, is_torn) = match storage.file_info(&path) {
            Ok(_) => read_lines(storage, &path)?,
            Err(error) if error.is_not_found() => (Vec::new(), false),
            Err(error) => return Err(error.into()),
        };
        Ok(Self { path, rows, is_changed: is_torn, is_torn })
    }

    /// What to tell the user about a record whose last line was torn, as a copy or a power failure leaves it.
    pub(super) fn note(&self) -> Option<String> {
        let path = self.path.display();
        self.is_torn.then(|| format!("the last line of `{path}` is incomplete and is removed"))
    }

    pub(super) fn rows(&self) -> &[WatchRow] {
        &self.rows
    }

    /// Refuses to add scores of `suites` to those of others: they would be points of one curve.
    ///
    /// # Errors
    /// `Request` with what made the scores that are there.
    pub(super) fn check_suites(&self, suites: &[SuiteRow]) -> Result<(), Error> {
        let scored = self.rows.iter().filter(|row| row.event == WatchEvent::Scored);
        let Some(other) = scored.rev().find(|row| row.is_scored_otherwise(suites)) else { return Ok(()) };
        let names = |names: Vec<&str>| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let mut then: Vec<&str> = other.scores.iter().map(|score| score.suite.as_str()).collect();
        then.dedup();
        let now: Vec<&str> = suites.iter().map(|suite| suite.name.as_str()).collect();
        let path = self.path.display();
        let what = if then == now {
            format!("the scores in `{path}` were made by a different {}", noun_of(&now))
        } else {
            format!("the scores in `{path}` are on {}, not on {}", names(then), names(now))
        };
        Err(Error::request_with_hint(
            what,
            format!(
                "use the same scoring as before, or choose another folder with `-o`; to score everything again, remove the lines with \
                 `\"event\":\"scored\"` from `{RECORD_NAME}`, and the folder `{EVENTS_NAME}`"
            ),
        ))
    }

    /// Adds a line, unless it is there already.
    pub(super) fn add(&mut self, row: WatchRow) {
        if !self.rows.iter().any(|known| known.is_about_the_same(&row)) {
            self.rows.push(row);
            self.is_changed = true;
        }
    }

    /// Writes the record if it has new lines.
    pub(super) fn publish(&mut self, storage: &dyn Storage) -> Result<(), Error> {
        if !self.is_changed {
            return Ok(());
        }
        let mut text = String::new();
        for row in &self.rows {
            text.push_str(&serde_json::to_string(row).map_err(|source| Error::ReportForm { path: None, source })?);
            text.push('\n');
        }
        publish_file(storage, &self.path, text.as_bytes(), RECORD.file())?;
        self.is_changed = false;
        Ok(())
    }
}

/// What the suites of a record are: those of another program have the name of its option.
fn noun_of(names: &[&str]) -> String {
    match names {
        ["command"] => "`--eval-command`".to_owned(),
        _ => "version of the suite".to_owned(),
    }
}

/// Reads the record of a watcher.
///
/// # Errors
/// `Storage`; `Request` where it is not one.
pub(crate) fn read_watch_record(storage: &dyn Storage, path: &Path) -> Result<Vec<WatchRow>, Error> {
    Ok(read_lines(storage, path)?.0)
}

/// The whole lines of a record, and whether a torn one follows them: without its end, and not one object.
fn read_lines(storage: &dyn Storage, path: &Path) -> Result<(Vec<WatchRow>, bool), Error> {
    let refuse = |what: String| {
        Error::request_with_hint(
            format!("`{}` is not the record of a watcher: {what}", path.display()),
            "choose another folder, or move the file away: the merges in the folder are kept",
        )
    };
    let bytes = storage.read_file(path, MAX_RECORD_BYTES)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let is_ours = whole > 0 || bytes.starts_with(format!("{{\"kind\":\"{}\"", RECORD.kind).as_bytes());
    let is_torn = is_ours && whole < bytes.len() && serde_json::from_slice::<WatchRow>(&bytes[whole..]).is_err();
    let bytes = if is_torn { &bytes[..whole] } else { &bytes[..] };
    let text = std::str::from_utf8(bytes).map_err(|_| refuse("it is not UTF-8 text".to_owned()))?;
    let parse =
        |(i, line): (usize, &str)| RECORD.parse(line.as_bytes()).map_err(|what| refuse(format!("line {i}: {what}")));
    let rows = (1..).zip(text.lines()).map(parse).collect::<Result<_, _>>()?;
    Ok((rows, is_torn))
}
