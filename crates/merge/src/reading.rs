//! What a merge reads: for each class of tensors the sources, and what every combination does with them.

use std::ops::Range;

use thalweg_tensor::TensorSource;

use crate::combination::Combination;
use crate::merge_layout::MergeLayout;
use crate::plan::{NonFloatPolicy, RouterPolicy};
use crate::tensor_class::TensorClass;
use crate::unit::{Part, UnitList};

/// The sources of a merge under the numbers of its layout, and which of them each tensor is read from.
pub(crate) struct Reading<'a> {
    pub(crate) layout: &'a MergeLayout,
    pub(crate) sources: &'a [&'a dyn TensorSource],
    /// By tensor.
    pub(crate) read_by: Vec<Vec<usize>>,
    /// By source, whether its digest is known: the key of a stage has it.
    pub(crate) is_known: Vec<bool>,
}

impl<'a> Reading<'a> {
    /// What `combinations` read of the tensors for which `wanted` holds.
    pub(crate) fn new(
        layout: &'a MergeLayout,
        sources: &'a [&'a dyn TensorSource],
        combinations: &[Combination],
        wanted: &dyn Fn(usize) -> bool,
    ) -> Self {
        let read_of = |(t, &class): (usize, &TensorClass)| match wanted(t) {
            true => source_use(class, combinations).read,
            false => Vec::new(),
        };
        let read_by = layout.classes.iter().enumerate().map(read_of).collect();
        Self { layout, sources, read_by, is_known: vec![false; sources.len()] }
    }

    /// Bytes of tensors that are read from all sources together.
    pub(crate) fn n_bytes(&self) -> u64 {
        let entries = self.layout.catalog.entries().iter().enumerate();
        entries.map(|(t, entry)| self.stored_bytes(t, &(0..entry.n_elements()))).sum()
    }

    /// Source bytes that go into the units for which `is_counted` holds.
    pub(crate) fn bytes_of_units(&self, units: &UnitList, is_counted: &dyn Fn(usize) -> bool) -> u64 {
        let counted = (0..units.len()).filter(|&unit_idx| is_counted(unit_idx));
        let of_part = |part: &Part| self.stored_bytes(part.tensor_idx, &part.elements);
        counted.flat_map(|unit_idx| units.parts(unit_idx)).map(of_part).sum()
    }

    fn stored_bytes(&self, tensor_idx: usize, elements: &Range<u64>) -> u64 {
        stored_bytes(self.sources, &self.read_by[tensor_idx], tensor_idx, elements)
    }
}

/// What happens to a tensor class in one combination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// The prepared sum of the combination, over these sources.
    Sum { terms: Vec<usize> },
    /// What remains of that sum where the sum of all its sources but the last was prepared.
    Finish { terms: Vec<usize> },
    /// The combination's rule, over the base and these experts.
    Rule { terms: Vec<usize> },
    /// Bytes of this source.
    Copy { from: usize },
    /// Bytes of `from`, which must equal those of all the others.
    CopyEqual { from: usize, others: Vec<usize> },
}

/// Which sources a tensor class is read from, and what each combination does with them.
#[derive(Debug)]
pub(crate) struct SourceUse {
    /// Positions among all open sources, ascending.
    pub(crate) read: Vec<usize>,
    pub(crate) actions: Vec<Action>,
}

pub(crate) fn source_use(class: TensorClass, combinations: &[Combination]) -> SourceUse {
    let actions: Vec<Action> = combinations.iter().map(|combination| action(class, combination)).collect();
    let mut read: Vec<usize> = actions
        .iter()
        .flat_map(|action| match action {
            Action::Sum { terms } | Action::Rule { terms } => terms.clone(),
            Action::Finish { terms } => terms.last().copied().into_iter().collect(),
            Action::Copy { from } => vec![*from],
            Action::CopyEqual { from, others } => others.iter().chain([from]).copied().collect(),
        })
        .collect();
    read.sort_unstable();
    read.dedup();
    SourceUse { read, actions }
}

fn action(class: TensorClass, combination: &Combination) -> Action {
    let from = combination.newest_idx;
    match class {
        TensorClass::ExtraState | TensorClass::Newest | TensorClass::OptimizerState => Action::Copy { from },
        TensorClass::Opaque => Action::CopyEqual { from, others: combination.source_idxs.clone() },
        TensorClass::Router if combination.router == RouterPolicy::Newest => Action::Copy { from },
        TensorClass::Discrete if combination.non_float == NonFloatPolicy::Newest => Action::Copy { from },
        TensorClass::Discrete => Action::CopyEqual { from, others: combination.source_idxs.clone() },
        TensorClass::Float | TensorClass::Router | TensorClass::Moment => match &combination.rule {
            None if combination.has_head => Action::Finish { terms: combination.terms().0 },
            None => Action::Sum { terms: combination.terms().0 },
            Some(rule) => {
                let base = rule.base.map(|base| combination.source_idxs[base]);
                Action::Rule { terms: base.into_iter().chain(combination.terms().0).collect() }
            }
        },
    }
}

/// Bytes of some elements of a tensor in the files of the sources that `read` lists.
pub(crate) fn stored_bytes(
    sources: &[&dyn TensorSource],
    read: &[usize],
    tensor_idx: usize,
    elements: &Range<u64>,
) -> u64 {
    read.iter().map(|&i| sources[i].stored_bytes(tensor_idx, elements.clone())).sum()
}
