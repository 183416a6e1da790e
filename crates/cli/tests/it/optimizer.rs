//! `--optimizer average`: moments are the exact average, everything else is the newest checkpoint's, whatever the
//! format.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use serde_json::Value;
use thalweg_checkpoint::{Checkpoint, ReadOptions, is_moment, is_optimizer_state, open_checkpoint_with};
use thalweg_storage::{LocalStorage, Storage};
use thalweg_tensor::TensorSource;

use crate::support::{root, run};
use crate::torch::tensors;

/// Two steps of a run in each format, oldest first.
const RUNS: [[&str; 2]; 7] = [
    ["fixtures/dcp-fsdp2/step-60", "fixtures/dcp-fsdp2/step-80"],
    ["fixtures/megatron-torch_dist/iter_0000060", "fixtures/megatron-torch_dist/iter_0000080"],
    ["fixtures/torch/trainstate/step-60.pt", "fixtures/torch/trainstate/step-80.pt"],
    ["fixtures/trainers/lightning/epoch=0-step=30.ckpt", "fixtures/trainers/lightning/epoch=0-step=40.ckpt"],
    [
        "fixtures/trainers/other-ranks/deepspeed-zero1/global_step10",
        "fixtures/trainers/other-ranks/deepspeed-zero1/global_step20",
    ],
    [
        "fixtures/trainers/other-ranks/deepspeed-zero2/global_step10",
        "fixtures/trainers/other-ranks/deepspeed-zero2/global_step20",
    ],
    [
        "fixtures/trainers/other-ranks/deepspeed-zero3/global_step10",
        "fixtures/trainers/other-ranks/deepspeed-zero3/global_step20",
    ],
];
const UNIVERSAL: &str = "fixtures/trainers/other-ranks/deepspeed-universal/global_step20_universal";

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn succeeds(arguments: &[&str]) -> Output {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    output
}

fn open(path: &Path) -> Checkpoint {
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new());
    let options = ReadOptions { optimizer: true, ..ReadOptions::default() };
    open_checkpoint_with(&storage, path, &options).unwrap_or_else(|error| panic!("{error}"))
}

/// Parameters and state: element type and bytes by name.
fn state(path: &Path) -> BTreeMap<String, (String, Vec<u8>)> {
    let checkpoint = open(path);
    let read = |(number, entry): (usize, &thalweg_tensor::TensorEntry)| {
        let mut bytes = vec![0; usize::try_from(entry.n_bytes()).unwrap()];
        checkpoint.read_elements(number, 0..entry.n_elements(), &mut bytes).unwrap();
        (entry.name.to_string(), (entry.dtype.to_string(), bytes))
    };
    checkpoint.catalog().entries().iter().enumerate().map(read).collect()
}

fn f32s(bytes: &[u8]) -> impl Iterator<Item = f64> + '_ {
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()).into())
}

/// (a + 2 b) / 3 of F32 values. The sum is exact in doubles for exponents as close as these, and no quotient here is so
/// near a tie of F32 that its rounding to a double matters.
#[expect(clippy::cast_possible_truncation, reason = "the one rounding of the average")]
fn average(a: &[u8], b: &[u8]) -> Vec<u8> {
    f32s(a).zip(f32s(b)).flat_map(|(a, b)| (((a + 2.0 * b) / 3.0) as f32).to_le_bytes()).collect()
}

/// The output of a merge of single files is a folder with one of them.
fn output_of(source: &str, out: &Path) -> PathBuf {
    let source = root().join(source);
    if source.is_dir() { out.to_owned() } else { out.join(source.file_name().unwrap()) }
}

fn files_below(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.is_dir() {
                true => folders.push(entry),
                false => drop(found.insert(entry.strip_prefix(folder).unwrap().to_owned(), fs::read(&entry).unwrap())),
            }
        }
    }
    found
}

