//! Which tensors belong to the state of an optimizer, and which of them are its moments: by their names, for all
//! formats.
//!
//! A reader that is asked for this state lists each of its tensors by the path that leads to it in the file, from the
//! optimizer's key on: `optimizer.state.0.exp_avg`, `optim.state.lm_head.weight.exp_avg_sq`,
//! `optimizer.exp_avg.lm_head.weight`, `opt_state.0.mu.params.decoder.bias`.

use thalweg_tensor::TensorEntry;

/// Beginnings of the keys under which trainers keep the state of an optimizer.
const KEY_STARTS: [&str; 2] = ["optim", "opt_state"];

/// Names that optimizers give to averages over gradients, or to their copy of a parameter, and that nothing else has.
pub const MOMENT_NAMES: [&str; 15] = [
    "exp_avg",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "exp_avg_slow",
    "exp_avg_fast",
    "exp_avg_sq_row",
    "exp_avg_sq_col",
    "exp_inf",
    "momentum_buffer",
    "square_avg",
    "grad_avg",
    "acc_delta",
    "fp32_master_param",
    "master_param",
    "exp_avg_diff",
];

/// Names that optax gives to averages over gradients. Modules may have them too.
const OPTAX_MOMENTS: [&str; 5] = ["mu", "nu", "trace", "v_row", "v_col"];

/// Parts of names by which optimizers call their copies of the parameters.
const MASTER_WORDS: [&str; 4] = ["fp32_param", "fp32_from_fp16", "fp32_groups", "master"];
/// Adagrad's name, which counts only at the end: modules have it too.
const SUM: &str = "sum";
/// The counter that an optimizer keeps for each parameter.
const STEP: &str = "step";

/// Whether a key of a saved state leads to the state of an optimizer.
pub(crate) fn is_optimizer_key(key: &str) -> bool {
    KEY_STARTS.iter().any(|start| key.get(..start.len()).is_some_and(|found| found.eq_ignore_ascii_case(start)))
}

/// Whether a part of a path in the state of an optimizer is a name of averages over gradients, or of copies of
/// parameters.
pub fn is_moment_name(part: &str) -> bool {
    MOMENT_NAMES.contains(&part) || OPTAX_MOMENTS.contains(&part)
}

/// Whether a tensor belongs to the state of the optimizer, in a checkpoint read with [`ReadOptions::optimizer`].
///
/// Such a checkpoint has no parameter of such a name: it is refused.
///
/// [`ReadOptions::optimizer`]: crate::ReadOptions::optimizer
///
/// # Example
/// ```
/// use thalweg_checkpoint::is_optimizer_state;
///
/// assert!(is_optimizer_state("optim.state.lm_head.weight.step") && !is_optimizer_state("lm_head.weight"));
/// ```
pub fn is_optimizer_state(name: &str) -> bool {
    name.split_once('.').is_some_and(|(key, rest)| is_optimizer_key(key) && !rest.is_empty())
}

/// Whether a tensor is a moment: an average over gradients, or the optimizer's copy of a parameter. Its mean over
/// checkpoints means what the mean of the parameters means; that of a counter does not.
///
/// # Example
/// ```
/// use thalweg_checkpoint::is_moment;
///
/// assert!(is_moment("optimizer.state.exp_avg.lm_head.weight") && !is_moment("optimizer.state.0.step"));
/// assert!(!is_moment("lm_head.weight"));
/// ```
pub fn is_moment(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    is_optimizer_state(name) && last != STEP && (last == SUM || name.split('.').any(is_moment_name))
}

/// Whether a name is one that optimizers give to their copies of the parameters.
///
/// # Example
/// ```
/// use thalweg_checkpoint::is_master_name;
///
/// assert!(is_master_name("optimizer.fp32_from_fp16_params.0.0") && !is_master_name("optimizer.state.0.exp_avg"));
/// ```
pub fn is_master_name(name: &str) -> bool {
    MASTER_WORDS.iter().any(|word| name.contains(word))
}

/// A parameter whose name is like those of an optimizer's state, of which a reader listed `n_state` tensors.
pub(crate) fn find_disguised(entries: &[TensorEntry], n_state: usize) -> Option<&TensorEntry> {
    let mut state = entries.iter().filter(|entry| is_optimizer_state(&entry.name));
    if state.clone().count() == n_state { None } else { state.next() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_and_its_moments_are_known_by_name() {
        for (name, is_state, averages) in [
            ("optimizer.state.0.exp_avg", true, true),
            ("optimizer.state.12.max_exp_avg_sq", true, true),
            ("optim.state.model.norm.weight.exp_avg_sq", true, true),
            ("optim.state.model.norm.weight.step", true, false),
            ("optim.state.layers.sum.weight.step", true, false),
            ("optimizer.state.0.sum", true, true),
            ("optimizer_states.0.state.3.momentum_buffer", true, true),
            ("optimizer.state.exp_avg.decoder.final_layernorm.weight", true, true),
            ("optimizer.exp_avg_sq.model.norm.weight", true, true),
            ("optimizer.param_groups.0.lr", true, false),
            ("Optimizer.state.0.exp_avg", true, true),
            ("opt_state.0.mu.params.decoder.bias", true, true),
            ("opt_state.0.count", true, false),
            ("optimizer.nu.transformer.ln_f.bias", true, true),
            ("params.mu.kernel", false, false),
            ("optimizer", false, false),
            ("optimizer.", false, false),
            ("model.norm.weight", false, false),
            ("model.optimizer.exp_avg", false, false),
            ("\u{f6}ptim.exp_avg", false, false),
        ] {
            assert_eq!((is_optimizer_state(name), is_moment(name)), (is_state, averages), "{name}");
        }
    }

    #[test]
    fn a_parameter_that_looks_like_state_is_found() {
        let entry = |name: &str| TensorEntry {
            name: name.into(),
            dtype: thalweg_tensor::Dtype::F32,
            shape: thalweg_tensor::Shape::new([1]),
            pieces: [thalweg_tensor::Piece::whole(0, 0)].into(),
        };
        let entries = ["gate.weight", "optim_gate.weight", "optimizer.state.0.exp_avg"].map(entry);
        assert_eq!(find_disguised(&entries, 1).map(|entry| &*entry.name), Some("optim_gate.weight"));
        assert_eq!(find_disguised(&entries, 2), None);
        assert_eq!(find_disguised(&entries[..1], 0), None);
    }
}
