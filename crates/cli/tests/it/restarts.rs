//! Logs of runs that were killed and resumed, as users give them; spikes from which a run did not recover; hints.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;
use thalweg_lab::event_file::{event_record, file_version_record};

use crate::support::run;

const RUN: &str = "examples/runs/hybridstories";

/// A falling loss with deterministic noise, 3 nats higher for `n_high` steps from step 9000.
fn loss(step: u64, n_high: u64) -> f64 {
    let high = if (9000..9000 + n_high).contains(&step) { 3.0 } else { 0.0 };
    2.5 + 4.0 * (-(step as f64) / 4000.0).exp() + 0.02 * ((step * 7919 % 101) as f64 / 50.0 - 1.0) + high
}

fn line(step: u64) -> String {
    format!("{{\"step\": {step}, \"loss\": {}, \"lr\": 0.001}}\n", loss(step, 500))
}

fn lines(steps: impl Iterator<Item = u64>) -> String {
    steps.map(line).collect()
}

fn put(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> String {
    let path: PathBuf = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn onsets(output: &std::process::Output) -> Vec<u64> {
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    document["spikes"].as_array().unwrap().iter().filter_map(|spike| spike["onset"].as_u64()).collect()
}

fn told(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn damaged_lines_of_a_killed_run_are_skipped_and_counted() {
    let scratch = tempfile::tempdir().unwrap();
    let before = lines((50..=15_000).step_by(50));
    let after = lines((12_550..=20_000).step_by(50));
    let torn = "{\"step\": 15050, \"loss\": 2.5";
    let cases = [
        ("glued", torn.to_owned(), 1),
        ("torn", format!("{torn}\n"), 1),
        ("hole", format!("{}\n", "\0".repeat(4096)), 1),
        ("text", format!("{torn}\nslurmstepd: error: killed\n"), 2),
    ];
    for (name, damage, n_lines) in cases {
        let log = put(scratch.path(), &format!("{name}.jsonl"), format!("{before}{damage}{after}"));
        let output = run(&["recover", RUN, "--log", &log, "--json"]);
        assert_eq!((output.status.code(), onsets(&output)), (Some(0), vec![9000]), "{name}: {}", told(&output));
        let noun = if n_lines == 1 { "1 damaged line" } else { "2 damaged lines" };
        assert!(told(&output).contains(noun), "{name}: {}", told(&output));
    }
}

#[test]
fn logs_of_each_start_are_one_log_by_names_or_as_a_tree() {
    let scratch = tempfile::tempdir().unwrap();
    let events = |steps: &mut dyn Iterator<Item = u64>| {
        let mut bytes = file_version_record();
        steps.for_each(|step| {
            bytes.extend(event_record(step, &[("train/loss", loss(step, 500)), ("train/learning_rate", 0.001)]))
        });
        bytes
    };
    let first = "runs/Jan01_host/events.out.tfevents.1700000000.h.1.0";
    let first = put(scratch.path(), first, events(&mut (50..=15_000).step_by(50)));
    let second = "runs/Jan02_host/events.out.tfevents.1700009000.h.2.0";
    let second = put(scratch.path(), second, events(&mut (12_525..=20_000).step_by(50)));
    let tree = scratch.path().join("runs").to_str().unwrap().to_owned();
    for logs in [vec![&first, &second], vec![&second, &first], vec![&tree]] {
        let mut arguments = vec!["recover", RUN, "--json"];
        logs.iter().for_each(|log| arguments.extend(["--log", log.as_str()]));
        let output = run(&arguments);
        assert_eq!((output.status.code(), onsets(&output)), (Some(0), vec![9000]), "{}", told(&output));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        // 250 losses of the first start, to step 12,500, and 150 of the second.
        assert_eq!(document["searched"]["n_losses"], 400);
        assert!(told(&output).contains("from step 15000 to step 12525"), "{}", told(&output));
        let inspect = run(&[&["inspect", RUN][..], &arguments[2..]].concat());
        assert_eq!(onsets(&inspect), [9000]);
    }
}

#[test]
fn a_loss_that_stays_zero_is_found_shown_and_noted() {
    let scratch = tempfile::tempdir().unwrap();
    let row = |step: u64| {
        let (loss, norm) = if step < 9000 { (loss(step, 0), "0.5") } else { (0.0, "NaN") };
        format!("{{\"grad_norm\": {norm}, \"learning_rate\": 0.0003, \"loss\": {loss}, \"step\": {step}}}")
    };
    let rows: Vec<String> = (50..=20_000).step_by(50).map(row).collect();
    let state = format!("{{\"global_step\": 20000, \"log_history\": [{}]}}", rows.join(", "));
    let log = put(scratch.path(), "trainer_state.json", state);
    let output = run(&["recover", RUN, "--log", &log, "--json"]);
    assert_eq!((output.status.code(), onsets(&output)), (Some(0), vec![9000]), "{}", told(&output));
    let inspect = run(&["inspect", RUN, "--log", &log]);
    let table = String::from_utf8_lossy(&inspect.stdout).into_owned();
    let marked: Vec<&str> = table.lines().filter(|line| line.contains("in the spike of step 9000")).collect();
    assert_eq!(marked.len(), 6, "{table}");
    assert!(marked[0].trim_start().starts_with("10000"), "{table}");
}

#[test]
fn merge_says_when_its_window_holds_an_unhealed_spike() {
    let scratch = tempfile::tempdir().unwrap();
    let log = |name: &str, n_high: u64| {
        let mut text = "step,loss\n".to_owned();
        for step in (50..=20_000).step_by(50) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{step},{}", loss(step, n_high));
        }
        put(scratch.path(), name, text)
    };
    let (lasting, healed) = (log("lasting.csv", 50_000), log("healed.csv", 500));
    let out = scratch.path().join("merged");
    let merge = |log: &str, end: &str| {
        told(&run(&[
            "merge",
            RUN,
            "--last",
            "3",
            "--end-step",
            end,
            "--log",
            log,
            "--dry-run",
            "-o",
            out.to_str().unwrap(),
        ]))
    };
    let said = "the window holds an unhealed spike: onset at step 9000";
    assert!(merge(&lasting, "20000").contains(said), "{}", merge(&lasting, "20000"));
    assert!(merge(&lasting, "10000").contains(said));
    assert!(!merge(&lasting, "8000").contains("spike"));
    assert!(!merge(&healed, "20000").contains("spike"));
    // The command in the note works.
    assert_eq!(run(&["recover", RUN, "--log", &lasting]).status.code(), Some(0));
}

#[test]
fn hints_for_logs_without_steps_work() {
    let scratch = tempfile::tempdir().unwrap();
    let mut litgpt = "iter,learning_rate,loss,step,total_tokens\n".to_owned();
    for iter in 1..=1600u64 {
        let _ = writeln!(litgpt, "{iter},0.001,{},{},{}", loss(iter * 50 / 4, 50_000), iter - 1, 1000 * iter);
    }
    let litgpt = put(scratch.path(), "metrics.csv", litgpt);
    let refused = run(&["recover", RUN, "--log", &litgpt]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(told(&refused).contains("counts micro-batches") && told(&refused).contains("--tokens-per-step"));
    // 80 tokens per step: 1600 micro-batches of 1000 tokens make 20,000 steps.
    let output = run(&["recover", RUN, "--log", &litgpt, "--tokens-per-step", "80", "--json"]);
    assert_eq!((output.status.code(), onsets(&output)), (Some(0), vec![9000]), "{}", told(&output));
    let printed: String = (50..=20_000)
        .step_by(50)
        .map(|step| {
            format!("{{'loss': {}, 'grad_norm': 0.5, 'learning_rate': 0.001, 'epoch': 0.1}}\n", loss(step, 500))
        })
        .collect();
    let printed = put(scratch.path(), "slurm-1.out", printed);
    let refused = run(&["recover", RUN, "--log", &printed]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(told(&refused).contains("--log-every N"), "{}", told(&refused));
    let output = run(&["recover", RUN, "--log", &printed, "--log-every", "50", "--json"]);
    assert_eq!((output.status.code(), onsets(&output)), (Some(0), vec![9000]), "{}", told(&output));
}

#[test]
fn a_log_that_ends_before_the_newest_checkpoint_is_noted() {
    let scratch = tempfile::tempdir().unwrap();
    let log = put(scratch.path(), "short.jsonl", lines((50..=12_000).step_by(50)));
    let output = run(&["inspect", RUN, "--log", &log]);
    assert!(told(&output).contains("the step log ends at step 12000, but the newest checkpoint is step 20000"));
    let log = put(scratch.path(), "whole.jsonl", lines((50..=19_950).step_by(50)));
    assert!(!told(&run(&["inspect", RUN, "--log", &log])).contains("the step log ends"));
}
