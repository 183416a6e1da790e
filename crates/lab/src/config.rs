//! The config of a run: what is in a `run.toml`, with every default filled in.
//!
//! Reads and checks; opens nothing. An unknown key is an error that names the nearest known one.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use thalweg_tensor::nearest_name;
use thalweg_trajectory::Tokens;

use crate::Error;
use crate::schedule::ScheduleConfig;

/// `kind` of a config.
pub(crate) const CONFIG_KIND: &str = "thalweg-train";
/// `version` of the configs that this program reads.
pub(crate) const CONFIG_VERSION: u32 = 1;
/// The largest sequence, batch and model that a config may ask for: above this a number is a typing error.
const MAX_DIMENSION: usize = 1 << 24;

/// A count that may be written with a suffix: `4096`, `"10M"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CountVisitor;
        impl Visitor<'_> for CountVisitor {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or text such as \"10M\"")
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Count, E> {
                u64::try_from(n).map(Count).map_err(|_| E::custom("a count is not negative"))
            }

            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Count, E> {
                Ok(Count(n))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Count, E> {
                text.parse().map(|Tokens(n)| Count(n)).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(CountVisitor)
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// Where documents come from: a built-in name or files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorpusPaths(pub Vec<String>);

impl<'de> Deserialize<'de> for CorpusPaths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PathsVisitor;
        impl<'de> Visitor<'de> for PathsVisitor {
            type Value = CorpusPaths;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, a list of paths, or the name of a built-in corpus")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<CorpusPaths, E> {
                Ok(CorpusPaths(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<CorpusPaths, A::Error> {
                let mut paths = Vec::new();
                while let Some(path) = items.next_element()? {
                    paths.push(path);
                }
                if paths.is_empty() { Err(de::Error::custom("the list is empty")) } else { Ok(CorpusPaths(paths)) }
            }
        }
        deserializer.deserialize_any(PathsVisitor)
    }
}

impl Serialize for CorpusPaths {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// Everything that decides what a run computes. Equal configs over equal files give equal bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Always [`CONFIG_KIND`].
    pub kind: String,
    /// Always [`CONFIG_VERSION`].
    pub version: u32,
    /// Seed of the initial parameters, of the order of the data and of faults.
    #[serde(default)]
    pub seed: u64,
    /// Optimizer steps of the whole run, counted from its very beginning also after a fork.
    #[serde(default)]
    pub steps: Option<Count>,
    /// Training tokens of the whole run instead: rounded up to whole steps.
    #[serde(default)]
    pub tokens: Option<Count>,
    /// Tokens of a sequence.
    pub sequence_length: usize,
    /// Sequences of an optimizer step.
    pub batch_sequences: usize,
    /// Parts of a step whose gradients are added up; must divide `batch_sequences`.
    #[serde(default = "one")]
    pub micro_batches: usize,
    /// Built-in name (`bpe-512`, `bpe-2048`) or path of a `tokenizer.json`.
    pub tokenizer: String,
    /// The model.
    pub model: ModelSection,
    /// Domains that are mixed.
    pub data: Vec<DomainSection>,
    /// Optimizer and its constants.
    pub optimizer: OptimizerSection,
    /// Learning rate by step.
    pub schedule: ScheduleConfig,
    /// Coefficient of the squared log of the softmax's sum.
    #[serde(default)]
    pub z_loss: f64,
    /// When checkpoints are written.
    pub checkpoints: CheckpointSection,
    /// When held-out text is scored.
    #[serde(default)]
    pub validation: Option<ValidationSection>,
    /// Averages that are kept while training.
    #[serde(default)]
    pub average: Vec<AverageSection>,
    /// Faults on purpose.
    #[serde(default)]
    pub fault: Vec<FaultSection>,
    /// Where the run starts, if not from scratch.
    #[serde(default)]
    pub start: Option<StartSection>,
}

fn one() -> usize {
    1
}

/// The model: a few numbers, or the table of a `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// `llama`, `qwen3`, `olmo2`; `mixtral`, `olmoe`, `qwen3-moe` with experts.
    #[serde(default)]
    pub family: Option<String>,
    /// A `config.json` in full, instead of the numbers below.
    #[serde(default)]
    pub config: Option<serde_json::Map<String, serde_json::Value>>,
    /// Width of the residual stream.
    #[serde(default)]
    pub hidden: Option<usize>,
    /// Layers.
    #[serde(default)]
    pub layers: Option<usize>,
    /// Query heads.
    #[serde(default)]
    pub heads: Option<usize>,
    /// Key and value heads; default as `heads`.
    #[serde(default)]
    pub kv_heads: Option<usize>,
    /// Width of a head; default `hidden / heads`.
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// Inner width of the feed-forward part, or of one expert.
    #[serde(default)]
    pub intermediate: Option<usize>,
    /// Whether the output head is the embedding.
    #[serde(default)]
    pub tied_head: Option<bool>,
    /// Rows of the embedding; default the tokenizer's.
    #[serde(default)]
    pub vocab_size: Option<usize>,
    /// Base of the rotary frequencies.
    #[serde(default)]
    pub rope_theta: Option<f64>,
    /// Experts of each layer.
    #[serde(default)]
    pub n_experts: Option<usize>,
    /// Experts that each token is sent to.
    #[serde(default)]
    pub top_k: Option<usize>,
    /// How experts are kept evenly used: `aux:0.01`, `bias:0.001` or `none`.
    #[serde(default)]
    pub balance: Option<String>,
}

/// One domain of the training data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainSection {
    /// A built-in corpus (`stories`), or files of JSON lines, packed with zstd or plain.
    pub from: CorpusPaths,
    /// Held-out text of the same kind; a built-in corpus brings its own.
    #[serde(default)]
    pub validation: Option<CorpusPaths>,
    /// Name in logs; default the built-in name or the first file's.
    #[serde(default)]
    pub name: Option<String>,
    /// Part of the sequences that come from here, relative to the other domains.
    #[serde(default = "unit_share")]
    pub share: f64,
    /// Documents of the training text that are used, the first ones; default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<NonZeroUsize>,
}

