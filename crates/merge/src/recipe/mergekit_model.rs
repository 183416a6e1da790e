//! What recipes of both kinds of mergekit have: models, and words that are refused.

use super::checker::{Checker, Level};
use super::error::RecipeFault;
use super::tree::{Entry, Place};

pub(super) static MODEL: Level = Level { name: "`models[]`", keys: &["model", "parameters"] };

pub(super) fn refuse(checker: &mut Checker<'_>, place: Place, what: impl Into<String>, why: &'static str) {
    checker.report(place, RecipeFault::NotSupported { what: what.into(), why });
}

/// A model's path. mergekit reads what follows a `+` as an adapter.
pub(super) fn read_reference(checker: &mut Checker<'_>, key: &str, entry: &Entry) -> Option<String> {
    let path = checker.text(key, &entry.node)?;
    if path.contains('+') {
        let why = "merge the adapter into its model first, or, if `+` is part of the path, write a native recipe";
        refuse(checker, entry.node.place, "an adapter (`+`)", why);
        return None;
    }
    Some(path)
}
