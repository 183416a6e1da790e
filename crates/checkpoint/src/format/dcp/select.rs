//! Which entries of a distributed checkpoint are the model, and their names without what leads to it.

use std::collections::{BTreeMap, BTreeSet};

use super::error::DcpError;
use super::metadata::Entry;
use crate::format::model_key::{KeyFault, Level, WHOLE_KEY, choose_branch, is_other_key, strip_names};
use crate::optimizer_state::{is_optimizer_key, is_optimizer_state};

/// Most keys above a model; no known trainer nests deeper.
const MAX_DEPTH: usize = 16;

/// The chosen entries.
#[derive(Debug)]
pub(in crate::format) struct Selection {
    /// The key that leads to the model; `None` if it is not below one.
    pub(super) key: Option<String>,
    /// The parts of that key.
    pub(super) path: Vec<String>,
    /// Position of the entry and the tensor's name.
    pub(super) tensors: Vec<(usize, String)>,
    /// Names of chosen entries that are not tensors.
    pub(super) objects: Vec<String>,
    /// Other keys with tensors, and the number of tensors under each.
    pub(super) others: Vec<(String, usize)>,
    /// What was removed from the names.
    pub(super) stripped: Vec<&'static str>,
    /// How many of the tensors belong to the state of an optimizer that was asked for.
    pub(super) n_state: usize,
}

impl Selection {
    /// Adds the tensors of the optimizer's state whose names `is_wanted` accepts: those under its key, which is beside
    /// a key that leads to the model.
    pub(in crate::format) fn with_optimizer(mut self, entries: &[Entry<'_>], is_wanted: &dyn Fn(&str) -> bool) -> Self {
        let chosen: BTreeSet<usize> = self.tensors.iter().map(|(position, _)| *position).collect();
        if self.path.is_empty() {
            // Names below no key are those in the file, so that the whole file has the state among its tensors.
            self.n_state = self.tensors.iter().filter(|(_, name)| is_optimizer_state(name)).count();
        }
        for (position, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.is_tensor()) {
            let n_common = entry.path.iter().zip(&self.path).take_while(|(a, b)| **a == **b).count();
            let rest = entry.path.get(n_common..).unwrap_or_default();
            let is_state = rest.len() > 1 && rest.first().is_some_and(|key| is_optimizer_key(key));
            let name = rest.join(".");
            if is_state && !chosen.contains(&position) && is_wanted(&name) {
                self.tensors.push((position, name));
                self.n_state += 1;
            }
        }
        self.others.retain(|(key, _)| !is_optimizer_key(key.rsplit('.').next().unwrap_or(key)));
        self
    }
}

/// Chooses the entries below `key`, or the only part that can be meant.
pub(in crate::format) fn select_model(
    entries: &[Entry<'_>],
    key: Option<&str>,
    is_lightning: bool,
) -> Result<Selection, DcpError> {
    if !entries.iter().any(Entry::is_tensor) {
        return Err(DcpError::NoTensors);
    }
    let path = match key {
        Some(WHOLE_KEY) => Vec::new(),
        Some(key) => descend(entries, named_path(entries, key)?, true)?,
        None => descend(entries, Vec::new(), false)?,
    };
    // If the model is not below a key, entries beside it such as torchtitan's optimizer are not part of it.
    let is_beside = |rest: &[&str]| {
        key.is_none() && path.is_empty() && rest.len() > 1 && rest.first().is_some_and(|first| is_other_key(first))
    };
    let (mut positions, mut names, mut objects) = (Vec::new(), Vec::new(), Vec::new());
    let mut others = BTreeMap::new();
    for (position, entry) in entries.iter().enumerate() {
        let rest = rest_of(entry, &path).filter(|rest| !is_beside(rest));
        match rest {
            Some(rest) if entry.is_tensor() => {
                positions.push(position);
                names.push(rest.join("."));
            }
            Some(rest) => objects.push(rest.join(".")),
            None if entry.is_tensor() => *others.entry(other_key(&entry.path, &path)).or_insert(0) += 1,
            None => {}
        }
    }
    if names.is_empty() {
        return Err(DcpError::NoTensors);
    }
    let stripped = strip_names(&mut names, is_lightning);
    let key = (!path.is_empty()).then(|| path.join("."));
    let others = others.into_iter().collect();
    let path = path.into_iter().map(str::to_owned).collect();
    Ok(Selection {
        key,
        path,
        tensors: positions.into_iter().zip(names).collect(),
        objects,
        others,
        stripped,
        n_state: 0,
    })
}

/// Whether each tensor of the model has another of its name below `key`.
pub(in crate::format) fn has_all_below(entries: &[Entry<'_>], key: &str) -> bool {
    let names = |key| -> Result<BTreeSet<String>, DcpError> {
        Ok(select_model(entries, key, false)?.tensors.into_iter().map(|(_, name)| name).collect())
    };
    matches!((names(None), names(Some(key))), (Ok(model), Ok(others)) if model.is_subset(&others))
}

/// The rest of an entry's path below `path`; `None` for an entry that is not below it.
fn rest_of<'e, 'a>(entry: &'e Entry<'a>, path: &[&str]) -> Option<&'e [&'a str]> {
    let rest = entry.path.get(path.len()..).filter(|rest| !rest.is_empty())?;
    entry.path.iter().zip(path).all(|(a, b)| a == b).then_some(rest)
}

/// The key under which an entry beside the model is reported: its path up to where it leaves the model's.
fn other_key(entry: &[&str], model: &[&str]) -> String {
    let n_common = entry.iter().zip(model).take_while(|(a, b)| a == b).count();
    entry[..entry.len().min(n_common + 1)].join(".")
}

/// Number of tensors below a path: in each branch, and directly at the path.
fn branches<'a>(entries: &[Entry<'a>], path: &[&str]) -> (BTreeMap<&'a str, usize>, usize) {
    let (mut branches, mut n_direct) = (BTreeMap::new(), 0);
    for entry in entries.iter().filter(|entry| entry.is_tensor()) {
        match rest_of(entry, path) {
            Some([first, _, ..]) => *branches.entry(*first).or_insert(0) += 1,
            Some([_]) => n_direct += 1,
            _ => {}
        }
    }
    (branches, n_direct)
}

