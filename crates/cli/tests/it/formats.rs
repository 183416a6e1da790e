//! Outputs in other formats on the command line: which one is written, what is kept, what is refused, and hints that
//! work.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use thalweg_testkit::Scratch;

use crate::support::{check, program, root, run};
use crate::torch::tensors;

/// Checkpoints of every format that is read, with the format of a merge of them by default.
const SOURCES: [(&str, &str); 17] = [
    ("hf-sharded/step-80", "safetensors"),
    ("dcp-fsdp2/step-80", "dcp"),
    ("dcp-hf-sharded/step-80", "dcp"),
    ("dcp-variants/flat-keys", "dcp"),
    ("megatron-torch_dist/iter_0000080", "megatron-dist"),
    ("megatron-legacy/iter_0000080", "safetensors"),
    ("deepspeed/zero1/global_step80", "deepspeed-zero"),
    ("deepspeed/universal/global_step80_universal", "deepspeed-universal"),
    ("torch/bin-sharded/step-80", "torch"),
    ("torch/trainstate/step-80.pt", "torch"),
    ("torch-checkpointing/one-rank/step-10", "safetensors"),
    ("trainers/lightning-ema/epoch=0-step=40.ckpt", "torch"),
    ("npz/step-80.npz", "npz"),
    ("gguf/step-20.gguf", "gguf"),
    ("orbax/manager/20", "orbax"),
    ("orbax/maxtext/20", "orbax"),
    ("orbax/levanter/step-20", "orbax"),
];

fn source(name: &str) -> String {
    root().join("fixtures").join(name).display().to_string()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs in a scratch folder.
fn run_in(scratch: &Scratch, arguments: &[&str]) -> Output {
    program().current_dir(scratch.path()).args(arguments).output().unwrap()
}

#[track_caller]
fn done(scratch: &Scratch, arguments: &[&str]) -> String {
    let output = run_in(scratch, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output)
}

#[track_caller]
fn refused(scratch: &Scratch, arguments: &[&str], facts: &[&str]) -> String {
    let output = run_in(scratch, arguments);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    facts.iter().for_each(|fact| assert!(message.contains(fact), "{arguments:?}: `{fact}` is not in: {message}"));
    message
}

fn receipt(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("thalweg.json")).unwrap()).unwrap()
}

/// The format that a receipt says.
fn format_of(folder: &Path) -> String {
    receipt(folder)["plan"]["format"].as_str().unwrap_or("safetensors").to_owned()
}

/// Where the tensors of an output are: its only file, if it was made like a single file.
fn inside(out: &Path, like: &str) -> PathBuf {
    let file = out.join(Path::new(like).file_name().unwrap());
    if file.is_file() { file } else { out.to_owned() }
}

#[test]
fn a_merge_has_the_format_of_its_newest_source_and_verifies_and_is_inspected_as_it() {
    let scratch = Scratch::new();
    for (number, (name, format)) in SOURCES.iter().enumerate() {
        let out = scratch.join(format!("out{number}"));
        let told = done(&scratch, &["merge", "-m", &source(name), "-o", out.to_str().unwrap()]);
        assert_eq!(format_of(&out), *format, "{name}");
        let is_named = told.contains(&format!("written as {format}"));
        assert!(is_named || name.starts_with("hf-"), "{name}: {told}");
        done(&scratch, &["verify", out.to_str().unwrap(), "--inputs"]);
        let inspected = done(&scratch, &["inspect", inside(&out, name).to_str().unwrap(), "--json"]);
        assert!(inspected.contains(&format!("\"format\": \"{format}\"")), "{name}: {inspected}");
        assert!(tensors(&inside(&out, name)) == tensors(Path::new(&source(name))), "{name}");
        // A merge of a merge.
        let again = scratch.join(format!("again{number}"));
        done(&scratch, &["merge", "-m", inside(&out, name).to_str().unwrap(), "-o", again.to_str().unwrap()]);
        assert!(tensors(&inside(&again, name)) == tensors(Path::new(&source(name))), "{name}");
    }
}

