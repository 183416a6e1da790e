//! The merge plan: complete, immutable, a file. The engine resolves nothing that is not in it.

use std::path::{Path, PathBuf};

use num_bigint::BigInt;
use serde::{Deserialize, Serialize};
use thalweg_checkpoint::ReadOptions;
use thalweg_storage::guard::OwnKind;
use thalweg_storage::tidy_path;
use thalweg_tensor::Dtype;
use thalweg_tensor::digest::{DigestKind, bytes_digest};

use crate::Coefficients;
use crate::Error;
use crate::output_kind::{OptimizerPolicy, OutputFormat};
use crate::rule::PlanRule;
use crate::scheme::{Scheme, SchemeParameters};
use crate::seen_source::SeenSource;
use crate::waiver::ConfigWaiver;

/// `kind` of a plan file.
pub(crate) const PLAN_KIND: &str = "thalweg-plan";
/// What marks a file as a plan. Only such a file may be replaced.
pub const PLAN_FILE: OwnKind<'_> = OwnKind::json("a plan", PLAN_KIND);
/// `version` of the plan files that this program writes and reads.
pub(crate) const PLAN_VERSION: u32 = 1;

/// A complete description of one or more merges over one reading of the sources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergePlan {
    /// Always [`PLAN_KIND`].
    pub kind: String,
    /// Always [`PLAN_VERSION`].
    pub version: u32,
    /// What is to be made, at least one.
    pub outputs: Vec<OutputPlan>,
    /// The sources as they were when the plan was made; empty if they were not looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seen_sources: Vec<SeenSource>,
}

/// One output checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputPlan {
    /// Folder that will hold the checkpoint.
    pub path: PathBuf,
    /// The scheme, as it was asked for; the coefficients say what is done.
    pub scheme: String,
    /// Element type of the output's floating tensors.
    pub dtype: OutputDtype,
    /// In which files the output is written.
    #[serde(default, skip_serializing_if = "OutputFormat::is_safetensors")]
    pub format: OutputFormat,
    /// The rule, where experts are merged by more than a weighted sum; the coefficients are then the experts'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<PlanRule>,
    /// D: what the weighted sum is divided by, a positive integer in decimal digits.
    pub divisor: String,
    /// The exact sum of the coefficients, a whole number or a fraction: 1 unless the model is to be scaled.
    #[serde(default = "one")]
    pub sum: String,
    /// What the output is the plain mean of, where sources are kept sums of checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<MeanOfSums>,
    /// The checkpoints, oldest first, with their coefficients.
    pub sources: Vec<PlanSource>,
    /// How the sources are read; the same for all outputs of a plan.
    #[serde(default, skip_serializing_if = "ReadOptions::is_default")]
    pub reading: ReadOptions,
    /// What is done where averaging has no meaning.
    pub policy: MergePolicy,
    /// Most bytes of a shard; a larger tensor gets a separate shard.
    pub out_shard_bytes: u64,
    /// Hash of inputs and outputs.
    pub digest: DigestChoice,
}

/// A plain mean whose older checkpoints are read as their exact sum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeanOfSums {
    /// Every checkpoint in the mean, oldest first.
    pub checkpoints: Vec<MeanCheckpoint>,
    /// The element type that was asked for: sums are doubles, so the plan has to state one.
    pub dtype: OutputDtype,
}

/// A checkpoint in a mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeanCheckpoint {
    /// Its path when it was added.
    pub path: PathBuf,
    /// Optimizer steps done, if known.
    pub step: Option<u64>,
    /// Training tokens consumed, if known.
    pub tokens: Option<u64>,
    /// Digest of its tensors, of the kind that it begins with; `None` if it was not taken.
    pub digest: Option<String>,
}

