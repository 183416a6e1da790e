//! What the demo trains, merges and scores: every number chosen beforehand.

use std::path::{Path, PathBuf};

use thalweg_lab::TrainConfig;
use thalweg_merge::plan::DigestChoice;

use crate::Error;
use crate::request::{FileOptions, OutputOptions};
use crate::sweep::SweepRequest;

/// How much time the demo takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DemoSize {
    /// Two to three minutes on two cores: 236 s of processor time were measured.
    Full,
    /// Under a minute: too small to say much, enough to see everything.
    Quick,
    /// Seconds, for tests: its numbers mean nothing.
    Tiny,
}

/// Everything that decides what a demo computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoSpec {
    /// Folder of everything.
    pub folder: PathBuf,
    /// Seed of the run.
    pub seed: u64,
    /// How much time it takes.
    pub size: DemoSize,
}

/// The numbers of one size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DemoNumbers {
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) intermediate: usize,
    pub(crate) batch_sequences: u64,
    pub(crate) warmup_steps: u64,
    /// Where the anneal leaves the run.
    pub(crate) fork_step: u64,
    /// The last step of both.
    pub(crate) last_step: u64,
    /// Steps between checkpoints.
    pub(crate) every_steps: u64,
    /// Of the raw checkpoints and of the annealed ones, those at multiples of this are scored.
    pub(crate) score_every_steps: u64,
    /// Steps between the ends of the windows along the run.
    pub(crate) rolling_every_steps: u64,
    /// Lengths of the windows that are tried.
    pub(crate) counts: &'static [usize],
    /// Held-out documents of each suite.
    pub(crate) n_documents: u64,
}

/// Tokens of a sequence, also of a scored one.
pub(crate) const SEQUENCE_LENGTH: u64 = 128;
/// Peak learning rate: that of `examples/train/stories-1m.toml`, not tuned for what merging gains.
pub(crate) const LEARNING_RATE: f64 = 3e-3;
/// The schemes that are tried: uniform, linear, exponential, and one shaped like a learning-rate decay.
pub(crate) const SCHEMES: [&str; 4] = ["sma", "wma", "ema:0.2", "decay:1-sqrt"];
/// The curve of the real anneal, to 0.
pub(crate) const ANNEAL_CURVE: &str = "1-sqrt";

const FULL: DemoNumbers = DemoNumbers {
    hidden: 128,
    layers: 4,
    intermediate: 384,
    batch_sequences: 8,
    warmup_steps: 60,
    fork_step: 1_140,
    last_step: 1_440,
    every_steps: 20,
    score_every_steps: 60,
    rolling_every_steps: 180,
    counts: &[3, 6, 10, 16, 24],
    n_documents: 100,
};

const QUICK: DemoNumbers = DemoNumbers {
    hidden: 64,
    layers: 2,
    intermediate: 192,
    batch_sequences: 8,
    warmup_steps: 30,
    fork_step: 480,
    last_step: 600,
    every_steps: 20,
    score_every_steps: 60,
    rolling_every_steps: 120,
    counts: &[3, 6, 10],
    n_documents: 60,
};

const TINY: DemoNumbers = DemoNumbers {
    hidden: 16,
    layers: 1,
    intermediate: 24,
    batch_sequences: 2,
    warmup_steps: 4,
    fork_step: 16,
    last_step: 24,
    every_steps: 4,
    score_every_steps: 8,
    rolling_every_steps: 8,
    counts: &[2, 3],
    n_documents: 6,
};