impl DomainSection {
    /// Its name: the one given, or that of the built-in corpus or the first file.
    pub fn domain_name(&self) -> String {
        let first = self.from.0.first().map_or("", String::as_str);
        let file = first.rsplit('/').next().unwrap_or(first);
        let stem = file.split('.').next().unwrap_or(file);
        self.name.clone().unwrap_or_else(|| stem.to_owned())
    }
}

fn unit_share() -> f64 {
    1.0
}

/// Which rule moves the parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW on everything.
    Adamw,
    /// Muon on matrices, AdamW on embeddings, head, norms and biases.
    Muon,
}

/// Optimizer and its constants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerSection {
    /// The rule.
    #[serde(default = "adamw")]
    pub kind: OptimizerKind,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// AdamW: decay of the mean of gradients.
    #[serde(default = "beta1")]
    pub beta1: f64,
    /// AdamW: decay of the mean of squared gradients.
    #[serde(default = "beta2")]
    pub beta2: f64,
    /// AdamW: added to the root of the second moment.
    #[serde(default = "epsilon")]
    pub epsilon: f64,
    /// Decoupled decay, times the learning rate, on matrices, embeddings and head.
    #[serde(default = "weight_decay")]
    pub weight_decay: f64,
    /// Muon: decay of the momentum.
    #[serde(default = "momentum")]
    pub momentum: f64,
    /// Largest global norm of the gradient; 0 for no limit.
    #[serde(default = "clip_norm")]
    pub clip_norm: f64,
}

fn adamw() -> OptimizerKind {
    OptimizerKind::Adamw
}
fn beta1() -> f64 {
    0.9
}
fn beta2() -> f64 {
    0.95
}
fn epsilon() -> f64 {
    1e-8
}
fn weight_decay() -> f64 {
    0.1
}
fn momentum() -> f64 {
    0.95
}
fn clip_norm() -> f64 {
    1.0
}

/// When checkpoints are written. The last step always gets one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointSection {
    /// Steps between checkpoints.
    #[serde(default)]
    pub every_steps: Option<Count>,
    /// Tokens between checkpoints: the first step at or after each multiple.
    #[serde(default)]
    pub every_tokens: Option<Count>,
    /// More steps at which one is written; 0 is the start.
    #[serde(default)]
    pub steps: Vec<u64>,
    /// Training states that are kept, newest first; 0 keeps all.
    #[serde(default = "keep_states")]
    pub keep_states: usize,
}

fn keep_states() -> usize {
    2
}

/// When held-out text is scored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationSection {
    /// Steps between scorings; the last step is scored too.
    pub every_steps: Count,
    /// Sequences of each domain that are scored, from its beginning.
    #[serde(default = "validation_sequences")]
    pub sequences: usize,
}

fn validation_sequences() -> usize {
    64
}

/// An average that is kept while training and written as ordinary checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AverageSection {
    /// Its folder below `averages/`.
    pub name: String,
    /// A scheme as on the command line: `sma`, `ema:0.2`, `power-ema:0.1`.
    pub scheme: String,
    /// Over this many of the last checkpoints: the bytes that merging them gives.
    #[serde(default)]
    pub count: Option<usize>,
    /// Or over the parameters at this interval of steps, running: `sma` over the block since the last checkpoint.
    #[serde(default)]
    pub every_steps: Option<u64>,
}

