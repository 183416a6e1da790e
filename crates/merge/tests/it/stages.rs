//! What is at the path of a stage, what a failed merge leaves, and how a plan recognises its sources.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use thalweg_merge::Error;
use thalweg_merge::engine::{ExecuteOptions, PartialStage, execute_merge, open_sources};
use thalweg_merge::pending::place_notes;
use thalweg_merge::plan::{MergePlan, OutputDtype};
use thalweg_merge::seen::see_sources;
use thalweg_storage::LocalStorage;
use thalweg_storage::publish::{Replace, stage_path};

use crate::support::{
    FORCE, PLAIN, Runner, bits16_tensor, f32_tensor, mean, noise_tensor, output, plan, shards, tensors,
    write_checkpoint,
};
use thalweg_testkit::Tap;

const DISCARD: ExecuteOptions = ExecuteOptions { replace: Replace::Never, partial: PartialStage::Discard };

struct Scene {
    folder: tempfile::TempDir,
    sources: Vec<PathBuf>,
    plan: MergePlan,
}

fn scene() -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let sources = ["c1", "c2"].map(|name| folder.path().join(name)).to_vec();
    for (i, source) in sources.iter().enumerate() {
        write_checkpoint(source, &tensors([("a", f32_tensor(&[i as f32, 1.0, 1e30]))]));
    }
    let plan = mean(&sources, &folder.path().join("out"));
    Scene { folder, sources, plan }
}

/// Sources of several units of work, so that a merge can be stopped between units.
fn large_scene() -> Scene {
    let scene = scene();
    for (i, source) in scene.sources.iter().enumerate() {
        let seed = 10 * i as u64;
        let content = tensors([("a", noise_tensor(seed + 1, 600_000)), ("b", noise_tensor(seed + 2, 600_000))]);
        write_checkpoint(source, &content);
    }
    scene
}

impl Scene {
    fn stage(&self) -> PathBuf {
        stage_path(&self.plan.outputs[0].path)
    }

    #[track_caller]
    fn refused(&self, plan: &MergePlan, options: ExecuteOptions) -> String {
        let error = Runner::default().execute(plan, options).unwrap_err();
        assert!(!error.hint().unwrap_or_default().contains("--force"), "{error}");
        format!("{error}\n{}", error.hint().unwrap_or_default())
    }
}

#[test]
fn a_foreign_folder_at_the_path_of_a_stage_is_kept() {
    let scene = scene();
    fs::create_dir(scene.stage()).unwrap();
    fs::write(scene.stage().join("model.safetensors"), "weights of mine").unwrap();
    for options in [PLAIN, FORCE, DISCARD] {
        let message = scene.refused(&scene.plan, options);
        assert!(message.contains("`model.safetensors`") && message.contains("thalweg-partial"), "{message}");
        assert_eq!(fs::read(scene.stage().join("model.safetensors")).unwrap(), b"weights of mine");
    }
}

#[test]
fn a_link_at_the_path_of_a_stage_is_not_followed() {
    let scene = scene();
    let target = scene.folder.path().join("elsewhere");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("notes.md"), "mine").unwrap();
    symlink(&target, scene.stage()).unwrap();
    for options in [PLAIN, FORCE, DISCARD] {
        scene.refused(&scene.plan, options);
        assert_eq!(fs::read(target.join("notes.md")).unwrap(), b"mine");
    }
    fs::remove_file(scene.stage()).unwrap();
    fs::write(scene.stage(), "a file of mine").unwrap();
    scene.refused(&scene.plan, DISCARD);
    assert_eq!(fs::read(scene.stage()).unwrap(), b"a file of mine");
}

#[test]
fn a_foreign_file_in_a_stage_is_not_removed_with_it() {
    let scene = large_scene();
    let runner = Runner { stop_after_bytes: Some(1), n_threads: 1, ..Runner::default() };
    assert!(matches!(runner.execute(&scene.plan, PLAIN), Err(Error::Interrupted)));
    fs::write(scene.stage().join("notes.md"), "mine").unwrap();
    for options in [PLAIN, DISCARD] {
        assert!(scene.refused(&scene.plan, options).contains("`notes.md`"));
        assert_eq!(fs::read(scene.stage().join("notes.md")).unwrap(), b"mine");
    }
    fs::remove_file(scene.stage().join("notes.md")).unwrap();
    Runner::default().execute(&scene.plan, PLAIN).unwrap();
    assert!(!scene.stage().exists());
}

