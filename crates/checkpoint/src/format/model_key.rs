//! Which part of a saved training state is the model, and what its tensors are called: one rule for every format that
//! holds more than a model.

use std::collections::BTreeSet;

use super::key_fault::KeyFault;
use crate::Error;
use crate::layout::unwritable;

/// Keys under which trainers keep the model.
const MODEL_KEYS: [&str; 9] =
    ["state_dict", "model", "module", "model_state_dict", "model_state", "state", "net", "weights", "params"];
/// Beginnings of keys whose tensors are not the model.
const OTHER_KEYS: [&str; 14] = [
    "optim",
    // What optax calls it.
    "opt_state",
    // Where Megatron-Core keeps the state of several optimizers.
    "chained_",
    "lr_sched",
    "sched",
    "rng",
    "random",
    "scaler",
    "grad_scaler",
    CALLBACKS,
    "loops",
    AVERAGE,
    "dataloader",
    "train_state",
];
/// Where Lightning keeps what its callbacks save, which may be an average.
const CALLBACKS: &str = "callbacks";
/// Beginning of the keys of averages of the parameters.
const AVERAGE: &str = "ema";
/// What module wrappers insert anywhere in a name.
const WRAPPERS: [&str; 3] = ["_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod."];
/// The prefix that wrappers add to every name.
const PREFIX: &str = "module.";
/// The prefix that Lightning adds to every name of the model that a module holds, and Composer to every name of a model
/// of transformers.
const MODEL_PREFIX: &str = "model.";
/// What names begin with where that prefix comes before those of transformers, which use the same word.
const WRAPPED_STARTS: [&str; 2] = ["model.model.", "model.lm_head."];
/// The key that means the whole state.
pub(crate) const WHOLE_KEY: &str = ".";

/// Whether a key begins like this, whatever the case of its letters.
fn starts_with(key: &str, start: &str) -> bool {
    key.get(..start.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(start))
}

/// Whether tensors under a key of this name are not the model, unless the caller says so.
pub(crate) fn is_other_key(key: &str) -> bool {
    OTHER_KEYS.iter().any(|start| starts_with(key, start))
}

/// What a path of keys leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// A model, or something that trainers have no usual name for.
    Model,
    /// An average of the parameters that a trainer keeps beside the model.
    Average,
    /// Training state, such as that of an optimizer.
    State,
}

impl KeyKind {
    /// What a path of keys, with dots between them, leads to. The first part that is not the model's decides; among
    /// callbacks, the first one below.
    ///
    /// # Example
    /// ```
    /// use thalweg_checkpoint::KeyKind;
    ///
    /// assert_eq!(KeyKind::of("optim.state"), KeyKind::State);
    /// assert_eq!(KeyKind::of("callbacks.EMA"), KeyKind::Average);
    /// assert_eq!(KeyKind::of("model"), KeyKind::Model);
    /// ```
    pub fn of(path: &str) -> Self {
        let mut known = path.split('.').filter(|part| is_other_key(part));
        let first = known.next();
        let below = first.filter(|key| starts_with(key, CALLBACKS)).and_then(|_| known.next());
        match below.or(first) {
            None => Self::Model,
            Some(key) if starts_with(key, AVERAGE) => Self::Average,
            Some(_) => Self::State,
        }
    }
}

/// Whether this is a key that trainers use, for the model or for something else.
pub(crate) fn is_usual_key(key: &str) -> bool {
    MODEL_KEYS.contains(&key) || is_other_key(key)
}

/// One level of a saved state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Level<'a> {
    /// Keys that have tensors below them.
    pub(crate) branches: &'a [String],
    /// Number of tensors directly at this level.
    pub(crate) n_direct: usize,
    /// Number of levels above this one.
    pub(crate) depth: usize,
    /// Whether the caller named this level or one above it.
    pub(crate) was_named: bool,
}