/// One source checkpoint of an output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanSource {
    /// Its path.
    pub path: PathBuf,
    /// Optimizer steps done, if known.
    pub step: Option<u64>,
    /// Training tokens consumed, if known.
    pub tokens: Option<u64>,
    /// c: what the parameters are multiplied by, an integer in decimal digits.
    pub numerator: String,
    /// c/D as the nearest double, to read; the engine takes `numerator` and `divisor`.
    pub coefficient: f64,
    /// Whether it is a kept sum of checkpoints, in doubles under the names of the output: no option changes how it is
    /// read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_sum: bool,
}

impl PlanSource {
    /// The checkpoint without its coefficient.
    pub fn source(&self) -> SourceRef {
        SourceRef { path: self.path.clone(), step: self.step, tokens: self.tokens }
    }
}

fn one() -> String {
    "1".to_owned()
}

/// A checkpoint to merge, with its place in the run where that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRef {
    /// Its folder or file.
    pub path: PathBuf,
    /// Optimizer steps done.
    pub step: Option<u64>,
    /// Training tokens consumed.
    pub tokens: Option<u64>,
}

/// Position of the newest source: the one with the highest step, or the last one if some steps are unknown.
///
/// Of several with the highest step, the last one; 0 without sources.
pub fn newest_of(sources: &[SourceRef]) -> usize {
    let last = sources.len().saturating_sub(1);
    if sources.iter().any(|source| source.step.is_none()) {
        return last;
    }
    (0..sources.len()).max_by_key(|&i| (sources[i].step, i)).unwrap_or(last)
}

/// The scheme that plans and receipts of conversions name.
pub const CONVERT_SCHEME: &str = "convert";

/// Most bytes of a shard by default.
pub const DEFAULT_SHARD_BYTES: u64 = 5_000_000_000;

/// Element type of floating tensors in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum OutputDtype {
    /// That of the input tensor.
    #[default]
    Same,
    /// IEEE single.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
    /// IEEE double: for exact sums that are merged further.
    F64,
}

impl OutputDtype {
    /// What the types are called on a command line, in recipes and in Python. The first name of each is the usual one.
    pub const NAMES: [(&'static str, Self); 11] = [
        ("same", Self::Same),
        ("f32", Self::F32),
        ("float32", Self::F32),
        ("fp32", Self::F32),
        ("float", Self::F32),
        ("bf16", Self::Bf16),
        ("bfloat16", Self::Bf16),
        ("f16", Self::F16),
        ("float16", Self::F16),
        ("fp16", Self::F16),
        ("half", Self::F16),
    ];

    /// The type of any of these names.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, dtype)| *dtype)
    }

    /// The element type of the output for a floating tensor of type `input`.
    pub fn resolve(self, input: Dtype) -> Dtype {
        match self {
            Self::Same => input,
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::Bf16,
            Self::F16 => Dtype::F16,
            Self::F64 => Dtype::F64,
        }
    }
}

impl TryFrom<String> for OutputDtype {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        // Plans of exact sums have the widest type, which no user asks for by name.
        let dtype = Self::named(&name).or((name == "f64").then_some(Self::F64));
        dtype.ok_or_else(|| format!("`{name}` is not an element type: same, f32, bf16 or f16"))
    }
}

/// Which hash a merge takes of what it reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DigestChoice {
    /// Finds accidents and attacks.
    #[default]
    Blake3,
    /// Finds accidents.
    Xxh3,
    /// Nothing is hashed but what a resume needs.
    None,
}

impl DigestChoice {
    /// The hash, if there is one.
    pub fn kind(self) -> Option<DigestKind> {
        match self {
            Self::Blake3 => Some(DigestKind::Blake3),
            Self::Xxh3 => Some(DigestKind::Xxh3),
            Self::None => None,
        }
    }
}

/// Integers and booleans that differ between sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NonFloatPolicy {
    /// Equal tensors are copied, others are an error.
    #[default]
    Error,
    /// The newest source's are taken.
    Newest,
}

/// Router tensors of a mixture of experts, and their balancing biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouterPolicy {
    /// Averaged like everything else.
    #[default]
    Average,
    /// Taken from the newest source.
    Newest,
}

/// What becomes of code beside the tensors (`*.py`), which a program that loads the model may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CodePolicy {
    /// It is not copied, and a note names it.
    #[default]
    Leave,
    /// It is copied with the other files.
    Copy,
}

