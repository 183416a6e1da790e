//! Decides which column holds which field, by the names that trainers use and the names that the user gives.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use super::field::LogField;
use crate::text_error::TextError;

/// Names kept for the error that lists them.
const MAX_NAMES: usize = 50;
/// A longer name is not that of a known column, and would only fill memory.
const MAX_NAME_BYTES: usize = 256;
/// Names that are remembered. Further ones are looked up each time unless they hold a field: memory stays bounded.
const MAX_KNOWN: usize = 4096;
/// Names of one record whose order is remembered.
const MAX_RECENT: usize = 64;

/// Names of columns that the user gives, for fields whose names are not known ones.
///
/// # Example
/// ```
/// use thalweg_trajectory::{ColumnMap, LogField};
///
/// let columns: ColumnMap = "loss=train/ce,lr=opt/lr".parse()?;
/// assert_eq!(columns.get(LogField::LearningRate), Some("opt/lr"));
/// # Ok::<(), thalweg_trajectory::TextError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColumnMap {
    names: BTreeMap<LogField, String>,
}

impl ColumnMap {
    /// The name given for a field.
    pub fn get(&self, field: LogField) -> Option<&str> {
        self.names.get(&field).map(String::as_str)
    }

    /// Sets the name for a field.
    pub fn set(&mut self, field: LogField, name: &str) {
        self.names.insert(field, name.to_owned());
    }

    /// The fields that are named, with their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (LogField, &str)> {
        self.names.iter().map(|(field, name)| (*field, name.as_str()))
    }
}

impl FromStr for ColumnMap {
    type Err = TextError;

    /// Reads `loss=NAME,lr=NAME,...`; the words on the left are the known names of a field.
    fn from_str(text: &str) -> Result<Self, TextError> {
        let refuse = |part: &str| TextError::BadColumns { text: part.to_owned() };
        let mut map = Self::default();
        for part in text.split(',') {
            let (word, name) = part.split_once('=').ok_or_else(|| refuse(part))?;
            let word = simplify(word.trim());
            let field = LogField::ALL.into_iter().find(|field| field.names().contains(&&*word));
            let name = name.trim();
            let fresh =
                field.is_some_and(|field| !name.is_empty() && map.names.insert(field, name.to_owned()).is_none());
            if !fresh {
                return Err(refuse(part));
            }
        }
        Ok(map)
    }
}

/// One spelling for what trainers spell in many ways: `lm loss`, `learning-rate`, `train.loss`.
fn simplify(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            ' ' | '-' => '_',
            '.' => '/',
            _ => c.to_ascii_lowercase(),
        })
        .collect()
}

/// A column that may hold a field, and how good its name is: the column with the best name wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ColumnMatch {
    pub(super) field: LogField,
    /// Lower is better.
    pub(super) rank: u8,
    /// Which name it is, for `ColumnNames::name`.
    pub(super) id: u16,
}

impl ColumnMatch {
    /// The known name that the column's name means; `None` for names that the user gave or that only end alike.
    pub(super) fn known_name(self) -> Option<&'static str> {
        let idx = usize::from(self.rank.checked_sub(1)?) / RANKS_OF_NAME;
        self.field.names().get(idx).copied().filter(|_| self.rank < PATTERN_RANK)
    }
}

/// The rank of a name that the user gave, or of a step that the format itself has.
pub(super) const GIVEN_RANK: u8 = 0;
/// The rank of `lr-AdamW` and similar columns, which are named after the optimizer.
const PATTERN_RANK: u8 = 200;
/// The rank of a name that only ends in `loss`.
pub(super) const ENDING_RANK: u8 = 250;

/// Ranks between one known name and the next: plain or behind the name of a run, each with or without a prefix.
const RANKS_OF_NAME: usize = 4;

/// Prefixes that only say that a column is about training.
const PREFIXES: [&str; 6] = ["train/", "trainer/", "training/", "optim/", "loss_metrics/", "metrics/train/"];
/// Words in the name of a loss that is not the training loss.
const OTHER_LOSSES: [&str; 18] = [
    "eval",
    "val",
    "valid",
    "validation",
    "test",
    "dev",
    "aux",
    "auxiliary",
    "balance",
    "balancing",
    "z",
    "router",
    "moe",
    "kl",
    "mtp",
    "max",
    "min",
    "best",
];

/// The names of a log's columns and what they mean.
#[derive(Debug)]
pub(super) struct ColumnNames<'a> {
    map: &'a ColumnMap,
    known: BTreeMap<String, Option<ColumnMatch>>,
    /// Names of columns that hold a field, by id.
    matched: Vec<String>,
    /// Names for errors that list them.
    listed: BTreeSet<String>,
    /// The names of the last record in order: the next record usually has the same ones.
    recent: Vec<(String, Option<ColumnMatch>)>,
    cursor: usize,
}

impl<'a> ColumnNames<'a> {
    pub(super) fn new(map: &'a ColumnMap) -> Self {
        Self {
            map,
            known: BTreeMap::new(),
            matched: Vec::new(),
            listed: BTreeSet::new(),
            recent: Vec::new(),
            cursor: 0,
        }
    }

