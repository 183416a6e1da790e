//! The part of a tree of tensors that is the model, for formats that list the paths of all tensors.

use std::collections::{BTreeMap, BTreeSet};

use super::key_fault::KeyFault;
use super::model_key::{Level, WHOLE_KEY, choose_branch};

/// Most keys above a model; no known trainer nests deeper.
const MAX_DEPTH: usize = 16;

/// The path that leads to the tensors below `key`, or to the only part that can be meant.
///
/// # Errors
/// A [`KeyFault`] if the key does not exist, or if several parts could be meant.
pub(super) fn choose_path<'a>(tensors: &[&[&'a str]], key: Option<&str>) -> Result<Vec<&'a str>, KeyFault> {
    match key {
        Some(WHOLE_KEY) => Ok(Vec::new()),
        Some(key) => descend(tensors, named_path(tensors, key)?, true),
        None => descend(tensors, Vec::new(), false),
    }
}

/// The rest of a tensor's path below `path`; `None` for one that is not below it.
pub(super) fn rest_of<'e, 'a>(tensor: &'e [&'a str], path: &[&str]) -> Option<&'e [&'a str]> {
    let rest = tensor.get(path.len()..).filter(|rest| !rest.is_empty())?;
    tensor.iter().zip(path).all(|(a, b)| a == b).then_some(rest)
}

/// The tensors beside a model, by the key under which they are reported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Beside {
    n_by_key: BTreeMap<String, usize>,
    lone: BTreeSet<String>,
}

impl Beside {
    /// Adds a tensor under its path up to where that leaves the model's.
    pub(super) fn add(&mut self, tensor: &[&str], model: &[&str]) {
        let n_common = tensor.iter().zip(model).take_while(|(a, b)| a == b).count();
        let key = tensor[..tensor.len().min(n_common + 1)].join(".");
        if tensor.len() <= n_common + 1 {
            self.lone.insert(key.clone());
        }
        *self.n_by_key.entry(key).or_insert(0) += 1;
    }

    /// The keys with the number of tensors under each, and those of them that are tensors themselves.
    pub(super) fn into_keys(self) -> (Vec<(String, usize)>, Vec<String>) {
        (self.n_by_key.into_iter().collect(), self.lone.into_iter().collect())
    }
}

/// Number of tensors below a path: in each branch, and directly at the path.
fn branches<'a>(tensors: &[&[&'a str]], path: &[&str]) -> (BTreeMap<&'a str, usize>, usize) {
    let (mut branches, mut n_direct) = (BTreeMap::new(), 0);
    for tensor in tensors {
        match rest_of(tensor, path) {
            Some([first, _, ..]) => *branches.entry(*first).or_insert(0) += 1,
            Some([_]) => n_direct += 1,
            _ => {}
        }
    }
    (branches, n_direct)
}

fn descend<'a>(tensors: &[&[&'a str]], mut path: Vec<&'a str>, was_named: bool) -> Result<Vec<&'a str>, KeyFault> {
    let n_named = path.len();
    for _ in 0..MAX_DEPTH {
        let (found, n_direct) = branches(tensors, &path);
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

/// The path that a dotted key means: the first tensor whose path begins with it shows where its parts end.
fn named_path<'a>(tensors: &[&[&'a str]], key: &str) -> Result<Vec<&'a str>, KeyFault> {
    let prefix_of = |tensor: &&[&'a str]| {
        let mut joined = String::new();
        for (n_parts, part) in (1..tensor.len()).zip(*tensor) {
            if n_parts > 1 {
                joined.push('.');
            }
            joined.push_str(part);
            if joined == key {
                return Some(tensor[..n_parts].to_vec());
            }
        }
        None
    };
    match tensors.iter().find_map(prefix_of) {
        Some(path) => Ok(path),
        None if tensors.iter().any(|tensor| tensor.join(".") == key) => {
            let keys = branches(tensors, &[]).0.into_keys().map(str::to_owned).collect();
            Err(KeyFault::IsTensor { key: key.to_owned(), keys })
        }
        None => Err(KeyFault::no_such_key(key, branches(tensors, &[]).0.into_keys().map(str::to_owned).collect())),
    }
}