#[test]
fn each_format_is_written_from_each_source_or_refused_with_a_hint_that_works() {
    let scratch = Scratch::new();
    let formats = [
        "same",
        "safetensors",
        "torch",
        "dcp",
        "megatron-dist",
        "npz",
        "gguf",
        "orbax",
        "deepspeed-zero",
        "deepspeed-universal",
    ];
    let mut n_refused = 0;
    for (number, (name, own)) in SOURCES.iter().enumerate() {
        let expected = tensors(Path::new(&source(name)));
        for format in formats {
            let out = scratch.join(format!("out{number}-{format}"));
            let arguments = ["merge", "-m", &source(name), "--format", format, "-o", out.to_str().unwrap()];
            let output = run_in(&scratch, &arguments);
            let is_possible = match format {
                "same" => *own != "safetensors" || name.starts_with("hf-"),
                _ => !format.starts_with("deepspeed") && format != "gguf" || format == *own,
            };
            assert_eq!(
                output.status.code(),
                Some(if is_possible { 0 } else { 2 }),
                "{arguments:?}: {}",
                stderr(&output)
            );
            if !is_possible {
                n_refused += 1;
                assert!(stderr(&output).contains("hint: `--format safetensors`"), "{}", stderr(&output));
                let arguments = ["merge", "-m", &source(name), "--format", "safetensors", "-o", out.to_str().unwrap()];
                done(&scratch, &arguments);
            }
            done(&scratch, &["verify", out.to_str().unwrap()]);
            assert!(tensors(&inside(&out, name)) == expected, "{name} as {format}");
        }
    }
    assert!(n_refused > 20, "{n_refused}");
}

#[test]
fn converting_there_and_back_gives_the_same_tensors() {
    let scratch = Scratch::new();
    for (number, (name, _)) in SOURCES.iter().enumerate() {
        let expected = tensors(Path::new(&source(name)));
        let mut from = source(name);
        for (step, format) in ["dcp", "torch", "safetensors", "megatron-dist", "safetensors"].iter().enumerate() {
            let out = scratch.join(format!("out{number}-{step}"));
            let out = out.to_str().unwrap();
            let mut arguments = vec!["convert", &from, "--format", format, "-o", out];
            if step % 2 == 0 {
                arguments.extend(["--out-shard-size", "20kB"]);
            }
            done(&scratch, &arguments);
            assert!(tensors(Path::new(out)) == expected, "{name} as {format}");
            from = out.to_owned();
        }
    }
}

