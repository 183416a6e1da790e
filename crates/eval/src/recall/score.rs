//! Scores of one model on probes, item by item, and the measures that they add up to.

use std::collections::BTreeSet;
use std::ops::Range;

use thalweg_model::{BatchShape, Decoder, Purpose, Workspace};

use super::probes::PreparedProbes;
use crate::Error;
use crate::context::EvalContext;
use crate::engine::{Subject, run_texts, scoring_bytes, workspace_shape};
use crate::uncertainty::{Sums, count};

/// Prompts that are continued together.
const BATCH: usize = 64;

/// What one sample scored, over all tokens but its first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleScore {
    /// Tokens.
    pub n_tokens: usize,
    /// Their negative log-likelihood.
    pub nats: f64,
    /// Those that are the most probable one.
    pub n_correct: usize,
}

/// What one entity of one sample scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecallScore {
    /// M_in: decoded tokens that are those of the sample; `None` where the sample ends too early to tell.
    pub n_in: Option<usize>,
    /// M_ex: whether the decoded text contains the entity; `None` where the sample begins with it.
    pub is_recalled: Option<bool>,
}

/// Scores by item, in the order of the probes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RecallScores {
    /// By sample.
    pub samples: Vec<SampleScore>,
    /// By entity.
    pub recalls: Vec<RecallScore>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecallMeasure {
    /// M_ex.
    Ex,
    /// M_in.
    In,
    /// PPL_ent: perplexity of samples with an entity.
    PerplexityOfEntities,
    /// M(f)_ent: greedy accuracy on samples with an entity.
    GreedyOfEntities,
    /// Perplexity of the samples without an entity; of all samples where each has one.
    Perplexity,
    /// M(f), greedy accuracy, of the same samples.
    Greedy,
}

impl RecallMeasure {
    /// All, in the order of tables.
    pub const ALL: [Self; 6] =
        [Self::Ex, Self::In, Self::PerplexityOfEntities, Self::GreedyOfEntities, Self::Perplexity, Self::Greedy];

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ex => "m_ex",
            Self::In => "m_in",
            Self::PerplexityOfEntities => "ppl_ent",
            Self::GreedyOfEntities => "m_f_ent",
            Self::Perplexity => "ppl",
            Self::Greedy => "m_f",
        }
    }

    /// Its name in tables, as the paper has it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Ex => "M_ex",
            Self::In => "M_in",
            Self::PerplexityOfEntities => "PPL_ent",
            Self::GreedyOfEntities => "M(f)_ent",
            Self::Perplexity => "PPL",
            Self::Greedy => "M(f)",
        }
    }

    /// Whether it is measured on entities, or on samples that have one.
    pub const fn is_of_entities(self) -> bool {
        !matches!(self, Self::Perplexity | Self::Greedy)
    }

    /// Whether more is better.
    pub const fn higher_is_better(self) -> bool {
        !matches!(self, Self::PerplexityOfEntities | Self::Perplexity)
    }

    /// Whether it is the exponential of a mean.
    const fn is_exponential(self) -> bool {
        !self.higher_is_better()
    }
}

impl RecallScores {
    /// Numerators and denominators of a measure, by item. Entities whose place in `kept` is false are left out, and so
    /// are samples all of whose entities are.
    pub fn items(&self, measure: RecallMeasure, probes: &PreparedProbes, kept: &[bool]) -> (Vec<f64>, Vec<f64>) {
        let kept_probes = || probes.probes.iter().zip(&self.recalls).zip(kept).filter(|(_, kept)| **kept);
        let decoded = count(probes.options.decode_tokens);
        let of_sample = |sample: &SampleScore| match measure {
            RecallMeasure::Greedy | RecallMeasure::GreedyOfEntities => {
                (count(sample.n_correct), count(sample.n_tokens))
            }
            _ => (sample.nats, count(sample.n_tokens)),
        };
        match measure {
            RecallMeasure::Ex => kept_probes()
                .filter_map(|((_, score), _)| score.is_recalled)
                .map(|is_recalled| (if is_recalled { 1.0 } else { 0.0 }, 1.0))
                .unzip(),
            RecallMeasure::In => {
                kept_probes().filter_map(|((_, score), _)| score.n_in).map(|n| (count(n), decoded)).unzip()
            }
            RecallMeasure::PerplexityOfEntities | RecallMeasure::GreedyOfEntities => {
                let mut samples: Vec<usize> = kept_probes().map(|((probe, _), _)| probe.sample).collect();
                samples.dedup();
                samples.into_iter().map(|sample| of_sample(&self.samples[sample])).unzip()
            }
            RecallMeasure::Perplexity | RecallMeasure::Greedy => {
                // Samples with an entity were chosen for it: they are not a fair draw of the text.
                let has_entity: BTreeSet<usize> = probes.probes.iter().map(|probe| probe.sample).collect();
                let all = has_entity.len() == self.samples.len();
                let general = self.samples.iter().enumerate().filter(|(i, _)| all || !has_entity.contains(i));
                general.map(|(_, sample)| of_sample(sample)).unzip()
            }
        }
    }
}