/// What goes wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// The learning rate is multiplied by `factor`.
    LearningRate,
    /// The batch is random tokens.
    PoisonBatch,
}

/// A fault on purpose, so that spikes can be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultSection {
    /// What.
    pub kind: FaultKind,
    /// The first step that has it.
    pub at_step: u64,
    /// For how many steps.
    #[serde(default = "one_step")]
    pub steps: u64,
    /// `learning-rate`: by how much.
    #[serde(default)]
    pub factor: Option<f64>,
}

fn one_step() -> u64 {
    1
}

/// How much of a checkpoint's training state is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartState {
    /// Step, tokens and moments continue.
    Full,
    /// Parameters alone: step 0, moments 0.
    ParamsOnly,
}

/// What becomes of the optimizer's moments when a run starts from a merged checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MomentsPolicy {
    /// Zero, and their own step count with them.
    Reset,
    /// Those of the newest source.
    Newest,
    /// The average of the sources' by the merge's coefficients.
    Average,
}

/// Where a run starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartSection {
    /// A checkpoint of a run, or a merged one.
    pub from: PathBuf,
    /// How much is taken over.
    pub state: StartState,
    /// The moments, where `from` was merged and `state` is `full`.
    #[serde(default)]
    pub moments: Option<MomentsPolicy>,
    /// Steps of data that are skipped: after a spike, the batches that may have caused it.
    #[serde(default)]
    pub skip_data_steps: u64,
}

