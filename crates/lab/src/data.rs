//! What a run reads: the tokenizer, the domains and their held-out text, encoded.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use thalweg_storage::Storage;

use crate::Error;
use crate::config::{CorpusPaths, DomainSection, TrainConfig};
use crate::corpus::{
    BUILT_IN, BUILT_IN_TOKENIZERS, CorpusPart, built_in_bytes, built_in_tokenizer, parse_documents, read_documents,
    resolve_path,
};
use crate::mixture::{Mixture, MixturePart};
use crate::tokens::{TextTokenizer, TokenDomain};

const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// Everything that is read for a run, once for all cells of a grid.
#[derive(Debug, Clone)]
pub struct TrainData {
    /// The tokenizer.
    pub tokenizer: Arc<TextTokenizer>,
    /// One for each `[[data]]`, in its order.
    pub domains: Vec<Arc<TokenDomain>>,
    /// Held-out text of the domains that have some.
    pub validation: Vec<Arc<TokenDomain>>,
}

impl TrainData {
    /// Reads and encodes; relative paths begin at `folder`, that of the config.
    ///
    /// # Errors
    /// `Tokenizer`; `CorpusLine`, `CorpusFile`; `Storage`.
    pub fn load(config: &TrainConfig, folder: &Path, storage: &dyn Storage) -> Result<Self, Error> {
        let tokenizer = Arc::new(load_tokenizer(&config.tokenizer, folder, storage)?);
        let encode = |name: &str, documents: Vec<String>| {
            Ok::<_, Error>(Arc::new(TokenDomain::encode(name, &documents, &tokenizer)?))
        };
        let mut domains = Vec::new();
        let mut validation = Vec::new();
        for section in &config.data {
            let name = section.domain_name();
            domains.push(encode(&name, train_documents(section, folder, storage)?)?);
            let held_out = match &section.validation {
                _ if config.validation.is_none() => None,
                Some(paths) => Some(documents_of(paths, CorpusPart::Validation, folder, storage)?),
                None if is_built_in(&section.from) => {
                    Some(documents_of(&section.from, CorpusPart::Validation, folder, storage)?)
                }
                None => None,
            };
            if let Some(documents) = held_out {
                validation.push(encode(&name, documents)?);
            }
        }
        Ok(Self { tokenizer, domains, validation })
    }

    /// The training text of all domains, one after the other.
    ///
    /// # Errors
    /// `CorpusLine`, `CorpusFile`; `Storage`.
    pub fn read_documents(config: &TrainConfig, folder: &Path, storage: &dyn Storage) -> Result<Vec<String>, Error> {
        let documents = config.data.iter().map(|section| train_documents(section, folder, storage));
        Ok(documents.collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// The mixture that a config makes of the domains.
    ///
    /// # Errors
    /// `CorpusTooSmall`.
    pub fn mixture(&self, config: &TrainConfig) -> Result<Mixture, Error> {
        let pairs = self.domains.iter().zip(&config.data);
        let parts = pairs.map(|(domain, section)| MixturePart { domain: Arc::clone(domain), share: section.share });
        Mixture::new(parts.collect(), config.seed, config.sequence_length)
    }

    /// Name and digest of each domain's tokens.
    pub(crate) fn digests(&self) -> Vec<(String, String)> {
        self.domains.iter().map(|domain| (domain.name().to_owned(), domain.digest().to_owned())).collect()
    }
}

fn train_documents(section: &DomainSection, folder: &Path, storage: &dyn Storage) -> Result<Vec<String>, Error> {
    let mut documents = documents_of(&section.from, CorpusPart::Train, folder, storage)?;
    documents.truncate(section.limit.map_or(usize::MAX, NonZeroUsize::get));
    Ok(documents)
}

/// Reads a built-in tokenizer or a file.
fn load_tokenizer(name: &str, folder: &Path, storage: &dyn Storage) -> Result<TextTokenizer, Error> {
    if let Some(bytes) = built_in_tokenizer(name) {
        return TextTokenizer::from_bytes(bytes, Path::new(name));
    }
    let path = resolve_path(folder, name);
    match storage.read_file(&path, MAX_TOKENIZER_BYTES) {
        Ok(bytes) => TextTokenizer::from_bytes(&bytes, &path),
        Err(error) if error.is_not_found() => {
            let message = format!("there is no such file; the built-in corpora are {}", BUILT_IN_TOKENIZERS.join(", "));
            Err(Error::Tokenizer { path, message })
        }
        Err(error) => Err(error.into()),
    }
}

fn is_built_in(paths: &CorpusPaths) -> bool {
    matches!(paths.0.as_slice(), [name] if BUILT_IN.contains(&name.as_str()))
}

fn documents_of(
    paths: &CorpusPaths,
    part: CorpusPart,
    folder: &Path,
    storage: &dyn Storage,
) -> Result<Vec<String>, Error> {
    if is_built_in(paths)
        && let [name] = paths.0.as_slice()
        && let Some(bytes) = built_in_bytes(name, part)
    {
        return parse_documents(bytes, Path::new(name));
    }
    let mut documents = Vec::new();
    for path in &paths.0 {
        documents.extend(read_documents(storage, &resolve_path(folder, path))?);
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use thalweg_storage::LocalStorage;

    use super::*;

    #[test]
    fn a_limit_takes_the_first_documents() {
        let load = |limit: usize| {
            let text = format!(
                "kind = \"thalweg-train\"\nversion = 1\nsteps = 1\nsequence_length = 8\nbatch_sequences = 1\n\
                 tokenizer = \"bpe-512\"\n[model]\nhidden = 8\nlayers = 1\nheads = 1\nintermediate = 8\n\
                 [[data]]\nfrom = \"stories\"\nlimit = {limit}\n[optimizer]\nlearning_rate = 0.01\n\
                 [schedule]\nkind = \"constant\"\n[checkpoints]\nevery_steps = 1\n"
            );
            let config = TrainConfig::from_toml(&text, Path::new("run.toml")).unwrap();
            let data = TrainData::load(&config, Path::new(""), &LocalStorage::new()).unwrap();
            Arc::clone(&data.domains[0])
        };
        let (three, five) = (load(3), load(5));
        assert_eq!((three.n_documents(), five.n_documents()), (3, 5));
        assert!(five.tokens().starts_with(three.tokens()));
    }
}