impl CodePolicy {
    fn is_default(&self) -> bool {
        *self == Self::Leave
    }
}

/// What is done where averaging has no meaning, and what may differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergePolicy {
    /// Integers and booleans.
    pub non_float: NonFloatPolicy,
    /// Routers and expert biases.
    pub router: RouterPolicy,
    /// Differences between configs or tokenizers that the user waived, each with the values that it covers.
    pub allow_config: Vec<ConfigWaiver>,
    /// Names of tensors that are left out; `*` matches anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<String>,
    /// Names of tensors that are taken from the newest source as they are; `*` matches anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub take_newest: Vec<String>,
    /// What becomes of code beside the tensors.
    #[serde(default, skip_serializing_if = "CodePolicy::is_default")]
    pub code: CodePolicy,
    /// What becomes of the state of the optimizer.
    #[serde(default, skip_serializing_if = "OptimizerPolicy::is_drop")]
    pub optimizer: OptimizerPolicy,
    /// Whether NaN and infinities are merged by IEEE rules instead of refused.
    pub allow_non_finite: bool,
    /// Position in `sources` of the newest checkpoint: the highest step, or the last given.
    pub newest: usize,
    /// Position in `sources` of the checkpoint whose config and tokenizer travel.
    pub side_files_from: usize,
    /// A folder whose config and tokenizer travel instead of those of a source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hf_assets: Option<PathBuf>,
    /// Whether a README.md is written.
    pub model_card: bool,
}

impl MergePolicy {
    /// The defaults: discrete tensors must be equal, routers are averaged, nothing is waived,
    /// NaN and infinities are refused, config and tokenizer come from the newest, a card is written.
    ///
    /// `newest` is a position in the output's sources.
    pub fn defaults(newest: usize) -> Self {
        Self {
            non_float: NonFloatPolicy::Error,
            router: RouterPolicy::Average,
            allow_config: Vec::new(),
            drop: Vec::new(),
            take_newest: Vec::new(),
            code: CodePolicy::Leave,
            optimizer: OptimizerPolicy::Drop,
            allow_non_finite: false,
            newest,
            side_files_from: newest,
            hf_assets: None,
            model_card: true,
        }
    }
}

impl OutputPlan {
    /// An output of these sources and coefficients, with defaults for everything else.
    ///
    /// `scheme` is the name to record. `coefficients` has one for each source, in the same order.
    ///
    /// # Example
    /// ```
    /// use thalweg_merge::{Coefficients, plan::{OutputPlan, SourceRef}};
    ///
    /// let source = |step| SourceRef { path: format!("run/step{step}").into(), step: Some(step), tokens: None };
    /// let output = OutputPlan::new("merged", "sma", &[source(2000), source(1000)], &Coefficients::new([1, 1], 2)?);
    /// assert_eq!((output.policy.newest, output.sum.as_str()), (0, "1"));
    /// # Ok::<(), thalweg_merge::scheme::SchemeError>(())
    /// ```
    pub fn new(
        path: impl Into<PathBuf>,
        scheme: impl Into<String>,
        sources: &[SourceRef],
        coefficients: &Coefficients,
    ) -> Self {
        debug_assert_eq!(sources.len(), coefficients.n_checkpoints(), "one coefficient for each source");
        let (numerators, divisor) = coefficients.to_decimal_strings();
        let read_back = coefficients.as_f64();
        let weighed =
            sources.iter().zip(numerators).zip(read_back).map(|((source, numerator), coefficient)| PlanSource {
                path: source.path.clone(),
                step: source.step,
                tokens: source.tokens,
                numerator,
                coefficient,
                is_sum: false,
            });
        Self {
            path: path.into(),
            scheme: scheme.into(),
            dtype: OutputDtype::Same,
            format: OutputFormat::Safetensors,
            rule: None,
            divisor,
            sum: coefficients.sum().to_string(),
            mean: None,
            sources: weighed.collect(),
            reading: ReadOptions::default(),
            policy: MergePolicy::defaults(newest_of(sources)),
            out_shard_bytes: DEFAULT_SHARD_BYTES,
            digest: DigestChoice::Blake3,
        }
    }

