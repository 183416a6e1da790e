//! A run watched on the command line: what is merged, what is kept, what is said.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{run, transcript};

/// One tensor of so many F32.
pub(crate) const N_ELEMENTS: usize = 3000;
pub(crate) const SOURCE_BYTES: u64 = 4 * N_ELEMENTS as u64;

/// The file of a checkpoint whose params depend on a seed.
pub(crate) fn checkpoint_bytes(seed: u64) -> Vec<u8> {
    let value = |i: usize| ((i as u64 * 31 + seed * 7919) % 1009) as f32 * 0.001 - 0.5;
    file_of((0..N_ELEMENTS).map(value))
}

pub(crate) fn file_of(values: impl Iterator<Item = f32>) -> Vec<u8> {
    let header = format!(r#"{{"w":{{"dtype":"F32","shape":[{N_ELEMENTS}],"data_offsets":[0,{}]}}}}"#, 4 * N_ELEMENTS);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(values.flat_map(f32::to_le_bytes));
    bytes
}

pub(crate) fn checkpoint(run: &Path, step: u64) -> PathBuf {
    run.join(format!("step_{step}.safetensors"))
}

pub(crate) fn save(run: &Path, step: u64, seed: u64) {
    let beside = run.join("tmp-save");
    std::fs::create_dir_all(run).unwrap();
    std::fs::write(&beside, checkpoint_bytes(seed)).unwrap();
    std::fs::rename(beside, checkpoint(run, step)).unwrap();
}

pub(crate) fn make_run(folder: &Path, n: u64) -> PathBuf {
    let run = folder.join("run");
    (1..=n).for_each(|i| save(&run, 100 * i, i));
    run
}

/// Runs `watch --once --json` with more arguments.
fn watch(run_path: &Path, out: &Path, more: &[&str]) -> (i32, Value, String) {
    let (run_path, out) = (run_path.to_str().unwrap(), out.to_str().unwrap());
    let output = run(&[&["watch", run_path, "-o", out, "--once", "--json"], more].concat());
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), stderr)
}

pub(crate) fn receipt(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("thalweg.json")).unwrap()).unwrap()
}

/// The digest of a merge from scratch.
fn digest_from_scratch(run_path: &Path, n: usize, end: u64, scheme: &str) -> Value {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let (n, end) = (n.to_string(), end.to_string());
    // `--last` has no end: the newest N up to a step are a range of steps.
    let first = 100 * (end.parse::<u64>().unwrap() / 100 + 1 - n.parse::<u64>().unwrap());
    let first = first.to_string();
    let (run_path, path) = (run_path.to_str().unwrap(), out.to_str().unwrap());
    let made =
        run(&["merge", run_path, "--from-step", &first, "--to-step", &end, "--scheme", scheme, "-o", path, "-q"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    receipt(&out)["digest"].clone()
}

fn outputs(document: &Value) -> Vec<(u64, String, u64, bool)> {
    let row = |one: &Value| {
        let scheme = one["scheme"].as_str().unwrap().to_owned();
        let n = one["n_checkpoints"].as_u64().unwrap();
        (one["end_step"].as_u64().unwrap(), scheme, n, one["was_done"].as_bool().unwrap())
    };
    document["outputs"].as_array().unwrap().iter().map(row).collect()
}

/// What a record says, whenever it happened.
pub(crate) fn record(out: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(out.join("watch.jsonl")).unwrap();
    let timeless = |line: &str| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        row.as_object_mut().unwrap().remove("unix_seconds");
        row.to_string()
    };
    let rows: Vec<String> = text.lines().map(timeless).collect();
    let set: BTreeSet<String> = rows.iter().cloned().collect();
    assert_eq!(rows.len(), set.len(), "no line appears twice");
    set
}

#[test]
fn every_window_that_a_checkpoint_ends_is_merged_by_reading_the_run_once() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 6), scratch.path().join("out"));
    let (code, document, stderr) = watch(&run_path, &out, &["--windows", "sma:3,wma:3,ema:0.25:2"]);
    assert_eq!(code, 0, "{stderr}");
    let made = outputs(&document);
    assert_eq!(made.len(), 4 + 4 + 5);
    assert!(made.contains(&(200, "ema:0.25".to_owned(), 2, false)), "{made:?}");
    let total: u64 =
        document["outputs"].as_array().unwrap().iter().map(|one| one["bytes_read"].as_u64().unwrap()).sum();
    assert_eq!((total, document["bytes_read"].as_u64()), (6 * SOURCE_BYTES, Some(6 * SOURCE_BYTES)));
    assert!(
        stderr.contains("2 ends from step 100 to 200 are skipped: too few checkpoints for windows of 3"),
        "{stderr}"
    );
    for output in document["outputs"].as_array().unwrap() {
        let (n, end) = (output["n_checkpoints"].as_u64().unwrap(), output["end_step"].as_u64().unwrap());
        let scheme = output["scheme"].as_str().unwrap();
        let expected = digest_from_scratch(&run_path, usize::try_from(n).unwrap(), end, scheme);
        assert_eq!(output["digest"], expected, "{scheme} of {n} at {end}");
        assert_eq!(receipt(Path::new(output["path"].as_str().unwrap()))["digest"], expected);
    }
    assert_eq!(record(&out).len(), made.len());
}

