//! Finds the files of a checkpoint's tokenizer, beside it or where the user says.

use std::path::{Path, PathBuf};

use thalweg_checkpoint::{Checkpoint, MAX_SIDE_FILE_BYTES};
use thalweg_storage::Storage;

use crate::{Error, EvalTokenizer};

const TOKENIZER_NAME: &str = "tokenizer.json";
const CONFIG_NAME: &str = "tokenizer_config.json";

/// A `tokenizer.json` and the `tokenizer_config.json` beside it. Equal files split texts alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerFiles {
    path: PathBuf,
    tokenizer: Vec<u8>,
    config: Option<Vec<u8>>,
}

impl TokenizerFiles {
    /// Reads the file `named`, if given, or else the checkpoint's own; `path` names the checkpoint in messages.
    ///
    /// # Errors
    /// `TokenizerMissing`, `Storage`, `Checkpoint`.
    pub fn find(
        storage: &dyn Storage,
        named: Option<&Path>,
        checkpoint: &Checkpoint,
        path: &Path,
    ) -> Result<Self, Error> {
        if let Some(file) = named {
            let tokenizer = storage.read_file(file, MAX_SIDE_FILE_BYTES)?;
            let config = match storage.read_file(&file.with_file_name(CONFIG_NAME), MAX_SIDE_FILE_BYTES) {
                Err(error) if error.is_not_found() => None,
                read => Some(read?),
            };
            return Ok(Self { path: file.to_owned(), tokenizer, config });
        }
        let find = |name: &str| checkpoint.side_files().iter().find(|file| file.name == name);
        let file = find(TOKENIZER_NAME).ok_or_else(|| Error::TokenizerMissing { path: path.to_owned() })?;
        let config = find(CONFIG_NAME).map(|file| file.read(storage)).transpose()?;
        Ok(Self { path: file.path.clone(), tokenizer: file.read(storage)?, config })
    }

    /// Makes a tokenizer of them.
    ///
    /// # Errors
    /// `TokenizerInvalid`.
    pub fn open(&self) -> Result<EvalTokenizer, Error> {
        let tokenizer = EvalTokenizer::from_json(&self.tokenizer, &self.path)?;
        match &self.config {
            Some(config) => tokenizer.with_config(config, &self.path.with_file_name(CONFIG_NAME)),
            None => Ok(tokenizer),
        }
    }
}
