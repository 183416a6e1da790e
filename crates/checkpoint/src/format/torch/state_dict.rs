//! Which of the values in a torch.save file are the model, and what its tensors are called.
//!
//! A file may hold anything: a state dict, alone or among optimizer state, counters and averages. If exactly one part
//! can be meant, it is taken; otherwise the caller must name one.

use std::cell::Cell;
use std::collections::HashSet;

use super::dtensor::local_parts;
use super::error::TorchError;
use super::tensor::{Found, TensorSpec, is_tensor, read_tensor};
use crate::ReadOptions;
use crate::format::key_fault::KeyFault;
use crate::format::model_key::{self, WHOLE_KEY, choose_branch, strip_names};
use crate::optimizer_state::{is_moment, is_optimizer_key, is_optimizer_state};
use crate::pickle::Value;

/// The key that marks a checkpoint of Lightning.
const LIGHTNING_KEY: &str = "pytorch-lightning_version";

/// Deepest nesting of dictionaries.
const MAX_DEPTH: usize = 64;
/// Most values that are visited, each once for each of its names.
const MAX_VALUES: usize = 4_000_000;
/// Most bytes of the names of all values that are visited.
const MAX_NAME_BYTES: usize = 1 << 30;
/// Most values that are counted to find out which part is the model.
const MAX_COUNTED: usize = 16_000_000;

/// Most tensors that a pickle may name, and most bytes of their names together.
///
/// Containers may be shared, so that each level of a small pickle doubles the number of names. Files that programs
/// write have far fewer: one for each tensor, and a second where a state dict is stored twice.
pub(crate) fn most_names(value: Value<'_>) -> (usize, usize) {
    let n_values = value.n_in_pickle();
    (n_values.saturating_mul(4).saturating_add(1_000), n_values.saturating_mul(64).saturating_add(256 << 10))
}

/// How much of a pickle's names may still be kept, and of the reasons why some tensors cannot be read: a name that is
/// shared makes the reason of each long.
#[derive(Debug)]
pub(crate) struct NameBudget {
    max: (usize, usize),
    n_names: usize,
    n_bytes: usize,
}

impl NameBudget {
    pub(crate) fn new(value: Value<'_>) -> Self {
        Self { max: most_names(value), n_names: 0, n_bytes: 0 }
    }

    /// Keeps one more name, with this many bytes.
    pub(crate) fn keep(&mut self, n_bytes: usize) -> Result<(), TorchError> {
        let (max_names, max_bytes) = self.max;
        self.n_names += 1;
        self.n_bytes += n_bytes;
        if self.n_names > max_names {
            return Err(TorchError::TooMuch { what: "names of tensors", limit: max_names });
        }
        if self.n_bytes > max_bytes {
            return Err(TorchError::TooMuch { what: "bytes of names", limit: max_bytes });
        }
        Ok(())
    }
}

/// What a file holds of a distributed tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Holds {
    /// All of it, or it cannot be read.
    #[default]
    Whole,
    /// The part of one rank, which is read as a tensor.
    Parts,
}

/// The chosen tensors.
#[derive(Debug, Default)]
pub(super) struct StateDict<'a> {
    /// How distributed tensors are read.
    pub(super) holds: Holds,
    /// The key that they are under; `None` for the whole file.
    pub(super) key: Option<String>,
    pub(super) tensors: Vec<(String, TensorSpec<'a>)>,
    /// Names and reasons.
    pub(super) unreadable: Vec<(String, String)>,
    /// Other keys with tensors, and the number of tensors under each.
    pub(super) others: Vec<(String, usize)>,
    /// What was removed from the names.
    pub(super) stripped: Vec<&'static str>,
    /// How many of the tensors belong to the state of an optimizer that was asked for.
    pub(super) n_state: usize,
}

/// Finds the state dict under the key of `options`, or the only one that can be meant.
pub(super) fn find_state_dict<'a>(
    root: Value<'a>,
    options: &ReadOptions,
    holds: Holds,
) -> Result<StateDict<'a>, TorchError> {
    let key = options.key.as_deref();
    check_root(root)?;
    let is_lightning = root.get(LIGHTNING_KEY).is_some();
    let mut path = Vec::new();
    let mut value = root;
    if let Some(key) = key {
        value = follow_key(root, key, &mut path)?;
    }
    let mut found = StateDict { holds, ..StateDict::default() };
    if key != Some(WHOLE_KEY) {
        value = descend(value, &mut path, &mut found.others, key.is_some())?;
    }
    if key.is_some() {
        found.others = outside(root, &path)?;
    }
    found.key = (!path.is_empty()).then(|| path.join("."));
    let mut budget = NameBudget::new(root);
    flatten(value, &mut found, &mut budget)?;
    if found.tensors.is_empty() {
        return Err(match found.unreadable.into_iter().next() {
            Some((tensor, reason)) => TorchError::NoneReadable { tensor, reason },
            None => TorchError::NoTensors,
        });
    }
    found.strip_names(is_lightning);
    if options.optimizer {
        add_optimizer(root, &path, &mut found, &mut budget)?;
    }
    Ok(found)
}