#[test]
fn what_is_there_is_kept_and_only_what_is_new_is_read() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 5), scratch.path().join("out"));
    let windows = ["--windows", "sma:3,wma:3"];
    assert_eq!(watch(&run_path, &out, &windows).0, 0);
    let before = std::fs::metadata(out.join("step0000500-n3-sma/model.safetensors")).unwrap().modified().unwrap();
    let (code, document, _) = watch(&run_path, &out, &windows);
    assert_eq!((code, document["bytes_read"].as_u64()), (0, Some(0)));
    assert!(outputs(&document).iter().all(|(.., was_done)| *was_done));
    save(&run_path, 600, 6);
    let (code, document, _) = watch(&run_path, &out, &windows);
    let made: Vec<_> = outputs(&document).into_iter().filter(|(.., was_done)| !was_done).collect();
    assert_eq!((code, made.len(), document["bytes_read"].as_u64()), (0, 2, Some(3 * SOURCE_BYTES)));
    assert!(made.iter().all(|(end, ..)| *end == 600));
    let after = std::fs::metadata(out.join("step0000500-n3-sma/model.safetensors")).unwrap().modified().unwrap();
    assert_eq!(before, after);
    assert_eq!(record(&out).len(), 8);
}

#[test]
fn a_run_with_too_few_checkpoints_is_not_a_fault() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 2), scratch.path().join("out"));
    let (code, document, stderr) = watch(&run_path, &out, &["--windows", "sma:5"]);
    assert_eq!((code, outputs(&document).len()), (0, 0));
    assert!(stderr.contains("too few checkpoints for windows of 5"), "{stderr}");
    assert_eq!(document["needed_steps"], serde_json::json!([100, 200]));
}

#[test]
fn ends_can_be_multiples_or_named_or_begin_at_a_step() {
    let scratch = tempfile::tempdir().unwrap();
    let run_path = make_run(scratch.path(), 8);
    let check = |name: &str, more: &[&str], expected: &[u64]| {
        let (code, document, stderr) =
            watch(&run_path, &scratch.path().join(name), &[&["--windows", "sma:2"], more].concat());
        assert_eq!(code, 0, "{stderr}");
        let found: Vec<u64> = outputs(&document).iter().map(|one| one.0).collect();
        assert_eq!(found, expected, "{name}");
    };
    check("multiples", &["--every", "300"], &[300, 600]);
    check("newest", &["--ends", "newest"], &[800]);
    check("named", &["--ends", "400,700"], &[400, 700]);
    check("from", &["--from-step", "650"], &[700, 800]);
    check("apart", &["--interval-steps", "200", "--every", "400"], &[400, 800]);
}