impl DemoSpec {
    pub(crate) fn numbers(&self) -> DemoNumbers {
        match self.size {
            DemoSize::Full => FULL,
            DemoSize::Quick => QUICK,
            DemoSize::Tiny => TINY,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The constant run, as `thalweg train` reads it.
    pub(crate) fn run_toml(&self) -> String {
        self.toml(0, "# The run: warmup, then a constant learning rate to the end.", "")
    }

    /// The anneal that leaves it.
    pub(crate) fn anneal_toml(&self) -> String {
        let numbers = self.numbers();
        let start = format!("\n[start]\nfrom = \"run/step-{}\"\nstate = \"full\"\n", numbers.fork_step);
        let head = "# The same run from the fork on, with a real learning-rate decay instead of the constant rate.";
        self.toml(numbers.last_step - numbers.fork_step, head, &start)
    }

    fn toml(&self, anneal_steps: u64, head: &str, start: &str) -> String {
        let DemoNumbers { hidden, layers, intermediate, batch_sequences, warmup_steps, last_step, every_steps, .. } =
            self.numbers();
        // The fork starts from a training state, so those since the fork step must not be let go.
        let keep_states = (last_step - self.numbers().fork_step) / every_steps + 1;
        let seed = self.seed;
        // Encoding the whole corpus takes longer than a tiny demo.
        let limit = if self.size == DemoSize::Tiny { "limit = 400\n" } else { "" };
        format!(
            "{head}\n\
             kind = \"thalweg-train\"\nversion = 1\nseed = {seed}\nsteps = {last_step}\n\
             sequence_length = {SEQUENCE_LENGTH}\nbatch_sequences = {batch_sequences}\ntokenizer = \"bpe-512\"\n\n\
             [model]\nfamily = \"llama\"\nhidden = {hidden}\nlayers = {layers}\nheads = 4\nkv_heads = 2\n\
             intermediate = {intermediate}\n\n\
             [[data]]\nfrom = \"stories\"\n{limit}\n\
             [optimizer]\nkind = \"adamw\"\nlearning_rate = {LEARNING_RATE}\nweight_decay = 0.1\nclip_norm = 1.0\n\n\
             [schedule]\nkind = \"wsd\"\nwarmup_steps = {warmup_steps}\nanneal_steps = {anneal_steps}\n\
             curve = \"{ANNEAL_CURVE}\"\n\n\
             [checkpoints]\nevery_steps = {every_steps}\nkeep_states = {keep_states}\n{start}"
        )
    }

    pub(crate) fn config(&self, toml: &str, name: &str) -> Result<TrainConfig, Error> {
        Ok(TrainConfig::from_toml(toml, Path::new(name))?)
    }

    /// Steps of the raw checkpoints that are scored.
    pub(crate) fn raw_steps(&self) -> Vec<u64> {
        let DemoNumbers { score_every_steps, last_step, .. } = self.numbers();
        (1..=last_step / score_every_steps).map(|i| i * score_every_steps).collect()
    }

    /// Steps of the annealed checkpoints that are scored.
    pub(crate) fn annealed_steps(&self) -> Vec<u64> {
        let fork_step = self.numbers().fork_step;
        self.raw_steps().into_iter().filter(|&step| step > fork_step).collect()
    }

    /// The merges that are tried at the end of the run: every scheme with every length.
    pub(crate) fn candidates(&self) -> SweepRequest {
        let DemoNumbers { counts, every_steps, .. } = self.numbers();
        // Nothing is written: the folder only tells the outputs of a plan apart.
        let files = FileOptions { no_model_card: true, digest: DigestChoice::None, ..FileOptions::default() };
        SweepRequest {
            interval_steps: vec![every_steps],
            schemes: SCHEMES.map(str::to_owned).to_vec(),
            output: OutputOptions { files, ..OutputOptions::default() },
            ..SweepRequest::new(counts.to_vec(), self.path("merges"))
        }
    }

    /// Merges of one form along the run, the one at its end left out.
    pub(crate) fn rolling(&self, scheme: &str, n_checkpoints: usize) -> SweepRequest {
        let DemoNumbers { rolling_every_steps, last_step, every_steps, .. } = self.numbers();
        let ends = (1..).map(|i| i * rolling_every_steps).take_while(|&end| end < last_step);
        let reaches = |end: &u64| *end >= n_checkpoints as u64 * every_steps;
        SweepRequest {
            counts: vec![n_checkpoints],
            schemes: vec![scheme.to_owned()],
            ends: ends.filter(reaches).map(|end| end.to_string()).collect(),
            ..self.candidates()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(size: DemoSize) -> DemoSpec {
        DemoSpec { folder: PathBuf::from("demo"), seed: 7, size }
    }

    #[test]
    fn both_runs_end_at_the_same_step_and_the_fork_is_a_scored_checkpoint() {
        for size in [DemoSize::Full, DemoSize::Quick, DemoSize::Tiny] {
            let spec = spec(size);
            let run = spec.config(&spec.run_toml(), "run.toml").unwrap();
            let anneal = spec.config(&spec.anneal_toml(), "anneal.toml").unwrap();
            let numbers = spec.numbers();
            assert_eq!((run.n_steps(), anneal.n_steps()), (numbers.last_step, numbers.last_step));
            assert!(run.is_checkpoint_step(numbers.fork_step) && spec.raw_steps().contains(&numbers.fork_step));
            assert_eq!(spec.raw_steps().last(), Some(&numbers.last_step));
            assert_eq!(spec.annealed_steps().last(), Some(&numbers.last_step));
            let rate = |config: &TrainConfig, step| config.schedule.multiplier(step, config.n_steps());
            assert!((rate(&run, numbers.last_step) - 1.0).abs() < 1e-12);
            assert!((rate(&anneal, numbers.fork_step) - 1.0).abs() < 1e-12);
            assert!(rate(&anneal, numbers.last_step).abs() < 1e-12);
        }
    }

    #[test]
    fn windows_along_the_run_fit_before_their_ends() {
        for size in [DemoSize::Full, DemoSize::Quick, DemoSize::Tiny] {
            let spec = spec(size);
            let numbers = spec.numbers();
            for &n in numbers.counts {
                for end in spec.rolling("sma", n).ends {
                    let end: u64 = end.parse().unwrap();
                    assert!(end < numbers.last_step && end.is_multiple_of(numbers.every_steps));
                    assert!(end >= n as u64 * numbers.every_steps, "{n} checkpoints to step {end}");
                }
            }
        }
    }
}
