//! Documents as tokens: the tokenizer, and one domain as a stream that any position can be read from.
//!
//! A pass over a domain is its documents in a random order, each followed by the end-of-text token. Every pass has
//! the same length, so that a position says pass and place without a history.

use std::path::Path;

use rayon::prelude::*;
use thalweg_eval::tokens::EvalTokenizer;
use thalweg_tensor::digest::{DigestKind, bytes_digest};

use crate::Error;
use crate::random::{Random, Stream};

/// The token between documents.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// A tokenizer with the bytes it was read from.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    tokenizer: EvalTokenizer,
    bytes: Vec<u8>,
    end_of_text: u32,
}

impl TextTokenizer {
    /// Reads a `tokenizer.json`; `path` is for messages.
    ///
    /// # Errors
    /// `Tokenizer` if it cannot be read or has no token [`END_OF_TEXT`].
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, Error> {
        let tokenizer = EvalTokenizer::from_json(bytes, path).map_err(|error| refuse(error, path))?;
        let tokenizer = tokenizer.with_plain_special_tokens();
        let missing =
            || Error::Tokenizer { path: path.to_owned(), message: format!("there is no token `{END_OF_TEXT}`") };
        let end_of_text = tokenizer.token_id(END_OF_TEXT).ok_or_else(missing)?;
        Ok(Self { tokenizer, bytes: bytes.to_vec(), end_of_text })
    }

    /// One more than the largest token.
    pub fn n_tokens(&self) -> usize {
        self.tokenizer.largest_id() as usize + 1
    }

    /// The token of [`END_OF_TEXT`].
    pub(crate) fn end_of_text(&self) -> u32 {
        self.end_of_text
    }

    /// The `tokenizer.json`.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// `Tokenizer`.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.tokenizer.encode_ids(text).map_err(|error| refuse(error, self.tokenizer.path()))
    }
}

fn refuse(error: thalweg_eval::Error, path: &Path) -> Error {
    let message = match error {
        thalweg_eval::Error::TokenizerInvalid { what, .. } => what,
        other => other.to_string(),
    };
    Error::Tokenizer { path: path.to_owned(), message }
}

/// The documents of one domain as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenDomain {
    name: String,
    /// All documents behind each other, each with its end of text.
    tokens: Vec<u32>,
    /// Where each document begins; one more than there are documents.
    starts: Vec<usize>,
    text_bytes: u64,
    digest: String,
}

