//! The fixture model, suites in memory, and a context without a terminal.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::Value;
use thalweg_checkpoint::{Checkpoint, open_checkpoint};
use thalweg_eval::context::Progress;
use thalweg_eval::{
    Error, EvalContext, EvalTokenizer, PreparedSuite, ScoreCache, Subject, Suite, TaskScores, score_suite,
};
use thalweg_storage::guard::OwnKind;
use thalweg_storage::publish::publish_file;
use thalweg_storage::{LocalStorage, MemoryStorage, Storage, Unwatched};

/// A file among the fixtures.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").canonicalize().unwrap().join(name)
}

pub(crate) fn read_json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

pub(crate) fn tokenizer() -> EvalTokenizer {
    let path = fixture("stories260K/tokenizer.json");
    EvalTokenizer::from_json(&std::fs::read(&path).unwrap(), &path).unwrap()
}

pub(crate) fn checkpoint() -> Checkpoint {
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new());
    open_checkpoint(&storage, &fixture("stories260K")).unwrap()
}

/// Everything from outside, counting progress.
pub(crate) struct Outside {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) interrupt: AtomicBool,
    pub(crate) total_tokens: AtomicU64,
    pub(crate) done_tokens: AtomicU64,
}

impl Progress for Outside {
    fn begin(&self, total_tokens: u64) {
        self.total_tokens.fetch_add(total_tokens, Ordering::Relaxed);
    }

    fn advance(&self, n_tokens: u64) {
        self.done_tokens.fetch_add(n_tokens, Ordering::Relaxed);
    }
}

impl Outside {
    pub(crate) fn new() -> Self {
        Self {
            storage: Arc::new(MemoryStorage::new()),
            interrupt: AtomicBool::new(false),
            total_tokens: AtomicU64::new(0),
            done_tokens: AtomicU64::new(0),
        }
    }

    pub(crate) fn context(&self) -> EvalContext<'_> {
        EvalContext {
            storage: Arc::clone(&self.storage),
            host: &Unwatched,
            progress: self,
            interrupt: &self.interrupt,
            memory_bytes: u64::MAX,
        }
    }

    /// Puts a file into memory.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        publish_file(&*self.storage, Path::new(name), bytes, OwnKind::in_own_folder("a file")).unwrap();
    }

    /// Puts the sets among the fixtures and this suite into memory, and opens it.
    pub(crate) fn suite(&self, tasks: &str) -> Result<Suite, Error> {
        for entry in std::fs::read_dir(fixture("evals")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            self.put(&format!("/{name}"), &std::fs::read(&path).unwrap());
        }
        let head = "kind = \"thalweg-suite\"\nversion = 1\n";
        self.put("/suite.toml", format!("{head}{tasks}").as_bytes());
        Suite::open(&*self.storage, Path::new("/suite.toml"))
    }

    pub(crate) fn prepare(&self, tasks: &str) -> Result<PreparedSuite, Error> {
        let config = read_json("stories260K/config.json");
        PreparedSuite::new(&self.suite(tasks)?, &tokenizer(), &config, Path::new("stories260K"))
    }

    pub(crate) fn subject(&self, prepared: &PreparedSuite) -> Subject {
        let (checkpoint, config) = (checkpoint(), read_json("stories260K/config.json"));
        Subject::load(Path::new("stories260K"), &config, &checkpoint, prepared, &self.context()).unwrap()
    }

    /// Scores the fixture model.
    pub(crate) fn score(&self, tasks: &str) -> Result<Vec<TaskScores>, Error> {
        let prepared = self.prepare(tasks)?;
        score_suite(&prepared, &self.subject(&prepared), None, &self.context())
    }

    pub(crate) fn cache(&self) -> ScoreCache<'_> {
        ScoreCache::new(&*self.storage, Path::new("/cache"))
    }
}
