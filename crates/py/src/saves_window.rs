//! Saves of a model in memory, and the window over some of them.

use std::ops::Range;
use std::sync::Arc;

use pyo3::prelude::*;
use thalweg_merge::Coefficients;
use thalweg_merge::context::RunContext;
use thalweg_merge::in_memory::{LiveMerge, LiveOptions, LiveSource};
use thalweg_tensor::{AccessError, TensorCatalog, TensorSource, to_index};

use crate::error::Result;
use crate::memory::MemorySink;
use crate::merge::FillsMemory;
use crate::session::{Session, Watch, run_watched};
use crate::tensor_data::TensorData;

/// The tensors of a model after one step.
#[derive(Debug)]
pub(crate) struct Save {
    pub(crate) catalog: Arc<TensorCatalog>,
    /// By number in the catalog.
    pub(crate) tensors: Vec<Arc<TensorData>>,
}

impl TensorSource for Save {
    fn catalog(&self) -> &TensorCatalog {
        &self.catalog
    }

    fn read_elements(
        &self,
        tensor_idx: usize,
        elements: Range<u64>,
        out: &mut [u8],
    ) -> std::result::Result<(), AccessError> {
        let bytes = self.tensors.get(tensor_idx).and_then(|data| {
            let place = |element| Some(to_index(data.dtype.bytes_of(element)?));
            data.bytes.as_slice().get(place(elements.start)?..place(elements.end)?)
        });
        match bytes.filter(|bytes| bytes.len() == out.len()) {
            Some(bytes) => out.copy_from_slice(bytes),
            None => {
                let message = format!("there are no elements {elements:?} of tensor number {tensor_idx}");
                return Err(AccessError { path: "memory".to_owned(), message, source: None });
            }
        }
        Ok(())
    }
}

/// Some saves with their coefficients.
#[derive(Debug)]
pub(crate) struct SavesWindow {
    pub(crate) scheme: String,
    pub(crate) coefficients: Coefficients,
    pub(crate) options: LiveOptions,
    pub(crate) steps: Vec<u64>,
    pub(crate) saves: Vec<Arc<Save>>,
    pub(crate) names: Vec<String>,
    pub(crate) catalog: Arc<TensorCatalog>,
    pub(crate) session: Arc<Session>,
}

impl SavesWindow {
    /// Acts on the sum over the saves.
    pub(crate) fn with_merge<T>(&self, act: impl FnOnce(&LiveMerge<'_>) -> Result<T>) -> Result<T> {
        let pairs = self.saves.iter().zip(&self.names);
        let sources: Vec<LiveSource<'_>> = pairs.map(|(save, name)| LiveSource { name, tensors: &**save }).collect();
        act(&LiveMerge::new(&sources, &self.coefficients, self.options)?)
    }
}

impl FillsMemory for SavesWindow {
    fn catalog(&self) -> Result<&Arc<TensorCatalog>> {
        Ok(&self.catalog)
    }

    fn fill(&self, py: Python<'_>, sink: &MemorySink) -> Result<()> {
        let watch = Watch::default();
        run_watched(py, None, &watch, || {
            let run: RunContext<'_> = self.session.context(&watch);
            self.with_merge(|merge| Ok(merge.merge_tensors(&|t| sink.wants(t), sink, &run)?))
        })
    }
}