impl RecallMeasure {
    /// Items as sums, for the value and its uncertainty.
    pub fn sums<'a>(self, (numerators, denominators): &'a (Vec<f64>, Vec<f64>)) -> Sums<'a> {
        Sums { numerators, denominators, is_exponential: self.is_exponential() }
    }
}

/// Scores a model on probes.
///
/// # Errors
/// `MemoryTooSmall` before anything is allocated; `NonFiniteLoss`; `Model`; `Interrupted`.
pub fn score_recall(
    probes: &PreparedProbes,
    subject: &Subject,
    context: &EvalContext<'_>,
) -> Result<RecallScores, Error> {
    let config = subject.model().config();
    let longest = prompts(probes).map(|(_, _, prompt)| prompt.len()).max().unwrap_or(1);
    let batch = BatchShape { n_sequences: BATCH, sequence_length: longest };
    let n_new = probes.options.decode_tokens;
    let needed_bytes =
        scoring_bytes(config, probes.context_length).saturating_add(Decoder::<f32>::bytes(config, batch, n_new));
    if needed_bytes > context.memory_bytes {
        let (path, limit_bytes) = (subject.path().to_owned(), context.memory_bytes);
        return Err(Error::MemoryTooSmall { path, needed_bytes, limit_bytes });
    }
    context.progress.begin(probes.n_tokens());
    let mut workspace = Workspace::new(config, workspace_shape(probes.context_length), Purpose::Score);
    let results = run_texts(&probes.texts, subject, &mut workspace, probes.context_length, context)?;
    drop(workspace);
    let samples: Vec<SampleScore> = results
        .iter()
        .map(|result| SampleScore { n_tokens: result.nlls.len(), nats: result.nats(), n_correct: result.n_greedy })
        .collect();
    if let Some(sample) = samples.iter().position(|sample| !sample.nats.is_finite()) {
        let (path, task) = (subject.path().to_owned(), "the probes".to_owned());
        return Err(Error::NonFiniteLoss { path, task, item: format!("sample {}", sample + 1) });
    }
    let mut scores =
        RecallScores { samples, recalls: vec![RecallScore { n_in: None, is_recalled: None }; probes.probes.len()] };
    let failed = |source: thalweg_model::Error| Error::Model { path: subject.path().to_owned(), source: source.into() };
    let mut decoder = Decoder::new(config, batch, n_new).map_err(failed)?;
    let mut jobs: Vec<(usize, Prompt, Range<usize>)> = prompts(probes).collect();
    jobs.sort_by_key(|(probe, kind, prompt)| (std::cmp::Reverse(prompt.len()), *probe, *kind));
    for equal in jobs.chunk_by(|a, b| a.2.len() == b.2.len()) {
        for batch in equal.chunks(BATCH) {
            context.check_interrupt()?;
            let mut tokens = Vec::new();
            for (probe, _, prompt) in batch {
                tokens.extend_from_slice(&probes.texts[probes.probes[*probe].sample].ids[prompt.clone()]);
            }
            let shape = BatchShape { n_sequences: batch.len(), sequence_length: batch[0].2.len() };
            let decoded = decoder.decode(subject.model(), &tokens, shape, n_new).map_err(failed)?;
            for ((probe, kind, _), decoded) in batch.iter().zip(decoded.chunks_exact(n_new.max(1))) {
                scores.take(probes, (*probe, *kind), decoded)?;
            }
            context.progress.advance((tokens.len() + decoded.len()) as u64);
        }
    }
    Ok(scores)
}

/// What a prompt is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Prompt {
    /// M_in.
    WithEntity,
    /// M_ex.
    BeforeEntity,
}

/// Every prompt with its probe.
fn prompts(probes: &PreparedProbes) -> impl Iterator<Item = (usize, Prompt, Range<usize>)> + '_ {
    probes.probes.iter().enumerate().flat_map(|(i, probe)| {
        let with = probes.prompt_with(probe).map(|prompt| (i, Prompt::WithEntity, prompt));
        let before = probes.prompt_before(probe).map(|prompt| (i, Prompt::BeforeEntity, prompt));
        with.into_iter().chain(before)
    })
}

impl RecallScores {
    /// Judges what was decoded from one prompt.
    fn take(&mut self, probes: &PreparedProbes, (i, kind): (usize, Prompt), decoded: &[u32]) -> Result<(), Error> {
        let probe = &probes.probes[i];
        match kind {
            Prompt::WithEntity => {
                let target = &probes.texts[probe.sample].ids[probe.tokens.end..];
                let n_in = decoded.iter().zip(target).filter(|(got, want)| got == want).count();
                self.recalls[i].n_in = Some(n_in);
            }
            Prompt::BeforeEntity => {
                let text = probes.tokenizer.decode(decoded)?;
                self.recalls[i].is_recalled = Some(text.contains(&probe.name));
            }
        }
        Ok(())
    }
}