/// Adds the state of the optimizer, which is under a key beside one that leads to the model.
fn add_optimizer<'a>(
    root: Value<'a>,
    path: &[String],
    found: &mut StateDict<'a>,
    budget: &mut NameBudget,
) -> Result<(), TorchError> {
    if path.is_empty() {
        // The whole file was read.
        found.n_state = found.tensors.iter().filter(|(name, _)| is_optimizer_state(name)).count();
        return Ok(());
    }
    let mut level = Some(root);
    for part in path {
        let Some(value) = level else { break };
        let is_state = |(key, member): &(String, Value<'_>)| {
            key != part && is_optimizer_key(key) && (member.is_dict() || member.is_sequence())
        };
        for (key, member) in members(value).filter(is_state) {
            let mut state = StateDict { holds: found.holds, ..StateDict::default() };
            flatten(member, &mut state, budget)?;
            found.n_state += state.tensors.len();
            found.tensors.extend(state.tensors.into_iter().map(|(name, spec)| (format!("{key}.{name}"), spec)));
            // What is not a moment is not changed, so it need not be readable.
            let unreadable = state.unreadable.into_iter().map(|(name, reason)| (format!("{key}.{name}"), reason));
            found.unreadable.extend(unreadable.filter(|(name, _)| is_moment(name)));
        }
        level = members(value).find(|(key, _)| key == part).map(|(_, member)| member);
    }
    found.others.retain(|(name, _)| !is_optimizer_key(name.rsplit('.').next().unwrap_or(name)));
    Ok(())
}

/// Every tensor below a value, without a choice.
pub(super) fn all_tensors<'a>(value: Value<'a>, budget: &mut NameBudget) -> Result<StateDict<'a>, TorchError> {
    let mut found = all_as_named(value, budget)?;
    found.strip_names(false);
    Ok(found)
}

/// Every tensor below a value, without a choice, under its whole path.
pub(super) fn all_as_named<'a>(value: Value<'a>, budget: &mut NameBudget) -> Result<StateDict<'a>, TorchError> {
    let mut found = StateDict::default();
    flatten(value, &mut found, budget)?;
    Ok(found)
}

fn check_root(root: Value<'_>) -> Result<(), TorchError> {
    if let Some(global) = root.opaque_name() {
        return Err(TorchError::Foreign { what: "it", name: global.display() });
    }
    if is_tensor(root) {
        return Err(TorchError::BareTensor);
    }
    if root.is_dict() || root.is_sequence() { Ok(()) } else { Err(TorchError::NoStateDict { found: root.kind() }) }
}

/// Members of a container with the names that they have in it; nothing for other values.
fn members<'a>(value: Value<'a>) -> Box<dyn Iterator<Item = (String, Value<'a>)> + 'a> {
    if value.is_dict() {
        let name =
            |key: Value<'_>| key.as_text().map(str::to_owned).or_else(|| key.as_int().map(|key| key.to_string()));
        return Box::new(value.entries().filter_map(move |(key, member)| Some((name(key)?, member))));
    }
    Box::new(value.items().enumerate().map(|(position, member)| (position.to_string(), member)))
}

/// Number of tensors in a value; each value is visited once.
fn count_tensors(value: Value<'_>, n_left: &Cell<usize>) -> Result<usize, TorchError> {
    let mut seen = HashSet::new();
    let mut waiting = vec![value];
    let mut n_tensors = 0;
    while let Some(value) = waiting.pop() {
        // Members may share what they hold, so that each of them is counted for as long as all of them together.
        let left = n_left.get().checked_sub(1).ok_or(TorchError::TooMuch { what: "values", limit: MAX_COUNTED })?;
        n_left.set(left);
        if is_tensor(value) {
            n_tensors += 1;
        } else if (value.is_dict() || value.is_sequence()) && seen.insert(value.id()) {
            waiting.extend(value.entries().map(|(_, member)| member));
            waiting.extend(value.items());
        }
    }
    Ok(n_tensors)
}

/// A member of a dictionary: its name, itself, and the number of tensors in it.
type Candidate<'a> = (String, Value<'a>, usize);

/// The members of a dictionary that are dictionaries with tensors.
fn candidates<'a>(value: Value<'a>, n_left: &Cell<usize>) -> Result<Vec<Candidate<'a>>, TorchError> {
    let mut found = Vec::new();
    for (name, member) in members(value).filter(|(_, member)| member.is_dict()) {
        let n_tensors = count_tensors(member, n_left)?;
        if n_tensors > 0 {
            found.push((name, member, n_tensors));
        }
    }
    Ok(found)
}

fn follow_key<'a>(root: Value<'a>, key: &str, path: &mut Vec<String>) -> Result<Value<'a>, TorchError> {
    if key == WHOLE_KEY {
        return Ok(root);
    }
    let mut value = root;
    let mut rest = Some(key);
    while let Some(wanted) = rest {
        // A key may itself contain dots: the longest one that fits is meant.
        let fits = |name: &str| wanted == name || wanted.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
        let longest = members(value).filter(|(name, _)| fits(name)).max_by_key(|(name, _)| name.len());
        let Some((name, member)) = longest else {
            let keys = candidates(root, &Cell::new(MAX_COUNTED))?.into_iter().map(|(name, ..)| name).collect();
            return Err(KeyFault::no_such_key(key, keys).into());
        };
        rest = wanted.get(name.len() + 1..);
        value = member;
        path.push(name);
    }
    check_root(value)?;
    Ok(value)
}

