//! `tokenizer.json` as a splitter of texts into token ids with their byte ranges.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;
use thalweg_tensor::Digest;
use thalweg_tensor::digest::{DigestKind, bytes_digest};

use crate::Error;
use crate::suite::Start;

/// A tokenizer, without truncation or padding.
#[derive(Debug, Clone)]
pub struct EvalTokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    digest: Digest,
    largest_id: u32,
    /// `add_bos_token` of `tokenizer_config.json`, if it is there.
    adds_start: Option<bool>,
    /// The id of its `bos_token`.
    bos_token: Option<u32>,
}

/// A text as tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizedText {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Bytes of the text that each token represents; tokens of one split character share its range.
    pub bytes: Vec<Range<usize>>,
}

impl EvalTokenizer {
    /// Reads a `tokenizer.json`; `path` is only said in messages.
    ///
    /// # Errors
    /// `TokenizerInvalid`.
    pub fn from_json(bytes: &[u8], path: &Path) -> Result<Self, Error> {
        let invalid = |what: String| Error::TokenizerInvalid { path: path.to_owned(), what };
        let text = std::str::from_utf8(bytes).map_err(|error| invalid(error.to_string()))?;
        // `from_bytes` is generic: all that reads a tokenizer would be compiled a second time, for this crate.
        let mut inner: tokenizers::Tokenizer = text.parse().map_err(|error| invalid(format!("{error}")))?;
        // Many files name a length to cut or fill texts to.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| invalid(error.to_string()))?;
        let largest_id = inner.get_vocab(true).into_values().max();
        let largest_id = largest_id.ok_or_else(|| invalid("it has no tokens".to_owned()))?;
        let digest = bytes_digest(DigestKind::Blake3, bytes);
        Ok(Self { inner, path: path.to_owned(), digest, largest_id, adds_start: None, bos_token: None })
    }

    /// Adds what a `tokenizer_config.json` says about the start token; `path` names the file in messages.
    ///
    /// # Errors
    /// `TokenizerInvalid`.
    pub fn with_config(mut self, bytes: &[u8], path: &Path) -> Result<Self, Error> {
        let invalid = |what: String| Error::TokenizerInvalid { path: path.to_owned(), what };
        let config: Value = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
        self.adds_start = config["add_bos_token"].as_bool();
        let bos_token = &config["bos_token"];
        let bos_token = bos_token.as_str().or_else(|| bos_token["content"].as_str());
        self.bos_token = bos_token.and_then(|token| self.inner.token_to_id(token));
        Ok(self)
    }

    /// Encodes a special token that a text spells out as ordinary text, as for text to train on.
    #[must_use]
    pub fn with_plain_special_tokens(mut self) -> Self {
        self.inner.set_encode_special_tokens(true);
        self
    }

    /// The id of a token, if there is one.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Where it was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// BLAKE3 of the file.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The largest token id.
    pub fn largest_id(&self) -> u32 {
        self.largest_id
    }

    /// Tokens of a text, without special tokens around it.
    ///
    /// # Errors
    /// `TokenizerInvalid` where the tokenizer cannot split this text.
    pub fn encode(&self, text: &str) -> Result<TokenizedText, Error> {
        let encoding = self.encoding(text, SpecialTokens::Leave)?;
        let bytes = encoding.get_offsets().iter().map(|&(start, end)| start..end).collect();
        Ok(TokenizedText { ids: encoding.get_ids().to_vec(), bytes })
    }

    /// As `encode`, without the byte ranges, which cost time.
    ///
    /// # Errors
    /// `TokenizerInvalid` where the tokenizer cannot split this text.
    pub fn encode_ids(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self.inner.encode_fast(text, false);
        encoding.map(|encoding| encoding.get_ids().to_vec()).map_err(|error| self.invalid(&error.to_string()))
    }

    /// The text of tokens, special tokens left out.
    ///
    /// # Errors
    /// `TokenizerInvalid`.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        self.inner.decode(ids, true).map_err(|error| self.invalid(&error.to_string()))
    }

    fn invalid(&self, what: &str) -> Error {
        Error::TokenizerInvalid { path: self.path.clone(), what: what.to_owned() }
    }

    fn encoding(&self, text: &str, special: SpecialTokens) -> Result<tokenizers::Encoding, Error> {
        let add = special == SpecialTokens::Add;
        self.inner.encode(text, add).map_err(|error| self.invalid(&error.to_string()))
    }

    /// The tokens before every text of a model with this `config.json`.
    ///
    /// # Errors
    /// `NoStartToken`; `TokenizerInvalid` for a named token that there is not.
    pub fn start_tokens(&self, start: &Start, config: &Value, checkpoint: &Path) -> Result<Vec<u32>, Error> {
        if let Start::Token(token) = start {
            let missing = || self.invalid(&format!("it has no token `{token}`, with which the suite starts texts"));
            return self.token_id(token).map(|id| vec![id]).ok_or_else(missing);
        }
        let processed = self.post_processor_start()?;
        if !processed.is_empty() {
            return Ok(processed);
        }
        let configured = ["bos_token_id", "eos_token_id"].into_iter().find_map(|key| match &config[key] {
            // Some models end a text with one of several tokens.
            Value::Array(ids) => ids.first().and_then(Value::as_u64),
            id => id.as_u64(),
        });
        let id = configured.and_then(|id| u32::try_from(id).ok());
        id.map(|id| vec![id]).ok_or_else(|| Error::NoStartToken { path: checkpoint.to_owned() })
    }
}

impl EvalTokenizer {
    /// The tokens that the post-processor puts before a text.
    fn post_processor_start(&self) -> Result<Vec<u32>, Error> {
        let (bare, full) = (self.encoding("a", SpecialTokens::Leave)?, self.encoding("a", SpecialTokens::Add)?);
        let n_bare = bare.get_ids().len().max(1);
        let n_before = full.get_ids().windows(n_bare).position(|ids| ids == bare.get_ids()).unwrap_or(0);
        Ok(full.get_ids()[..n_before].to_vec())
    }

    /// The tokens that the tokenizer's own files put before a text; may be empty. `start` is used if the files ask for
    /// a start token and do not name it.
    ///
    /// `add_bos_token` of `tokenizer_config.json` takes precedence over the post-processor, as for the Llama tokenizers
    /// of transformers 4; transformers 5 uses only the post-processor.
    ///
    /// # Errors
    /// `TokenizerInvalid`.
    pub(crate) fn added_start_tokens(&self, start: &[u32]) -> Result<Vec<u32>, Error> {
        match self.adds_start {
            Some(false) => Ok(Vec::new()),
            Some(true) => Ok(self.bos_token.map_or_else(|| start.to_vec(), |id| vec![id])),
            None => self.post_processor_start(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SpecialTokens {
    Add,
    Leave,
}
