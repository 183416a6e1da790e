//! Greedy decoding of batches: each next token is the most probable one.
//!
//! Keys and values of every token are kept, so that a new token costs one row of every product instead of a pass over
//! the whole sequence.

use crate::Error;
use crate::config::ModelConfig;
use crate::kept_tokens::KeptTokens;
use crate::kernel::Real;
use crate::kernel::loss::greedy_tokens;
use crate::model::{Model, rotary_table};
use crate::run::Batch;
use crate::transformer::{Pass, forward_after, logits_of_rows};
use crate::workspace::{BatchShape, Purpose, Workspace};

/// Buffers to decode batches of prompts: no more sequences, tokens of a prompt and new tokens than it was made for.
#[derive(Debug)]
pub struct Decoder<T: Real = f32> {
    workspace: Workspace<T>,
    kept: KeptTokens<T>,
    shape: BatchShape,
    n_new: usize,
    last_rows: Vec<T>,
}

impl<T: Real> Decoder<T> {
    /// Allocates for `shape` prompts that are each continued by `n_new` tokens.
    ///
    /// # Errors
    /// `SequenceTooLong` where the model cannot read a prompt with its continuation.
    pub fn new(config: &ModelConfig, shape: BatchShape, n_new: usize) -> Result<Self, Error> {
        let capacity = shape.sequence_length.saturating_add(n_new);
        config.check_length(capacity)?;
        let n_heads = shape.n_sequences * config.n_kv_heads;
        let part = || vec![T::ZERO; n_heads * capacity * config.head_dim];
        let kept = KeptTokens {
            layers: (0..config.n_layers).map(|_| [part(), part()]).collect(),
            scores: vec![T::ZERO; n_heads * capacity],
            rotary: rotary_table(config, capacity),
            capacity,
            n_filled: 0,
        };
        let workspace = Workspace::new(config, shape, Purpose::Score);
        let last_rows = vec![T::ZERO; shape.n_sequences * config.hidden];
        Ok(Self { workspace, kept, shape, n_new, last_rows })
    }

    /// Bytes that [`Decoder::new`] will allocate, without allocating them.
    pub fn bytes(config: &ModelConfig, shape: BatchShape, n_new: usize) -> u64 {
        let width = size_of::<T>() as u64;
        let kept_tokens =
            (shape.n_sequences as u64).saturating_mul((shape.sequence_length as u64).saturating_add(n_new as u64));
        let of_token = (config.n_kv_heads as u64).saturating_mul(
            (config.n_layers as u64).saturating_mul(2).saturating_mul(config.head_dim as u64).saturating_add(1),
        );
        let kept = kept_tokens.saturating_mul(of_token).saturating_mul(width);
        let last_rows = (shape.n_sequences as u64).saturating_mul(config.hidden as u64).saturating_mul(width);
        Workspace::<T>::bytes(config, shape, Purpose::Score).saturating_add(kept).saturating_add(last_rows)
    }

    pub(crate) fn run_decode(
        &mut self,
        model: &Model<T>,
        prompts: &[u32],
        shape: BatchShape,
        n_new: usize,
    ) -> Result<Vec<u32>, Error> {
        let BatchShape { n_sequences, sequence_length } = shape;
        let fits = n_sequences <= self.shape.n_sequences && sequence_length <= self.shape.sequence_length;
        assert!(fits && n_new <= self.n_new && sequence_length > 0, "{shape:?} in a decoder for {:?}", self.shape);
        Batch::new(model.config(), prompts, prompts, shape)?;
        model.config().check_length(sequence_length + n_new)?;
        self.kept.n_filled = 0;
        self.kept.capacity = sequence_length + n_new;
        let mut out = vec![0; n_sequences * n_new];
        let mut next = vec![0; n_sequences];
        for i in 0..n_new {
            let (tokens, now) = match i {
                0 => (prompts, shape),
                _ => (&*next, BatchShape { n_sequences, sequence_length: 1 }),
            };
            let tokens = tokens.to_vec();
            self.step(model, &tokens, now, &mut next);
            for (out, &token) in out.chunks_exact_mut(n_new).zip(&next) {
                out[i] = token;
            }
        }
        Ok(out)
    }

    /// Runs tokens and finds what follows the last one of each sequence.
    fn step(&mut self, model: &Model<T>, tokens: &[u32], shape: BatchShape, next: &mut [u32]) {
        let (hidden, vocab_size) = (model.config.hidden, model.config.vocab_size);
        let pass = Pass::new(model, shape);
        forward_after(&pass, tokens, Purpose::Score, &mut self.workspace, Some(&mut self.kept));
        self.kept.n_filled += shape.sequence_length;
        let rows = self.workspace.head_in[..shape.n_tokens() * hidden].chunks_exact(shape.sequence_length * hidden);
        let last_rows = &mut self.last_rows[..shape.n_sequences * hidden];
        for (out, rows) in last_rows.chunks_exact_mut(hidden).zip(rows) {
            out.copy_from_slice(&rows[rows.len() - hidden..]);
        }
        let head = &mut self.workspace.head;
        for (rows, next) in last_rows.chunks(head.n_rows * hidden).zip(next.chunks_mut(head.n_rows)) {
            let logits = &mut head.logits[..next.len() * vocab_size];
            logits_of_rows(&pass, logits, rows);
            greedy_tokens(next, logits, vocab_size);
        }
    }
}
