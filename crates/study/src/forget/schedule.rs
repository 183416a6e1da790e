//! The steps of a schedule of replay, read from the file that `forget replay` writes.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::Serialize;
use thalweg_storage::Storage;

use crate::Error;
use crate::document::{DocumentKind, Field};

/// A schedule of replay.
pub const SCHEDULE: DocumentKind = DocumentKind::new("a schedule of replay", "thalweg-forget-replay", 1);
/// The largest schedule: it names every sample.
const MAX_BYTES: u64 = 1 << 28;

/// Where a score was taken within a schedule of replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplayPlace {
    /// Midway between two replays.
    Midway,
    /// Right after a replay, where recall is at the peak of a sawtooth.
    After,
}

impl fmt::Display for ReplayPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Midway => "midway",
            Self::After => "after a replay",
        })
    }
}

/// Steps of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplaySteps {
    /// The policy.
    pub policy: String,
    midway: BTreeSet<u64>,
    after: BTreeSet<u64>,
}

impl ReplaySteps {
    /// Where a step is, if it is one of those that the schedule names.
    pub fn place(&self, step: u64) -> Option<ReplayPlace> {
        let is_midway = self.midway.contains(&step).then_some(ReplayPlace::Midway);
        is_midway.or_else(|| self.after.contains(&step).then_some(ReplayPlace::After))
    }
}

/// Reads the steps of a schedule.
///
/// # Errors
/// `Request` for what is not one; `ReportKind` for another version; `Storage`.
pub fn read_schedule(storage: &dyn Storage, path: &Path) -> Result<ReplaySteps, Error> {
    const HINT: &str = "`thalweg forget replay ... -o FOLDER` writes `FOLDER/schedule.json`";
    let document = SCHEDULE.read_value(storage, path, MAX_BYTES, HINT)?;
    steps_of(&Field::root(&document)).map_err(|what| SCHEDULE.refuse(path, &what, HINT))
}

fn steps_of(document: &Field<'_>) -> Result<ReplaySteps, String> {
    let mut steps = ReplaySteps { policy: document.at("policy").text()?.to_owned(), ..ReplaySteps::default() };
    for cycle in document.at("cycles").list()? {
        steps.midway.insert(cycle.at("midway_step").whole()?);
        steps.after.insert(cycle.at("to_step").whole()?);
    }
    Ok(steps)
}