fn descend<'a>(entries: &[Entry<'a>], mut path: Vec<&'a str>, was_named: bool) -> Result<Vec<&'a str>, DcpError> {
    let n_named = path.len();
    for _ in 0..MAX_DEPTH {
        let (found, n_direct) = branches(entries, &path);
        let branches: Vec<&str> = found.into_keys().collect();
        let keys: Vec<String> = branches.iter().map(|key| (*key).to_owned()).collect();
        let depth = path.len() - n_named;
        match choose_branch(Level { branches: &keys, n_direct, depth, was_named })? {
            Some(next) => path.push(branches[next]),
            None => break,
        }
    }
    Ok(path)
}

/// The path that a dotted key means: the first entry whose path begins with it shows where its parts end.
fn named_path<'a>(entries: &[Entry<'a>], key: &str) -> Result<Vec<&'a str>, DcpError> {
    let prefix_of = |entry: &Entry<'a>| {
        let mut joined = String::new();
        for (n_parts, part) in (1..entry.path.len()).zip(&entry.path) {
            if n_parts > 1 {
                joined.push('.');
            }
            joined.push_str(part);
            if joined == key {
                return Some(entry.path[..n_parts].to_vec());
            }
        }
        None
    };
    if let Some(path) = entries.iter().filter(|entry| entry.is_tensor()).find_map(prefix_of) {
        return Ok(path);
    }
    Err(KeyFault::no_such_key(key, branches(entries, &[]).0.into_keys().map(str::to_owned).collect()).into())
}