#[test]
fn a_checkpoint_that_is_being_saved_waits_until_it_is_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 3), scratch.path().join("out"));
    let bytes = checkpoint_bytes(4);
    std::fs::write(checkpoint(&run_path, 400), &bytes[..bytes.len() / 2]).unwrap();
    let (code, document, _) = watch(&run_path, &out, &["--windows", "sma:2"]);
    assert_eq!((code, outputs(&document).len()), (0, 2));
    std::fs::write(checkpoint(&run_path, 400), &bytes).unwrap();
    let (_, document, _) = watch(&run_path, &out, &["--windows", "sma:2"]);
    assert_eq!(outputs(&document).last().unwrap().0, 400);
}

#[test]
fn a_bad_checkpoint_keeps_only_its_own_windows_from_being_made() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 7), scratch.path().join("out"));
    let values = (0..N_ELEMENTS).map(|i| if i == 77 { f32::NAN } else { 0.5 });
    std::fs::write(checkpoint(&run_path, 400), file_of(values)).unwrap();
    let (code, document, stderr) = watch(&run_path, &out, &["--windows", "sma:2,wma:2"]);
    assert_eq!(code, 2);
    let made: BTreeSet<u64> = outputs(&document).iter().map(|one| one.0).collect();
    assert_eq!(made, BTreeSet::from([200, 300, 600, 700]));
    assert_eq!(document["failed"].as_array().unwrap().len(), 4);
    assert!(stderr.contains("error: 4 of 12 merges could not be made"), "{stderr}");
    assert!(stderr.contains("step_400.safetensors"), "{stderr}");
    save(&run_path, 400, 4);
    let (code, document, _) = watch(&run_path, &out, &["--windows", "sma:2,wma:2"]);
    assert_eq!((code, document["failed"].as_array().unwrap().len()), (0, 0));
    assert_eq!(outputs(&document).last().unwrap().0, 400, "as after a rollback");
    // The note says what to do about a repair.
    std::fs::remove_file(out.join("watch-state.json")).unwrap();
    let (code, document, _) = watch(&run_path, &out, &["--windows", "sma:2,wma:2"]);
    assert_eq!((code, outputs(&document).len()), (0, 12));
}

#[test]
fn merges_of_a_run_that_was_rolled_back_are_made_again_and_never_mix_two_runs() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 6), scratch.path().join("out"));
    let windows = ["--windows", "sma:2"];
    assert_eq!(watch(&run_path, &out, &windows).0, 0);
    let old = receipt(&out.join("step0000500-n2-sma"))["digest"].clone();
    save(&run_path, 400, 1004);
    let (code, document, stderr) = watch(&run_path, &out, &windows);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("step 400 was rewritten; steps 500 to 600 are from before the rollback"), "{stderr}");
    assert_eq!(outputs(&document).iter().map(|one| one.0).collect::<Vec<_>>(), [200, 300, 400]);
    assert_eq!(receipt(&out.join("step0000400-n2-sma"))["digest"], digest_from_scratch(&run_path, 2, 400, "sma"));
    assert_eq!(receipt(&out.join("step0000500-n2-sma"))["digest"], old, "nothing mixes the two runs");
    // The next watcher remembers.
    let (_, document, _) = watch(&run_path, &out, &windows);
    assert_eq!(outputs(&document).len(), 3);
    save(&run_path, 500, 1005);
    let (_, document, _) = watch(&run_path, &out, &windows);
    assert_eq!(outputs(&document).iter().map(|one| one.0).collect::<Vec<_>>(), [200, 300, 400, 500]);
    let new = receipt(&out.join("step0000500-n2-sma"))["digest"].clone();
    assert_ne!(new, old);
    assert_eq!(new, digest_from_scratch(&run_path, 2, 500, "sma"));
}

