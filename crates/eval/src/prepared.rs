//! A suite in the tokens of one tokenizer: what is run through a model, and which results belong to which item.
//!
//! Prepared once, it scores any number of models that share tokenizer, vocabulary and start token.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use thalweg_model::ModelConfig;
use thalweg_tensor::Digest;
use thalweg_tensor::digest::{DigestKind, bytes_digest};

use crate::Error;
use crate::measure::Measure;
use crate::row::{Row, RowBody};
use crate::suite::{StartRule, Suite, Task};
use crate::tokens::EvalTokenizer;
use crate::window::{TokenWindow, token_windows};

/// A suite ready to be scored.
#[derive(Debug, Clone)]
pub struct PreparedSuite {
    pub(crate) tasks: Vec<PreparedTask>,
    tokenizer_digest: Digest,
    context_length: usize,
    least_vocab_size: usize,
}

/// A task in tokens.
#[derive(Debug, Clone)]
pub(crate) struct PreparedTask {
    pub(crate) name: String,
    pub(crate) measures: Vec<Measure>,
    pub(crate) item_ids: Vec<String>,
    pub(crate) items: Vec<PreparedItem>,
    /// Different token sequences; equal ones are run once, so that they tie exactly.
    pub(crate) texts: Vec<PreparedText>,
    /// BLAKE3 of the task, the tokenizer and the start tokens.
    pub(crate) digest: Digest,
}

/// A token sequence whose tokens from `first_scored` on are scored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PreparedText {
    pub(crate) ids: Vec<u32>,
    pub(crate) first_scored: usize,
    stride: usize,
}

impl PreparedText {
    /// Tokens of which all but the first are scored, in windows that do not overlap where they do not fit.
    pub(crate) fn after_first(ids: Vec<u32>, context_length: usize) -> Self {
        Self { ids, first_scored: 1, stride: context_length }
    }

    pub(crate) fn n_scored(&self) -> usize {
        self.ids.len().saturating_sub(self.first_scored)
    }

    pub(crate) fn windows(&self, context_length: usize) -> Vec<TokenWindow> {
        token_windows(self.ids.len(), self.first_scored, context_length, self.stride)
    }
}

/// Which texts an item has, by index, and what they are divided by.
#[derive(Debug, Clone)]
pub(crate) enum PreparedItem {
    Text { text: usize, n_bytes: usize },
    Choices { texts: Vec<usize>, n_bytes: Vec<usize>, answer: usize },
    Spans { text: usize, is_in_span: Vec<bool> },
}

impl PreparedSuite {
    /// Splits every row into tokens.
    ///
    /// `config` is the `config.json` of the models to come; `checkpoint` is only said in messages.
    ///
    /// # Errors
    /// `TokenizerMismatch`, `ContextTooLong`, `NoStartToken`, `TokenizerInvalid`; `Model` for a configuration that is
    /// not understood; `DataInvalid` for a continuation without a token.
    pub fn new(suite: &Suite, tokenizer: &EvalTokenizer, config: &Value, checkpoint: &Path) -> Result<Self, Error> {
        let model = ModelConfig::from_json(config)
            .map_err(|source| Error::Model { path: checkpoint.to_owned(), source: source.into() })?;
        let start = tokenizer.start_tokens(&suite.start, config, checkpoint)?;
        let largest_id = start.iter().copied().fold(tokenizer.largest_id(), u32::max);
        if largest_id as usize >= model.vocab_size {
            return Err(Error::TokenizerMismatch {
                tokenizer: tokenizer.path().to_owned(),
                checkpoint: checkpoint.to_owned(),
                largest_id,
                vocab_size: model.vocab_size,
            });
        }
        if suite.context_length > model.max_positions {
            return Err(Error::ContextTooLong {
                suite: suite.name.clone(),
                path: checkpoint.to_owned(),
                context_length: suite.context_length,
                max_positions: model.max_positions,
            });
        }
        let before_context = match suite.start_rule {
            StartRule::Always => start.clone(),
            StartRule::Auto => tokenizer.added_start_tokens(&start)?,
            StartRule::Never => Vec::new(),
        };
        let lead = Lead { start: &start, before_context: &before_context, rule: suite.start_rule };
        let tasks = suite.tasks.iter().map(|task| prepare_task(task, tokenizer, lead)).collect::<Result<_, _>>()?;
        Ok(Self {
            tasks,
            tokenizer_digest: tokenizer.digest(),
            context_length: suite.context_length,
            least_vocab_size: largest_id as usize + 1,
        })
    }

