//! Samples with entities, read and cut into prompts of tokens. The file is that of a task of kind `entity_spans`.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;
use thalweg_model::ModelConfig;
use thalweg_storage::Storage;
use thalweg_tensor::{Digest, display_name};

use crate::data::{json_lines, read_data};
use crate::measure::TaskKind;
use crate::prepared::PreparedText;
use crate::row::{RowBody, parse_row};
use crate::{Error, EvalTokenizer};

/// An entity in a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeEntity {
    /// Its text.
    pub name: String,
    /// Its type, such as `PER`; empty where the file has none.
    pub kind: String,
    /// Its bytes in the sample.
    pub bytes: Range<usize>,
    /// Whether the file has a prompt that ends before it, for another evaluator to continue.
    pub has_prompt: bool,
}

/// A text, and the entities in it. One without entities is for M(f) and perplexity alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeSample {
    /// What names it in results.
    pub id: String,
    /// The text.
    pub text: String,
    /// In the order of the file.
    pub entities: Vec<ProbeEntity>,
}

/// A file of probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFile {
    /// Where it was read.
    pub path: PathBuf,
    /// BLAKE3 of the file.
    pub digest: Digest,
    /// What it was cut for, where it says that.
    pub options: Option<ProbeOptions>,
    /// Its samples.
    pub samples: Vec<ProbeSample>,
}

/// Reads probes: JSON lines, packed by zstd or not, such as `{"id": "a", "text": "In Paris.", "entities": [{"byte": [3,
/// 8]}]}`.
///
/// # Errors
/// `RowInvalid` with the line, for a name that appears twice too; `DataInvalid` for a file without an entity;
/// `Storage`.
pub fn read_probes(storage: &dyn Storage, path: &Path) -> Result<ProbeFile, Error> {
    let data = read_data(storage, path)?;
    let (mut samples, mut known, mut options) = (Vec::new(), BTreeSet::new(), None);
    for row in json_lines(path, &data.text) {
        let (line, value) = row?;
        let row = parse_row(TaskKind::EntitySpans, path, line, &value)?;
        if !known.insert(row.id.clone()) {
            let what = format!("there are two samples named `{}`", display_name(&row.id));
            return Err(Error::RowInvalid { path: path.to_owned(), line, what });
        }
        let RowBody::Spans { text, spans } = row.body else { continue };
        options = options.or_else(|| options_of(&value));
        let kinds = value["entities"].as_array().into_iter().flatten();
        let entities = spans.into_iter().zip(kinds).map(|(bytes, entity)| ProbeEntity {
            name: text[bytes.clone()].to_owned(),
            kind: entity["type"].as_str().unwrap_or_default().to_owned(),
            bytes,
            has_prompt: entity["prompt"].is_string(),
        });
        samples.push(ProbeSample { id: row.id, entities: entities.collect(), text });
    }
    if samples.iter().all(|sample| sample.entities.is_empty()) {
        let what = "it has no sample with an entity".to_owned();
        return Err(Error::DataInvalid { path: path.to_owned(), what });
    }
    Ok(ProbeFile { path: path.to_owned(), digest: data.digest, options, samples })
}

/// The lengths that a row says it was cut for.
fn options_of(row: &Value) -> Option<ProbeOptions> {
    let n =
        |key: &str| row[key].as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=MAX_TOKENS).contains(n));
    Some(ProbeOptions { prompt_tokens: n("prompt_tokens")?, decode_tokens: n("decode_tokens")? })
}

/// The longest prompt or continuation: no model reads more.
pub const MAX_TOKENS: usize = 1 << 20;

/// How long prompts and continuations are; 32 tokens each in the paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeOptions {
    /// Tokens of a prompt, at most: fewer where the sample begins later.
    pub prompt_tokens: usize,
    /// Tokens that are decoded.
    pub decode_tokens: usize,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self { prompt_tokens: 32, decode_tokens: 32 }
    }
}

/// One entity of one sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecallProbe {
    /// Place of its sample in the file.
    pub sample: usize,
    /// The entity's text, which M_ex looks for.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// Tokens of the entity in the sample.
    pub(crate) tokens: Range<usize>,
}

