//! `--rename`: checkpoints whose tensors have other names.

use std::fs;
use std::path::Path;

use thalweg_tensor::Dtype;
use thalweg_testkit::TinyCheckpoint;

use crate::support::run;
use crate::torch::assert_same;

/// A checkpoint of two layers, with the names of one program or another.
fn checkpoint(start: &str, last: &str, value: f64) -> TinyCheckpoint {
    (0..2).fold(TinyCheckpoint::new(), |tiny, layer| {
        let values = [value, value + f64::from(layer)];
        tiny.tensor(&format!("{start}.{layer}.{last}"), Dtype::F32, &[2], &values)
    })
}

fn thalweg(arguments: &[&str]) -> (i32, String) {
    let output = run(arguments);
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
}

/// A run of a checkpoint with each program's names; `map` is the name map.
fn scene(map: &str) -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    checkpoint("layers", "wq.weight", 1.0).write_to_disk(&scratch.path().join("run/step-1"));
    checkpoint("model.blocks", "q.weight", 4.0).write_to_disk(&scratch.path().join("run/step-2"));
    fs::write(scratch.path().join("map"), map).unwrap();
    scratch
}

fn path(scratch: &tempfile::TempDir, name: &str) -> String {
    scratch.path().join(name).to_str().unwrap().to_owned()
}

#[test]
fn sources_with_other_names_merge_under_a_name_map() {
    let scratch = scene("# of the other program\nlayers.*.wq.weight -> model.blocks.*.q.weight\n");
    let (run_path, map, out) = (path(&scratch, "run"), path(&scratch, "map"), path(&scratch, "out"));
    let (code, text) = thalweg(&["merge", &run_path, "--last", "2", "-o", &out]);
    assert_ne!(code, 0, "{text}");
    let (code, text) = thalweg(&["merge", &run_path, "--last", "2", "-o", &out, "--rename", &map]);
    assert_eq!(code, 0, "{text}");
    let expected = scratch.path().join("expected");
    checkpoint("model.blocks", "q.weight", 2.5).write_to_disk(&expected);
    assert_same(Path::new(&out), &expected);
    assert_eq!(thalweg(&["verify", &out, "--inputs"]).0, 0);
    // The plan holds the rules: it needs neither the option nor the file.
    let plan = path(&scratch, "plan.json");
    let planned =
        ["plan", &run_path, "--last", "2", "--rename", &map, "--merged", &path(&scratch, "again"), "-o", &plan];
    assert_eq!(thalweg(&planned).0, 0);
    fs::remove_file(&map).unwrap();
    let (code, text) = thalweg(&["merge", "--plan", &plan]);
    assert_eq!(code, 0, "{text}");
    assert_same(&scratch.path().join("again"), &expected);
}

#[test]
fn convert_renames_and_back_again() {
    let scratch = scene("layers.*.wq.weight -> model.blocks.*.q.weight");
    fs::write(scratch.path().join("back"), "model.blocks.*.q.weight -> layers.*.wq.weight").unwrap();
    let (first, one, two) = (path(&scratch, "run/step-1"), path(&scratch, "one"), path(&scratch, "two"));
    let map = |name: &str| path(&scratch, name);
    assert_eq!(thalweg(&["convert", &first, "-o", &one, "--format", "dcp", "--rename", &map("map")]).0, 0);
    let (code, text) = thalweg(&["inspect", &one]);
    assert!(code == 0 && text.contains("model.blocks.1.q.weight"), "{text}");
    assert_eq!(thalweg(&["convert", &one, "-o", &two, "--rename", &map("back")]).0, 0);
    assert_same(Path::new(&two), Path::new(&first));
}

#[test]
fn rules_that_do_not_work_are_named() {
    for (map, words) in [
        ("layers.* -> x.*\nmodel.* -> x.*\nlayer.* -> y.*", "the rule `layer.*` of `--rename` matches no tensor"),
        ("layers.*.wq.weight -> w", "would both be called `w`"),
        ("layers.0", "line 1 is not a rule: `FROM -> TO` expected, `layers.0` found"),
        ("layers.0 -> x.*", "line 1: `x.*` has more `*` than `layers.0`"),
    ] {
        let scratch = scene(map);
        let (run_path, map, out) = (path(&scratch, "run"), path(&scratch, "map"), path(&scratch, "out"));
        let (code, text) = thalweg(&["merge", &run_path, "--last", "2", "-o", &out, "--rename", &map]);
        assert!(code == 2 && text.contains(words) && text.contains("hint: "), "{code} {text}");
        assert!(!Path::new(&out).exists());
    }
}