#[test]
fn a_run_that_was_rolled_back_and_went_on_while_nothing_watched_is_merged_to_its_end() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 4), scratch.path().join("out"));
    let windows = ["--windows", "sma:2"];
    assert_eq!(watch(&run_path, &out, &windows).0, 0);
    // Saves at times that are apart on any file system.
    let begin = std::fs::metadata(checkpoint(&run_path, 400)).unwrap().modified().unwrap();
    let save_at = |step: u64, seconds: u64| {
        save(&run_path, step, step + seconds);
        let file = std::fs::File::options().write(true).open(checkpoint(&run_path, step)).unwrap();
        file.set_modified(begin + std::time::Duration::from_secs(seconds)).unwrap();
    };
    for step in [300, 400, 500, 600] {
        save_at(step, step);
    }
    let (code, document, stderr) = watch(&run_path, &out, &windows);
    assert!(code == 0 && stderr.contains("step 300 was rewritten\n"), "{stderr}");
    assert_eq!(outputs(&document).last().unwrap().0, 600);
    for end in [300, 600] {
        let name = format!("step0000{end}-n2-sma");
        assert_eq!(receipt(&out.join(name))["digest"], digest_from_scratch(&run_path, 2, end, "sma"));
    }
    // It went on before it was rolled back.
    save_at(700, 1000);
    save_at(500, 1100);
    let (_, document, stderr) = watch(&run_path, &out, &windows);
    assert!(stderr.contains("step 500 was rewritten; steps 600 to 700 are from before the rollback"), "{stderr}");
    assert_eq!(outputs(&document).last().unwrap().0, 500);
}

#[test]
fn a_checkpoint_that_is_copied_again_is_the_same() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 5), scratch.path().join("out"));
    assert_eq!(watch(&run_path, &out, &["--windows", "sma:2"]).0, 0);
    save(&run_path, 200, 2);
    let (code, document, stderr) = watch(&run_path, &out, &["--windows", "sma:2"]);
    assert!(code == 0 && outputs(&document).iter().all(|(.., was_done)| *was_done), "{stderr}");
    assert_eq!(outputs(&document).len(), 4);
}

#[test]
fn pruned_checkpoints_leave_their_merges_and_the_record() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 5), scratch.path().join("out"));
    assert_eq!(watch(&run_path, &out, &["--windows", "sma:3"]).0, 0);
    let before = record(&out);
    [100, 200, 300].iter().for_each(|&step| std::fs::remove_file(checkpoint(&run_path, step)).unwrap());
    std::fs::remove_file(out.join("watch.jsonl")).unwrap();
    let (code, _, stderr) = watch(&run_path, &out, &["--windows", "sma:3"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(record(&out), before, "lines that were lost are read from the receipts");
    assert!(out.join("step0000300-n3-sma/model.safetensors").exists());
}

#[test]
fn the_stage_of_a_window_that_is_no_longer_asked_for_is_started_over() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 3), scratch.path().join("out"));
    assert_eq!(watch(&run_path, &out, &["--windows", "sma:2"]).0, 0);
    // What a kill just before publishing leaves; then the run loses a checkpoint of the window.
    let (made, stage) = (out.join("step0000300-n2-sma"), out.join("stepn0000300-n2-sma.thalweg-partial"));
    std::fs::rename(&made, &stage).unwrap();
    std::fs::remove_file(checkpoint(&run_path, 200)).unwrap();
    let (code, _, stderr) = watch(&run_path, &out, &["--windows", "sma:2"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(!stage.exists());
    let sources = receipt(&made)["plan"]["sources"].clone();
    let steps: Vec<_> = sources.as_array().unwrap().iter().map(|source| source["step"].as_u64()).collect();
    assert_eq!(steps, [Some(100), Some(300)]);
}

#[test]
fn other_options_do_not_replace_merges_unless_forced() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 3), scratch.path().join("out"));
    assert_eq!(watch(&run_path, &out, &["--windows", "sma:2"]).0, 0);
    let other = ["--windows", "sma:2", "--dtype", "bf16"];
    let (code, _, stderr) = watch(&run_path, &out, &other);
    assert!(code == 2 && stderr.contains("holds another merge") && stderr.contains("`--force`"), "{stderr}");
    let (code, document, stderr) = watch(&run_path, &out, &[&other[..], &["--force"]].concat());
    assert!(code == 0 && outputs(&document).iter().all(|(.., was_done)| !was_done), "{stderr}");
}

