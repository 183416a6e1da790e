//! Runs of Orbax, MaxText and levanter on the command line.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use thalweg_testkit::{Scratch, copy_folder};

use crate::support::{check, root, run_in};
use crate::torch::tensors;

fn fixture(name: &str) -> String {
    root().join("fixtures/orbax").join(name).display().to_string()
}

#[test]
fn runs_of_all_three_are_merged_in_their_form_as_the_same_tensors_in_safetensors_are() {
    for (name, steps) in [("manager", ["10", "20"]), ("maxtext", ["10", "20"]), ("levanter", ["step-10", "step-20"])] {
        let scratch = Scratch::new();
        let run = fixture(name);
        check(&scratch, &format!("inspect {run}"), 0, &["a run of 2 checkpoints, 2 finished"]);
        let output = run_in(&scratch, &format!("inspect {run}/{} --json", steps[1]));
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(shown["format"], "orbax", "{name}");
        for scheme in ["sma", "wma", "ema:0.2"] {
            let line = format!("merge {run} --last 2 --scheme {scheme} -o {scheme}");
            check(&scratch, &line, 0, &["written as orbax; everything else is as in"]);
            check(&scratch, &format!("verify {scheme} --inputs"), 0, &["and so do its 2 sources"]);
            let expected = [10, 20].map(|step| format!("{run}/expected/step-{step}.safetensors"));
            let line = format!("merge -m {} -m {} --scheme {scheme} -o expected-{scheme}", expected[0], expected[1]);
            check(&scratch, &line, 0, &[]);
            let found = tensors(&scratch.join(scheme));
            assert!(found == tensors(&scratch.join(format!("expected-{scheme}"))), "{name} {scheme}");
        }
        // What Orbax and levanter write about their own files is not copied to other formats.
        check(&scratch, &format!("merge {run} --last 2 --format safetensors -o plain"), 0, &[]);
        let names = fs::read_dir(scratch.join("plain")).unwrap().map(|entry| entry.unwrap().file_name());
        let names: std::collections::BTreeSet<_> = names.map(|name| name.into_string().unwrap()).collect();
        assert!(names.iter().eq(["README.md", "model.safetensors", "thalweg.json"]), "{names:?}");
        assert!(tensors(&scratch.join("plain")) == tensors(&scratch.join("sma")), "{name}");
    }
}

/// The tensors of a checkpoint with all that is beside its model.
fn all_tensors(scratch: &Scratch, path: &str, out: &str) -> BTreeMap<String, (String, String, Vec<u8>)> {
    check(scratch, &format!("convert {path} --key . --format safetensors -o {out}"), 0, &[]);
    tensors(&scratch.join(out))
}

#[test]
fn a_merge_keeps_the_state_of_the_training_of_its_newest_source() {
    let scratch = Scratch::new();
    let run = fixture("manager");
    check(
        &scratch,
        &format!("merge {run} --last 2 -o out"),
        0,
        &["also the tensors under `opt_state` (11), `step` (1)"],
    );
    let newest = all_tensors(&scratch, &format!("{run}/20"), "newest");
    let merged = all_tensors(&scratch, "out", "merged");
    assert!(newest.keys().eq(merged.keys()) && newest.len() > 15);
    for (name, tensor) in &newest {
        assert_eq!(*tensor == merged[name], !name.starts_with("params.") || name.ends_with("zeros"), "{name}");
    }
    let files = ["_CHECKPOINT_METADATA", "commit_success.txt", "default/_METADATA", "default/_sharding"];
    for name in files {
        let [ours, theirs] = [scratch.join("out").join(name), Path::new(&run).join("20").join(name)];
        assert!(fs::read(ours).unwrap() == fs::read(theirs).unwrap(), "{name}");
    }
    // The output is a source.
    check(&scratch, &format!("merge -m {run}/10 -m out -o again"), 0, &["written as orbax"]);
    check(&scratch, "verify again --inputs", 0, &["and so do its 2 sources"]);
}

