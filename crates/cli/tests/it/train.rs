//! `thalweg train` as a person meets it: a run, a mistake, an interrupt, and the run under the other commands.

use std::fmt::Write;
use std::path::Path;

use crate::support::{program, run, transcript};

const CONFIG: &str = r#"
kind = "thalweg-train"
version = 1
steps = 12
sequence_length = 16
batch_sequences = 4
tokenizer = "bpe-512"
[model]
hidden = 16
layers = 1
heads = 2
intermediate = 24
[[data]]
from = "corpus.jsonl"
validation = "corpus.jsonl"
[optimizer]
learning_rate = 0.01
[schedule]
kind = "wsd"
warmup_steps = 2
anneal_steps = 3
[checkpoints]
every_steps = 3
[validation]
every_steps = 6
"#;

fn write_config(folder: &Path, text: &str) -> String {
    let mut corpus = String::new();
    for i in 0..60 {
        // Writing to a String cannot fail.
        let _ = writeln!(corpus, "{{\"text\": \"One day the cat saw {i} dogs and {} birds.\"}}", i * 7 % 60);
    }
    std::fs::write(folder.join("corpus.jsonl"), corpus).unwrap();
    let path = folder.join("tiny.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Losses and speeds are blotted out: the first depend on the processor's own products, the second on everything.
fn blot(text: &str) -> String {
    let keys = ["\"loss\"", "\"nll_nats\"", "\"bits_per_byte\""];
    let blot_line = |line: &str| {
        if line.contains("tokens/s") {
            return "[SPEED]".to_owned();
        }
        if keys.iter().any(|key| line.contains(key)) {
            return line.split(':').next().unwrap_or(line).to_owned() + ": [MEASURED]";
        }
        let is_number = |word: &str| word.contains('.') && word.parse::<f64>().is_ok();
        let words = line.split(' ').map(|word| if is_number(word) { "[N]" } else { word });
        words.collect::<Vec<_>>().join(" ")
    };
    text.lines().map(blot_line).collect::<Vec<_>>().join("\n")
}

#[test]
fn train_says_what_it_did_and_what_is_there_already() {
    let scratch = tempfile::tempdir().unwrap();
    let config = write_config(scratch.path(), CONFIG);
    let out = scratch.path().join("run");
    let out = out.to_str().unwrap();
    insta::assert_snapshot!(blot(&transcript(&["train", &config, "-o", out], scratch.path())), @"
    exit 0
    --- stdout
    trained 18.61k parameters to step 12, 768 tokens, loss [N]
    `corpus` held out: [N] nats per token, [N] bits per byte
    4 checkpoints in `[OUT]/run`, the last one `[OUT]/run/step-12`
    [SPEED]
    --- stderr
    ");
    insta::assert_snapshot!(blot(&transcript(&["train", &config, "-o", out], scratch.path())), @"
    exit 0
    --- stdout
    `[OUT]/run` already has all of its 12 steps
    --- stderr
    ");
    let json = scratch.path().join("json");
    let json = json.to_str().unwrap();
    insta::assert_snapshot!(blot(&transcript(&["train", &config, "-o", json, "--json"], scratch.path())), @r#"
    exit 0
    --- stdout
    {
      "kind": "thalweg-train",
      "version": 1,
      "runs": [
        {
          "path": "[OUT]/json",
          "checkpoint": "[OUT]/json/step-12",
          "n_params": 18608,
          "steps": 12,
          "tokens": 768,
          "loss": [MEASURED]
          "validation": [
            {
              "step": 12,
              "tokens": 768,
              "domain": "corpus",
              "nll_nats": [MEASURED]
              "bits_per_byte": [MEASURED]
              "n_tokens": 1024
            }
          ],
          "n_checkpoints": 4,
          "resumed_from": null,
          "was_done": false,
          "seconds": [MEASURED]
        }
      ]
    }
    --- stderr
    "#);
    insta::assert_snapshot!(blot(&transcript(&["inspect", out], scratch.path())), @"
    exit 0
    --- stdout
    `[OUT]/run`: a run of 4 checkpoints, 4 finished; format: safetensors
    step log `[OUT]/run/steps.jsonl`: 12 entries
            step     tokens  phase   checkpoint
               3        192  stable  step-3
               6        384  stable  step-6
               9        576  stable  step-9
              12        768  anneal  step-12
    --- stderr
    ");
    let merged = scratch.path().join("merged");
    let merged = merged.to_str().unwrap();
    assert!(run(&["merge", out, "--last", "3", "-o", merged, "-q"]).status.success());
    assert!(run(&["explain", out, "--last", "3", "-q"]).status.success());
    let fork = CONFIG.to_owned() + "[start]\nfrom = \"merged\"\nstate = \"full\"\nmoments = \"newest\"\n";
    let fork = write_config(scratch.path(), &fork.replace("steps = 12", "steps = 15"));
    let out = scratch.path().join("fork");
    insta::assert_snapshot!(blot(&transcript(&["train", &fork, "-o", out.to_str().unwrap()], scratch.path())), @"
    exit 0
    --- stdout
    trained 18.61k parameters to step 15, 960 tokens, loss [N]
    `corpus` held out: [N] nats per token, [N] bits per byte
    1 checkpoint in `[OUT]/fork`, the last one `[OUT]/fork/step-15`
    [SPEED]
    --- stderr
    ");
}

#[test]
fn train_names_the_line_of_a_mistake() {
    let scratch = tempfile::tempdir().unwrap();
    let config = write_config(scratch.path(), &CONFIG.replace("anneal_steps", "aneal_steps"));
    let out = scratch.path().join("run");
    let out = out.to_str().unwrap();
    insta::assert_snapshot!(transcript(&["train", &config, "-o", out], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: `[OUT]/tiny.toml`: line 21, column 1: unknown key `aneal_steps`
    hint: did you mean `anneal_steps`?
    ");
    assert!(!Path::new(out).exists());
    let config = write_config(scratch.path(), CONFIG);
    std::fs::write(scratch.path().join("corpus.jsonl"), "{\"text\": \"a\"}\n{\"text\": \n").unwrap();
    insta::assert_snapshot!(transcript(&["train", &config, "-o", out], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: `[OUT]/corpus.jsonl`, line 2: EOF while parsing a value (column 8)
    ");
}

#[test]
fn ctrl_c_ends_with_130_and_leaves_the_state_of_the_last_whole_step() {
    use rustix::process::{Pid, Signal, kill_process};

    let scratch = tempfile::tempdir().unwrap();
    let config = write_config(scratch.path(), &CONFIG.replace("steps = 12", "steps = 3000"));
    let out = scratch.path().join("run");
    let log = out.join("steps.jsonl");
    let mut child = program().args(["train", &config, "-q", "-o"]).arg(&out).spawn().unwrap();
    // Not before the run has taken a step, so that there is something to resume from.
    while std::fs::metadata(&log).map_or(0, |info| info.len()) == 0 && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let _ = kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let stopped_at = std::fs::read_to_string(&log).unwrap().lines().count();
    assert!((1..3000).contains(&stopped_at), "{stopped_at}");
    assert!(out.join(format!("state/step-{stopped_at}/state.json")).exists());
}