    /// The exact coefficients, one for each source.
    ///
    /// # Errors
    /// `PlanInvalid` when a number does not read as an integer or the divisor is not positive.
    pub fn coefficients(&self) -> Result<Coefficients, Error> {
        let read = |text: &str| {
            text.parse::<BigInt>().map_err(|_| Error::PlanInvalid { what: format!("`{text}` is not a whole number") })
        };
        let numerators = self.sources.iter().map(|source| read(&source.numerator)).collect::<Result<Vec<_>, _>>()?;
        let divisor = read(&self.divisor)?;
        Coefficients::new(numerators, divisor).map_err(|error| Error::PlanInvalid { what: error.to_string() })
    }

    /// Digest of everything but the output's path: two plans with equal digests give equal bytes.
    ///
    /// # Errors
    /// `PlanInvalid` if the plan cannot be written down.
    pub fn digest(&self) -> Result<String, Error> {
        let anonymous = Self { path: PathBuf::new(), ..self.clone() };
        let json = serde_json::to_vec(&anonymous).map_err(|error| Error::PlanInvalid { what: error.to_string() })?;
        Ok(bytes_digest(DigestKind::Blake3, &json).to_string())
    }

    /// As [`digest`](Self::digest), whatever its sources are called: with their identities it names what came of a
    /// merge even when its sources were moved.
    ///
    /// # Errors
    /// The same.
    pub fn digest_without_paths(&self) -> Result<String, Error> {
        let nameless = |source: &PlanSource| PlanSource { path: PathBuf::new(), ..source.clone() };
        Self { sources: self.sources.iter().map(nameless).collect(), ..self.clone() }.digest()
    }

    /// The same merge of the model alone, as safetensors files: what is scored.
    pub fn of_model_alone(&self) -> Self {
        let mut output = Self { format: OutputFormat::Safetensors, ..self.clone() };
        output.policy.optimizer = OptimizerPolicy::Drop;
        output.reading.optimizer = false;
        output
    }

    /// How the sources are read. Codes with scales are read as numbers where the output has an element type for them.
    pub fn reading_options(&self) -> ReadOptions {
        ReadOptions { dequantise: self.dtype != OutputDtype::Same, ..self.reading.clone() }
    }

    /// Whether it is a copy of one source, perhaps in another format or element type.
    pub fn is_copy(&self) -> bool {
        self.rule.is_none() && matches!(&*self.sources, [source] if source.numerator == self.divisor)
    }

    /// The checkpoints that are merged: those of the mean, if sources are sums of them, else the sources.
    pub fn checkpoints(&self) -> Vec<SourceRef> {
        let of_mean = |one: &MeanCheckpoint| SourceRef { path: one.path.clone(), step: one.step, tokens: one.tokens };
        match &self.mean {
            None => self.sources.iter().map(PlanSource::source).collect(),
            Some(mean) => mean.checkpoints.iter().map(of_mean).collect(),
        }
    }

    /// How the source at this position is read: a sum as it is.
    pub fn reading_of(&self, source_idx: usize) -> ReadOptions {
        let is_sum = self.sources.get(source_idx).is_some_and(|source| source.is_sum);
        if is_sum { ReadOptions::default() } else { self.reading_options() }
    }

    /// The newest source.
    pub fn newest_source(&self) -> Option<&PlanSource> {
        self.sources.get(self.policy.newest)
    }