/// Merges two steps with weights 1 and 2, and checks every tensor of the output and its receipt.
fn check_average([old, new]: [&str; 2]) {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let words = ["merge", old, new, "--scheme", "wma", "--optimizer", "average", "-q", "-o", out.to_str().unwrap()];
    succeeds(&words);
    let [a, b, found] = [root().join(old), root().join(new), output_of(new, &out)].map(|path| state(&path));
    assert_eq!(found.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{new}");
    let (mut n_moments, mut n_changed) = (0, 0);
    for (name, (dtype, bytes)) in &found {
        let is_newest = is_optimizer_state(name) && !is_moment(name);
        if is_newest {
            assert_eq!(*bytes, b[name].1, "{name} of {new}");
            continue;
        }
        n_moments += usize::from(is_moment(name));
        n_changed += usize::from(*bytes != b[name].1);
        if dtype == "F32" {
            assert!(*bytes == average(&a[name].1, &b[name].1), "{name} of {new}");
        }
    }
    assert!(n_moments >= 18 && n_changed > n_moments, "{new}: {n_moments} moments, {n_changed} changed");
    let receipt: Value = serde_json::from_slice(&fs::read(out.join("thalweg.json")).unwrap()).unwrap();
    assert_eq!(receipt["plan"]["policy"]["optimizer"], "average");
    let listed = receipt["tensors"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap());
    assert!(listed.eq(found.keys().map(String::as_str)), "{new}");
    succeeds(&["verify", out.to_str().unwrap(), "--inputs"]);
}

#[test]
fn moments_are_the_exact_average_and_counters_are_the_newest() {
    RUNS.into_iter().for_each(check_average);
}

/// With all weight on the newest, nothing differs from it: what is not merged is copied, sums of archives included.
#[test]
fn everything_else_has_the_bytes_of_the_newest() {
    for [old, new] in RUNS {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("out");
        let sources = [format!("{old}:0"), format!("{new}:1")];
        let words = ["merge", "-m", &sources[0], "-m", &sources[1], "--optimizer", "average", "-q", "--no-model-card"];
        succeeds(&[&words[..], &["-o", out.to_str().unwrap()]].concat());
        let mut found = files_below(&out);
        assert!(found.remove(Path::new("thalweg.json")).is_some());
        let source = root().join(new);
        let wanted = match source.is_dir() {
            true => files_below(&source),
            false => [(source.file_name().unwrap().into(), fs::read(&source).unwrap())].into(),
        };
        assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{new}");
        let differ: Vec<_> =
            found.iter().filter(|(name, bytes)| wanted[*name] != **bytes).map(|(name, _)| name).collect();
        assert!(differ.is_empty(), "{new}: {differ:?}");
    }
}

/// The same tensors, written under other names and merged as if they were a model.
#[test]
fn moments_are_those_of_a_merge_of_the_state_alone() {
    for (sources, key, prefix) in [(RUNS[0], "optim.state", "optim.state."), (RUNS[2], "optimizer", "optimizer.state.")]
    {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
        fs::write(at("rules"), "*.exp_avg -> *.first\n*.exp_avg_sq -> *.second\n").unwrap();
        let copies = ["old", "new"].map(at);
        for (source, copy) in sources.iter().zip(&copies) {
            succeeds(&["convert", source, "--key", key, "--rename", &at("rules"), "-q", "-o", copy]);
        }
        let fixed = ["-q", "--scheme", "ema", "--alpha", "0.3", "--optimizer"];
        succeeds(&[&["merge", sources[0], sources[1], "-o", &at("whole")], &fixed[..], &["average"]].concat());
        succeeds(&[&["merge", &copies[0], &copies[1], "-o", &at("alone")], &fixed[..], &["drop"]].concat());
        let (whole, alone) = (state(&output_of(sources[1], Path::new(&at("whole")))), tensors(Path::new(&at("alone"))));
        let moments = alone.iter().filter(|(name, _)| !name.ends_with("step"));
        let mut n_moments = 0;
        for (name, (_, _, bytes)) in moments {
            let name = name.replace(".first", ".exp_avg").replace(".second", ".exp_avg_sq");
            assert!(whole[&format!("{prefix}{name}")].1 == *bytes, "{name} of {}", sources[1]);
            n_moments += 1;
        }
        assert!(n_moments >= 42);
    }
}

#[test]
fn universal_checkpoints_hold_the_averages_in_the_files_of_their_parameters() {
    let scratch = tempfile::tempdir().unwrap();
    let old = scratch.path().join("old/global_step10_universal");
    for (name, bytes) in files_below(&root().join(UNIVERSAL)) {
        fs::create_dir_all(old.join(&name).parent().unwrap()).unwrap();
        fs::write(old.join(name), bytes).unwrap();
    }
    // Another step: every element of masters and moments is doubled.
    let checkpoint = open(&old);
    for (number, entry) in checkpoint.catalog().entries().iter().enumerate() {
        let [piece] = &*entry.pieces else { panic!("{}", entry.name) };
        if entry.dtype.to_string() != "F32" || !piece.is_whole() {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(entry.n_bytes()).unwrap()];
        checkpoint.read_elements(number, 0..entry.n_elements(), &mut bytes).unwrap();
        let path = &checkpoint.files()[usize::try_from(piece.file_idx).unwrap()].path;
        let mut file = fs::read(path).unwrap();
        let at = usize::try_from(piece.offset).unwrap();
        for (element, place) in bytes.chunks_exact(4).zip(file[at..].chunks_exact_mut(4)) {
            let value = 2.0 * f32::from_le_bytes(element.try_into().unwrap());
            place.copy_from_slice(&value.to_le_bytes());
        }
        fs::write(path, file).unwrap();
    }
    let old = old.to_str().unwrap();
    assert!(state(Path::new(old)).keys().any(|name| name.starts_with("optimizer.exp_avg_sq.")));
    check_average([old, UNIVERSAL]);
}

/// The exit code and messages of a merge that is refused, and what the same merge says without the refused option.
#[track_caller]
fn check_refused(arguments: &[&str], expected: &[&str], hint: (&str, Option<&str>)) {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let merge =
        |optimizer: &[&str]| run(&[&["merge", "-q", "-o", out.to_str().unwrap()], arguments, optimizer].concat());
    let refused = merge(&["--optimizer", "average"]);
    let text = stderr(&refused);
    assert_eq!(refused.status.code(), Some(2), "{text}");
    assert!(expected.iter().all(|part| text.contains(part)) && text.contains(hint.0), "{text}");
    assert!(!out.exists());
    // The hint works.
    let proposed = hint.1.map_or(vec![], |choice| vec!["--optimizer", choice]);
    let followed = merge(&proposed);
    assert_eq!(followed.status.code(), Some(0), "{}", stderr(&followed));
}

#[test]
fn what_cannot_be_averaged_is_refused_with_a_hint_that_works() {
    let newest = ("`--optimizer newest` takes the state of the newest checkpoint as it is", Some("newest"));
    let leave_out = ("leave out `--optimizer average`", None);
    let [old, new] = RUNS[0];
    let signed = [format!("{old}:-0.5"), format!("{new}:1.5")];
    check_refused(&["-m", &signed[0], "-m", &signed[1]], &["step-60` has a negative coefficient"], newest);
    check_refused(&["fixtures/hf-sharded", "--last", "2"], &["`safetensors`", "no state of the optimizer"], leave_out);
    check_refused(
        &[old, new, "--format", "safetensors"],
        &["no state of the optimizer", "the newest source has the format `dcp`"],
        leave_out,
    );
    check_refused(&[old, new, "--dtype", "bf16"], &["has no state of the optimizer"], leave_out);
    // The last save of torchtitan holds the model only.
    let titan = ["fixtures/trainers/torchtitan/step-30", "fixtures/trainers/torchtitan/step-40"];
    check_refused(&titan, &["step 40: no optimizer moments"], leave_out);
    // The names of the state differ, those of the parameters do not.
    let mixed = [RUNS[2][0], new];
    check_refused(&mixed, &["the state of the optimizer cannot be averaged", "more of its tensors"], newest);
}

#[test]
fn a_plan_says_what_becomes_of_the_state_and_counts_parameters_alone() {
    let [old, new] = RUNS[0];
    let plan = |more: &[&str]| {
        let output = succeeds(&[&["plan", old, new], more].concat());
        format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output))
    };
    let average = plan(&["--optimizer", "average"]);
    assert!(average.contains("state of the optimizer: that of the newest checkpoint, with the average"), "{average}");
    assert!(average.contains("42 moments of the optimizer are averaged"), "{average}");
    let newest = plan(&["--optimizer", "newest"]);
    assert!(newest.contains("state of the optimizer: that of the newest checkpoint\n"), "{newest}");
    assert!(plan(&["--optimizer", "drop"]).contains("state of the optimizer: left out"));
    let n_params =
        |text: &str| text.split(" tensors, ").nth(1).and_then(|rest| rest.split(' ').next()).map(str::to_owned);
    assert_eq!(n_params(&average), n_params(&newest));
    let json = succeeds(&["plan", old, new, "--optimizer", "average", "--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let output = &json["outputs"][0];
    assert_eq!((&output["policy"]["optimizer"], &output["reading"]["optimizer"]), (&"average".into(), &true.into()));
}

#[test]
fn start_points_of_recover_and_init_hold_the_averaged_moments() {
    let scratch = tempfile::tempdir().unwrap();
    let [start, recovered, log] = ["start", "recovered", "log.jsonl"].map(|name| scratch.path().join(name));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let folder = "fixtures/dcp-fsdp2";
    succeeds(&["init", folder, "--for", "cpt", "--last", "2", "--optimizer", "average", "-q", "-o", &text(&start)]);
    // A spike after the last checkpoint.
    let noise = |step: u32| 0.01 * (f64::from(step * 7919 % 101) / 100.0 - 0.5);
    let jump = |step: u32| if (90..95).contains(&step) { 1.0 } else { 0.0 };
    let lines = (1..=100).map(|step| format!("{{\"step\": {step}, \"loss\": {}}}\n", 3.0 + noise(step) + jump(step)));
    fs::write(&log, lines.collect::<String>()).unwrap();
    let words = ["recover", folder, "--log", &text(&log), "--optimizer", "average", "-q", "-o", &text(&recovered)];
    succeeds(&words);
    let [a, b] = RUNS[0].map(|source| state(&root().join(source)));
    for out in [start, recovered] {
        let found = state(&out);
        let differs = |name: &&String| is_moment(name) && found[*name].1 == b[*name].1 && a[*name].1 != b[*name].1;
        assert_eq!(found.keys().find(differs), None, "{}", out.display());
        assert_eq!(found["optim.state.lm_head.weight.step"], b["optim.state.lm_head.weight.step"]);
        succeeds(&["verify", out.to_str().unwrap()]);
    }
}
