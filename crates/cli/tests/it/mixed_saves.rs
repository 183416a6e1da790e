//! Checkpoints that are not what they seem: files of two saves, lost chunks, links and copies, files replaced since a
//! plan was made.

use std::fs;
use std::path::{Path, PathBuf};

use thalweg_tensor::Dtype;
use thalweg_testkit::{TinyCheckpoint, copy_folder};

use crate::selection::Scene;
use crate::support::root;

/// A scene with a copy of a fixture as `name`.
fn copied(fixture: &str, name: &str) -> Scene {
    let scene = Scene::new(&[]);
    copy_folder(&root().join("fixtures").join(fixture), &scene.path(name));
    scene
}

/// Replaces the number after a key in a pickle, which must be 80, by 60.
fn set_step(path: &Path, key: &str) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(key.len()).position(|window| window == key.as_bytes()).unwrap() + key.len();
    let number = at + bytes[at..].windows(2).position(|window| window == [b'K', 80]).unwrap() + 1;
    bytes[number] = 60;
    fs::write(path, bytes).unwrap();
}

const MODEL_STATES: &str = "mp_rank_00_model_states.pt";

#[test]
fn a_module_of_another_step_than_masters_and_folder_is_refused_whichever_copy_is_read() {
    let scene = copied("deepspeed/zero1/global_step80", "global_step80");
    scene.run("merge -m global_step80 -o before --params module").done(&[]);
    set_step(&scene.path("global_step80").join(MODEL_STATES), "global_steps");
    let fact = "`mp_rank_00_model_states.pt` is from step 60, but the optimizer's state and the folder's name say 80";
    for line in
        ["inspect global_step80", "merge -m global_step80 -o out --params module", "merge -m global_step80 -o out"]
    {
        scene.run(line).refused(&[fact]);
    }
    assert!(!scene.path("out").exists());
}

#[test]
fn one_witness_against_a_file_makes_a_note() {
    let scene = copied("deepspeed/zero1/global_step80", "best");
    assert!(!scene.run("merge -m best -o sound").stderr.contains("two saves"));
    set_step(&scene.path("best").join(MODEL_STATES), "global_steps");
    scene.run("merge -m best -o out").done(&["is from step 60, but the state of the optimizer says 80"]);
    let renamed = copied("deepspeed/zero1/global_step80", "global_step90");
    renamed.run("merge -m global_step90 -o out").done(&["is from step 80, but the name of the folder says 90"]);
    let universal = copied("deepspeed/universal/global_step80_universal", "global_step80_universal");
    assert!(!universal.run("inspect global_step80_universal").stderr.contains("two saves"));
    set_step(&universal.path("global_step80_universal").join(MODEL_STATES), "global_steps");
    universal.run("inspect global_step80_universal").done(&["is from step 60, but the name of the folder says 80"]);
}

#[test]
fn a_rank_of_another_step_is_refused_under_zero_3() {
    let scene = copied("deepspeed/zero3/global_step80", "global_step80");
    scene.run("inspect global_step80").done(&[]);
    set_step(&scene.path("global_step80").join(format!("zero_pp_rank_1_{MODEL_STATES}")), "global_steps");
    scene.run("merge -m global_step80 -o out").refused(&["it is from step 60, but `zero_pp_rank_0_mp_rank_00"]);
}

#[test]
fn the_common_file_of_another_iteration_is_noted_by_run_and_merge() {
    let scene = copied("megatron-torch_dist", "run");
    assert!(!scene.run("inspect run").stderr.contains("two saves"));
    fs::copy(scene.path("run/iter_0000060/common.pt"), scene.path("run/iter_0000080/common.pt")).unwrap();
    let note = "`common.pt` is from step 60, but the name of the folder says 80";
    scene.run("inspect run").done(&[note]);
    scene.run("merge run --last 2 -o out").done(&[note]);
    assert!(scene.run("inspect run --json").stdout.contains("common.pt"));
}

/// The first chunk file with this ending below a folder.
fn chunk(folder: &Path, end: &str) -> PathBuf {
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        let mut entries: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        if let Some(found) = entries.iter().find(|path| path.is_file() && path.to_string_lossy().ends_with(end)) {
            return found.clone();
        }
        waiting.extend(entries.into_iter().filter(|path| path.is_dir()));
    }
    panic!("no {end} below {}", folder.display());
}

#[test]
fn a_lost_chunk_is_noted_and_counted() {
    for (name, end) in [("zarr2-plain", "wi.kernel/1.0.0"), ("zarr3-plain", "wi.kernel/c/1/0/0")] {
        let scene = copied(&format!("orbax/variants/{name}"), "run/10");
        assert!(!scene.run("inspect run").stderr.contains("not stored"), "{name}");
        fs::remove_file(chunk(&scene.path("run"), end)).unwrap();
        scene.run("inspect run").done(&["1 of 2 chunks of `", "are not stored and are read as zeros"]);
        scene.run("merge run --last 1 -o out").done(&["are not stored and are read as zeros"]);
    }
}

#[test]
fn an_array_without_chunks_is_noted_where_another_source_has_them() {
    let scene = copied("orbax/levanter", "run");
    let array = scene.path("run/step-20/model/transformer/ln_f/bias");
    assert!(!scene.run("merge run --last 2 -o sound").stderr.contains("stores nothing"));
    for entry in fs::read_dir(&array).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            fs::remove_dir_all(entry.path()).unwrap();
        } else if !entry.file_name().to_string_lossy().contains("zarr") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let note = "step-20` stores nothing of `model.transformer.ln_f.bias`, but other sources do";
    let answer = scene.run("merge run --last 2 -o out");
    answer.done(&["stores nothing of `"]);
    assert!(answer.stderr.contains(note), "{answer:?}");
    // Zeros everywhere are zeros.
    assert!(!scene.run("inspect run").stderr.contains("stores nothing"));
}

