//! The folders of trainers that put the model beside other things, and names that a new user meets: what is read, what
//! an output has of them, and which way on a message shows.

use std::fs;
use std::path::Path;

use thalweg_testkit::{Scratch, copy_folder};

use crate::support::{check, root};
use crate::torch::tensors;

fn fixture(name: &str) -> std::path::PathBuf {
    root().join("fixtures").join(name)
}

fn put(scratch: &Scratch, path: &str, text: &str) {
    let path = scratch.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A run whose two checkpoints have one of these fixtures each in a folder inside.
fn put_run(scratch: &Scratch, places: [(&str, &str); 2]) {
    for (from, to) in places {
        copy_folder(&fixture(from), &scratch.join(to));
    }
}

#[track_caller]
fn check_equal(a: &Path, b: &Path) {
    assert_eq!(tensors(a), tensors(b));
}

#[test]
fn checkpoints_of_nemo_are_those_of_megatron_in_a_folder() {
    let scratch = Scratch::new();
    let name = |step: u32| format!("nemo/gpt--val_loss=2.{step}-step={step}-consumed_samples=9.0");
    let [old, new] = [60, 80].map(|step| format!("{}/weights", name(step)));
    put_run(
        &scratch,
        [("megatron-torch_dist/iter_0000060", old.as_str()), ("megatron-torch_dist/iter_0000080", new.as_str())],
    );
    for step in [60, 80] {
        put(&scratch, &format!("{}/context/model.yaml", name(step)), "a: 1\n");
    }
    let inspected = check(&scratch, "inspect nemo", 0, &["2 finished; format: megatron-dist"]);
    assert!(!inspected.contains("note"), "{inspected}");
    check(&scratch, "merge nemo --last 2 -o merged", 0, &["written as megatron-dist; everything else is as in"]);
    check(&scratch, "verify merged --inputs", 0, &["matches its receipt"]);
    assert!(scratch.join("merged/context/model.yaml").exists() && scratch.join("merged/weights/common.pt").exists());
    let [old, new] = ["60", "80"].map(|step| fixture(&format!("megatron-torch_dist/iter_00000{step}")));
    check(&scratch, &format!("merge {} {} -o plain", old.display(), new.display()), 0, &[]);
    check_equal(&scratch.join("merged/weights"), &scratch.join("plain"));

    // NeMo puts this file beside a checkpoint until it is whole.
    put(&scratch, &format!("{}-unfinished", name(80)), "");
    check(&scratch, "inspect nemo", 0, &["1 finished", "-unfinished` is beside it"]);
    fs::remove_file(scratch.join(format!("{}-unfinished", name(80)))).unwrap();
    fs::remove_file(scratch.join(format!("{}/weights/metadata.json", name(80)))).unwrap();
    check(
        &scratch,
        "inspect nemo",
        0,
        &["1 finished", "`weights/metadata.json`, which a save writes last, is missing"],
    );
}

#[test]
fn distributed_checkpoints_are_found_in_the_folders_of_their_trainers() {
    let scratch = Scratch::new();
    let [old, new] = ["60", "80"].map(|step| fixture(&format!("dcp-fsdp2/step-{step}")));
    check(&scratch, &format!("merge {} {} -o plain", old.display(), new.display()), 0, &[]);
    // Run, name of a checkpoint, folder in it, file beside that folder.
    let layouts = [
        ("lm-engine", "global_step", "model", "training_config.yml"),
        ("lm-engine-async", "global_step", "model_optimizer", "training_config.yml"),
        ("veomni", "global_step_", "model/ckpt", "extra_state/rank_0.pt"),
        ("fms", "step_", "", "metadata.pth"),
    ];
    for (run, start, inner, beside) in layouts {
        let end = if run == "fms" { "_ckp" } else { "" };
        for step in [60, 80] {
            let folder = format!("{run}/{start}{step}{end}");
            copy_folder(&fixture(&format!("dcp-fsdp2/step-{step}")), &scratch.join(format!("{folder}/{inner}")));
            put(&scratch, &format!("{folder}/{beside}"), "a: 1\n");
            if run.starts_with("lm-engine") {
                put(&scratch, &format!("{folder}/metadata.json"), "{}\n");
            }
        }
        check(&scratch, &format!("inspect {run}"), 0, &["2 checkpoints, 2 finished; format: dcp"]);
        let merged = format!("{run}-merged");
        check(&scratch, &format!("merge {run} --last 2 -o {merged}"), 0, &["(steps 60, 80)", "written as dcp"]);
        check(&scratch, &format!("verify {merged} --inputs"), 0, &[]);
        assert!(scratch.join(format!("{merged}/{beside}")).exists(), "{run}");
        check_equal(&scratch.join(format!("{merged}/{inner}")), &scratch.join("plain"));
        // A save that has not ended has no metadata.
        fs::remove_file(scratch.join(format!("{run}/{start}80{end}/{inner}/.metadata"))).unwrap();
        check(&scratch, &format!("inspect {run}"), 0, &["1 finished", "unfinished"]);
    }
}

#[test]
fn weights_in_another_form_are_not_copied_beside_a_merge() {
    let scratch = Scratch::new();
    put_run(&scratch, [("dcp-fsdp2/step-60", "run/step-60"), ("dcp-fsdp2/step-80", "run/step-80")]);
    for step in ["60", "80"] {
        let from = fixture(&format!("hf-sharded/step-{step}"));
        copy_folder(&from, &scratch.join(format!("run/step-{step}/hf_ckpt")));
        put(&scratch, &format!("run/step-{step}/consolidated/consolidated.pth"), "weights of this step");
        put(&scratch, &format!("run/step-{step}/train/rank0.pt"), "the state of a trainer");
    }
    let without = "without `consolidated/`, `hf_ckpt/`, which have the weights of that checkpoint in other forms";
    check(&scratch, "merge run --last 2 -o merged", 0, &[without]);
    assert!(scratch.join("merged/train/rank0.pt").exists() && scratch.join("merged/.metadata").exists());
    assert!(!scratch.join("merged/hf_ckpt").exists() && !scratch.join("merged/consolidated").exists());
    check(&scratch, "verify merged --inputs", 0, &["matches its receipt"]);
    // A file beside the shards is not the merge either.
    fs::copy(fixture("stories260K/model.safetensors"), scratch.join("run/step-80/model.gguf")).unwrap();
    check(&scratch, "merge run --last 2 -o again", 0, &["`model.gguf`"]);
    assert!(!scratch.join("again/model.gguf").exists());
}

#[test]
fn a_checkpoint_in_a_folder_of_a_step_is_pointed_out() {
    let scratch = Scratch::new();
    for step in ["60", "80"] {
        let folder = format!("run/epoch-0_step-{step}");
        copy_folder(&fixture(&format!("hf-sharded/step-{step}")), &scratch.join(format!("{folder}/modeling")));
        put(&scratch, &format!("{folder}/optimizer/pytorch_optim-00001.bin"), "moments");
    }
    let facts = ["its folder `modeling` does", "hint: give the folder inside of each checkpoint"];
    check(&scratch, "merge run --last 2 -o out", 2, &facts);
    let line = "merge run/epoch-0_step-80/modeling run/epoch-0_step-60/modeling -o out";
    check(&scratch, line, 0, &["merged 2 checkpoints (steps 60, 80)"]);
}

#[test]
fn names_without_a_known_step_come_with_the_pattern_that_reads_them() {
    let scratch = Scratch::new();
    for step in [100, 200, 300] {
        put(&scratch, &format!("run/0000{step}_adapters.safetensors"), "");
        fs::copy(
            fixture("stories260K/model.safetensors"),
            scratch.join(format!("run/0000{step}_adapters.safetensors")),
        )
        .unwrap();
        put(&scratch, &format!("nemo/gpt-step={step}.nemo"), "");
    }
    let said = check(&scratch, "merge run --last 2 -o out", 2, &["--checkpoint-pattern '{step}_adapters'"]);
    assert!(said.contains("is not a run folder"), "{said}");
    check(&scratch, "merge run --last 2 -o out --checkpoint-pattern {step}_adapters", 0, &["(steps 200, 300)"]);
    fs::create_dir_all(scratch.join("output/logs")).unwrap();
    put_run(
        &scratch,
        [("dcp-fsdp2/step-60", "output/checkpoint/step-60"), ("dcp-fsdp2/step-80", "output/checkpoint/step-80")],
    );
    check(
        &scratch,
        "merge output --last 2 -o out",
        2,
        &["hint: give the folder in it that holds checkpoints: `", "output/checkpoint`"],
    );
    check(&scratch, "merge nemo --last 2 -o out", 2, &["hint: unpack it with `tar -xf`"]);
}