#[test]
fn a_value_that_is_refused_leaves_no_stage() {
    let scene = scene();
    let mut narrow = scene.plan.clone();
    narrow.outputs[0].dtype = OutputDtype::F16;
    assert!(matches!(Runner::default().execute(&narrow, PLAIN), Err(Error::Overflow { .. })));
    assert!(!scene.stage().exists());
    let nan = scene.folder.path().join("c3");
    write_checkpoint(&nan, &tensors([("a", f32_tensor(&[1.0, f32::NAN, 1.0]))]));
    let with_nan = mean(&[scene.sources[0].clone(), nan], &scene.plan.outputs[0].path);
    assert!(matches!(Runner::default().execute(&with_nan, PLAIN), Err(Error::NonFinite { .. })));
    assert!(!scene.stage().exists());
    let integers = ["i1", "i2"].map(|name| scene.folder.path().join(name));
    for (i, path) in integers.iter().enumerate() {
        write_checkpoint(path, &tensors([("n", bits16_tensor("I16", &[u16::try_from(i).unwrap()]))]));
    }
    let differing = mean(&integers, &scene.plan.outputs[0].path);
    assert!(matches!(Runner::default().execute(&differing, PLAIN), Err(Error::NonFloatDiffers { .. })));
    assert!(!scene.stage().exists());
    // What the hint proposes is not blocked.
    narrow.outputs[0].dtype = OutputDtype::F32;
    Runner::default().execute(&narrow, PLAIN).unwrap();
}

#[test]
fn an_interrupted_merge_names_its_stage() {
    let scene = large_scene();
    let runner = Runner { stop_after_bytes: Some(1), n_threads: 1, ..Runner::default() };
    let (result, notes) = runner.with_context(|run| execute_merge(&scene.plan, PLAIN, run));
    assert!(matches!(result, Err(Error::Interrupted)));
    let stage = scene.stage().display().to_string();
    assert!(notes.iter().any(|note| note.contains(&stage)), "{notes:?}");
}

#[test]
fn a_file_system_without_locks_gets_a_note_and_no_refusal() {
    let scene = scene();
    let tap = Tap::new(Arc::new(LocalStorage::new()));
    tap.forget_locks();
    let (result, notes) = Runner::on(tap.storage()).with_context(|run| execute_merge(&scene.plan, PLAIN, run));
    result.unwrap();
    assert!(notes.iter().any(|note| note.contains("has no locks")), "{notes:?}");
    let (_, notes) = Runner::default().with_context(|run| execute_merge(&scene.plan, FORCE, run));
    assert!(!notes.iter().any(|note| note.contains("locks")), "{notes:?}");
}

#[test]
fn an_output_is_not_written_over_its_sources_nor_into_another_output() {
    let scene = scene();
    let stage_as_source = stage_path(&scene.folder.path().join("x"));
    write_checkpoint(&stage_as_source, &tensors([("a", f32_tensor(&[1.0]))]));
    let plan = mean(std::slice::from_ref(&stage_as_source), &scene.folder.path().join("x"));
    assert!(matches!(Runner::default().execute(&plan, DISCARD), Err(Error::OutputIsSource { .. })));
    assert!(!shards(&stage_as_source).is_empty());
    let [outer, inner] = ["y", "y/z"].map(|name| mean(&scene.sources, &scene.folder.path().join(name)));
    let both = MergePlan::new(vec![outer.outputs[0].clone(), inner.outputs[0].clone()]).unwrap();
    assert!(matches!(Runner::default().execute(&both, PLAIN), Err(Error::PlanInvalid { .. })));
}

#[test]
fn paths_of_sources_are_resolved_once_however_many_outputs_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let sources: Vec<PathBuf> = (0..30).map(|i| folder.path().join(format!("c{i}"))).collect();
    sources.iter().for_each(|source| write_checkpoint(source, &tensors([("a", f32_tensor(&[1.0]))])));
    let n_resolved = |n_outputs: usize| {
        let outputs = (0..n_outputs)
            .map(|i| output(&sources[i..=i + 1], &[1, 1], 2, &folder.path().join(format!("{n_outputs}-{i}"))));
        let plan = MergePlan::new(outputs.collect()).unwrap();
        let tap = Tap::new(Arc::new(LocalStorage::new()));
        Runner::on(tap.storage()).with_context(|run| execute_merge(&plan, PLAIN, run)).0.unwrap();
        tap.n_resolved()
    };
    let (few, many) = (n_resolved(10), n_resolved(20));
    assert!(many <= 2 * few, "{few}, {many}");
}

#[test]
fn a_path_that_no_receipt_can_name_is_refused_before_anything_is_staged() {
    let scene = scene();
    let name = std::ffi::OsStr::from_bytes(b"out-\xff");
    let error = Runner::default().execute(&mean(&scene.sources, &scene.folder.path().join(name)), PLAIN).unwrap_err();
    assert!(error.to_string().contains("is not UTF-8 text"), "{error}");
    assert!(fs::read_dir(scene.folder.path()).unwrap().all(|entry| entry.unwrap().file_name().to_str().is_some()));
}

#[test]
fn an_impossible_place_is_refused_before_anything_is_read() {
    let scene = scene();
    let at = |name: &str| scene.folder.path().join(name);
    fs::write(at("file"), "x").unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    for name in ["file", "file/out", "dangling", "dangling/out", "out.thalweg-partial"] {
        let plan = mean(&scene.sources, &at(name));
        for options in [PLAIN, FORCE] {
            scene.refused(&plan, options);
        }
    }
    let mut left: Vec<_> = fs::read_dir(scene.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["c1", "c2", "dangling", "file"]);
}

