//! A Llama of torchtitan under the names and with the rows that Hugging Face's Llama has.
//!
//! The tensors are those of the source: names change, and the rows of queries and keys get another order, by pieces
//! with strides. Nothing is computed, and no other model is translated: what is fused or reshaped is the trainer's
//! exporter's work, which `naming` knows.

mod config;
mod error;
mod heads;
mod naming;
mod rotary;

use std::collections::BTreeMap;
use std::sync::Arc;

use thalweg_tensor::{TensorCatalog, TensorEntry};

use self::naming::{Place, mark_of, place_of};
use self::rotary::{RotaryPieces, pieces_by_halves};
use crate::format::FormatContent;
use crate::rename::renamed_catalog;
use crate::{CatalogCache, Note};

pub use self::config::{HuggingFaceAssets, check_llama_config, llama_heads, open_assets};
pub use self::error::{ConfigFault, ToHuggingFaceError};
pub use self::heads::LlamaHeads;
pub use self::naming::{Naming, huggingface_name, naming_of};

/// Translates what was opened, unless it has Hugging Face names.
pub(crate) fn translate(
    content: &mut FormatContent,
    heads: LlamaHeads,
    cache: &CatalogCache,
) -> Result<(), ToHuggingFaceError> {
    let catalog = Arc::clone(&content.catalog);
    // What has these names already is merged with what gets them.
    if naming_of(&catalog) == Naming::HuggingFace {
        return Ok(());
    }
    check_torchtitan_names(&catalog)?;
    let (mut entries, mut left_out) = (Vec::new(), Vec::new());
    let mut rotary = BTreeMap::new();
    for entry in catalog.entries() {
        let Some(Place::Tensor { name, rows }) = place_of(&entry.name) else {
            left_out.push(entry.name.to_string());
            continue;
        };
        let mut renamed = TensorEntry { name: name.into(), ..entry.clone() };
        if let Some(n_heads) = rows.heads(heads) {
            check_rows(entry, n_heads, heads.head_dim)?;
            let is_lazy = content.opener.is_some();
            renamed = pieces_by_halves(&renamed, heads.head_dim, is_lazy)
                .map_err(|fault| ToHuggingFaceError::Pieces { tensor: entry.name.to_string(), fault })?;
            rotary.insert(renamed.name.clone(), entry.pieces.clone());
        }
        entries.push((&*entry.name, renamed));
    }
    if !left_out.is_empty() {
        content.notes.push(Note::RotaryTablesLeftOut { names: left_out });
    }
    content.opener = content.opener.take().map(|opener| RotaryPieces::wrap(opener, rotary, heads.head_dim));
    content.catalog = cache.share(renamed_catalog(entries)?);
    Ok(())
}

/// Checks that a checkpoint has the names of torchtitan's Llama.
///
/// # Errors
/// `AlreadyThere` or `OtherNames`.
pub fn check_torchtitan_names(catalog: &TensorCatalog) -> Result<(), ToHuggingFaceError> {
    let other = catalog.entries().iter().find(|entry| place_of(&entry.name).is_none());
    other.map_or(Ok(()), |entry| Err(refusal(catalog, &entry.name)))
}

fn refusal(catalog: &TensorCatalog, tensor: &str) -> ToHuggingFaceError {
    match mark_of(catalog) {
        Some((mark, Naming::HuggingFace)) => ToHuggingFaceError::AlreadyThere { tensor: mark.to_owned() },
        // The mark says more than the first name that is not known, except that torchtitan's is a known one.
        Some((mark, naming)) if naming != Naming::Torchtitan => {
            ToHuggingFaceError::OtherNames { tensor: mark.to_owned(), naming }
        }
        found => {
            let naming = found.map_or(Naming::Unknown, |(_, naming)| naming);
            ToHuggingFaceError::OtherNames { tensor: tensor.to_owned(), naming }
        }
    }
}

fn check_rows(entry: &TensorEntry, n_heads: u64, head_dim: u64) -> Result<(), ToHuggingFaceError> {
    let fits = |rows: u64| head_dim > 0 && head_dim.is_multiple_of(2) && n_heads.checked_mul(head_dim) == Some(rows);
    match &*entry.shape.0 {
        &[rows, _] if fits(rows) => Ok(()),
        _ => {
            let (tensor, shape) = (entry.name.to_string(), entry.shape.clone());
            Err(ToHuggingFaceError::Rows { tensor, shape, n_heads, head_dim })
        }
    }
}
