//! The record that a sweep finds in its folder: it is replaced, and what it held that the new one lacks is said.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;
use thalweg_storage::Storage;

use crate::read_study::read_record;
use crate::record::{STUDY_NAME, StudyRecord, TrialRow};

/// An earlier sweep into the same folder, of other windows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EarlierSweep {
    /// How many merges it scored that this one does not.
    pub n_others: usize,
    /// Its best merge, if that is one of them.
    pub best: Option<EarlierBest>,
}

/// The merge that an earlier sweep chose.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EarlierBest {
    /// Its name.
    pub name: String,
    /// Where it still is, if it was written.
    pub path: Option<String>,
    /// Its score, and whether it is better than that of this sweep's choice: where both were chosen by the same suite,
    /// task and measure.
    pub compared: Option<ComparedBest>,
}

/// Two choices by one score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ComparedBest {
    /// What the earlier choice scored.
    pub value: f64,
    /// Whether that is better.
    pub is_better: bool,
}

/// What the record in `folder` holds beyond `record`, which is to replace it. A file that is not a record has nothing.
pub(super) fn find_earlier(storage: &dyn Storage, folder: &Path, record: &StudyRecord) -> Option<EarlierSweep> {
    let old = read_record(storage, &folder.join(STUDY_NAME)).ok()?;
    let known: BTreeSet<&str> = record.trials.iter().map(|trial| trial.name.as_str()).collect();
    let n_others = old.trials.iter().filter(|trial| !known.contains(trial.name.as_str())).count();
    if n_others == 0 {
        return None;
    }
    let chosen = old.choice.as_ref().filter(|choice| !known.contains(choice.trial.as_str()));
    let row = chosen.and_then(|choice| find_trial(&old, &choice.trial));
    let best = row.map(|row| EarlierBest {
        name: row.name.clone(),
        path: row.path.clone().filter(|path| storage.file_info(Path::new(path)).is_ok()),
        compared: compare(&old, row, record),
    });
    Some(EarlierSweep { n_others, best })
}

fn find_trial<'a>(record: &'a StudyRecord, name: &str) -> Option<&'a TrialRow> {
    record.trials.iter().find(|trial| trial.name == name)
}

fn compare(old: &StudyRecord, row: &TrialRow, new: &StudyRecord) -> Option<ComparedBest> {
    let choice = new.choice.as_ref()?;
    let digest = |record: &StudyRecord| {
        record.suites.iter().find(|suite| suite.name == choice.suite).map(|suite| suite.digest.clone())
    };
    if digest(old)? != digest(new)? {
        return None;
    }
    let score = |row: &TrialRow| {
        let mut scores = row.scores.iter();
        let found = scores.find(|score| {
            (&score.suite, &score.task) == (&choice.suite, &choice.task) && score.measure == choice.measure
        });
        found.map(|score| (score.value, score.higher_is_better))
    };
    let ((theirs, higher_is_better), (ours, _)) = (score(row)?, score(find_trial(new, &choice.trial)?)?);
    Some(ComparedBest { value: theirs, is_better: if higher_is_better { theirs > ours } else { theirs < ours } })
}