/// The plan, with its sources as they are now.
fn seen(plan: &MergePlan) -> MergePlan {
    let see = |run: &thalweg_merge::context::RunContext<'_>| {
        see_sources(&open_sources(plan, run).unwrap(), &*run.storage).unwrap()
    };
    MergePlan { seen_sources: Runner::default().with_context(see).0, ..plan.clone() }
}

#[test]
fn a_plan_recognises_its_sources() {
    type Change<'a> = (&'a str, &'a dyn Fn(&Path));
    let changes: [Change<'_>; 3] = [
        ("was rewritten", &|shard| {
            let file = fs::File::options().write(true).open(shard).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
        }),
        ("bytes and has", &|shard| {
            let content = tensors([("a", f32_tensor(&[1.0, 1.0, 1.0])), ("b", f32_tensor(&[1.0]))]);
            write_checkpoint(shard.parent().unwrap(), &content);
        }),
        ("the header of", &|shard| {
            let text = fs::read(shard).unwrap();
            let at = text.windows(3).position(|window| window == b"\"a\"").unwrap();
            let mut changed = text.clone();
            changed[at + 1] = b'b';
            fs::write(shard, changed).unwrap();
        }),
    ];
    for (what, change) in changes {
        let scene = scene();
        let plan = MergePlan::from_json(&seen(&scene.plan).to_json().unwrap()).unwrap();
        Runner::default().execute(&plan, PLAIN).unwrap();
        fs::remove_dir_all(&plan.outputs[0].path).unwrap();
        change(&shards(&scene.sources[1])[0]);
        let error = Runner::default().execute(&plan, PLAIN).unwrap_err();
        assert!(matches!(&error, Error::SourcesChanged { .. }), "{what}: {error}");
        assert!(error.to_string().contains(what), "{what}: {error}");
        assert!(!plan.outputs[0].path.exists() && !scene.stage().exists());
    }
}

#[test]
fn coefficients_that_are_not_those_of_the_scheme_are_refused_in_a_plan() {
    let scene = scene();
    let with = |scheme: &str, numerators: [i64; 2]| {
        let mut plan = plan(output(&scene.sources, &numerators, 4, &scene.folder.path().join("out")));
        plan.outputs[0].scheme = scheme.to_owned();
        MergePlan::from_json(&plan.to_json().unwrap())
    };
    for (scheme, numerators) in [("sma", [2, 2]), ("wma (reverse)", [3, 1]), ("custom", [3, 1]), ("ema:3/4", [1, 3])] {
        with(scheme, numerators).unwrap_or_else(|error| panic!("{scheme}: {error}"));
    }
    for (scheme, numerators) in [("sma", [1, 3]), ("wma", [1, 3]), ("ema:1/2", [1, 3]), ("decay:cosine", [1, 3])] {
        let error = with(scheme, numerators).unwrap_err().to_string();
        assert!(error.contains(scheme) && error.contains("`custom`"), "{error}");
    }
}

#[test]
fn times_of_sources_are_not_part_of_an_output() {
    let scene = scene();
    Runner::default().execute(&scene.plan, PLAIN).unwrap();
    // A plan makes the same output whether it recorded its sources or not.
    assert!(Runner::default().execute(&seen(&scene.plan), PLAIN).unwrap()[0].was_done);
}

#[test]
fn a_plan_whose_output_ends_in_a_slash_stages_beside_it() {
    let scene = scene();
    let text = scene.plan.to_json().unwrap().replace("/out\"", "/out/\"");
    let plan = MergePlan::from_json(&text).unwrap();
    Runner::default().execute(&plan, PLAIN).unwrap();
    assert!(scene.plan.outputs[0].path.join("thalweg.json").exists());
    assert!(Runner::default().execute(&scene.plan, PLAIN).unwrap()[0].was_done);
}

#[test]
fn an_output_that_a_trainer_would_delete_is_noted() {
    let scene = scene();
    let storage = LocalStorage::new();
    let run = scene.folder.path().join("run");
    fs::create_dir_all(run.join("step-100")).unwrap();
    fs::create_dir_all(run.join("checkpoint-5")).unwrap();
    let notes = |name: &str| place_notes(&mean(&scene.sources, &run.join(name)), &storage);
    for name in ["step-900", "merged-step-900", "checkpoint-5-sma"] {
        let notes = notes(name);
        assert_eq!(notes.len(), 1, "{name}");
        assert!(notes[0].contains("count and delete"), "{notes:?}");
    }
    for name in ["merged", "merged-900", "iter_900", "step-by-step"] {
        assert!(notes(name).is_empty(), "{name}");
    }
    // A folder of merges has no checkpoints of a trainer.
    fs::create_dir_all(run.join("sweep/step-1")).unwrap();
    fs::write(run.join("sweep/step-1/thalweg.json"), "{}").unwrap();
    assert!(notes("sweep/step-2").is_empty());
}
