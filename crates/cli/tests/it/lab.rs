//! What commands that score are tested on: a run that was trained in a second, suites for it, and a stand-in for
//! another program that scores.

use serde_json::Value;

use crate::support::{root, run, transcript};

/// Another evaluator: the score is the checksum of the parameters, so that it can be known. Models whose tokenizer is
/// unknown, such as those of the example run, can be scored by it too.
pub(crate) const STAND_IN: &str = "file={checkpoint}; [ -d $file ] && file=$file/model.safetensors; n=$(cksum < $file | cut -d ' ' -f 1); \
    printf '[{\"task\": \"sum\", \"value\": %s, \"stderr\": 1.0, \"n\": 9, \"higher_is_better\": true}]' $n > {out}";

/// The newest checkpoint of [`Lab`]'s run.
pub(crate) const STEPS: u64 = 160;

/// `run`, 40 checkpoints of a very small model, and two suites that share no document: `validation.toml`, which
/// selects, and `test.toml`, which reports.
pub(crate) struct Lab {
    scratch: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let lab = Self { scratch: tempfile::tempdir().unwrap() };
        lab.train("run", STEPS, 0, "");
        for (part, role) in [("validation", "selection"), ("test", "report")] {
            let file = root().join(format!("corpora/stories/{part}.jsonl.zst"));
            let suite = format!(
                "kind = \"thalweg-suite\"\nversion = 1\nname = \"{part}\"\nrole = \"{role}\"\ncontext_length = 32\n\
                 start = \"<|endoftext|>\"\n[[task]]\nname = \"stories\"\nkind = \"text\"\nfile = {file:?}\nlimit = 40\n\
                 cut_tokens = 64\nmeasures = [\"nats_per_token\"]\n"
            );
            std::fs::write(lab.path(&format!("{part}.toml")), suite).unwrap();
        }
        lab
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.scratch.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn train(&self, name: &str, steps: u64, anneal_steps: u64, more: &str) {
        let config = format!(
            "kind = \"thalweg-train\"\nversion = 1\nseed = 3\nsteps = {steps}\nsequence_length = 32\nbatch_sequences = 4\n\
             tokenizer = \"bpe-512\"\n[model]\nhidden = 24\nlayers = 1\nheads = 2\nintermediate = 32\n\
             [[data]]\nfrom = \"stories\"\nlimit = 400\n[optimizer]\nlearning_rate = 0.02\n\
             [schedule]\nkind = \"wsd\"\nwarmup_steps = 8\nanneal_steps = {anneal_steps}\ncurve = \"linear\"\n\
             [checkpoints]\nevery_steps = 4\nkeep_states = 0\n{more}"
        );
        std::fs::write(self.path(&format!("{name}.toml")), config).unwrap();
        let output = run(&["train", &self.path(&format!("{name}.toml")), "-o", &self.path(name), "-q"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Exit code and JSON of a command.
    pub(crate) fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let all: Vec<&str> = arguments.iter().copied().chain(["--json", "-q"]).collect();
        let output = run(&all);
        let text = String::from_utf8_lossy(&output.stdout);
        let value = serde_json::from_str(&text);
        let value = value.unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code().unwrap(), value)
    }

    pub(crate) fn transcript(&self, arguments: &[&str]) -> String {
        transcript(arguments, self.scratch.path())
    }
}