#[test]
fn two_watchers_do_not_share_a_folder() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 3), scratch.path().join("out"));
    std::fs::create_dir(&out).unwrap();
    let lock = std::fs::File::create(out.join("watch.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let (code, _, stderr) = watch(&run_path, &out, &["--windows", "sma:2"]);
    assert!(code == 2 && stderr.contains("error: another watcher is running in"), "{stderr}");
    drop(lock);
    assert_eq!(watch(&run_path, &out, &["--windows", "sma:2"]).0, 0);
}

#[test]
fn watch_says_what_it_did_and_what_is_wrong() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 4), scratch.path().join("out"));
    let (run_text, out) = (run_path.to_str().unwrap(), out.to_str().unwrap());
    let say = |windows: &str, out: &str| {
        transcript(&["watch", run_text, "--windows", windows, "--once", "-o", out], scratch.path())
    };
    let asked = [
        ("sma:3,wma:3", out),
        ("sma:3,wma:3", out),
        ("sma", out),
        ("sma:none", out),
        ("smaa:3", out),
        ("sma:3", run_text),
    ];
    let said = asked.map(|(windows, out)| say(windows, out));
    insta::assert_snapshot!("watch_says_what_it_did_and_what_is_wrong", said.join("\n\n"));
}

#[test]
fn a_folder_with_the_merges_of_another_run_is_refused_and_kept() {
    let scratch = tempfile::tempdir().unwrap();
    let (first, out) = (make_run(scratch.path(), 3), scratch.path().join("out"));
    let other = make_run(&scratch.path().join("b"), 3);
    assert_eq!(watch(&first, &out, &["--windows", "sma:2"]).0, 0);
    let before = record(&out);
    let (code, _, stderr) = watch(&other, &out, &["--windows", "sma:2"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("holds the merges of another run") && stderr.contains("choose another folder"), "{stderr}");
    assert_eq!(record(&out), before);
    // A run whose checkpoints were all pruned is still the same run.
    (1..=3).for_each(|i| std::fs::remove_file(checkpoint(&first, 100 * i)).unwrap());
    (7..=9).for_each(|i| save(&first, 100 * i, i));
    assert_eq!(watch(&first, &out, &["--windows", "sma:2"]).0, 0);
}

#[test]
fn a_run_that_was_moved_is_watched_again_as_the_hint_says() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 3), scratch.path().join("out"));
    assert_eq!(watch(&run_path, &out, &["--windows", "sma:2"]).0, 0);
    let before = record(&out);
    let moved = scratch.path().join("moved");
    std::fs::rename(&run_path, &moved).unwrap();
    let (code, _, stderr) = watch(&moved, &out, &["--windows", "sma:2"]);
    assert!(code == 2 && stderr.contains("remove `watch-state.json`"), "{stderr}");
    std::fs::remove_file(out.join("watch-state.json")).unwrap();
    assert_eq!(watch(&moved, &out, &["--windows", "sma:2"]).0, 0);
    assert!(record(&out).is_superset(&before));
}

#[test]
fn a_torn_last_line_of_the_record_is_cut_off_and_written_again() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 3), scratch.path().join("out"));
    assert_eq!(watch(&run_path, &out, &["--windows", "sma:2"]).0, 0);
    let (before, path) = (record(&out), out.join("watch.jsonl"));
    let bytes = std::fs::read(&path).unwrap();
    for cut in [1, 20, 100] {
        std::fs::write(&path, &bytes[..bytes.len() - 1 - cut]).unwrap();
        let (code, _, stderr) = watch(&run_path, &out, &["--windows", "sma:2"]);
        assert!(code == 0 && stderr.contains("is incomplete and is removed"), "{stderr}");
        assert_eq!(record(&out), before);
    }
    // A fault in the middle is still an error.
    std::fs::write(&path, [b"{\n".as_slice(), &bytes].concat()).unwrap();
    assert_eq!(watch(&run_path, &out, &["--windows", "sma:2"]).0, 2);
}