impl TrainConfig {
    /// Reads the text of a config; `path` is for messages.
    ///
    /// # Errors
    /// `Config` with line and column; `Value`.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self, Error> {
        let config: Self = toml::from_str(text).map_err(|error| describe_toml_error(text, &error, path))?;
        config.check()?;
        Ok(config)
    }

    /// Reads a table, as a cell of a grid makes it.
    ///
    /// # Errors
    /// As [`from_toml`](Self::from_toml), without a place.
    pub(crate) fn from_table(table: &toml::Table, path: &Path) -> Result<Self, Error> {
        // As text: what reads a config from values would be as much code as what reads it from text.
        let config: Self = toml::from_str(&table.to_string()).map_err(|error| describe_toml_error("", &error, path))?;
        config.check()?;
        Ok(config)
    }

    /// The text of the config, with every default filled in.
    ///
    /// # Errors
    /// `Config` for what TOML has no form for.
    pub fn to_toml(&self, path: &Path) -> Result<String, Error> {
        // Tables go after plain values, which a value of TOML sorts out.
        let table = toml::Table::try_from(self).map_err(|error| Error::Config {
            path: path.to_owned(),
            message: error.to_string(),
            hint: None,
        })?;
        Ok(table.to_string())
    }

    /// Tokens of an optimizer step.
    pub fn tokens_per_step(&self) -> u64 {
        (self.batch_sequences * self.sequence_length) as u64
    }

    /// Steps of the whole run.
    pub fn n_steps(&self) -> u64 {
        match (self.steps, self.tokens) {
            (Some(Count(steps)), _) => steps,
            (None, Some(Count(tokens))) => tokens.div_ceil(self.tokens_per_step().max(1)),
            (None, None) => 0,
        }
    }

    /// Whether a checkpoint is due after `step`.
    pub fn is_checkpoint_step(&self, step: u64) -> bool {
        let by_steps =
            self.checkpoints.every_steps.is_some_and(|every| step > 0 && step.is_multiple_of(every.0.max(1)));
        let by_tokens = self.checkpoints.every_tokens.is_some_and(|every| {
            let multiple = |step: u64| step * self.tokens_per_step() / every.0.max(1);
            step > 0 && multiple(step) > multiple(step - 1)
        });
        by_steps || by_tokens || step == self.n_steps() || self.checkpoints.steps.contains(&step)
    }

    /// Whether held-out text is scored after `step`.
    pub(crate) fn is_validation_step(&self, step: u64) -> bool {
        self.validation
            .as_ref()
            .is_some_and(|section| step.is_multiple_of(section.every_steps.0.max(1)) || step == self.n_steps())
    }

    fn check(&self) -> Result<(), Error> {
        if self.kind != CONFIG_KIND || self.version != CONFIG_VERSION {
            let found = format!("`{}` version {} was found", self.kind, self.version);
            return Err(Error::value("kind", format!("`{CONFIG_KIND}` version {CONFIG_VERSION} expected, {found}")));
        }
        if self.steps.is_some() == self.tokens.is_some() {
            return Err(Error::value("steps", "give either `steps` or `tokens`"));
        }
        for (key, size) in [
            ("sequence_length", self.sequence_length),
            ("batch_sequences", self.batch_sequences),
            ("micro_batches", self.micro_batches),
        ] {
            if !(1..=MAX_DIMENSION).contains(&size) {
                return Err(Error::value(key, format!("{size} is not between 1 and {MAX_DIMENSION}")));
            }
        }
        if !self.batch_sequences.is_multiple_of(self.micro_batches) {
            let message = format!("{} does not divide {}", self.micro_batches, self.batch_sequences);
            return Err(Error::value("micro_batches", message));
        }
        if !(1..=u64::from(u32::MAX)).contains(&self.n_steps()) {
            return Err(Error::value("steps", format!("{} is not between 1 and {}", self.n_steps(), u32::MAX)));
        }
        self.check_optimizer()?;
        self.schedule.check(self.n_steps())?;
        self.check_sections()
    }

    fn check_optimizer(&self) -> Result<(), Error> {
        let optimizer = &self.optimizer;
        let positive = [("optimizer.learning_rate", optimizer.learning_rate), ("optimizer.epsilon", optimizer.epsilon)];
        for (key, value) in positive {
            if !(value > 0.0 && value.is_finite()) {
                return Err(Error::value(key, format!("{value} is not above 0")));
            }
        }
        for (key, value) in [
            ("optimizer.weight_decay", optimizer.weight_decay),
            ("optimizer.clip_norm", optimizer.clip_norm),
            ("z_loss", self.z_loss),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(Error::value(key, format!("{value} is not 0 or more")));
            }
        }
        for (key, value) in [
            ("optimizer.beta1", optimizer.beta1),
            ("optimizer.beta2", optimizer.beta2),
            ("optimizer.momentum", optimizer.momentum),
        ] {
            if !(0.0..1.0).contains(&value) {
                return Err(Error::value(key, format!("{value} is not at least 0 and below 1")));
            }
        }
        Ok(())
    }

    fn check_sections(&self) -> Result<(), Error> {
        if self.data.is_empty() {
            return Err(Error::value("data", "there is no `[[data]]`"));
        }
        if let Some(domain) = self.data.iter().find(|domain| !(domain.share > 0.0 && domain.share.is_finite())) {
            return Err(Error::value("data.share", format!("{} is not above 0", domain.share)));
        }
        if self.checkpoints.every_steps.is_none() && self.checkpoints.every_tokens.is_none() {
            return Err(Error::value("checkpoints", "give `every_steps` or `every_tokens`"));
        }
        for fault in &self.fault {
            let is_whole = (fault.kind == FaultKind::LearningRate) == fault.factor.is_some();
            if !is_whole {
                return Err(Error::value("fault.factor", "only a `learning-rate` fault has a factor"));
            }
            if fault.factor.is_some_and(|factor| !factor.is_finite()) {
                return Err(Error::value("fault.factor", "it is not finite"));
            }
        }
        for (i, average) in self.average.iter().enumerate() {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let is_name = !average.name.is_empty() && !average.name.starts_with('.');
            if !is_name || !average.name.chars().all(is_plain) {
                return Err(Error::value("average.name", format!("`{}` is not a folder name", average.name)));
            }
            if self.average[..i].iter().any(|earlier| earlier.name == average.name) {
                return Err(Error::value("average.name", format!("`{}` appears twice", average.name)));
            }
            if average.count.is_some() == average.every_steps.is_some() {
                return Err(Error::value("average", "give either `count` or `every_steps`"));
            }
            if average.count == Some(0) || average.every_steps == Some(0) {
                return Err(Error::value("average", "`count` and `every_steps` are at least 1"));
            }
        }
        Ok(())
    }
}

/// Puts line and column before what the reader of TOML says, and the nearest known key behind it.
pub(crate) fn describe_toml_error(text: &str, error: &toml::de::Error, path: &Path) -> Error {
    let message = error.message().trim().replace('\n', ", ");
    let (message, hint) = match unknown_key(&message) {
        Some((key, known)) => {
            let nearest = nearest_name(&key, known.iter().map(String::as_str));
            let list = || format!("known keys: {}", known.join(", "));
            (format!("unknown key `{key}`"), Some(nearest.map_or_else(list, |near| format!("did you mean `{near}`?"))))
        }
        None => (message, None),
    };
    let before = error.span().and_then(|span| text.get(..span.start)).filter(|_| !text.is_empty());
    let message = before.map_or_else(
        || message.clone(),
        |before| {
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            format!("line {line}, column {column}: {message}")
        },
    );
    Error::Config { path: path.to_owned(), message, hint }
}

/// The key and the known keys that serde lists: "unknown field `a`, expected one of `b`, `c`".
fn unknown_key(message: &str) -> Option<(String, Vec<String>)> {
    let (_, rest) = message.split_once("unknown field `")?;
    let (key, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some((key.to_owned(), known))
}