#[test]
fn convert_consolidates_says_what_it_would_do_and_reports_json() {
    let scratch = Scratch::new();
    let from = source("dcp-fsdp2/step-80");
    let told = done(&scratch, &["convert", &from, "-o", "out", "--dry-run"]);
    assert!(told.contains("written as safetensors") && !scratch.join("out").exists(), "{told}");
    done(&scratch, &["convert", &from, "-o", "parts", "--format", "torch", "--out-shard-size", "10kB"]);
    done(&scratch, &["convert", &from, "-o", "one", "--format", "torch", "--consolidate"]);
    let count = |name: &str| {
        let files = fs::read_dir(scratch.join(name)).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|end| end == "bin")).count()
    };
    assert!(count("parts") > 3 && count("one") == 1, "{} {}", count("parts"), count("one"));
    let output = run_in(&scratch, &["convert", "parts", "-o", "json", "--dtype", "bf16", "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&document["kind"], &document["outputs"][0]["dtype"]), (&"thalweg-convert".into(), &"bf16".into()));
    assert!(tensors(&scratch.join("json")).values().all(|(dtype, _, _)| dtype.eq_ignore_ascii_case("bf16")));
}

#[test]
fn without_the_optimizer_with_another_dtype_or_without_a_tensor_only_the_rest_is_written() {
    let scratch = Scratch::new();
    let from = source("dcp-fsdp2/step-80");
    let whole = done(&scratch, &["merge", "-m", &from, "-o", "whole", "--optimizer", "newest"]);
    assert!(whole.contains("everything else is as in `step-80`, also the tensors under `optim` (63)"), "{whole}");
    for (name, more) in
        [("a", ["--optimizer", "drop"]), ("b", ["--dtype", "bf16"]), ("c", ["--drop", "lm_head.weight"])]
    {
        let told = done(&scratch, &["merge", "-m", &from, "-o", name, more[0], more[1]]);
        assert!(told.contains("written as dcp, without the state of the training"), "{more:?}: {told}");
        assert_eq!(receipt(&scratch.join(name))["plan"]["policy"]["optimizer"], Value::Null, "{more:?}");
        let inspected = done(&scratch, &["inspect", name, "--json"]);
        assert!(!inspected.contains("optim"), "{more:?}: {inspected}");
        done(&scratch, &["verify", name]);
        if more[0] != "--optimizer" {
            let both = ["merge", "-m", &from, "-o", "x", more[0], more[1], "--optimizer", "newest"];
            refused(&scratch, &both, &["has no state of the optimizer", "hint: leave out `--optimizer newest`"]);
        }
    }
    refused(&scratch, &["merge", "-m", &source("hf-moe/step-80"), "-o", "x", "--optimizer", "newest"], &["leave out"]);
    // DeepSpeed's masters are a part of the optimizer's state.
    let zero = source("deepspeed/zero1/global_step80");
    let told = done(&scratch, &["merge", "-m", &zero, "-o", "d", "--dtype", "bf16"]);
    assert!(told.contains("the output is written as safetensors"), "{told}");
    let named = ["merge", "-m", &zero, "-o", "x", "--dtype", "bf16", "--format", "deepspeed-zero"];
    refused(&scratch, &named, &["hint: `--format safetensors`"]);
}

#[test]
fn plans_name_the_format_and_what_is_kept_and_merge_the_same() {
    let scratch = Scratch::new();
    let [old, new] = ["60", "80"].map(|step| source(&format!("dcp-fsdp2/step-{step}")));
    let told = done(&scratch, &["plan", &old, &new]);
    assert!(told.contains("written as dcp; everything else is as in `step-80`"), "{told}");
    let told = done(&scratch, &["plan", &old, &new, "--format", "torch"]);
    assert!(told.contains("written as torch, without"), "{told}");
    let told = done(&scratch, &["plan", &source("hf-sharded/step-60"), &source("hf-sharded/step-80")]);
    assert!(!told.contains("written as"), "{told}");
}

#[test]
fn sources_of_several_formats_are_merged_into_the_format_of_the_newest() {
    let scratch = Scratch::new();
    let (hf, bin) = (source("hf-sharded/step-60"), source("torch/bin-sharded/step-80"));
    done(&scratch, &["merge", &hf, &bin, "-o", "bin"]);
    assert_eq!(format_of(&scratch.join("bin")), "torch");
    done(&scratch, &["merge", &source("torch/bin-sharded/step-60"), &source("hf-sharded/step-80"), "-o", "hf"]);
    assert_eq!(format_of(&scratch.join("hf")), "safetensors");
    done(&scratch, &["merge", &hf, &source("hf-sharded/step-80"), "-o", "plain"]);
    assert!(tensors(&scratch.join("bin")) == tensors(&scratch.join("plain")));
    assert!(tensors(&scratch.join("hf")) == tensors(&scratch.join("plain")));
}

#[test]
fn an_output_in_its_run_is_not_one_of_the_runs_checkpoints() {
    let scratch = Scratch::new();
    for step in ["step-60", "step-80"] {
        fs::create_dir_all(scratch.join(format!("run/{step}"))).unwrap();
        for entry in fs::read_dir(source(&format!("dcp-fsdp2/{step}"))).unwrap().map(|entry| entry.unwrap()) {
            fs::copy(entry.path(), scratch.join(format!("run/{step}")).join(entry.file_name())).unwrap();
        }
    }
    done(&scratch, &["merge", "run", "--last", "2", "-o", "run/merged"]);
    done(&scratch, &["merge", "run", "--last", "2", "-o", "run/step-80-merged"]);
    done(&scratch, &["merge", "run", "--last", "2", "-o", "apart"]);
    assert_eq!(receipt(&scratch.join("apart"))["sources"], receipt(&scratch.join("run/merged"))["sources"]);
    // A sweep writes the format that it is told.
    done(&scratch, &["sweep", "run", "--counts", "2", "--schemes", "sma,wma", "-o", "sweep", "--format", "torch"]);
    let formats: Vec<String> = fs::read_dir(scratch.join("sweep"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("thalweg.json").exists())
        .map(|path| format_of(&path))
        .collect();
    assert_eq!(formats, ["torch", "torch"]);
}

#[test]
fn recipes_name_a_format_and_a_policy_for_the_optimizer() {
    let scratch = Scratch::new();
    let recipe = |more: &str| format!("run = {:?}\nlast = 2\nscheme = \"sma\"\n{more}", source("dcp-fsdp2"));
    for (name, more, format, optimizer) in [
        ("a", "", "dcp", "newest"),
        ("b", "format = \"torch\"\n", "torch", "drop"),
        ("c", "format = \"same\"\noptimizer = \"drop\"\n", "dcp", "drop"),
    ] {
        scratch.write(format!("{name}.toml"), recipe(more));
        done(&scratch, &["merge", &format!("{name}.toml"), name]);
        assert_eq!(format_of(&scratch.join(name)), format, "{name}");
        let policy = receipt(&scratch.join(name))["plan"]["policy"]["optimizer"].clone();
        assert_eq!(policy.as_str().unwrap_or("drop"), optimizer, "{name}");
    }
}

#[test]
fn an_output_that_is_named_like_a_file_is_refused_with_a_name_that_works() {
    let scratch = Scratch::new();
    let from = source("torch/trainstate/step-80.pt");
    for (command, name) in [("merge", "merged.pt"), ("convert", "x.safetensors"), ("convert", "deep/model.v1.bin")] {
        let model = if command == "merge" { vec![command, "-m", &from] } else { vec![command, &*from] };
        let message = refused(&scratch, &[&*model, &["-o", name]].concat(), &["an output is a folder"]);
        let proposed = message.split("`-o ").nth(1).unwrap().split('`').next().unwrap();
        done(&scratch, &[&*model, &["-o", proposed]].concat());
        assert!(scratch.join(proposed).is_dir(), "{proposed}");
    }
}

/// Copies a fixture and replaces text in its metadata by text of the same length.
fn renamed(scratch: &Scratch, name: &str, from: &str, to: &str) -> String {
    assert_eq!(from.len(), to.len(), "{from} {to}");
    let folder = scratch.join(format!("{}-{}", name.replace('/', "-"), to.trim_end_matches('.').len()));
    fs::create_dir_all(&folder).unwrap();
    for entry in fs::read_dir(source(name)).unwrap().map(|entry| entry.unwrap()) {
        let mut bytes = fs::read(entry.path()).unwrap();
        if entry.file_name() == ".metadata" {
            let places: Vec<usize> =
                (0..bytes.len() - from.len()).filter(|&at| &bytes[at..at + from.len()] == from.as_bytes()).collect();
            assert!(!places.is_empty());
            places.iter().for_each(|&at| bytes[at..at + to.len()].copy_from_slice(to.as_bytes()));
        }
        fs::write(folder.join(entry.file_name()), bytes).unwrap();
    }
    folder.display().to_string()
}

#[test]
fn masters_beside_the_weights_are_merged_with_them_or_the_optimizers_state_is_left_out() {
    let scratch = Scratch::new();
    let megatron = "megatron-torch_dist/iter_0000080";
    // The masters of the distributed optimizer, by their names in Megatron-Core.
    let known = renamed(&scratch, megatron, "optimizer.state.exp_avg_sq.", "optimizer.state.fp32_param.");
    done(&scratch, &["merge", "-m", &known, "-o", "known"]);
    assert_eq!(receipt(&scratch.join("known"))["plan"]["policy"]["optimizer"], "newest");
    let read = |params: &str| done(&scratch, &["convert", "known", "--params", params, "-o", params]);
    read("module");
    read("master");
    assert!(tensors(&scratch.join("module")) == tensors(&scratch.join("master")));
    // Masters under names, or in buckets, that are not parameters.
    let suffix = "output_layer.weight";
    let one = format!("optimizer.state.exp_avg_sq.{suffix}");
    let bucket = format!("optimizer.distributed.{}.param", "b".repeat(one.len() - 28));
    let cases = [
        (megatron, "optimizer.state.exp_avg_sq.", "optimizer.state.master_p32.".to_owned()),
        (megatron, &*one, bucket),
        ("dcp-fsdp2/step-80", ".exp_avg_sq", ".master_avg".to_owned()),
    ];
    for (number, (name, from, to)) in cases.iter().enumerate() {
        let folder = renamed(&scratch, name, from, to);
        let out = format!("left{number}");
        let told = done(&scratch, &["merge", "-m", &folder, "-o", &out]);
        assert!(told.contains("would undo the merge") && told.contains("without the state of the training"), "{told}");
        assert!(tensors(&scratch.join(&out)) == tensors(Path::new(&folder)), "{name}");
        let asked = ["merge", "-m", &folder, "-o", "x", "--optimizer", "newest"];
        refused(
            &scratch,
            &asked,
            &["would undo the merge", "hint: leave the training state out with `--optimizer drop`"],
        );
        done(&scratch, &["merge", "-m", &folder, "-o", &format!("dropped{number}"), "--optimizer", "drop"]);
    }
}

#[test]
fn megatron_finds_its_arguments_in_an_output_without_the_optimizer() {
    let scratch = Scratch::new();
    let from = source("megatron-torch_dist/iter_0000080");
    done(&scratch, &["merge", "-m", &from, "-o", "out", "--optimizer", "drop"]);
    let common = |folder: &Path| fs::read(folder.join("common.pt")).unwrap();
    assert!(common(&scratch.join("out")) == common(Path::new(&from)));
    assert_eq!(run(&["verify", scratch.join("out").to_str().unwrap(), "--inputs"]).status.code(), Some(0));
    // From another format there are none.
    done(&scratch, &["convert", &source("dcp-fsdp2/step-80"), "-o", "alone", "--format", "megatron-dist"]);
    assert!(common(&scratch.join("alone")).len() < common(Path::new(&from)).len());
}

#[test]
fn averages_that_are_kept_beside_the_model_are_said_to_stay_as_they_are() {
    let scratch = Scratch::new();
    let from = source("trainers/lightning-ema/epoch=0-step=40.ckpt");
    let document: Value = serde_json::from_slice(&run(&["inspect", &from, "--json"]).stdout).unwrap();
    let told = done(&scratch, &["merge", "-m", &from, "-o", "out"]);
    let others: Vec<&str> =
        document["other_keys"].as_array().unwrap().iter().map(|key| key["key"].as_str().unwrap()).collect();
    assert!(!others.is_empty());
    for key in others {
        assert!(told.contains(&format!("`{key}`")), "{key}: {told}");
    }
    assert!(told.contains("everything else is as in"), "{told}");
    assert_eq!(run(&["verify", scratch.join("out").to_str().unwrap()]).status.code(), Some(0));
}

#[test]
fn frozen_parameters_are_written_into_the_shares_of_all_ranks() {
    let scratch = Scratch::new();
    let folder = root().join("fixtures/trainers/frozen-zero3");
    let source = folder.join("global_step6").display().to_string();
    check(&scratch, &format!("merge -m {source} -o global_step7"), 0, &[]);
    let names = |folder: &Path| {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".pt")).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(names(&scratch.join("global_step7")), names(Path::new(&source)));
    assert!(tensors(&scratch.join("global_step7")) == tensors(&folder.join("expected/step-6.safetensors")));
}