#[test]
fn nothing_is_written_into_a_checkpoint_or_a_merge() {
    let scratch = tempfile::tempdir().unwrap();
    let run_path = scratch.path().join("r");
    for step in [100, 200, 300, 400] {
        let folder = run_path.join(format!("checkpoint-{step}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("model.safetensors"), checkpoint_bytes(step)).unwrap();
    }
    let merged = scratch.path().join("merged");
    let (run_word, merged_word) = (run_path.to_str().unwrap(), merged.to_str().unwrap());
    assert!(run(&["merge", run_word, "--last", "2", "-o", merged_word]).status.success());
    for inside in [run_path.join("checkpoint-100"), merged] {
        let listing = || std::fs::read_dir(&inside).unwrap().count();
        let n_before = listing();
        let (folder, deeper) = (inside.join("out"), inside.join("a/b"));
        let (folder, deeper) = (folder.to_str().unwrap(), deeper.to_str().unwrap());
        let page = inside.join("plane.svg");
        let source = run_path.join("checkpoint-200");
        for arguments in [
            &["merge", run_word, "--last", "2", "-o", folder][..],
            &["merge", run_word, "--last", "2", "-o", deeper],
            &["plan", run_word, "--last", "2", "-o", folder],
            &["watch", run_word, "--once", "--windows", "sma:2", "-o", folder],
            &["watch", run_word, "--once", "--windows", "sma:2", "-o", inside.to_str().unwrap()],
            &["sweep", run_word, "--counts", "2", "-o", folder],
            &["convert", source.to_str().unwrap(), "--format", "safetensors", "-o", folder],
            &["explain", run_word, "--last", "3", "--svg", page.to_str().unwrap()],
        ] {
            let output = run(arguments);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(2) && stderr.contains("checkpoint"), "{arguments:?}: {stderr}");
            assert!(stderr.contains("hint: ") && listing() == n_before, "{arguments:?}: {stderr}");
        }
    }
}

/// For each source of a merge, oldest first, whether its digest is from an earlier reading, and the digest.
fn source_digests(out: &Path, name: &str) -> Vec<(bool, String)> {
    let sources = receipt(&out.join(name))["sources"].clone();
    let row = |one: &Value| (one["digest_is_earlier"] == true, one["digest"].as_str().unwrap().to_owned());
    sources.as_array().unwrap().iter().map(row).collect()
}

#[test]
fn digests_of_checkpoints_that_did_not_change_are_not_taken_again() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 3), scratch.path().join("out"));
    let windows = ["--windows", "sma:3"];
    assert_eq!(watch(&run_path, &out, &windows).0, 0);
    let first = source_digests(&out, "step0000300-n3-sma");
    assert!(first.iter().all(|(is_earlier, _)| !is_earlier), "{first:?}");
    save(&run_path, 400, 4);
    assert_eq!(watch(&run_path, &out, &windows).0, 0);
    let second = source_digests(&out, "step0000400-n3-sma");
    assert_eq!(second.iter().map(|(is_earlier, _)| *is_earlier).collect::<Vec<_>>(), [true, true, false]);
    let digests = |found: &[(bool, String)]| found.iter().map(|(_, digest)| digest.clone()).collect::<Vec<_>>();
    assert_eq!(digests(&second)[..2], digests(&first)[1..]);
    let merge = out.join("step0000400-n3-sma");
    assert_eq!(receipt(&merge)["digest"], digest_from_scratch(&run_path, 3, 400, "sma"));
    assert!(run(&["verify", merge.to_str().unwrap(), "--inputs"]).status.success());

    // One byte flips, and the time of the change is set back: only the system's own time of it tells.
    let path = checkpoint(&run_path, 300);
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    std::fs::File::options().append(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert_eq!(run(&["verify", merge.to_str().unwrap(), "--inputs"]).status.code(), Some(1));
    save(&run_path, 500, 5);
    assert_eq!(watch(&run_path, &out, &windows).0, 0);
    let third = source_digests(&out, "step0000500-n3-sma");
    assert_eq!(third.iter().map(|(is_earlier, _)| *is_earlier).collect::<Vec<_>>(), [false, true, false]);
    assert_ne!(third[0].1, digests(&second)[1]);
    let merge = out.join("step0000500-n3-sma");
    assert_eq!(receipt(&merge)["digest"], digest_from_scratch(&run_path, 3, 500, "sma"));
    assert!(run(&["verify", merge.to_str().unwrap(), "--inputs"]).status.success());
}

