//! What the sources of a merge agree on: one catalog for all, and what each tensor is.

use std::collections::BTreeSet;
use std::sync::Arc;

use thalweg_tensor::{Dtype, DtypeClass, TensorCatalog};

use crate::open_source::OpenSource;
use crate::plan::OutputDtype;
use crate::tensor_class::TensorClass;
use crate::view::{Places, SourceView};

/// The sources agree on this: one catalog for all, and what each tensor is.
///
/// A tensor has one number everywhere. Where the list of a source differs, a [`SourceView`] translates.
#[derive(Debug, Clone)]
pub struct MergeLayout {
    /// Names, shapes and input dtypes, sorted by name.
    pub catalog: Arc<TensorCatalog>,
    /// One class for each tensor.
    pub classes: Vec<TensorClass>,
    /// Notes for the user that did not stop the merge.
    pub notes: Vec<String>,
    /// For each source whose list differs, the number of each tensor in it; empty for sources in memory.
    pub(crate) places: Vec<Option<Arc<Places>>>,
    /// Sources of which some tensor is read in a wider element type than it has.
    pub(crate) widened: BTreeSet<usize>,
}

impl MergeLayout {
    /// Views of `sources`, in their order, that list the layout's tensors under the layout's numbers.
    pub fn views<'a>(&'a self, sources: &'a [OpenSource]) -> Vec<SourceView<'a>> {
        let view = |(i, source): (usize, &'a OpenSource)| SourceView {
            checkpoint: &source.checkpoint,
            catalog: &self.catalog,
            places: self.places.get(i).and_then(Option::as_deref),
        };
        sources.iter().enumerate().map(view).collect()
    }

    /// Number of parameters: the elements of tensors that do not belong to the state of the optimizer.
    pub fn n_params(&self) -> u64 {
        let is_param = |class: &TensorClass| !matches!(class, TensorClass::Moment | TensorClass::OptimizerState);
        let params = self.catalog.entries().iter().zip(&self.classes).filter(|(_, class)| is_param(class));
        params.map(|(entry, _)| entry.n_elements()).sum()
    }

    /// Whether source `source_idx` has exactly the tensors of the layout, in its element types.
    pub(crate) fn is_whole_source(&self, source_idx: usize) -> bool {
        self.places.get(source_idx).is_none_or(Option::is_none) && !self.widened.contains(&source_idx)
    }
    /// The element type of a tensor in an output that wants `wanted`.
    pub(crate) fn output_dtype(&self, tensor_idx: usize, wanted: OutputDtype) -> Dtype {
        output_dtype(self.classes[tensor_idx], self.catalog.entries()[tensor_idx].dtype, wanted)
    }
}

/// The element type that an output tensor has.
pub(crate) fn output_dtype(class: TensorClass, input: Dtype, wanted: OutputDtype) -> Dtype {
    match class {
        TensorClass::Float | TensorClass::Router => wanted.resolve(input),
        TensorClass::Newest if input.class() == DtypeClass::Mergeable => wanted.resolve(input),
        TensorClass::Moment | TensorClass::OptimizerState => input,
        TensorClass::Discrete | TensorClass::ExtraState | TensorClass::Newest | TensorClass::Opaque => input,
    }
}
