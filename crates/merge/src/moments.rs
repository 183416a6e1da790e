//! The state of the optimizer as a part of a merge: moments are averaged with the parameters' coefficients, everything
//! else is the newest source's.
//!
//! What belongs to the state, and what is a moment, is decided by names in the `checkpoint` crate.

use std::collections::BTreeSet;

use num_bigint::Sign;
use thalweg_checkpoint::{is_master_name, is_moment, is_optimizer_state};
use thalweg_tensor::{DtypeClass, TensorEntry};

use crate::Error;
use crate::difference::{Difference, NewestHas};
use crate::format_error::FormatError;
use crate::merge_layout::MergeLayout;
use crate::open_source::OpenSource;
use crate::output_kind::OptimizerPolicy;
use crate::plan::MergePlan;
use crate::tensor_class::TensorClass;

/// What a tensor is if it belongs to a state that is averaged.
pub(crate) fn state_class(entry: &TensorEntry, optimizer: OptimizerPolicy) -> Option<TensorClass> {
    if optimizer != OptimizerPolicy::Average || !is_optimizer_state(&entry.name) {
        return None;
    }
    let is_averaged = is_moment(&entry.name) && entry.dtype.class() == DtypeClass::Mergeable;
    Some(if is_averaged { TensorClass::Moment } else { TensorClass::OptimizerState })
}

/// Refuses negative coefficients where moments are averaged: a second moment must not become negative.
pub(crate) fn check_signs(plan: &MergePlan, sources: &[OpenSource]) -> Result<(), Error> {
    let has_moments =
        |source: &OpenSource| source.checkpoint.catalog().entries().iter().any(|one| is_moment(&one.name));
    if !sources.iter().any(has_moments) {
        return Ok(());
    }
    for output in plan.outputs.iter().filter(|output| output.policy.optimizer == OptimizerPolicy::Average) {
        let coefficients = output.coefficients()?;
        let mut pairs = output.sources.iter().zip(coefficients.numerators());
        if let Some((source, _)) = pairs.find(|(_, numerator)| numerator.sign() == Sign::Minus) {
            return Err(FormatError::NegativeMoments { source_path: source.path.clone() }.into());
        }
    }
    Ok(())
}

/// Sources without moments, and moments that are stored as codes. `newest` has the positions of the newest sources.
pub(crate) fn find_missing(sources: &[OpenSource], newest: &BTreeSet<usize>) -> Vec<Difference> {
    let (mut differences, mut lacking) = (Vec::new(), Vec::new());
    for source in sources {
        let moments = source.checkpoint.catalog().entries().iter().filter(|entry| is_moment(&entry.name));
        let is_unreadable = source.checkpoint.findings().unreadable.iter().any(|one| is_moment(&one.name));
        if moments.clone().next().is_none() && !is_unreadable {
            lacking.push(source.label());
        }
        let coded = moments.filter(|entry| entry.dtype.class() != DtypeClass::Mergeable);
        differences.extend(coded.map(|entry| Difference::Unreadable {
            tensor: entry.name.to_string(),
            source: source.label(),
            reason: format!("it holds codes ({})", entry.dtype),
        }));
    }
    if !lacking.is_empty() {
        let has_state = |source: &OpenSource| {
            source.checkpoint.catalog().entries().iter().any(|entry| is_optimizer_state(&entry.name))
        };
        let is_there = newest.iter().filter_map(|&i| sources.get(i)).all(has_state);
        let newest = if is_there { NewestHas::Yes } else { NewestHas::No };
        differences.push(Difference::NoMoments { sources: lacking, newest });
    }
    differences
}

/// Joins the differences of the state into one: they have one remedy.
pub(crate) fn join_state(differences: Vec<Difference>) -> Vec<Difference> {
    let is_of_state = |difference: &Difference| difference.tensor().is_some_and(is_optimizer_state);
    let (state, mut others): (Vec<_>, Vec<_>) = differences.into_iter().partition(is_of_state);
    let n_tensors = state.len();
    // A source without moments lacks every tensor of the state.
    let is_lacking = others.iter().any(|difference| matches!(difference, Difference::NoMoments { .. }));
    if let Some(first) = state.into_iter().next().filter(|_| !is_lacking) {
        others.push(Difference::OptimizerState { first: Box::new(first), n_tensors });
    }
    others
}

/// What is done with the state, for the user.
pub(crate) fn describe_state(layout: &MergeLayout) -> Option<String> {
    let count = |wanted| layout.classes.iter().filter(|&&class| class == wanted).count();
    let averaged =
        layout.catalog.entries().iter().zip(&layout.classes).filter(|(_, class)| **class == TensorClass::Moment);
    let n_masters = averaged.filter(|(entry, _)| is_master_name(&entry.name)).count();
    let (n_averaged, n_others) = (count(TensorClass::Moment), count(TensorClass::OptimizerState));
    (n_averaged > 0).then(|| {
        let what = match (n_averaged - n_masters, n_masters) {
            (1, 0) => "1 moment of the optimizer is".to_owned(),
            (n_moments, 0) => format!("{n_moments} moments of the optimizer are"),
            (0, 1) => "1 copy of a parameter in the optimizer's state is".to_owned(),
            (0, n_masters) => format!("{n_masters} copies of parameters in the optimizer's state are"),
            (n_moments, n_masters) => {
                format!("{n_moments} moments of the optimizer and {n_masters} of its copies of parameters are")
            }
        };
        let rest = match n_others {
            0 => "the rest of its state is".to_owned(),
            1 => "1 other tensor of its state is".to_owned(),
            _ => format!("{n_others} other tensors of its state, such as step counters, are"),
        };
        format!("{what} averaged; {rest} taken from the newest source (`--optimizer average`)")
    })
}

#[cfg(test)]
mod tests {
    use thalweg_tensor::{Dtype, Piece, Shape};

    use super::*;

    #[test]
    fn only_moments_that_are_numbers_are_averaged() {
        let class = |name: &str, dtype, optimizer| {
            let pieces = [Piece::whole(0, 0)].into();
            state_class(&TensorEntry { name: name.into(), dtype, shape: Shape::new([8]), pieces }, optimizer)
        };
        let average = OptimizerPolicy::Average;
        assert_eq!(class("optim.state.w.exp_avg", Dtype::Bf16, average), Some(TensorClass::Moment));
        assert_eq!(class("optim.state.w.exp_avg", Dtype::U8, average), Some(TensorClass::OptimizerState));
        assert_eq!(class("optim.state.w.step", Dtype::F32, average), Some(TensorClass::OptimizerState));
        assert_eq!(class("w.exp_avg", Dtype::F32, average), None);
        assert_eq!(class("optim.state.w.exp_avg", Dtype::F32, OptimizerPolicy::Newest), None);
    }

    #[test]
    fn differences_of_the_state_become_one() {
        let unreadable = |tensor: &str| Difference::Unreadable {
            tensor: tensor.to_owned(),
            source: "step 1".to_owned(),
            reason: "it is sparse".to_owned(),
        };
        let list = ["w", "optim.state.w.exp_avg", "optim.state.w.exp_avg_sq"].map(unreadable);
        let joined = join_state(list.to_vec());
        let [first, Difference::OptimizerState { n_tensors: 2, .. }] = &*joined else { panic!("{joined:?}") };
        assert_eq!(*first, list[0]);
        let lacking = Difference::NoMoments { sources: vec!["step 2".to_owned()], newest: NewestHas::Yes };
        assert_eq!(join_state(vec![lacking.clone(), list[1].clone()]), [lacking]);
    }
}
