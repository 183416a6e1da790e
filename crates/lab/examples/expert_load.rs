//! How many tokens each expert of a mixture gets on held-out text, as JSON lines: one for each checkpoint.
//!
//!     cargo run --release -p thalweg-lab --example expert_load -- test SEQUENCE_LENGTH CHECKPOINT...
//!
//! The text is a part of the built-in stories (`validation` or `test`), cut into sequences as in training: documents
//! behind each other with an end of text after each, no padding. `nats_per_token` is that of the same sequences.

#![expect(clippy::print_stdout, reason = "an example prints its results")]
#![expect(clippy::cast_precision_loss, reason = "counts of tokens stay far below 2^53")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use thalweg_checkpoint::{Checkpoint, open_checkpoint};
use thalweg_lab::corpus::{CorpusPart, built_in_bytes, parse_documents};
use thalweg_lab::tokens::{TextTokenizer, TokenDomain};
use thalweg_model::{Batch, BatchShape, Model, ModelConfig, Purpose, Workspace};
use thalweg_storage::{LocalStorage, Storage};

const BATCH_SEQUENCES: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [part, sequence_length, paths @ ..] = &args[..] else {
        return Err("expert_load validation|test SEQUENCE_LENGTH CHECKPOINT...".into());
    };
    let part = match part.as_str() {
        "validation" => CorpusPart::Validation,
        "test" => CorpusPart::Test,
        _ => return Err("the part is `validation` or `test`".into()),
    };
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::default());
    for path in paths {
        let checkpoint = open_checkpoint(&storage, Path::new(path))?;
        let text = read_text(part, &checkpoint, &*storage)?;
        let mut line = measure(&checkpoint, text.tokens(), sequence_length.parse()?)?;
        line["checkpoint"] = json!(path);
        println!("{line}");
    }
    Ok(())
}

/// A part of the stories in the tokens of a checkpoint.
fn read_text(part: CorpusPart, checkpoint: &Checkpoint, storage: &dyn Storage) -> Result<TokenDomain, Box<dyn Error>> {
    let file = checkpoint.side_files().iter().find(|file| file.name == "tokenizer.json");
    let file = file.ok_or("there is no tokenizer.json")?;
    let tokenizer = TextTokenizer::from_bytes(&file.read(storage)?, &file.path)?;
    let bytes = built_in_bytes("stories", part).ok_or("the stories have no such part")?;
    Ok(TokenDomain::encode("stories", &parse_documents(bytes, Path::new("stories"))?, &tokenizer)?)
}

/// Counts of tokens, `[layer][expert]`, and the loss, over all whole sequences.
fn measure(checkpoint: &Checkpoint, tokens: &[u32], sequence_length: usize) -> Result<Value, Box<dyn Error>> {
    let config = ModelConfig::from_json(checkpoint.config().ok_or("there is no config.json")?)?;
    let n_experts = config.moe.as_ref().ok_or("the model has no experts")?.n_experts;
    let model = Model::<f32>::load(config.clone(), checkpoint)?;
    let shape = BatchShape { n_sequences: BATCH_SEQUENCES, sequence_length };
    let mut workspace = Workspace::new(&config, shape, Purpose::Score);
    let n_tokens = tokens.len().saturating_sub(1) / sequence_length * sequence_length;
    let mut counts = vec![0_u64; config.n_layers * n_experts];
    let mut sum_nats = 0.0;
    for first in (0..n_tokens).step_by(shape.n_tokens()) {
        let end = n_tokens.min(first + shape.n_tokens());
        let now = BatchShape { n_sequences: (end - first) / sequence_length, sequence_length };
        let batch = Batch::new(&config, &tokens[first..end], &tokens[first + 1..=end], now)?;
        let mut nlls = vec![0.0; end - first];
        model.score(batch, &mut workspace, &mut nlls, None);
        sum_nats += nlls.iter().map(|&nll| f64::from(nll)).sum::<f64>();
        counts.iter_mut().zip(workspace.expert_counts()).for_each(|(sum, &count)| *sum += u64::from(count));
    }
    let layers: Vec<&[u64]> = counts.chunks(n_experts).collect();
    Ok(json!({"n_tokens": n_tokens, "nats_per_token": sum_nats / n_tokens as f64, "counts": layers}))
}