impl TokenDomain {
    /// Encodes documents on all threads of the current pool; empty ones are left out.
    ///
    /// # Errors
    /// `Tokenizer`.
    pub fn encode(name: &str, documents: &[String], tokenizer: &TextTokenizer) -> Result<Self, Error> {
        let encode = |document: &String| tokenizer.encode(document);
        let encoded = documents.par_iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        let mut tokens = Vec::with_capacity(encoded.iter().map(|ids| ids.len() + 1).sum());
        let mut starts = vec![0];
        for ids in encoded.iter().filter(|ids| !ids.is_empty()) {
            tokens.extend_from_slice(ids);
            tokens.push(tokenizer.end_of_text());
            starts.push(tokens.len());
        }
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        let digest = bytes_digest(DigestKind::Xxh3, &bytes).to_string();
        let text_bytes = documents.iter().map(|document| document.len() as u64).sum();
        Ok(Self { name: name.to_owned(), tokens, starts, text_bytes, digest })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tokens of one pass, ends of text included.
    pub fn n_tokens(&self) -> u64 {
        self.tokens.len() as u64
    }

    /// Documents.
    pub fn n_documents(&self) -> usize {
        self.starts.len() - 1
    }

    /// Bytes of text before it was encoded.
    pub fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// Digest of the tokens: whether the data are still the same.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The tokens in the order of the files.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

/// Reads a domain at any position of its endless stream of passes.
#[derive(Debug)]
pub(crate) struct DomainReader {
    domain_idx: u32,
    seed: u64,
    pass: Option<PassOrder>,
}

/// The order of the documents in one pass.
#[derive(Debug)]
struct PassOrder {
    pass: u32,
    order: Vec<u32>,
    /// Where each document of the order begins in the pass.
    starts: Vec<usize>,
}

impl DomainReader {
    pub(crate) fn new(domain_idx: u32, seed: u64) -> Self {
        Self { domain_idx, seed, pass: None }
    }

    /// Fills `out` with the tokens from `position` on.
    pub(crate) fn read(&mut self, domain: &TokenDomain, position: u64, out: &mut [u32]) {
        let length = domain.n_tokens();
        if length == 0 {
            return;
        }
        let (mut pass, mut at) = (position / length, thalweg_tensor::to_index(position % length));
        let mut filled = 0;
        while filled < out.len() {
            let order = self.order_of(domain, u32::try_from(pass).unwrap_or(u32::MAX));
            // The last document that begins at or before `at`.
            let mut i = order.starts.partition_point(|&start| start <= at) - 1;
            while filled < out.len() && i < order.order.len() {
                let document = order.order[i] as usize;
                let tokens = &domain.tokens[domain.starts[document]..domain.starts[document + 1]];
                let tokens = &tokens[at - order.starts[i]..];
                let n = tokens.len().min(out.len() - filled);
                out[filled..filled + n].copy_from_slice(&tokens[..n]);
                filled += n;
                at += n;
                i += 1;
            }
            (pass, at) = (pass + 1, 0);
        }
    }

    fn order_of(&mut self, domain: &TokenDomain, pass: u32) -> &PassOrder {
        let known = self.pass.take().filter(|known| known.pass == pass);
        self.pass.insert(known.unwrap_or_else(|| {
            let mut order: Vec<u32> = (0..).take(domain.n_documents()).collect();
            Random::new(self.seed, Stream::Documents { domain: self.domain_idx, pass }).shuffle(&mut order);
            let mut start = 0;
            let starts = order.iter().map(|&document| {
                let here = start;
                let document = document as usize;
                start += domain.starts[document + 1] - domain.starts[document];
                here
            });
            PassOrder { pass, starts: starts.collect(), order }
        }))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::corpus::built_in_tokenizer;

    pub(crate) fn tokenizer() -> TextTokenizer {
        TextTokenizer::from_bytes(built_in_tokenizer("bpe-512").unwrap(), Path::new("bpe-512")).unwrap()
    }

    pub(crate) fn domain(texts: &[&str]) -> TokenDomain {
        let documents: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        TokenDomain::encode("test", &documents, &tokenizer()).unwrap()
    }

    #[test]
    fn tokens_are_those_of_the_tokenizer_and_special_text_stays_text() {
        let tokenizer = tokenizer();
        assert_eq!((tokenizer.n_tokens(), tokenizer.end_of_text()), (512, 0));
        let ids = tokenizer.encode("One day, 42 <|endoftext|>").unwrap();
        assert!(!ids.contains(&0), "{ids:?}");
        let text = std::str::from_utf8(tokenizer.bytes()).unwrap();
        let cut = text.replace("\"truncation\": null", "\"truncation\": {\"direction\": \"Right\", \"max_length\": 4, \"strategy\": \"LongestFirst\", \"stride\": 0}");
        assert_ne!(cut, text);
        let cut = TextTokenizer::from_bytes(cut.as_bytes(), Path::new("cut")).unwrap();
        assert_eq!(
            cut.encode("One day, 42 <|endoftext|>").unwrap(),
            ids,
            "a limit of length does not shorten documents"
        );
        let refused = TextTokenizer::from_bytes(b"{}", Path::new("t.json")).unwrap_err().to_string();
        assert!(refused.starts_with("tokenizer `t.json`: "), "{refused}");
    }

    #[test]
    fn every_pass_has_each_document_once_whole_and_any_position_reads_the_same() {
        let texts: Vec<String> = (0..23).map(|i| "word ".repeat(i % 7 + 1) + &i.to_string()).collect();
        let domain = domain(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        let length = domain.tokens.len();
        let mut whole = vec![9999; 3 * length];
        DomainReader::new(0, 5).read(&domain, 0, &mut whole);
        let split = |pass: &[u32]| {
            let mut documents: Vec<Vec<u32>> = pass.split(|&token| token == 0).map(<[u32]>::to_vec).collect();
            assert_eq!(documents.pop(), Some(Vec::new()), "a pass ends with an end of text");
            documents
        };
        let mut expected = split(&domain.tokens);
        let passes: Vec<Vec<Vec<u32>>> = whole.chunks(length).map(split).collect();
        assert_ne!(passes[0], passes[1], "each pass has a different order");
        expected.sort();
        for mut pass in passes {
            pass.sort();
            assert_eq!(pass, expected);
        }
        let mut reader = DomainReader::new(0, 5);
        for (position, n) in [(2 * length - 3, 7), (0, 1), (length - 1, 2), (5, 2 * length), (length, length)] {
            let mut part = vec![0; n];
            reader.read(&domain, position as u64, &mut part);
            assert_eq!(part, whole[position..position + n], "from {position}");
        }
    }
}
