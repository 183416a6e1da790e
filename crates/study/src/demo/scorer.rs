//! Held-out scores of the demo: two suites that share no document, kept on disk so that a second run reads them.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use thalweg_checkpoint::ReadOptions;
use thalweg_eval::context::Clock;
use thalweg_eval::{
    EvalContext, EvalTokenizer, PreparedSuite, ReportSuite, ScoreCache, SelectionSuite, Subject, Suite, check_apart,
    score_suite,
};
use thalweg_lab::corpus::{CorpusPart, built_in_bytes, built_in_tokenizer};
use thalweg_merge::context::{Host, RunContext};
use thalweg_model::Model;
use thalweg_storage::guard::OwnKind;
use thalweg_storage::publish::publish_file;

use super::meter::Meter;
use super::spec::{DemoSpec, SEQUENCE_LENGTH};
use crate::Error;
use crate::compare::SplitScores;
use crate::report::Split;

/// A model with its scores by document.
#[derive(Debug, Clone)]
pub(crate) struct Scored {
    pub(crate) splits: Vec<SplitScores>,
    pub(crate) digest: String,
}

impl Scored {
    pub(crate) fn split(&self, split: Split) -> Option<&SplitScores> {
        self.splits.iter().find(|scores| scores.split == split)
    }
}

/// Suites, cache and everything else that scoring needs.
pub(crate) struct Scorer<'a> {
    spec: &'a DemoSpec,
    run: &'a RunContext<'a>,
    meter: &'a Meter<'a>,
    validation: PreparedSuite,
    test: PreparedSuite,
    pool: rayon::ThreadPool,
}

struct HostClock<'a>(&'a dyn Host);

impl Clock for HostClock<'_> {
    fn elapsed_seconds(&self) -> f64 {
        self.0.elapsed_seconds()
    }
}

impl<'a> Scorer<'a> {
    /// Writes the suites below the demo's folder and brings them into tokens. `config` is the models' `config.json`.
    pub(crate) fn new(
        spec: &'a DemoSpec,
        config: &Value,
        meter: &'a Meter<'a>,
        run: &'a RunContext<'a>,
    ) -> Result<Self, Error> {
        let tokenizer = EvalTokenizer::from_json(
            built_in_tokenizer("bpe-512").unwrap_or_default(),
            Path::new("bpe-512/tokenizer.json"),
        )?;
        let validation = SelectionSuite::new(write_suite(spec, Split::Validation, run)?)?;
        let test = ReportSuite::new(write_suite(spec, Split::Test, run)?)?;
        check_apart(&validation, &test)?;
        let prepare = |suite: &Suite| PreparedSuite::new(suite, &tokenizer, config, &spec.path("run"));
        let n_threads = run.limits.n_threads.get();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build();
        Ok(Self {
            spec,
            run,
            meter,
            validation: prepare(validation.suite())?,
            test: prepare(test.suite())?,
            pool: pool.map_err(Error::Threads)?,
        })
    }

    /// Digests of both suites, to read.
    pub(crate) fn suite_digests(&self) -> [String; 2] {
        [&self.validation, &self.test].map(|suite| suite.suite_digest().to_string())
    }

    /// Scores a checkpoint on disk.
    pub(crate) fn score_checkpoint(&self, path: &Path, splits: &[Split]) -> Result<Scored, Error> {
        let checkpoint = self.run.pool.open(path, &ReadOptions::default())?;
        let config = checkpoint.config().cloned().unwrap_or_default();
        let subject = Subject::load(path, &config, &*checkpoint, &self.test, &self.context(&HostClock(self.run.host)))?;
        self.score(&subject, splits)
    }

    /// Scores a model in memory.
    pub(crate) fn score_model(&self, name: &str, model: Model, splits: &[Split]) -> Result<Scored, Error> {
        self.score(&Subject::from_model(Path::new(name), model)?, splits)
    }

    fn context<'b>(&'b self, clock: &'b HostClock<'b>) -> EvalContext<'b> {
        EvalContext {
            storage: Arc::clone(&self.run.storage),
            clock,
            progress: self.meter,
            interrupt: self.run.interrupt,
            memory_bytes: u64::MAX,
        }
    }

    fn score(&self, subject: &Subject, splits: &[Split]) -> Result<Scored, Error> {
        let folder = self.spec.path("scores");
        let cache = ScoreCache::new(&*self.run.storage, &folder);
        let clock = HostClock(self.run.host);
        let context = self.context(&clock);
        let mut scored = Vec::new();
        for &split in splits {
            let suite = match split {
                Split::Validation => &self.validation,
                Split::Test => &self.test,
            };
            let scores = self.pool.install(|| score_suite(suite, subject, Some(&cache), &context))?;
            let scores = scores.into_iter().next().ok_or(Error::Bug { what: "a suite of one task gave no score" })?;
            self.meter.finish_part(Meter::work_of_scoring(scores.n_tokens));
            scored.push(SplitScores { split, scores });
        }
        Ok(Scored { splits: scored, digest: subject.params_digest().to_string() })
    }
}

/// Puts documents and suite of one text below the demo's folder, where `thalweg eval` finds them too.
fn write_suite(spec: &DemoSpec, split: Split, run: &RunContext<'_>) -> Result<Suite, Error> {
    let (part, role) = match split {
        Split::Validation => (CorpusPart::Validation, "selection"),
        Split::Test => (CorpusPart::Test, "report"),
    };
    let (name, n_documents) = (split.name(), spec.numbers().n_documents);
    let folder = spec.path("suites");
    run.storage.create_folder(&folder)?;
    let documents = built_in_bytes("stories", part).unwrap_or_default();
    let kind = OwnKind::same_bytes("the text of this demo");
    publish_file(&*run.storage, &folder.join(format!("{name}.jsonl.zst")), documents, kind)?;
    let toml = format!(
        "kind = \"thalweg-suite\"\nversion = 1\nname = \"{name}\"\nrole = \"{role}\"\n\
         context_length = {SEQUENCE_LENGTH}\nstart = \"{}\"\n\n\
         [[task]]\nname = \"{name}\"\nkind = \"text\"\nfile = \"{name}.jsonl.zst\"\nlimit = {n_documents}\n",
        thalweg_lab::tokens::END_OF_TEXT
    );
    let path = folder.join(format!("{name}.toml"));
    publish_file(&*run.storage, &path, toml.as_bytes(), OwnKind::same_bytes("the suite of this demo"))?;
    Ok(Suite::open(&*run.storage, &path)?)
}