/// Number of the branch to descend into; `None` if this level is the model.
///
/// # Errors
/// `SeveralKeys`.
pub(crate) fn choose_branch(level: Level<'_>) -> Result<Option<usize>, KeyFault> {
    let Level { branches, n_direct, depth, was_named } = level;
    let known: Vec<usize> = (0..branches.len()).filter(|&i| MODEL_KEYS.contains(&&*branches[i])).collect();
    let unknown: Vec<usize> =
        (0..branches.len()).filter(|i| !is_other_key(&branches[*i]) && !known.contains(i)).collect();
    let several =
        |which: &[usize]| Err(KeyFault::SeveralKeys { keys: which.iter().map(|&i| branches[i].clone()).collect() });
    // Below the first level a key of that name may be a module of the model itself, with modules beside it.
    let may_descend = depth == 0 && !was_named || n_direct == 0 && unknown.is_empty();
    match (&known[..], &unknown[..]) {
        ([only], _) if may_descend => Ok(Some(*only)),
        (several_known @ [_, _, ..], _) if may_descend => several(several_known),
        ([], [only]) if n_direct == 0 && depth == 0 => Ok(Some(*only)),
        ([], several_unknown @ [_, _, ..]) if n_direct == 0 && depth == 0 && !was_named => several(several_unknown),
        _ => Ok(None),
    }
}

/// Removes what module wrappers added to the names, if all names stay distinct. Returns what it removed.
pub(crate) fn strip_names(names: &mut [String], is_lightning: bool) -> Vec<&'static str> {
    let mut stripped = Vec::new();
    for wrapper in WRAPPERS {
        let part = format!(".{wrapper}");
        let renamed = |name: &str| {
            // Only whole parts of a name: `x_orig_mod.` is something else.
            let mut rest = format!(".{name}");
            while rest.contains(&part) {
                rest = rest.replace(&part, ".");
            }
            rest[1..].to_owned()
        };
        if apply(names, renamed) {
            stripped.push(wrapper);
        }
    }
    let is_wrapped = || names.iter().any(|name| WRAPPED_STARTS.iter().any(|start| name.starts_with(start)));
    let prefixes = [Some(PREFIX), (is_lightning || is_wrapped()).then_some(MODEL_PREFIX)];
    for prefix in prefixes.into_iter().flatten() {
        if names.iter().all(|name| name.len() > prefix.len() && name.starts_with(prefix))
            && apply(names, |name| name[prefix.len()..].to_owned())
        {
            stripped.push(prefix);
        }
    }
    stripped
}

/// Checks that names come back as they are when a file that holds only these tensors is read.
///
/// # Errors
/// `UnwritableTensor` for the first name that would be shortened.
pub(crate) fn check_names_last<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    let before: Vec<String> = names.map(str::to_owned).collect();
    let mut after = before.clone();
    strip_names(&mut after, false);
    match before.iter().zip(&after).find(|(before, after)| before != after) {
        Some((name, _)) => {
            Err(unwritable(name, "readers of this format would remove a wrapper's prefix from its name"))
        }
        None => Ok(()),
    }
}

/// Renames, unless that changes nothing or makes two names equal.
fn apply(names: &mut [String], renamed: impl Fn(&str) -> String) -> bool {
    let after: Vec<String> = names.iter().map(|name| renamed(name)).collect();
    let n_different = |names: &[String]| names.iter().collect::<BTreeSet<_>>().len();
    if names == after.as_slice() || n_different(&after) != n_different(names) {
        return false;
    }
    names.clone_from_slice(&after);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_composer_puts_before_names_of_transformers_is_removed() {
        let check = |names: &[&str], expected: &[&str]| {
            let mut names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            strip_names(&mut names, false);
            assert_eq!(names, expected);
        };
        check(&["model.model.norm.weight", "model.lm_head.weight"], &["model.norm.weight", "lm_head.weight"]);
        check(&["model.model.norm.weight"], &["model.norm.weight"]);
        // Those of transformers itself, and of another model.
        for names in [["model.norm.weight", "lm_head.weight"], ["model.norm.weight", "model.layers.0.w"]] {
            check(&names, &names);
        }
    }

    #[test]
    fn keys_of_training_state_are_told_from_keys_of_models() {
        let check = |keys: &[&str], kind| keys.iter().for_each(|key| assert_eq!(KeyKind::of(key), kind, "{key}"));
        check(
            &[
                "opt_state",
                "opt_state.0.mu",
                "optim",
                "optim.state",
                "optimizer_state_dict",
                "Optimizer",
                "optimizers.0",
            ],
            KeyKind::State,
        );
        check(&["state.optimizer", "chained_0.optimizer", "lr_scheduler", "rng_state"], KeyKind::State);
        check(&["callbacks", "callbacks.ModelCheckpoint", "train_state", "optim.state.ema.w"], KeyKind::State);
        check(&["ema", "EMA.model", "ema_model", "callbacks.EMA", "ema.optim_gate"], KeyKind::Average);
        check(&["model", "state", "best", "app.model", ".", ""], KeyKind::Model);
    }
}
