//! Cuts samples around entities out of a corpus, with as many tokens on both sides as prompts and continuations need.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};
use thalweg_eval::EvalTokenizer;
use thalweg_eval::recall::ProbeOptions;
use thalweg_eval::tokens::TokenizedText;
use thalweg_storage::Storage;
use thalweg_tensor::SplitMix;

use super::entities::EntityRecord;
use super::titles::TitleFinder;
use crate::Error;
use crate::document::DocumentKind;

/// The lines of a file of probes.
pub const PROBES: DocumentKind = DocumentKind::new("a file of probes", "thalweg-forget-probes", 1);
/// Tokens by which a cut is widened at most: the tokens of a text that begins or ends there may be others.
const MAX_SLACK: usize = 8;

/// How probes are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildOptions {
    /// Tokens of prompts and continuations.
    pub tokens: ProbeOptions,
    /// Samples with an entity, at most.
    pub n_probes: usize,
    /// Samples drawn from the whole corpus.
    pub n_general: usize,
    /// Seed of the drawing.
    pub seed: u64,
}

/// Lines of a file of probes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct BuiltProbes {
    /// The lines.
    #[serde(skip)]
    pub lines: String,
    /// Samples with an entity.
    #[serde(rename = "n_samples")]
    pub n_probes: usize,
    /// Entities that have a sample.
    pub n_entities: usize,
    /// Samples of the whole corpus.
    pub n_general: usize,
    /// Places of entities in the corpus.
    pub n_places: usize,
    /// Documents of the corpus.
    pub n_documents: usize,
}

/// A document that may give a sample.
struct Place {
    document: usize,
    entity: usize,
    bytes: Range<usize>,
}

/// Draws samples.
///
/// # Errors
/// `Request` where the corpus has no document, or none with room around an entity; `Lab`, `Eval`.
pub fn build_probes(
    corpus: &[PathBuf],
    entities: &[EntityRecord],
    tokenizer: &EvalTokenizer,
    options: &BuildOptions,
    storage: &dyn Storage,
) -> Result<BuiltProbes, Error> {
    let mut documents = Vec::new();
    for path in corpus {
        documents.extend(thalweg_lab::corpus::read_documents(storage, path)?);
    }
    if documents.is_empty() {
        return Err(Error::request_with_hint("the corpus has no documents", "name JSON lines with a `text` each"));
    }
    let names: Vec<&str> = entities.iter().map(|one| one.entity.as_str()).collect();
    let finder = TitleFinder::new(&names)?;
    let found: Vec<_> = documents.par_iter().map(|text| finder.find(text)).collect();
    let mut places: Vec<Place> = found
        .into_iter()
        .enumerate()
        .flat_map(|(document, found)| found.into_iter().map(move |(entity, bytes)| Place { document, entity, bytes }))
        .collect();
    let n_places = places.len();
    let mut random = SplitMix::new(options.seed);
    random.shuffle(&mut places);
    let mut built = BuiltProbes { n_places, n_documents: documents.len(), ..BuiltProbes::default() };
    add_probes(&mut built, places, (&documents, entities), tokenizer, options)?;
    if built.n_probes == 0 {
        let tokens = options.tokens;
        return Err(Error::request_with_hint(
            format!(
                "none of the {n_places} places in the corpus has {} tokens before its entity and {} after it",
                tokens.prompt_tokens, tokens.decode_tokens
            ),
            "lower `--prompt-tokens` and `--decode-tokens`, or name the corpus that the entities are from",
        ));
    }
    add_general(&mut built, &documents, tokenizer, options, &mut random)?;
    Ok(built)
}

/// The text of the last tokens before a byte, which M_ex is measured from.
fn prompt_before(text: &str, end: usize, tokenizer: &EvalTokenizer, n_tokens: usize) -> Result<String, Error> {
    let tokens = tokenizer.encode(text)?;
    let first = tokens.bytes.iter().position(|bytes| bytes.end > end).unwrap_or(tokens.bytes.len());
    let start = tokens.bytes.get(first.saturating_sub(n_tokens)).map_or(0, |bytes| bytes.start);
    let end = tokens.bytes.get(first).map_or(end, |bytes| bytes.start.min(end));
    Ok(text.get(start..end).unwrap_or_default().to_owned())
}

/// Adds samples around entities, in the order of `places`.
fn add_probes(
    built: &mut BuiltProbes,
    places: Vec<Place>,
    (documents, entities): (&[String], &[EntityRecord]),
    tokenizer: &EvalTokenizer,
    options: &BuildOptions,
) -> Result<(), Error> {
    let mut has_sample = vec![false; entities.len()];
    // Copies of a document would count as evidence each.
    let mut known = BTreeSet::new();
    for place in places {
        if built.n_probes == options.n_probes {
            break;
        }
        let text = &documents[place.document];
        let Some(cut) = cut_around(text, &place.bytes, tokenizer, options.tokens)? else { continue };
        if !known.insert((place.entity, &text[cut.clone()])) {
            continue;
        }
        let entity = &entities[place.entity];
        let byte = [place.bytes.start - cut.start, place.bytes.end - cut.start];
        let id = format!("{}:{}", place.document, place.bytes.start);
        let prompt = prompt_before(&text[cut.clone()], byte[0], tokenizer, options.tokens.prompt_tokens)?;
        let found = json!([{"type": entity.entity_type, "text": entity.entity, "byte": byte, "prompt": prompt}]);
        built.lines.push_str(&line(&id, &text[cut], found, options.tokens)?);
        built.n_probes += 1;
        has_sample[place.entity] = true;
    }
    built.n_entities = has_sample.iter().filter(|has| **has).count();
    Ok(())
}