    /// BLAKE3 of the tokenizer.
    pub fn tokenizer_digest(&self) -> Digest {
        self.tokenizer_digest
    }

    /// Tokens that a model may see.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// The smallest vocabulary that holds all of its tokens.
    pub(crate) fn least_vocab_size(&self) -> usize {
        self.least_vocab_size
    }

    /// Tokens that are run for one model, those that are only context among them.
    pub fn n_tokens(&self) -> u64 {
        self.tasks.iter().map(|task| task.n_tokens(self.context_length)).sum()
    }
}

/// How many tokens the model of a config sees.
///
/// # Errors
/// `Model` for a config that is not understood.
pub fn max_positions(config: &Value, checkpoint: &Path) -> Result<usize, Error> {
    let model = ModelConfig::from_json(config);
    let model = model.map_err(|source| Error::Model { path: checkpoint.to_owned(), source: source.into() })?;
    Ok(model.max_positions)
}

impl PreparedTask {
    pub(crate) fn n_tokens(&self, context_length: usize) -> u64 {
        let windows = self.texts.iter().flat_map(|text| text.windows(context_length));
        windows.map(|window| window.n_inputs() as u64).sum()
    }
}

/// The tokens that are put before texts.
#[derive(Debug, Clone, Copy)]
struct Lead<'a> {
    /// Before a text whose first token is scored, because that token must be predicted from something.
    start: &'a [u32],
    /// Before a context, because its first token is not scored.
    before_context: &'a [u32],
    rule: StartRule,
}

impl<'a> Lead<'a> {
    /// The tokens to put before a text of these tokens, and how many of the text's tokens are not scored.
    fn before(self, tokens: &[u32], n_unscored: usize) -> (&'a [u32], usize) {
        let lead = if n_unscored == 0 { self.start } else { self.before_context };
        // As in lm-evaluation-harness, a text that begins with the start token does not get a second one.
        let has_it = self.rule != StartRule::Always && !self.start.is_empty() && tokens.starts_with(self.start);
        if has_it { (&[], n_unscored.max(self.start.len())) } else { (lead, n_unscored) }
    }

    /// Everything that decides scores, for digests. Under `Always` it is what it was before there was a rule, so that
    /// old digests stay valid.
    fn facts(self, task: Digest, tokenizer: Digest) -> Value {
        let (task, tokenizer) = (task.to_string(), tokenizer.to_string());
        match self.rule {
            StartRule::Always => json!([task, tokenizer, self.start]),
            rule => json!([task, tokenizer, self.start, self.before_context, rule.name()]),
        }
    }
}

/// Gathers different texts of one task.
struct Gatherer<'a> {
    task: &'a Task,
    tokenizer: &'a EvalTokenizer,
    lead: Lead<'a>,
    known: BTreeMap<PreparedText, usize>,
    texts: Vec<PreparedText>,
}

fn prepare_task(task: &Task, tokenizer: &EvalTokenizer, lead: Lead<'_>) -> Result<PreparedTask, Error> {
    let mut gatherer = Gatherer { task, tokenizer, lead, known: BTreeMap::new(), texts: Vec::new() };
    let items = task.rows.iter().map(|row| gatherer.item(row)).collect::<Result<_, _>>()?;
    let facts = lead.facts(task.digest, tokenizer.digest());
    Ok(PreparedTask {
        name: task.name.clone(),
        measures: task.measures.clone(),
        item_ids: task.rows.iter().map(|row| row.id.clone()).collect(),
        items,
        texts: gatherer.texts,
        digest: bytes_digest(DigestKind::Blake3, facts.to_string().as_bytes()),
    })
}