#[test]
fn a_digest_of_another_kind_is_taken_and_without_digests_none_is() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 3), scratch.path().join("out"));
    assert_eq!(watch(&run_path, &out, &["--windows", "sma:2"]).0, 0);
    for (step, digest, are_earlier) in [(400, "xxh3", [false, false]), (500, "none", [false, false])] {
        save(&run_path, step, step);
        let out = scratch.path().join(digest);
        std::fs::create_dir_all(&out).unwrap();
        std::fs::copy(scratch.path().join("out/watch-state.json"), out.join("watch-state.json")).unwrap();
        assert_eq!(watch(&run_path, &out, &["--windows", "sma:2", "--digest", digest]).0, 0);
        let merge = receipt(&out.join(format!("step{step:07}-n2-sma")));
        let found = merge["sources"].as_array().unwrap().iter().map(|one| one["digest_is_earlier"] == true);
        assert_eq!(found.collect::<Vec<_>>(), are_earlier);
        let is_none = merge["sources"].as_array().unwrap().iter().all(|one| one["digest"].is_null());
        assert_eq!(is_none, digest == "none");
    }
}

#[test]
fn a_prepared_window_reads_only_the_new_checkpoint_and_has_the_same_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 6), scratch.path().join("out"));
    let windows = ["--windows", "sma:4,wma:5", "--prepare"];
    let (code, _, stderr) = watch(&run_path, &out, &windows);
    assert_eq!(code, 0, "{stderr}");
    let prepared = out.join("prepared");
    assert_eq!(std::fs::metadata(prepared.join("n4-sma.sums")).unwrap().len(), 2 * SOURCE_BYTES);
    let check = |step: u64, n_read: u64| {
        save(&run_path, step, step / 100);
        let (code, document, stderr) = watch(&run_path, &out, &windows);
        assert_eq!((code, document["bytes_read"].as_u64()), (0, Some(n_read * SOURCE_BYTES)), "{step}: {stderr}");
        for (n, scheme) in [(4, "sma"), (5, "wma")] {
            let made = receipt(&out.join(format!("step{step:07}-n{n}-{scheme}")))["digest"].clone();
            assert_eq!(made, digest_from_scratch(&run_path, n, step, scheme), "{scheme} of {n} at {step}");
        }
    };
    check(700, 1);
    check(800, 1);
    // A sum that changed is not used.
    let sums = prepared.join("n5-wma.sums");
    let mut bytes = std::fs::read(&sums).unwrap();
    bytes[5000] ^= 4;
    std::fs::write(&sums, bytes).unwrap();
    check(900, 5);
    check(1000, 1);
    // A window that cannot be prepared is read beside one that is.
    let windows = ["--windows", "sma:5,sma:2", "--prepare"];
    assert_eq!(watch(&run_path, &out, &windows).0, 0);
    save(&run_path, 1100, 11);
    let (_, document, stderr) = watch(&run_path, &out, &windows);
    assert_eq!(document["bytes_read"].as_u64(), Some(2 * SOURCE_BYTES), "{stderr}");
    for n in [2, 5] {
        let made = receipt(&out.join(format!("step0001100-n{n}-sma")))["digest"].clone();
        assert_eq!(made, digest_from_scratch(&run_path, n, 1100, "sma"));
    }
    let (code, _, stderr) = watch(&run_path, &out, &["--windows", "sma:3", "--prepare"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("the next sma of 3 cannot be prepared: a window of fewer than 4"), "{stderr}");
}
