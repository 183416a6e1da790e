//! Scores of held-out text while training: the same sequences each time.

use thalweg_model::{Batch, BatchShape, Model, ModelConfig, Purpose, Workspace};

use crate::Error;
use crate::config::TrainConfig;
use crate::data::TrainData;
use crate::step_log::ValidationRecord;
use crate::tokens::TokenDomain;

/// Held-out sequences of every domain, with room to score them.
#[derive(Debug)]
pub(crate) struct Validator {
    model: ModelConfig,
    sequence_length: usize,
    domains: Vec<HeldOut>,
    workspace: Option<Workspace>,
    shape: BatchShape,
    nlls: Vec<f32>,
}

#[derive(Debug)]
struct HeldOut {
    name: String,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    bytes_per_token: f64,
}

impl Validator {
    pub(crate) fn new(config: &TrainConfig, model: &ModelConfig, data: &TrainData) -> Self {
        let n_sequences = config.validation.as_ref().map_or(0, |section| section.sequences);
        let length = config.sequence_length;
        let domains: Vec<HeldOut> =
            data.validation.iter().map(|domain| held_out(domain, n_sequences, length)).collect();
        let batch = (config.batch_sequences / config.micro_batches).max(1);
        let shape = BatchShape { n_sequences: batch, sequence_length: length };
        let workspace = (!domains.is_empty()).then(|| Workspace::new(model, shape, Purpose::Score));
        let nlls = vec![0.0; shape.n_tokens()];
        Self { model: model.clone(), sequence_length: length, domains, workspace, shape, nlls }
    }

    /// One record for each domain.
    #[expect(clippy::cast_precision_loss, reason = "counts of tokens stay far below 2^53")]
    pub(crate) fn score(&mut self, model: &Model, step: u64, tokens: u64) -> Result<Vec<ValidationRecord>, Error> {
        let Some(workspace) = &mut self.workspace else { return Ok(Vec::new()) };
        let mut records = Vec::new();
        for domain in &self.domains {
            let mut sum_nats = 0.0;
            let size = self.shape.n_tokens();
            for (inputs, targets) in domain.tokens.chunks(size).zip(domain.targets.chunks(size)) {
                let n_sequences = inputs.len() / self.sequence_length;
                let shape = BatchShape { n_sequences, sequence_length: self.sequence_length };
                let nlls = &mut self.nlls[..inputs.len()];
                model.score(Batch::new(&self.model, inputs, targets, shape)?, workspace, nlls, None);
                sum_nats += nlls.iter().map(|&nll| f64::from(nll)).sum::<f64>();
            }
            let n_tokens = domain.tokens.len() as u64;
            let nll_nats = sum_nats / n_tokens.max(1) as f64;
            let bits_per_byte = nll_nats / std::f64::consts::LN_2 / domain.bytes_per_token;
            records.push(ValidationRecord {
                step,
                tokens,
                domain: domain.name.clone(),
                nll_nats,
                bits_per_byte,
                n_tokens,
            });
        }
        Ok(records)
    }
}

/// The first whole sequences of a domain in the order of its files.
#[expect(clippy::cast_precision_loss, reason = "counts of tokens stay far below 2^53")]
fn held_out(domain: &TokenDomain, n_sequences: usize, length: usize) -> HeldOut {
    let all = domain.tokens();
    let n = (all.len().saturating_sub(1) / length).min(n_sequences) * length;
    HeldOut {
        name: domain.name().to_owned(),
        tokens: all[..n].to_vec(),
        targets: all.get(1..=n).unwrap_or_default().to_vec(),
        // Ends of text represent no bytes: they count as tokens and not as text.
        bytes_per_token: domain.text_bytes() as f64 / domain.n_tokens().max(1) as f64,
    }
}