/// Descends while exactly one dictionary can be the model.
fn descend<'a>(
    root: Value<'a>,
    path: &mut Vec<String>,
    others: &mut Vec<(String, usize)>,
    was_named: bool,
) -> Result<Value<'a>, TorchError> {
    let mut value = root;
    let n_left = Cell::new(MAX_COUNTED);
    for depth in 0..MAX_DEPTH {
        let found = candidates(value, &n_left)?;
        let n_direct = members(value).filter(|(_, member)| is_tensor(*member)).count();
        let branches: Vec<String> = found.iter().map(|(name, ..)| name.clone()).collect();
        let level = model_key::Level { branches: &branches, n_direct, depth, was_named };
        let Some(next) = choose_branch(level)? else { break };
        let prefix: String = path.iter().map(|name| format!("{name}.")).collect();
        let beside = found.iter().enumerate().filter(|(i, _)| *i != next);
        others.extend(beside.map(|(_, (name, _, n_tensors))| (format!("{prefix}{name}"), *n_tensors)));
        let (name, member, _) = &found[next];
        path.push(name.clone());
        value = *member;
    }
    Ok(value)
}

/// Keys of the file that hold tensors, except the first of `path`.
fn outside(root: Value<'_>, path: &[String]) -> Result<Vec<(String, usize)>, TorchError> {
    let found = candidates(root, &Cell::new(MAX_COUNTED))?;
    let beside = found.into_iter().filter(|(name, ..)| path.first().is_some_and(|first| first != name));
    Ok(beside.map(|(name, _, n_tensors)| (name, n_tensors)).collect())
}

/// A container on the way to a value.
struct Level<'a> {
    id: u32,
    members: Box<dyn Iterator<Item = (String, Value<'a>)> + 'a>,
    /// Length of the name of the container, with the dot after it.
    name_len: usize,
}

/// Names every tensor below a value by its path.
fn flatten<'a>(value: Value<'a>, found: &mut StateDict<'a>, budget: &mut NameBudget) -> Result<(), TorchError> {
    let mut name = String::new();
    let mut levels = vec![Level { id: value.id(), members: members(value), name_len: 0 }];
    let (mut n_values, mut n_name_bytes) = (0, 0);
    while let Some(level) = levels.last_mut() {
        name.truncate(level.name_len);
        let Some((key, member)) = level.members.next() else {
            levels.pop();
            continue;
        };
        name.push_str(&key);
        n_values += 1;
        n_name_bytes += name.len();
        if n_values > MAX_VALUES {
            return Err(TorchError::TooMuch { what: "values", limit: MAX_VALUES });
        }
        if n_name_bytes > MAX_NAME_BYTES {
            return Err(TorchError::TooMuch { what: "bytes of names", limit: MAX_NAME_BYTES });
        }
        if member.is_dict() || member.is_sequence() {
            if levels.iter().any(|level| level.id == member.id()) {
                continue;
            }
            if levels.len() >= MAX_DEPTH {
                return Err(TorchError::TooMuch { what: "levels", limit: MAX_DEPTH });
            }
            name.push('.');
            levels.push(Level { id: member.id(), members: members(member), name_len: name.len() });
            continue;
        }
        let parts = if found.holds == Holds::Parts { local_parts(member) } else { None };
        match parts.as_deref() {
            None => found.add(&name, member, budget)?,
            Some([only]) => found.add(&name, *only, budget)?,
            Some(several) => {
                n_values += several.len();
                for (i, part) in several.iter().enumerate() {
                    found.add(&format!("{name}.{i}"), *part, budget)?;
                }
            }
        }
    }
    Ok(())
}

impl<'a> StateDict<'a> {
    /// Adds a value, if it is a tensor.
    fn add(&mut self, name: &str, value: Value<'a>, budget: &mut NameBudget) -> Result<(), TorchError> {
        match read_tensor(value).map_err(|fault| TorchError::Tensor { tensor: name.to_owned(), fault })? {
            Found::Tensor(spec) => {
                budget.keep(name.len())?;
                self.tensors.push((name.to_owned(), spec));
            }
            Found::Unreadable(reason) => {
                budget.keep(name.len() + reason.len())?;
                self.unreadable.push((name.to_owned(), reason));
            }
            Found::Other => {}
        }
        Ok(())
    }

    /// Removes what module wrappers added to the names.
    fn strip_names(&mut self, is_lightning: bool) {
        let tensors = self.tensors.iter_mut().map(|(name, _)| name);
        let slots: Vec<&mut String> = tensors.chain(self.unreadable.iter_mut().map(|(name, _)| name)).collect();
        let mut names: Vec<String> = slots.iter().map(|slot| (**slot).clone()).collect();
        self.stripped = strip_names(&mut names, is_lightning);
        slots.into_iter().zip(names).for_each(|(slot, name)| *slot = name);
    }
}