    /// Checks that the coefficients are those of the scheme, if its name determines them.
    ///
    /// # Errors
    /// `PlanInvalid` if they are not: one was edited and the other was not.
    pub fn check_scheme(&self) -> Result<(), Error> {
        if let Some(mean) = &self.mean {
            return self.check_mean(mean);
        }
        // `custom`, and names that only say where coefficients came from, do not determine them.
        let Ok(scheme) = Scheme::parse(&self.scheme, SchemeParameters::default()) else { return Ok(()) };
        let coefficients = self.coefficients()?;
        let steps: Vec<Option<u64>> = self.sources.iter().map(|source| source.step).collect();
        if scheme.coefficients_for(&steps).map_or(true, |expected| expected == coefficients) {
            return Ok(());
        }
        let what =
            format!("the coefficients of `{}` are not those of the scheme `{}`", self.path.display(), self.scheme);
        Err(Error::PlanInvalid { what: format!("{what}; for other coefficients, set the scheme to `custom`") })
    }

    /// Checks that the decimal beside each fraction is its value: someone who edits a plan sees the decimal first.
    fn check_decimals(&self) -> Result<(), Error> {
        // Nine digits are what a plan prints, and may be what a person writes back.
        let is_near = |found: f64, meant: f64| (found - meant).abs() <= 1e-9 * meant.abs();
        let exact = self.coefficients()?.as_f64();
        match self.sources.iter().zip(exact).find(|(source, meant)| !is_near(source.coefficient, *meant)) {
            None => Ok(()),
            Some((PlanSource { path, coefficient, numerator, .. }, meant)) => Err(Error::PlanInvalid {
                what: format!(
                    "`{}` has the coefficient {coefficient}, but its numerator {numerator} over the divisor {}, which is what \
                     counts, is {meant}: change both",
                    path.display(),
                    self.divisor
                ),
            }),
        }
    }

    /// Checks that the coefficients are those of a mean: each source counts once, and the planes of a sum add up to it.
    fn check_mean(&self, mean: &MeanOfSums) -> Result<(), Error> {
        let n = mean.checkpoints.len();
        let is_unit = |source: &PlanSource| source.numerator == "1" || source.is_sum && source.numerator == "-1";
        let n_single = self.sources.iter().filter(|source| !source.is_sum).count();
        if self.divisor == n.to_string() && n_single <= n && self.sources.iter().all(is_unit) {
            return Ok(());
        }
        let what = format!("the coefficients of `{}` are not those of a mean of {n}", self.path.display());
        Err(Error::PlanInvalid { what })
    }

    fn check(&self) -> Result<(), Error> {
        let n_sources = self.sources.len();
        let fail = |what: String| Err(Error::PlanInvalid { what });
        if n_sources == 0 {
            return fail(format!("output `{}` has no sources", self.path.display()));
        }
        if self.policy.newest >= n_sources || self.policy.side_files_from >= n_sources {
            return fail(format!("output `{}` names a source that it does not have", self.path.display()));
        }
        if self.reading.optimizer != (self.policy.optimizer == OptimizerPolicy::Average) {
            let what =
                "`reading.optimizer` must be true where the policy of the optimizer is `average`, and only there";
            return fail(format!("output `{}`: {what}", self.path.display()));
        }
        if self.reading.to_huggingface.is_some() && !self.format.is_safetensors() {
            let what = "is written for Hugging Face, so its format must be `safetensors`";
            return fail(format!("output `{}` {what}", self.path.display()));
        }
        if self.out_shard_bytes == 0 {
            return fail(format!("output `{}` has shards of no bytes", self.path.display()));
        }
        if let Some(rule) = &self.rule {
            let of_rule = rule.check(&self.coefficients()?).map_err(|error| error.to_string());
            let optimizer = (self.policy.optimizer == OptimizerPolicy::Average)
                .then(|| "a rule merges parameters, not the moments of an optimizer".to_owned());
            if let Some(what) = of_rule.err().or(optimizer) {
                return fail(format!("output `{}`: {what}", self.path.display()));
            }
        }
        let sum = self.coefficients()?.sum().to_string();
        if sum != self.sum {
            return fail(format!(
                "the coefficients of output `{}` sum to {sum}, but its `sum` is {}: change one if this is intended",
                self.path.display(),
                self.sum
            ));
        }
        Ok(())
    }
}