#[test]
fn moments_are_averaged_on_request_and_counters_are_those_of_the_newest_source() {
    for (name, steps, moment) in
        [("maxtext", ["10", "20"], "opt_state.0.mu."), ("levanter", ["step-10", "step-20"], "optimizer.mu.")]
    {
        let scratch = Scratch::new();
        let run = fixture(name);
        let line = format!("merge {run} --last 2 --optimizer average -o out");
        check(&scratch, &line, 0, &["averaged; ", "(`--optimizer average`)"]);
        check(&scratch, "verify out --inputs", 0, &["and so do its 2 sources"]);
        let [old, new] = steps.map(|step| all_tensors(&scratch, &format!("{run}/{step}"), step));
        let merged = all_tensors(&scratch, "out", "merged");
        let f32s = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|one| f32::from_le_bytes(*one)).collect::<Vec<_>>();
        let (mut n_moments, mut n_others) = (0, 0);
        for (name, (_, _, bytes)) in &merged {
            if name.starts_with(moment) {
                n_moments += 1;
                // These sums and halves have no more bits than F32.
                let mean = f32s(&old[name].2).into_iter().zip(f32s(&new[name].2)).map(|(a, b)| f32::midpoint(a, b));
                assert!(f32s(bytes).into_iter().eq(mean), "{name}");
            } else if name == "step" || name.ends_with("count") {
                n_others += 1;
                assert_eq!(*bytes, new[name].2, "{name}");
            }
        }
        assert!(n_moments > 0 && n_others == usize::from(name == "maxtext"), "{name}: {n_moments} {n_others}");
    }
}

#[test]
fn without_the_state_of_the_training_only_the_model_is_written_in_the_same_tree() {
    let scratch = Scratch::new();
    let run = fixture("manager");
    let line = format!("merge {run} --last 2 --optimizer drop -o out");
    check(&scratch, &line, 0, &["written as orbax, without the state of the training"]);
    check(&scratch, "verify out --inputs", 0, &["and so do its 2 sources"]);
    let tree: Value = serde_json::from_slice(&fs::read(scratch.join("out/default/_METADATA")).unwrap()).unwrap();
    let leaves: Vec<&String> = tree["tree_metadata"].as_object().unwrap().keys().collect();
    assert!(leaves.len() == 5 && leaves.iter().all(|leaf| leaf.starts_with("('params', '")), "{leaves:?}");
    check(&scratch, &format!("merge {run} --last 2 -o whole"), 0, &[]);
    assert!(tensors(&scratch.join("out")) == tensors(&scratch.join("whole")));
    let line = format!("merge {run} --last 2 --dtype bf16 --out-shard-size 500B -o bf16");
    check(&scratch, &line, 0, &["without the state of the training"]);
    assert!(tensors(&scratch.join("bf16")).values().all(|(dtype, _, _)| dtype == "BF16"));
    assert!(fs::read_dir(scratch.join("bf16/default/d")).unwrap().count() > 2);
}

#[test]
fn shares_of_a_merge_make_the_same_store_as_one_process() {
    let scratch = Scratch::new();
    check(&scratch, &format!("plan {} --last 2 --merged out -o plan.json", fixture("manager")), 0, &[]);
    check(&scratch, "merge --plan plan.json -o one", 0, &[]);
    for share in ["0/2", "1/2"] {
        check(&scratch, &format!("merge --plan plan.json --shard {share}"), 0, &[]);
    }
    check(&scratch, "merge --plan plan.json --finish", 0, &[]);
    for name in ["manifest.ocdbt", "_METADATA", &format!("d/{:032x}", 0), &format!("d/{:032x}", 1)] {
        let [shared, one] = ["out", "one"].map(|out| fs::read(scratch.join(out).join("default").join(name)).unwrap());
        assert!(shared == one, "{name}");
    }
}

#[test]
fn a_step_without_the_marker_of_the_others_is_unfinished_and_is_not_merged() {
    let scratch = Scratch::new();
    copy_folder(Path::new(&fixture("manager")), &scratch.join("run"));
    copy_folder(Path::new(&fixture("manager/10")), &scratch.join("run/30"));
    copy_folder(Path::new(&fixture("manager/10")), &scratch.join("run/40.orbax-checkpoint-tmp-5"));
    fs::remove_file(scratch.join("run/30/commit_success.txt")).unwrap();
    let facts = ["a run of 3 checkpoints, 2 finished", "`commit_success.txt`, which the other steps have, is missing"];
    check(&scratch, "inspect run", 0, &facts);
    check(&scratch, "merge run --last 2 -o out", 0, &["steps 10, 20"]);
}

