//! Which entries of a distributed checkpoint are the model, and their names without what leads to it.

use std::collections::{BTreeMap, BTreeSet};

use super::error::DcpError;
use super::metadata::Entry;
use crate::Params;
use crate::format::model_key::{is_other_key, strip_names};
use crate::format::tree_path::{choose_path, other_key, rest_of};
use crate::optimizer_state::{is_optimizer_key, is_optimizer_state};

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
    /// Which values of the parameters they are, for a format that may have both.
    pub(in crate::format) params: Option<Params>,
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
    let tensors: Vec<&[&str]> = entries.iter().filter(|entry| entry.is_tensor()).map(|entry| &*entry.path).collect();
    let path = choose_path(&tensors, key)?;
    // If the model is not below a key, entries beside it such as torchtitan's optimizer are not part of it.
    let is_beside = |rest: &[&str]| {
        key.is_none() && path.is_empty() && rest.len() > 1 && rest.first().is_some_and(|first| is_other_key(first))
    };
    let (mut positions, mut names, mut objects) = (Vec::new(), Vec::new(), Vec::new());
    let mut others = BTreeMap::new();
    for (position, entry) in entries.iter().enumerate() {
        let rest = rest_of(&entry.path, &path).filter(|rest| !is_beside(rest));
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
        params: None,
    })
}

/// Whether each tensor of the model has another of its name below `key`.
pub(in crate::format) fn has_all_below(entries: &[Entry<'_>], key: &str) -> bool {
    let names = |key| -> Result<BTreeSet<String>, DcpError> {
        Ok(select_model(entries, key, false)?.tensors.into_iter().map(|(_, name)| name).collect())
    };
    matches!((names(None), names(Some(key))), (Ok(model), Ok(others)) if model.is_subset(&others))
}