/// Probes in the tokens of one tokenizer.
#[derive(Debug, Clone)]
pub struct PreparedProbes {
    pub(crate) texts: Vec<PreparedText>,
    pub(crate) probes: Vec<RecallProbe>,
    pub(crate) options: ProbeOptions,
    pub(crate) context_length: usize,
    pub(crate) tokenizer: EvalTokenizer,
}

/// The longest window that samples are read in.
const MAX_CONTEXT: usize = 2048;

impl PreparedProbes {
    /// Splits samples into tokens; `checkpoint` names the model in messages.
    ///
    /// # Errors
    /// `TokenizerMismatch`, `TokenizerInvalid`; `Model` where prompt and continuation are longer than the model reads.
    pub fn new(
        file: &ProbeFile,
        tokenizer: &EvalTokenizer,
        config: &ModelConfig,
        options: ProbeOptions,
        checkpoint: &Path,
    ) -> Result<Self, Error> {
        if tokenizer.largest_id() as usize >= config.vocab_size {
            return Err(Error::TokenizerMismatch {
                tokenizer: tokenizer.path().to_owned(),
                checkpoint: checkpoint.to_owned(),
                largest_id: tokenizer.largest_id(),
                vocab_size: config.vocab_size,
            });
        }
        let longest = options.prompt_tokens.saturating_add(options.decode_tokens);
        config
            .check_length(longest)
            .map_err(|source| Error::Model { path: checkpoint.to_owned(), source: source.into() })?;
        let limit = config.sliding_window.unwrap_or(usize::MAX).min(config.max_positions).clamp(1, MAX_CONTEXT);
        let (mut all_ids, mut probes) = (Vec::new(), Vec::new());
        for (sample_idx, sample) in file.samples.iter().enumerate() {
            let tokens = tokenizer.encode(&sample.text)?;
            for entity in &sample.entities {
                let is_in = |bytes: &Range<usize>| bytes.start < entity.bytes.end && entity.bytes.start < bytes.end;
                let Some(first) = tokens.bytes.iter().position(is_in) else { continue };
                let end = tokens.bytes.iter().rposition(is_in).map_or(first, |last| last + 1);
                let (name, kind) = (entity.name.clone(), entity.kind.clone());
                probes.push(RecallProbe { sample: sample_idx, name, kind, tokens: first..end });
            }
            all_ids.push(tokens.ids);
        }
        let context_length = all_ids.iter().map(Vec::len).max().unwrap_or(1).clamp(1, limit);
        let texts = all_ids.into_iter().map(|ids| PreparedText::after_first(ids, context_length)).collect();
        Ok(Self { texts, probes, options, context_length, tokenizer: tokenizer.clone() })
    }

    /// The entities, by sample.
    pub fn probes(&self) -> &[RecallProbe] {
        &self.probes
    }

    /// Samples.
    pub fn n_samples(&self) -> usize {
        self.texts.len()
    }

    /// The prompt that ends with the entity; `None` where the sample has fewer tokens after it than are decoded.
    pub(crate) fn prompt_with(&self, probe: &RecallProbe) -> Option<Range<usize>> {
        let end = probe.tokens.end;
        let is_whole = end + self.options.decode_tokens <= self.texts[probe.sample].ids.len();
        is_whole.then(|| end.saturating_sub(self.options.prompt_tokens)..end)
    }

    /// The prompt that ends before the entity; `None` where the sample begins with it.
    pub(crate) fn prompt_before(&self, probe: &RecallProbe) -> Option<Range<usize>> {
        let end = probe.tokens.start;
        (end > 0).then(|| end.saturating_sub(self.options.prompt_tokens)..end)
    }

    /// Tokens that one model reads or decodes.
    pub fn n_tokens(&self) -> u64 {
        let read: usize = self.texts.iter().map(PreparedText::n_scored).sum();
        let prompts = self.probes.iter().flat_map(|probe| [self.prompt_with(probe), self.prompt_before(probe)]);
        let decoded: usize = prompts.flatten().map(|prompt| prompt.len() + self.options.decode_tokens).sum();
        (read + decoded) as u64
    }
}
