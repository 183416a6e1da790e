//! `thalweg recover` and `thalweg init` as a person meets them, on logs of all four kinds.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;
use thalweg_lab::event_file::{event_record, file_version_record};

use crate::selection::Scene;
use crate::support::{run, transcript};

const RUN: &str = "examples/runs/hybridstories";

/// Losses of steps 100 to 20,000, every 100: noise that repeats, and from the entry `onset` on a jump of this many
/// entries.
fn losses(onset: usize, length: usize) -> Vec<f64> {
    let noise = |i: usize| 0.01 * ((i * 7919 % 101) as f64 / 100.0 - 0.5);
    let jump = |i: usize| if (onset..onset + length).contains(&i) { 1.0 } else { 0.0 };
    (0..200).map(|i| 3.0 - 0.002 * i as f64 + noise(i) + jump(i)).collect()
}

fn write_logs(folder: &Path, losses: &[f64]) -> [PathBuf; 4] {
    let (mut lines, mut csv, mut state) = (String::new(), "step,loss,lr\n".to_owned(), Vec::new());
    let mut events = file_version_record();
    for (i, loss) in losses.iter().enumerate() {
        let step = 100 * (i as u64 + 1);
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "{{\"step\": {step}, \"loss\": {loss}, \"lr\": 0.001}}");
        let _ = writeln!(csv, "{step},{loss},0.001");
        state.push(format!("{{\"step\": {step}, \"loss\": {loss}, \"learning_rate\": 0.001}}"));
        events.extend(event_record(step, &[("loss", *loss), ("lr", 0.001)]));
    }
    let state = format!("{{\"log_history\": [{}]}}", state.join(", "));
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    [
        write("log.jsonl", lines.as_bytes()),
        write("log.csv", csv.as_bytes()),
        write("trainer_state.json", state.as_bytes()),
        write("events.out.tfevents.1", &events),
    ]
}

#[test]
fn recover_replaces_nothing_but_a_merge() {
    let scratch = tempfile::tempdir().unwrap();
    let [log, ..] = write_logs(scratch.path(), &losses(150, 5));
    let notes = scratch.path().join("notes");
    std::fs::create_dir(&notes).unwrap();
    std::fs::write(notes.join("thesis.tex"), "mine").unwrap();
    for more in [&["--force"][..], &["--discard-partial"], &[]] {
        let fixed = ["recover", RUN, "--log", log.to_str().unwrap(), "-q", "-o", notes.to_str().unwrap()];
        let output = run(&[&fixed[..], more].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{more:?}: {text}");
        assert!(text.contains("`thesis.tex`") && !text.contains("--force"), "{more:?}: {text}");
        assert_eq!(std::fs::read(notes.join("thesis.tex")).unwrap(), b"mine");
        assert_eq!(std::fs::read_dir(&notes).unwrap().count(), 1);
    }
}

#[test]
fn recover_proposes_the_same_from_logs_of_every_kind() {
    let scratch = tempfile::tempdir().unwrap();
    let logs = write_logs(scratch.path(), &losses(150, 50));
    for log in &logs {
        let output = run(&["recover", RUN, "--log", log.to_str().unwrap(), "--json", "-q"]);
        assert_eq!(output.status.code(), Some(0), "{}", log.display());
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let spikes = document["spikes"].as_array().unwrap();
        assert_eq!(spikes.len(), 1, "{}: {spikes:?}", log.display());
        assert_eq!((spikes[0]["onset"].as_u64(), &spikes[0]["end"]), (Some(15_100), &Value::Null));
        let steps: Vec<u64> =
            document["sources"].as_array().unwrap().iter().filter_map(|source| source["step"].as_u64()).collect();
        assert_eq!(steps, [10_000, 12_000, 14_000], "{}", log.display());
        let rate = document["policy"]["learning_rate"]["at_newest_source"].as_f64().unwrap();
        // Event files hold numbers of single precision.
        assert!((rate - 0.001).abs() < 1e-9, "{}: {rate}", log.display());
    }
    for log in write_logs(scratch.path(), &losses(0, 0)) {
        let output = run(&["recover", RUN, "--log", log.to_str().unwrap(), "--json", "-q"]);
        assert_eq!(output.status.code(), Some(1), "{}", log.display());
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&document["spikes"], &document["searched"]["n_losses"]),
            (&Value::Array(vec![]), &Value::from(200))
        );
    }
}