    pub(super) fn map(&self) -> &'a ColumnMap {
        self.map
    }

    /// The name of a match.
    pub(super) fn name(&self, id: u16) -> &str {
        self.matched.get(usize::from(id)).map_or("step", String::as_str)
    }

    /// The names that occurred, sorted, at most 50.
    pub(super) fn listed(&self) -> Vec<String> {
        self.listed.iter().cloned().collect()
    }

    /// Expects the first name of a record next.
    pub(super) fn begin_record(&mut self) {
        self.cursor = 0;
    }

    /// What a name means.
    pub(super) fn find(&mut self, name: &str) -> Option<ColumnMatch> {
        if let Some((_, found)) = self.recent.get(self.cursor).filter(|(recent, _)| recent == name) {
            self.cursor += 1;
            return *found;
        }
        if name.len() > MAX_NAME_BYTES {
            return None;
        }
        let found = self.look_up(name);
        if self.cursor < MAX_RECENT {
            self.recent.truncate(self.cursor);
            self.recent.push((name.to_owned(), found));
            self.cursor += 1;
        }
        found
    }

    fn look_up(&mut self, name: &str) -> Option<ColumnMatch> {
        if let Some(known) = self.known.get(name) {
            return *known;
        }
        if self.listed.len() < MAX_NAMES {
            self.listed.insert(name.to_owned());
        }
        let found = self.classify(name).and_then(|(field, rank)| {
            let id = u16::try_from(self.matched.len()).ok()?;
            self.matched.push(name.to_owned());
            Some(ColumnMatch { field, rank, id })
        });
        // The ids bound how many names hold a field.
        if found.is_some() || self.known.len() < MAX_KNOWN {
            self.known.insert(name.to_owned(), found);
        }
        found
    }

    fn classify(&self, name: &str) -> Option<(LogField, u8)> {
        if let Some((field, _)) = self.map.iter().find(|(_, given)| *given == name) {
            return Some((field, GIVEN_RANK));
        }
        let is_free = |field: &LogField| self.map.get(*field).is_none();
        let whole = simplify(name);
        // Weights & Biases exports columns as `RUN - train/loss`.
        let behind_run = name.rsplit_once(" - ").map(|(_, name)| simplify(name));
        let spellings = [Some(&whole), behind_run.as_ref()];
        for (n, spelling) in spellings.into_iter().flatten().enumerate() {
            let bare = PREFIXES.iter().find_map(|prefix| spelling.strip_prefix(prefix));
            for field in LogField::ALL.into_iter().filter(is_free) {
                let position = |wanted: &str| field.names().iter().position(|known| *known == wanted);
                let plain = position(spelling).map(|idx| RANKS_OF_NAME * idx + 2 * n);
                let prefixed = bare.and_then(position).map(|idx| RANKS_OF_NAME * idx + 2 * n + 1);
                // Rank 0 is for names that the user gave.
                if let Some(rank) = plain.or(prefixed).and_then(|rank| u8::try_from(rank + 1).ok()) {
                    return Some((field, rank));
                }
            }
        }
        let simple = behind_run.as_ref().unwrap_or(&whole);
        let pattern = match () {
            () if is_rate_of_optimizer(simple) => (LogField::LearningRate, PATTERN_RANK),
            () if ends_in_loss(simple) => (LogField::Loss, ENDING_RANK),
            () => return None,
        };
        Some(pattern).filter(|(field, _)| is_free(field))
    }
}

/// Lightning names learning rates after their optimizer: `lr-AdamW`, `lr-AdamW/pg1`.
fn is_rate_of_optimizer(simple: &str) -> bool {
    simple.starts_with("lr_") && !simple.ends_with("momentum") && !simple.contains("weight_decay")
}

fn ends_in_loss(simple: &str) -> bool {
    let mut words = simple.split(['_', '/', '(', ')']);
    simple.ends_with("loss") && !words.any(|word| OTHER_LOSSES.contains(&word))
}

/// Whether a column counts micro-batches in litgpt's and Lightning's logs.
pub(super) fn is_iteration_name(name: &str) -> bool {
    matches!(name, "iter" | "iter_num")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field_of(name: &str) -> Option<LogField> {
        ColumnNames::new(&ColumnMap::default()).find(name).map(|found| found.field)
    }

    #[test]
    fn a_column_is_found_after_any_number_of_others() {
        let map = ColumnMap::default();
        let mut names = ColumnNames::new(&map);
        for i in 0..2 * MAX_KNOWN {
            assert_eq!(names.find(&format!("layer{i}/scale")), None);
        }
        assert_eq!(names.find("loss").map(|found| found.field), Some(LogField::Loss));
        assert_eq!(names.find("loss"), names.find("loss"));
    }

    #[test]
    fn names_of_trainers_are_known() {
        let names = [
            ("train_loss_step", LogField::Loss),
            ("loss_metrics/global_avg_loss", LogField::Loss),
            ("train/CE loss", LogField::Loss),
            ("train/CrossEntropyLoss", LogField::Loss),
            ("reduced_train_loss", LogField::Loss),
            ("loss/train", LogField::Loss),
            ("pretrain-7b - train/loss", LogField::Loss),
            ("run - custom_loss", LogField::Loss),
            ("lr-AdamW", LogField::LearningRate),
            ("lr-AdamW/pg1", LogField::LearningRate),
            ("optim/LR (group 0)", LogField::LearningRate),
            ("optim/total grad norm", LogField::GradNorm),
            ("grad-norm", LogField::GradNorm),
            ("completed_steps", LogField::Step),
            ("trainer/global_step", LogField::Step),
            ("Step", LogField::Step),
            ("throughput/total tokens", LogField::Tokens),
        ];
        for (name, field) in names {
            assert_eq!(field_of(name), Some(field), "{name}");
        }
        let others = [
            "eval/loss",
            "val_loss",
            "run - eval/loss",
            "train/loss__MIN",
            "lm loss vs samples",
            "loss_scale",
            "load_balancing_loss",
            "train/z_loss",
            "lr-AdamW-momentum",
            "train_loss_epoch",
            "Train/Samples/train_loss_vs",
            "step_time",
        ];
        for name in others {
            assert_eq!(field_of(name), None, "{name}");
        }
    }
}