impl Gatherer<'_> {
    fn item(&mut self, row: &Row) -> Result<PreparedItem, Error> {
        let prefix = &self.task.fewshot_prefix;
        match &row.body {
            RowBody::Document { text } => self.document(text),
            RowBody::Spans { text, spans } => {
                let tokens = self.tokenizer.encode(text)?;
                let is_in_span = tokens.bytes.iter();
                let is_in_span =
                    is_in_span.map(|token| spans.iter().any(|s| token.start < s.end && s.start < token.end));
                let is_in_span = is_in_span.collect();
                Ok(PreparedItem::Spans { text: self.add(tokens.ids, 0), is_in_span })
            }
            RowBody::Target { context, target } => {
                let text = self.continuation(&row.id, &format!("{prefix}{context}"), target)?;
                Ok(PreparedItem::Text { text, n_bytes: target.len() })
            }
            RowBody::Choices { context, choices, answer } => {
                let context = format!("{prefix}{context}");
                let texts = choices.iter().map(|choice| self.continuation(&row.id, &context, choice));
                let texts = texts.collect::<Result<_, _>>()?;
                Ok(PreparedItem::Choices { texts, n_bytes: choices.iter().map(String::len).collect(), answer: *answer })
            }
            RowBody::Contexts { contexts, continuation, answer } => {
                let texts = contexts
                    .iter()
                    .map(|context| self.continuation(&row.id, &format!("{prefix}{context}"), continuation));
                let texts = texts.collect::<Result<_, _>>()?;
                let n_bytes = vec![continuation.len(); contexts.len()];
                Ok(PreparedItem::Choices { texts, n_bytes, answer: *answer })
            }
        }
    }

    fn document(&mut self, text: &str) -> Result<PreparedItem, Error> {
        let mut tokens = self.tokenizer.encode(text)?;
        let mut n_bytes = text.len();
        let n_kept = self.task.cut_tokens.map_or(usize::MAX, |cut| cut.saturating_sub(self.lead.start.len()));
        if tokens.ids.len() > n_kept {
            tokens.ids.truncate(n_kept);
            n_bytes = tokens.bytes[..n_kept].iter().map(|bytes| bytes.end).max().unwrap_or(0);
        }
        Ok(PreparedItem::Text { text: self.add(tokens.ids, 0), n_bytes })
    }

    /// Context and continuation are split as one text; the tokens that reach beyond the context are scored, the
    /// delimiter's among them.
    fn continuation(&mut self, id: &str, context: &str, continuation: &str) -> Result<usize, Error> {
        let delimiter = if context.is_empty() { "" } else { &*self.task.delimiter };
        let tokens = self.tokenizer.encode(&format!("{context}{delimiter}{continuation}"))?;
        let n_before = tokens.bytes.iter().take_while(|bytes| bytes.end <= context.len()).count();
        // Without a context every token counts, also one that represents no byte.
        let n_before = if context.is_empty() { 0 } else { n_before };
        if n_before == tokens.ids.len() {
            let what = format!("item `{id}` has a continuation that adds no token to its context");
            return Err(Error::DataInvalid { path: PathBuf::from(&self.task.file), what });
        }
        Ok(self.add(tokens.ids, n_before))
    }

    fn add(&mut self, tokens: Vec<u32>, n_unscored: usize) -> usize {
        let (lead, n_unscored) = self.lead.before(&tokens, n_unscored);
        let ids: Vec<u32> = lead.iter().copied().chain(tokens).collect();
        let text = PreparedText { ids, first_scored: lead.len() + n_unscored, stride: self.task.stride };
        let next = self.texts.len();
        *self.known.entry(text).or_insert_with_key(|text| {
            self.texts.push(text.clone());
            next
        })
    }
}