/// A line of the file.
fn line(id: &str, text: &str, entities: Value, tokens: ProbeOptions) -> Result<String, Error> {
    PROBES.line(&json!({
        "prompt_tokens": tokens.prompt_tokens,
        "decode_tokens": tokens.decode_tokens,
        "id": id,
        "text": text,
        "entities": entities,
    }))
}

/// Adds windows of the whole corpus, each document as probable as its share of the bytes.
fn add_general(
    built: &mut BuiltProbes,
    documents: &[String],
    tokenizer: &EvalTokenizer,
    options: &BuildOptions,
    random: &mut SplitMix,
) -> Result<(), Error> {
    /// Draws for each window that is wanted, at most: documents may be too short.
    const PATIENCE: usize = 8;
    let ends: Vec<usize> = documents
        .iter()
        .scan(0, |end, text| {
            *end += text.len();
            Some(*end)
        })
        .collect();
    let n_bytes = ends.last().copied().unwrap_or(0).max(1);
    let n_tokens = options.tokens.prompt_tokens + options.tokens.decode_tokens;
    for _ in 0..options.n_general.saturating_mul(PATIENCE) {
        if built.n_general == options.n_general {
            break;
        }
        let at = random.below(n_bytes);
        let document = ends.partition_point(|end| *end <= at);
        let (Some(text), Some(end)) = (documents.get(document), ends.get(document)) else { continue };
        let tokens = tokenizer.encode(text)?;
        let at = at - (end - text.len());
        let first = tokens.bytes.partition_point(|bytes| bytes.end <= at);
        let Some(bytes) = bytes_of(text, &tokens, first..first + n_tokens) else { continue };
        let id = format!("general-{}-{document}:{}", built.n_general, bytes.start);
        built.lines.push_str(&line(&id, &text[bytes], json!([]), options.tokens)?);
        built.n_general += 1;
    }
    Ok(())
}

/// Bytes of some tokens of a text, if it has them and they begin and end with characters.
fn bytes_of(text: &str, tokens: &TokenizedText, range: Range<usize>) -> Option<Range<usize>> {
    let (first, last) = (tokens.bytes.get(range.start)?, tokens.bytes.get(range.end.checked_sub(1)?)?);
    let bytes = first.start..last.end;
    (bytes.start <= bytes.end && text.is_char_boundary(bytes.start) && text.is_char_boundary(bytes.end))
        .then_some(bytes)
}

/// The bytes of the text around an entity that have enough tokens before and after it when they stand alone.
fn cut_around(
    text: &str,
    entity: &Range<usize>,
    tokenizer: &EvalTokenizer,
    options: ProbeOptions,
) -> Result<Option<Range<usize>>, Error> {
    /// Bytes that no tokenizer puts into one token, on average: a long document is not split whole for each entity.
    const TOKEN_BYTES: usize = 16;
    let reach = |n_tokens: usize| (n_tokens + MAX_SLACK + 1).saturating_mul(TOKEN_BYTES);
    let first = text.floor_char_boundary(entity.start.saturating_sub(reach(options.prompt_tokens)));
    let end = text.ceil_char_boundary(entity.end.saturating_add(reach(options.decode_tokens)).min(text.len()));
    let moved = entity.start - first..entity.end - first;
    let cut = cut_near(&text[first..end], &moved, tokenizer, options)?;
    Ok(cut.map(|cut| cut.start + first..cut.end + first))
}

fn cut_near(
    text: &str,
    entity: &Range<usize>,
    tokenizer: &EvalTokenizer,
    options: ProbeOptions,
) -> Result<Option<Range<usize>>, Error> {
    let tokens = tokenizer.encode(text)?;
    let Some((first, end)) = tokens_in(&tokens, entity) else { return Ok(None) };
    for slack in 0..=MAX_SLACK {
        let Some(start) = first.checked_sub(options.prompt_tokens + slack) else { return Ok(None) };
        let stop = (end + options.decode_tokens + slack).min(tokens.ids.len());
        let Some(cut) = bytes_of(text, &tokens, start..stop) else { continue };
        let alone = tokenizer.encode(&text[cut.clone()])?;
        let moved = entity.start - cut.start..entity.end - cut.start;
        let Some((first, end)) = tokens_in(&alone, &moved) else { continue };
        if first >= options.prompt_tokens && end + options.decode_tokens <= alone.ids.len() {
            return Ok(Some(cut));
        }
    }
    Ok(None)
}

/// First token of a range of bytes, and one past its last.
fn tokens_in(tokens: &TokenizedText, bytes: &Range<usize>) -> Option<(usize, usize)> {
    let is_in = |token: &Range<usize>| token.start < bytes.end && bytes.start < token.end;
    Some((tokens.bytes.iter().position(is_in)?, tokens.bytes.iter().rposition(is_in)? + 1))
}

/// The tokenizer of a checkpoint, or a file.
///
/// # Errors
/// `Request` where neither is named; what opening them gives.
pub fn open_tokenizer(
    named: Option<&Path>,
    like: Option<&Path>,
    resolver: &crate::request::Resolver<'_>,
    storage: &dyn Storage,
) -> Result<EvalTokenizer, Error> {
    use thalweg_eval::TokenizerFiles;
    match (like, named) {
        (Some(like), named) => {
            Ok(TokenizerFiles::find(storage, named, &resolver.open_checkpoint(like)?, like)?.open()?)
        }
        (None, Some(file)) => {
            let bytes = storage.read_file(file, thalweg_checkpoint::MAX_SIDE_FILE_BYTES)?;
            Ok(EvalTokenizer::from_json(&bytes, file)?)
        }
        (None, None) => Err(Error::request_with_hint(
            "which tokenizer should cut the samples?",
            "name a checkpoint with `--like CKPT`, or a tokenizer with `--tokenizer FILE`",
        )),
    }
}