impl MergePlan {
    /// A plan for these outputs.
    ///
    /// # Errors
    /// `PlanInvalid` when an output has no sources, two outputs share a path, or a number does not read.
    pub fn new(outputs: Vec<OutputPlan>) -> Result<Self, Error> {
        let plan = Self { kind: PLAN_KIND.to_owned(), version: PLAN_VERSION, outputs, seen_sources: Vec::new() };
        plan.check()?;
        Ok(plan)
    }

    /// Reads a plan file.
    ///
    /// # Errors
    /// `PlanInvalid`, with the line where the text goes wrong.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        // From bytes, as receipts are read: what reads a plan is compiled for each way of reading.
        let mut plan: Self = serde_json::from_slice(text.as_bytes())
            .map_err(|error| Error::PlanInvalid { what: format!("it is not a plan: {error}") })?;
        for output in &mut plan.outputs {
            // A path that ends in `/` names the same folder.
            output.path = tidy_path(&output.path);
        }
        plan.check()?;
        plan.outputs.iter().try_for_each(OutputPlan::check_scheme)?;
        plan.outputs.iter().try_for_each(OutputPlan::check_decimals)?;
        Ok(plan)
    }

    /// Whether every output is a copy of one source, perhaps in another format or element type: nothing is averaged.
    pub fn is_copy(&self) -> bool {
        self.outputs.iter().all(OutputPlan::is_copy)
    }

    /// The plan as a document that `from_json` reads.
    ///
    /// # Errors
    /// `PlanInvalid` if a path is not Unicode.
    pub fn to_json(&self) -> Result<String, Error> {
        serde_json::to_string_pretty(self).map_err(|error| Error::PlanInvalid { what: error.to_string() })
    }

    fn check(&self) -> Result<(), Error> {
        if self.kind != PLAN_KIND || self.version != PLAN_VERSION {
            return Err(Error::PlanInvalid {
                what: format!(
                    "kind `{}` version {} expected, `{}` version {} found",
                    PLAN_KIND, PLAN_VERSION, self.kind, self.version
                ),
            });
        }
        if self.outputs.is_empty() {
            return Err(Error::PlanInvalid { what: "no outputs".to_owned() });
        }
        self.outputs.iter().try_for_each(OutputPlan::check)?;
        self.check_names()?;
        if self.outputs.iter().any(|output| output.reading != self.outputs[0].reading) {
            return Err(Error::PlanInvalid { what: "the outputs read their sources in different ways".to_owned() });
        }
        let mut paths: Vec<&Path> = self.outputs.iter().map(|output| output.path.as_path()).collect();
        paths.sort_unstable();
        match paths.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::PlanInvalid { what: format!("two outputs go to `{}`", pair[0].display()) }),
            None => Ok(()),
        }
    }

    /// One reading has one list of tensors, so all outputs must leave out and take the same ones.
    fn check_names(&self) -> Result<(), Error> {
        let names = |output: &OutputPlan| (output.policy.drop.clone(), output.policy.take_newest.clone());
        match self.outputs.windows(2).find(|pair| names(&pair[0]) != names(&pair[1])) {
            Some(pair) => Err(Error::PlanInvalid {
                what: format!(
                    "outputs `{}` and `{}` drop or take different tensors, so they cannot be made in one pass",
                    pair[0].path.display(),
                    pair[1].path.display()
                ),
            }),
            None => Ok(()),
        }
    }

    /// How the sources are read.
    pub fn reading(&self) -> ReadOptions {
        let mut reading = self.outputs.first().map(OutputPlan::reading_options).unwrap_or_default();
        // An output that keeps element types needs the codes.
        reading.dequantise = self.outputs.iter().all(|output| output.dtype != OutputDtype::Same);
        reading
    }

    /// Every source path once, in order of first use.
    pub fn source_paths(&self) -> Vec<PathBuf> {
        let mut seen = std::collections::BTreeSet::new();
        self.outputs
            .iter()
            .flat_map(|output| &output.sources)
            .filter(|source| seen.insert(source.path.as_path()))
            .map(|source| source.path.clone())
            .collect()
    }
}
