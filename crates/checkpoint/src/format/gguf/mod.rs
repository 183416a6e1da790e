//! GGUF files, as llama.cpp reads them.
//!
//! Says which file of a folder is meant, and which of its tensors have elements that can be merged. `header` reads the
//! header.

mod header;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_storage::Storage;
use thalweg_tensor::{Piece, TensorCatalog, TensorEntry, display_name};

use self::header::{HeaderFault, MAGIC, TensorInfo, read_header};
use super::{Findings, Format, FormatContent, OpenFile, Place, Unreadable, choose_file};
use crate::error::storage_error;
use crate::{CatalogCache, Error, ReadOptions};

/// Name of the format.
const FORMAT_NAME: &str = "gguf";
const FILE_NAME: &str = "model.gguf";
/// What the names of files end with.
pub(crate) const FILE_END: &str = ".gguf";

/// GGUF files.
#[derive(Debug, Clone, Copy)]
pub struct Gguf;

impl Format for Gguf {
    fn name(&self) -> &'static str {
        FORMAT_NAME
    }

    fn marks(&self) -> &'static [&'static str] {
        &[FILE_NAME]
    }

    fn file_ends(&self) -> &'static [&'static str] {
        &[FILE_END]
    }

    fn stores_elements_once(&self) -> bool {
        true
    }

    fn recognises(&self, place: &Place) -> bool {
        match place {
            Place::File { path, head } => {
                head.starts_with(MAGIC) || path.extension().is_some_and(|extension| extension == "gguf")
            }
            Place::Folder { .. } => place.file_names().any(|name| name.ends_with(FILE_END)),
        }
    }

    fn open(
        &self,
        storage: &Arc<dyn Storage>,
        place: &Place,
        _options: &ReadOptions,
        cache: &CatalogCache,
    ) -> Result<FormatContent, Error> {
        let (name, path, note) = choose_file(place, FILE_NAME, FILE_END)?;
        let reader = storage.open_file(&path).map_err(|error| storage_error(&path, error))?;
        let header = read_header(&*reader).map_err(|fault| match fault {
            HeaderFault::Storage(error) => Error::Storage(error),
            HeaderFault::CutOff(reason) => Error::CutOff { path: path.clone(), reason },
            HeaderFault::Broken(reason) => refuse(&path, reason),
        })?;
        let (mut entries, mut findings) = (Vec::new(), Findings::default());
        for TensorInfo { name, shape, dtype, offset } in header.tensors {
            match dtype {
                Ok(dtype) => {
                    let is_empty = shape.n_elements() == Some(0);
                    let pieces = if is_empty { Box::default() } else { [Piece::whole(0, offset)].into() };
                    entries.push(TensorEntry { name, dtype, shape, pieces });
                }
                Err(kind) => {
                    let reason = format!(
                        "its elements are quantised as `{kind}`: blocks of codes with scales cannot be averaged"
                    );
                    findings.unreadable.push(Unreadable { name: name.into(), reason });
                }
            }
        }
        let twice = |name: Box<str>| refuse(&path, format!("tensor `{}` appears twice", display_name(&name)));
        let catalog = cache.share(TensorCatalog::new(entries).map_err(twice)?);
        let files = vec![OpenFile { name, path: path.clone(), reader }];
        let notes = note.into_iter().collect();
        Ok(FormatContent { files, catalog, metadata: header.metadata, notes, findings, ..FormatContent::default() })
    }
}

fn refuse(path: &Path, reason: String) -> Error {
    Error::Layout { path: PathBuf::from(path), reason }
}
