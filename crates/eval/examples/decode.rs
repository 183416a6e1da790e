//! Times greedy decoding of one batch of prompts and prints the tokens: one JSON object for each round.
//!
//!     cargo run --release -p thalweg-eval --example decode -- CHECKPOINT PROMPTS.json N_NEW ROUNDS
//!
//! PROMPTS.json holds lists of token numbers, all of one length. `bench/decode.py` runs it beside transformers.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use thalweg_checkpoint::open_checkpoint;
use thalweg_model::{BatchShape, Decoder, Model, ModelConfig};
use thalweg_storage::{LocalStorage, Storage};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, prompts, n_new, n_rounds] = &args[..] else {
        return Err("decode CHECKPOINT PROMPTS.json N_NEW ROUNDS".into());
    };
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::default());
    let checkpoint = open_checkpoint(&storage, Path::new(path))?;
    let config = ModelConfig::from_json(checkpoint.config().ok_or("there is no config.json")?)?;
    let model = Model::<f32>::load(config.clone(), &checkpoint)?;
    let prompts: Vec<Vec<u32>> = serde_json::from_slice(&storage.read_file(Path::new(prompts), 1 << 24)?)?;
    let shape = BatchShape { n_sequences: prompts.len(), sequence_length: prompts.first().map_or(0, Vec::len) };
    let n_new: usize = n_new.parse()?;
    let mut decoder = Decoder::new(&config, shape, n_new)?;
    for _ in 0..n_rounds.parse()? {
        let began = Instant::now();
        let tokens = decoder.decode(&model, &prompts.concat(), shape, n_new)?;
        let seconds = began.elapsed().as_secs_f64();
        println!("{}", json!({ "seconds": seconds, "tokens": tokens.chunks(n_new).collect::<Vec<_>>() }));
    }
    Ok(())
}