#[test]
fn recover_says_what_it_found_and_writes_the_merge() {
    let scratch = tempfile::tempdir().unwrap();
    let [log, ..] = write_logs(scratch.path(), &losses(150, 4));
    let (log, out) = (log.to_str().unwrap(), scratch.path().join("restart"));
    let arguments = ["recover", RUN, "--log", log, "-o", out.to_str().unwrap(), "--moments", "average"];
    insta::assert_snapshot!(transcript(&arguments, scratch.path()), @r#"
    exit 0
    --- stdout
    step log `[OUT]/log.jsonl`: 200 losses, steps 100 to 20000
    spike: onset at step 15100, peak at step 15100, recovered at step 15500; seen in the loss

    resume from the sma of 3 checkpoints before step 15100:
           10000  [ROOT]/examples/runs/hybridstories/step_10000.safetensors
           12000  [ROOT]/examples/runs/hybridstories/step_12000.safetensors
           14000  [ROOT]/examples/runs/hybridstories/step_14000.safetensors
    or from step 14000 alone, which did no worse in our experiments (docs/results/recovery.md)

    moments: average
    learning rate: the schedule's at step 14000, where the log has 0.001
    steps: from 14000; data: skip 1499 steps and resume with those of step 15500

    thalweg train:
      [start]
      from = "[OUT]/restart"
      state = "full"
      moments = "average"
      skip_data_steps = 1499

    Hugging Face Trainer:
      copy optimizer.pt, scheduler.pt, rng_state*.pth and trainer_state.json of `[ROOT]/examples/runs/hybridstories/step_14000.safetensors` into `[OUT]/restart`
      trainer.train(resume_from_checkpoint="[OUT]/restart")
      Trainer does not average moments: these are the newest source's
      give a train set that begins after step 15499: dataset.skip(15499 * global batch size), with ignore_data_skip=True

    torchtitan:
      --checkpoint.enable --checkpoint.initial_load_path "[OUT]/restart" --checkpoint.initial_load_in_hf
      with an empty checkpoint.folder: only the parameters are loaded, so moments, schedule and data start over
      subtract step 14000 from training.steps, and give lr_scheduler.warmup_steps
      there is no option to skip data: let the data set begin after step 15499
      moments are kept only with torchtitan's own checkpoint: --checkpoint.load_step resumes it, unmerged

    Megatron-LM:
      convert with Megatron Bridge: AutoBridge.import_ckpt("[OUT]/restart", DIR)
      --load DIR --finetune: without optimizer and random state, from iteration 0
      subtract step 14000 from --train-iters, and give --lr-warmup-iters
      the samples start over: let --data-path begin after step 15499
      unmerged, with the moments kept: --load RUN --ckpt-step 14000 --iterations-to-skip $(seq 14001 15499)
    merged 3 checkpoints (steps 10000, 12000, 14000) by sma into `[OUT]/restart`
    read 2.97 MB, [MEASURED]
    distance to the newest checkpoint: 15.3 % of its norm, 44.5 in all, at most 1.27 in one element
    --- stderr
    note: the loss recovered by itself at step 15500: resuming may not be necessary
    "#);
    let policy: Value = serde_json::from_slice(&std::fs::read(out.join("thalweg-start.json")).unwrap()).unwrap();
    assert_eq!((&policy["kind"], &policy["moments"]), (&"thalweg-start".into(), &"average".into()));
    // The policy beside the merge does not make it another one.
    assert_eq!(run(&["verify", out.to_str().unwrap(), "--inputs"]).status.code(), Some(0));
    assert!(transcript(&arguments, scratch.path()).contains("already holds the result of this plan"));
}

#[test]
fn recover_says_no_with_what_was_looked_at() {
    let scratch = tempfile::tempdir().unwrap();
    let [_, log, ..] = write_logs(scratch.path(), &losses(0, 0));
    insta::assert_snapshot!(transcript(&["recover", RUN, "--log", log.to_str().unwrap()], scratch.path()), @"
    exit 1
    --- stdout
    step log `[OUT]/log.csv`: 200 losses, steps 100 to 20000
    no spike: no loss is more than 6.5 standard deviations of the log's noise above its level
    --- stderr
    ");
}

#[test]
fn recover_needs_a_log_and_a_checkpoint_before_the_spike() {
    let scratch = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(transcript(&["recover", RUN], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: `[ROOT]/examples/runs/hybridstories` has no step log, which is needed to find spikes
    hint: name it with `--log`: JSON lines, CSV, trainer_state.json, console output or TensorBoard event files
    ");
    let [log, ..] = write_logs(scratch.path(), &losses(15, 185));
    insta::assert_snapshot!(transcript(&["recover", RUN, "--log", log.to_str().unwrap()], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: there is no finished checkpoint before the spike at step 1800; the oldest is step 2000
    hint: start the run again, with a lower learning rate or a longer warmup
    ");
}

#[test]
fn one_checkpoint_before_the_spike_is_resumed_from_as_it_is() {
    let scratch = tempfile::tempdir().unwrap();
    let [log, ..] = write_logs(scratch.path(), &losses(30, 170));
    let out = scratch.path().join("restart");
    let arguments = ["recover", RUN, "--log", log.to_str().unwrap(), "-o", out.to_str().unwrap(), "--data", "replay"];
    insta::assert_snapshot!(transcript(&arguments, scratch.path()), @r#"
    exit 0
    --- stdout
    step log `[OUT]/log.jsonl`: 200 losses, steps 100 to 20000
    spike: onset at step 3100, peak at step 3300, it did not recover; seen in the loss

    resume from `[ROOT]/examples/runs/hybridstories/step_02000.safetensors`, the only checkpoint before step 3100
            2000  [ROOT]/examples/runs/hybridstories/step_02000.safetensors

    moments: newest
    learning rate: the schedule's at step 2000, where the log has 0.001
    steps: from 2000; data: replayed from there

    thalweg train:
      [start]
      from = "[ROOT]/examples/runs/hybridstories/step_02000.safetensors"
      state = "full"
      moments = "newest"

    Hugging Face Trainer:
      trainer.train(resume_from_checkpoint="[ROOT]/examples/runs/hybridstories/step_02000.safetensors")
      the data continue at that step automatically: leave ignore_data_skip at False

    torchtitan:
      --checkpoint.enable --checkpoint.initial_load_path "[ROOT]/examples/runs/hybridstories/step_02000.safetensors" --checkpoint.initial_load_in_hf
      with an empty checkpoint.folder: only the parameters are loaded, so moments, schedule and data start over
      subtract step 2000 from training.steps, and give lr_scheduler.warmup_steps
      there is no option to skip data: let the data set begin after step 2000
      moments are kept only with torchtitan's own checkpoint: --checkpoint.load_step resumes it, unmerged

    Megatron-LM:
      convert with Megatron Bridge: AutoBridge.import_ckpt("[ROOT]/examples/runs/hybridstories/step_02000.safetensors", DIR)
      --load DIR --finetune: without optimizer and random state, from iteration 0
      subtract step 2000 from --train-iters, and give --lr-warmup-iters
      the samples start over: let --data-path begin after step 2000
      unmerged, with the moments kept: --load RUN --ckpt-step 2000
    --- stderr
    note: there is only one usable checkpoint before the onset: resume from it; there is nothing to merge
    note: nothing was written: one checkpoint is not a merge
    "#);
    assert!(!out.exists());
}

#[test]
fn init_writes_a_start_point_with_its_policy() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("start");
    let out = out.to_str().unwrap();
    let arguments = ["init", RUN, "--for", "sft", "--last", "3", "--scheme", "wma", "-o", out];
    insta::assert_snapshot!(transcript(&arguments, scratch.path()), @r#"
    exit 0
    --- stdout
    merged 3 checkpoints (steps 16000, 18000, 20000) by wma into `[OUT]/start`
    read 2.97 MB, [MEASURED]
    distance to the newest checkpoint: 7.61 % of its norm, 21.0 in all, at most 0.609 in one element

    moments: reset
    learning rate: the peak that you would use from the newest checkpoint, with a warmup: of 1e-5, 2e-5 and 4e-5 the paper found the first two best for one model of 15B active parameters, and no gain on others (arXiv 2505.12082, table 1)
    steps: from 0

    thalweg train:
      [start]
      from = "[OUT]/start"
      state = "params-only"

    Hugging Face Trainer:
      model = AutoModelForCausalLM.from_pretrained("[OUT]/start")
      trainer.train() without resume_from_checkpoint: moments and schedule start over

    torchtitan:
      --checkpoint.enable --checkpoint.initial_load_path "[OUT]/start" --checkpoint.initial_load_in_hf
      with an empty checkpoint.folder: only the parameters are loaded, so moments, schedule and data start over

    Megatron-LM:
      convert with Megatron Bridge: AutoBridge.import_ckpt("[OUT]/start", DIR)
      --load DIR --finetune: without optimizer and random state, from iteration 0
    --- stderr
    note: the window crosses the end of the stable phase at step 17000
    "#);
    let mut json = arguments.to_vec();
    json.push("--json");
    insta::assert_snapshot!(transcript(&json, scratch.path()), @r#"
    exit 0
    --- stdout
    {
      "kind": "thalweg-init",
      "version": 1,
      "sources": [
        {
          "path": "[ROOT]/examples/runs/hybridstories/step_16000.safetensors",
          "step": 16000
        },
        {
          "path": "[ROOT]/examples/runs/hybridstories/step_18000.safetensors",
          "step": 18000
        },
        {
          "path": "[ROOT]/examples/runs/hybridstories/step_20000.safetensors",
          "step": 20000
        }
      ],
      "policy": {
        "kind": "thalweg-start",
        "version": 1,
        "purpose": "sft",
        "checkpoint": "[OUT]/start",
        "format": "safetensors",
        "optimizer": "drop",
        "sources": [
          {
            "path": "[ROOT]/examples/runs/hybridstories/step_16000.safetensors",
            "step": 16000
          },
          {
            "path": "[ROOT]/examples/runs/hybridstories/step_18000.safetensors",
            "step": 18000
          },
          {
            "path": "[ROOT]/examples/runs/hybridstories/step_20000.safetensors",
            "step": 20000
          }
        ],
        "state": "params-only",
        "moments": "reset",
        "data": "replay",
        "skip_data_steps": 0,
        "learning_rate": {
          "at_newest_source": null,
          "advice": "the peak that you would use from the newest checkpoint, with a warmup: of 1e-5, 2e-5 and 4e-5 the paper found the first two best for one model of 15B active parameters, and no gain on others (arXiv 2505.12082, table 1)"
        }
      },
      "instructions": [
        {
          "trainer": "thalweg train",
          "lines": [
            "[start]",
            "from = \"[OUT]/start\"",
            "state = \"params-only\""
          ]
        },
        {
          "trainer": "Hugging Face Trainer",
          "lines": [
            "model = AutoModelForCausalLM.from_pretrained(\"[OUT]/start\")",
            "trainer.train() without resume_from_checkpoint: moments and schedule start over"
          ]
        },
        {
          "trainer": "torchtitan",
          "lines": [
            "--checkpoint.enable --checkpoint.initial_load_path \"[OUT]/start\" --checkpoint.initial_load_in_hf",
            "with an empty checkpoint.folder: only the parameters are loaded, so moments, schedule and data start over"
          ]
        },
        {
          "trainer": "Megatron-LM",
          "lines": [
            "convert with Megatron Bridge: AutoBridge.import_ckpt(\"[OUT]/start\", DIR)",
            "--load DIR --finetune: without optimizer and random state, from iteration 0"
          ]
        }
      ],
      "receipt": "[OUT]/start/thalweg.json",
      "was_done": true
    }
    --- stderr
    note: the window crosses the end of the stable phase at step 17000
    "#);
    let cpt = scratch.path().join("cpt");
    let text = transcript(&["init", RUN, "--for", "cpt", "-o", cpt.to_str().unwrap()], scratch.path());
    assert!(text.contains("note: window: 2 checkpoints, steps 18000 to 20000"), "{text}");
    insta::assert_snapshot!(transcript(&["init", RUN, "--for", "cpt", "--last", "30", "-o", out], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: the window needs 30 finished checkpoints, but there are 10
      there are 10 finished checkpoints, steps 2000 to 20000, every 2000
    hint: choose at most 10 checkpoints
    ");
}

/// A run with checkpoints to step 1000 and this log beside them.
fn run_with_log(name: &str, lines: impl Iterator<Item = String>) -> Scene {
    let scene = Scene::new(&[200, 400, 600, 800, 1000]);
    scene.write(&format!("run/{name}"), lines.collect::<String>());
    scene
}

#[test]
fn a_loss_that_is_null_to_the_end_is_a_diverged_run() {
    let loss = |step: u64| (step < 900).then(|| 3.0 - step as f64 / 1000.0 + (step % 30) as f64 / 1e4);
    let json = |step: u64| {
        let loss = loss(step).map_or("null".to_owned(), |loss| loss.to_string());
        format!("{{\"step\": {step}, \"loss\": {loss}, \"lr\": 0.001}}\n")
    };
    let csv = |step: u64| format!("{step},{}\n", loss(step).map_or(String::new(), |loss| loss.to_string()));
    let header = || std::iter::once("step,loss\n".to_owned());
    for scene in [
        run_with_log("log.jsonl", (1..=100).map(|n| json(n * 10))),
        run_with_log("log.csv", header().chain((1..=100).map(|n| csv(n * 10)))),
    ] {
        let said = scene.run("recover run");
        said.done(&[
            "onset at step 900",
            "null or empty from step 900 to the end of the log (11 records)",
            "checkpoint-800",
        ]);
        assert!(!said.stderr.contains("ends at step"), "{}", said.stderr);
    }
}

#[test]
fn a_null_between_numbers_or_in_a_last_record_is_a_record_without_a_loss() {
    let line = |step: u64, has_loss: bool| {
        let loss = if has_loss { format!("{}", 3.0 - step as f64 / 1000.0) } else { "null".to_owned() };
        format!("{{\"step\": {step}, \"loss\": {loss}, \"eval\": 1}}\n")
    };
    let sparse = (1..=100).map(|n| line(n * 10, n % 10 != 0 && n < 98));
    let summary = (1..=100).map(|n| line(n * 10, n < 100));
    for scene in [run_with_log("log.jsonl", sparse), run_with_log("log.jsonl", summary)] {
        let said = scene.run("recover run");
        assert_eq!(said.code, 1, "{said:?}");
        assert!(!said.stderr.contains("null"), "{}", said.stderr);
    }
}

#[test]
fn a_log_without_a_loss_is_named_with_the_reason() {
    for (name, text) in [
        ("log.jsonl", "{\"step\": 1, \"reward\": 2.0}\n{\"step\": 2, \"reward\": 2.0}\n"),
        ("metrics.csv", "step,reward\n1,2.0\n2,2.0\n"),
    ] {
        let scene = run_with_log(name, std::iter::once(text.to_owned()));
        let said = scene.run("recover run");
        assert_eq!(said.code, 2);
        for word in [name, "reward", "no step log that can be used"] {
            assert!(said.stderr.contains(word), "{word} is not in {}", said.stderr);
        }
        let said = scene.run("recover run --log-columns loss=reward");
        assert!(said.code == 1 && said.stdout.contains("2 losses"), "{said:?}");
    }
}
