//! Recall of entities: what a model continues a text with, greedily, beside its losses (Liao et al. 2025,
//! arXiv 2410.17018, after Tirumala et al. 2022).
//!
//! - M(f): share of tokens that are the most probable one after what precedes them, over samples without a listed
//!   entity; with perplexity over the same tokens.
//! - PPL_ent and M(f)_ent: the same over samples with an entity.
//! - M_in: the prompt ends with the entity; share of the tokens decoded from it that are those of the sample, place by
//!   place.
//! - M_ex: the prompt ends just before the entity; share of prompts whose decoded text contains the entity.

mod probes;
mod score;

pub use probes::{
    MAX_TOKENS, PreparedProbes, ProbeEntity, ProbeFile, ProbeOptions, ProbeSample, RecallProbe, read_probes,
};
pub use score::{RecallMeasure, RecallScore, RecallScores, SampleScore, score_recall};