#[test]
fn a_key_that_names_one_tensor_is_not_proposed_and_is_explained() {
    let scene = copied("orbax/manager", "run");
    let merged = scene.run("merge run --last 2 -o out");
    merged.done(&[]);
    assert!(!merged.stderr.contains("those under `step`"), "{merged:?}");
    let answer = scene.run("merge run/10 run/20 --key step -o y");
    assert!(
        !answer.stderr.contains("no tensors are under the key `step`") || !merged.stderr.contains("`step`"),
        "{answer:?}"
    );
}

#[test]
fn a_link_to_another_checkpoint_is_not_a_step() {
    let scene = Scene::new(&[100, 200, 300]);
    for (name, target) in [("checkpoint-400", "checkpoint-300"), ("latest", "checkpoint-300")] {
        std::os::unix::fs::symlink(target, scene.path("run").join(name)).unwrap();
    }
    let absolute = scene.path("run/checkpoint-200");
    std::os::unix::fs::symlink(absolute, scene.path("run/checkpoint-500")).unwrap();
    // A checkpoint on another disk is one of the run.
    fs::rename(scene.path("run/checkpoint-100"), scene.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", scene.path("run/checkpoint-100")).unwrap();
    let note = "links to other checkpoints of this run are ignored: `checkpoint-400`, `checkpoint-500`";
    scene.run("inspect run").done(&["a run of 3 checkpoints, 3 finished", note]);
    scene.run("merge run --last 3 -o out").done(&["merged 3 checkpoints (steps 100, 200, 300)"]);
    scene.run("merge run --steps 300,400 -o none").refused(&["400"]);
}

#[test]
fn copies_under_two_steps_are_noted_by_every_way_of_merging() {
    let note = "hold the same tensors, byte for byte";
    let scene = Scene::new(&[100, 200]);
    assert!(!scene.run("merge run --last 2 -o sound").stderr.contains(note));
    copy_folder(&scene.path("run/checkpoint-200"), &scene.path("run/checkpoint-300"));
    scene.run("merge run --last 3 -o out").done(&["checkpoint-200` and `", "checkpoint-300` hold the same tensors"]);
    scene.run("merge -m run/checkpoint-200:0.5 -m run/checkpoint-300:0.5 -o by-hand").done(&[note]);
    scene.run("plan run --last 3 -o plan.json").done(&[]);
    scene.run("merge --plan plan.json --shard 0/1").done(&[]);
    scene.run("merge --plan plan.json --finish").done(&[note]);
    assert!(!scene.run("merge run --last 3 -o quick --digest none").stderr.contains(note));
}

/// A run with a config and a tokenizer, and a plan over it.
fn planned() -> Scene {
    let scene = Scene::new(&[]);
    for (step, value) in [(100, 1.0), (200, 2.0)] {
        let checkpoint = TinyCheckpoint::llama(Dtype::F32, value).tokenizer().side_file("notes.txt", b"a");
        checkpoint.write_to_disk(&scene.path(&format!("run/checkpoint-{step}")));
    }
    scene.run("plan run --last 2 -o plan.json").done(&[]);
    scene
}

fn rewrite(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn a_plan_notices_config_tokenizer_and_other_files_that_were_replaced() {
    let refused = |change: &dyn Fn(&Scene), fact: &str| {
        let scene = planned();
        change(&scene);
        for line in ["merge --plan plan.json", "merge --plan plan.json --shard 0/2"] {
            scene.run(line).refused(&["changed since the plan was made", fact, "--allow-changed"]);
        }
        assert!(!scene.path("merged").exists());
        scene.run("merge --plan plan.json --allow-changed").done(&[]);
    };
    let both = |scene: &Scene, name: &str, from: &str, to: &str| {
        [100, 200].iter().for_each(|step| rewrite(&scene.path(&format!("run/checkpoint-{step}/{name}")), from, to));
    };
    refused(&|scene| both(scene, "config.json", "}", " }"), "`config.json` had ");
    refused(&|scene| both(scene, "tokenizer.json", "}", " }"), "`tokenizer.json` had ");
    refused(&|scene| rewrite(&scene.path("run/checkpoint-200/notes.txt"), "a", "b"), "`notes.txt` was rewritten");
    refused(&|scene| fs::remove_file(scene.path("run/checkpoint-200/notes.txt")).unwrap(), "`notes.txt` is gone");
    refused(&|scene| scene.write("run/checkpoint-200/merges.txt", "x"), "`merges.txt` was added");
}

#[test]
fn a_plan_ignores_what_does_not_travel_and_plans_of_before_are_executed() {
    let scene = planned();
    scene.write("run/checkpoint-200/trainer_state.json", "{}");
    scene.run("merge --plan plan.json").done(&[]);
    let old = planned();
    let mut plan: serde_json::Value = serde_json::from_slice(&fs::read(old.path("plan.json")).unwrap()).unwrap();
    for source in plan["seen_sources"].as_array_mut().unwrap() {
        assert!(source.as_object_mut().unwrap().remove("side_files").is_some());
    }
    old.write("plan.json", plan.to_string());
    old.run("merge --plan plan.json").done(&[]);
}