#[test]
fn a_merge_says_how_much_memory_packed_sources_need() {
    let scratch = Scratch::new();
    let line = format!("merge -m {} --memory 20MB -o out", fixture("manager/10"));
    check(&scratch, &line, 2, &["memory"]);
    assert!(!scratch.join("out").exists());
}

#[test]
fn a_damaged_chunk_stops_a_merge_and_leaves_no_output() {
    let scratch = Scratch::new();
    copy_folder(Path::new(&fixture("variants/zarr2-plain")), &scratch.join("20"));
    let chunk = scratch.join("20/params.decoder.bias/0");
    let bytes = fs::read(&chunk).unwrap();
    fs::write(&chunk, &bytes[..bytes.len() - 3]).unwrap();
    check(&scratch, "merge -m 20 -o out", 2, &["params.decoder.bias"]);
    assert!(!scratch.join("out").exists());
}

/// A step of a training loop that gives its items names.
fn make_items(scratch: &Scratch, step: u32, items: &[(&str, &str)]) {
    for (item, from) in items {
        copy_folder(Path::new(&fixture(from)), &scratch.join(format!("run/{step}/{item}")));
    }
}

#[test]
fn of_several_items_the_one_of_the_model_is_read_or_the_one_that_the_key_names() {
    let scratch = Scratch::new();
    for step in [10, 20] {
        let model = format!("manager/{step}/default");
        make_items(
            &scratch,
            step,
            &[("params", &*model), ("opt", "maxtext/10/items"), ("opt_state", "maxtext/10/items")],
        );
    }
    let said = ["the tensors under key `params.params` are read", "`opt` (", "`opt_state` ("];
    check(&scratch, "merge run --last 2 -o out", 0, &said);
    check(&scratch, &format!("merge {} --last 2 -o expected", fixture("manager")), 0, &[]);
    assert!(tensors(&scratch.join("out")) == tensors(&scratch.join("expected")));
    let line = "merge run --last 2 --key opt --format safetensors -o moments";
    check(&scratch, line, 0, &["the tensors under key `opt.params.params` are read"]);
    // The output has one item, whose name the key still may begin with.
    check(&scratch, "merge run --last 2 --key opt --optimizer drop -o alone", 0, &["written as orbax"]);
    check(&scratch, "verify alone", 0, &[]);
    assert!(tensors(&scratch.join("alone")) == tensors(&scratch.join("moments")));
    check(&scratch, "inspect run/20 --key params.params", 0, &["the tensors under key `params.params` are read"]);
}

#[test]
fn items_of_which_any_could_be_the_model_are_refused_and_the_hint_works() {
    let scratch = Scratch::new();
    make_items(&scratch, 10, &[("first", "manager/10/default"), ("second", "manager/10/default")]);
    fs::copy(fixture("manager/10/_CHECKPOINT_METADATA"), scratch.join("run/10/_CHECKPOINT_METADATA")).unwrap();
    let said = ["the tensors are under `first`, `second`", "hint: name one of them with `--key`"];
    check(&scratch, "inspect run/10", 2, &said);
    check(&scratch, "inspect run/10 --key second", 0, &["the tensors under key `second.params` are read"]);
}

#[test]
fn a_run_says_the_format_of_its_checkpoints() {
    let scratch = Scratch::new();
    let run = fixture("manager");
    check(&scratch, &format!("inspect {run}"), 0, &["a run of 2 checkpoints, 2 finished; format: orbax"]);
    let shown = run_in(&scratch, &format!("inspect {run} --json"));
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let formats: Vec<&Value> = shown["checkpoints"].as_array().unwrap().iter().map(|one| &one["format"]).collect();
    assert_eq!(formats, ["orbax", "orbax"]);
}

#[test]
fn a_merge_says_which_chunks_inside_shards_were_not_stored() {
    let scratch = Scratch::new();
    let line = format!("merge -m {} --key . --format safetensors -o out", fixture("tensorstore"));
    check(
        &scratch,
        &line,
        0,
        &["inside its shards, 2 of 4 chunks of `w.shard.plain` are not stored and are read as zeros"],
    );
    let line = format!("merge {} --last 2 -o whole", fixture("manager"));
    let output = run_in(&scratch, &line);
    assert!(output.status.success() && !String::from_utf8_lossy(&output.stderr).contains("not stored"));
}
