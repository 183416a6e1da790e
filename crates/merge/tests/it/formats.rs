//! Outputs in other formats than safetensors: the same tensors, the same bytes whatever the machine, and nothing that
//! changes in them goes unnoticed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use thalweg_merge::Error;
use thalweg_merge::engine::ComparedBy;
use thalweg_merge::engine::{MergeOutcome, execute_merge};
use thalweg_merge::output_format::{FormatError, OptimizerPolicy, OutputFormat};
use thalweg_merge::plan::{DigestChoice, OutputPlan};
use thalweg_merge::verify::{Verification, VerifyScope, verify_output};
use thalweg_storage::publish::stage_path;
use thalweg_tensor::kernel::Simd;

use crate::support::{
    FORCE, FORMAT_CASES, FormatCase, PLAIN, Runner, assert_same_tensors, files_below, fixture, output, plan,
};

type Files = BTreeMap<String, Vec<u8>>;

/// The files of an output without its receipt.
fn merged_files(runner: &Runner, output: OutputPlan) -> Files {
    let plan = plan(output);
    runner.execute(&plan, PLAIN).unwrap_or_else(|error| panic!("{error}"));
    let mut files = files_below(&plan.outputs[0].path);
    files.remove("thalweg.json").unwrap();
    files
}

fn check_same_files(found: &Files, expected: &Files, what: &str) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (name, bytes) in found {
        assert!(*bytes == expected[name], "{what}: {name}");
    }
}

#[test]
fn outputs_have_the_tensors_of_the_same_merge_in_safetensors_and_are_opened_as_their_format() {
    for case in FORMAT_CASES {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        case.put(scratch.path());
        let expected = Runner::default().merge(&plan(case.plain(scratch.path(), &at("plain"), 2)));
        merged_files(&Runner::default(), case.output(scratch.path(), &at("out"), 2));
        assert_same_tensors(&case.read(&at("out")), &expected, case.name);
    }
}

#[test]
fn no_file_depends_on_threads_memory_instructions_digests_or_the_order_of_sources() {
    for case in FORMAT_CASES {
        let scratch = tempfile::tempdir().unwrap();
        case.put(scratch.path());
        let output = |name: &str| case.output(scratch.path(), &scratch.path().join(name), 2);
        let mut expected = merged_files(&Runner::default(), output("first"));
        for (number, (n_threads, memory_bytes)) in [(1, 256_000_000), (7, 64_000_000)].into_iter().enumerate() {
            let runner = Runner { n_threads, memory_bytes, ..Runner::default() };
            let found = merged_files(&runner, output(&format!("threads-{number}")));
            check_same_files(&found, &expected, &format!("{}: {n_threads} threads", case.name));
        }
        let portable = Runner { simd: Simd::Portable, ..Runner::default() };
        check_same_files(&merged_files(&portable, output("portable")), &expected, case.name);
        let plain = OutputPlan { digest: DigestChoice::None, ..output("no-digests") };
        check_same_files(&merged_files(&Runner::default(), plain), &expected, case.name);
        let mut turned = output("turned");
        turned.sources.reverse();
        (turned.policy.newest, turned.policy.side_files_from) = (0, 0);
        let mut found = merged_files(&Runner::default(), turned);
        // The model card lists the sources in the plan's order.
        found.remove("README.md");
        expected.remove("README.md");
        check_same_files(&found, &expected, &format!("{}: other order", case.name));
    }
}

fn verify(out: &Path) -> Verification {
    let verify = |run: &thalweg_merge::context::RunContext<'_>| verify_output(out, VerifyScope::OutputAndInputs, run);
    Runner::default().with_context(verify).0.unwrap_or_else(|error| panic!("{error}"))
}

/// Files of a folder besides the receipt: up to twelve, since a universal checkpoint has three alike for each
/// parameter.
fn some_files(folder: &Path) -> Files {
    let mut files = files_below(folder);
    files.remove("thalweg.json");
    let step = files.len().div_ceil(12);
    files.into_iter().step_by(step).collect()
}

/// An output of a format in a scratch folder.
fn merged(case: &FormatCase) -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    case.put(scratch.path());
    merged_files(&Runner::default(), case.output(scratch.path(), &scratch.path().join("out"), 2));
    scratch
}

#[test]
fn a_changed_byte_anywhere_in_an_output_is_found_and_named() {
    for case in FORMAT_CASES {
        let scratch = merged(&case);
        let out = scratch.path().join("out");
        let untouched = verify(&out);
        assert!(untouched.is_equal() && untouched.strays.is_empty(), "{}: {untouched:?}", case.name);
        let names: Vec<String> = case.read(&out).into_keys().collect();
        for (file, bytes) in some_files(&out) {
            let path = out.join(&file);
            let step = (bytes.len() / 5).max(1);
            for at in (0..bytes.len()).step_by(step).chain([bytes.len() - 1]) {
                let mut changed = bytes.clone();
                changed[at] ^= 0x10;
                fs::write(&path, changed).unwrap();
                let found = verify(&out);
                let what = format!("{}: byte {at} of {file}", case.name);
                let faults: Vec<(&str, &str)> = found.faults().collect();
                assert!(!faults.is_empty(), "{what}");
                let is_named = |(name, fault): &(&str, &str)| {
                    *name == file || fault.contains(&*file) || names.iter().any(|tensor| tensor == name)
                };
                assert!(faults.iter().any(is_named) || faults[0].1.contains("tensors"), "{what}: {faults:?}");
            }
            fs::write(&path, bytes).unwrap();
        }
        assert!(verify(&out).is_equal(), "{}", case.name);
    }
}

#[test]
fn a_changed_byte_anywhere_in_the_newest_source_makes_it_another_source() {
    for case in FORMAT_CASES.iter().filter(|case| case.keeps_files()) {
        let scratch = merged(case);
        let out = scratch.path().join("out");
        let again = || Runner::default().execute(&plan(case.output(scratch.path(), &out, 2)), PLAIN);
        let by = |outcomes: &[MergeOutcome]| outcomes[0].compared.unwrap().sources;
        assert_eq!(by(&again().unwrap()), ComparedBy::Times, "{}", case.name);
        let newest = case.source_paths(scratch.path())[1].clone();
        let names = if newest.is_file() { vec![String::new()] } else { some_files(&newest).into_keys().collect() };
        let mut n_noticed = 0;
        for name in names {
            // An empty name would add a slash to a file's path.
            let path = if name.is_empty() { newest.clone() } else { newest.join(&name) };
            let bytes = fs::read(&path).unwrap();
            let mut changed = bytes.clone();
            changed[bytes.len() / 2] ^= 0x01;
            fs::write(&path, changed).unwrap();
            if again().is_ok() {
                // The byte may be of a copy that is neither merged nor kept, such as the module's weights beside
                // masters.
                let fresh = scratch.path().join("fresh");
                let mut expected = files_below(&out);
                expected.remove("thalweg.json");
                let found = merged_files(&Runner::default(), case.output(scratch.path(), &fresh, 2));
                check_same_files(&found, &expected, &format!("{}: {name}", case.name));
                fs::remove_dir_all(&fresh).unwrap();
            } else {
                assert!(!verify(&out).sources_are_equal(), "{}: {name}", case.name);
                n_noticed += 1;
            }
            fs::write(&path, bytes).unwrap();
        }
        assert!(n_noticed > 0, "{}", case.name);
        assert!(verify(&out).sources_are_equal(), "{}", case.name);
        assert_eq!(by(&again().unwrap()), ComparedBy::Digests, "{}", case.name);
        if newest.is_dir() {
            fs::write(newest.join("added.json"), "{}").unwrap();
            assert!(again().unwrap_err().to_string().contains("changed since"), "{}", case.name);
        }
    }
}

#[test]
fn a_shorter_a_missing_and_an_added_file_are_found_and_named() {
    for case in FORMAT_CASES {
        let scratch = merged(&case);
        let out = scratch.path().join("out");
        for (file, bytes) in some_files(&out) {
            let path = out.join(&file);
            let named = || verify(&out).faults().map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
            fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
            assert_eq!(named(), [&*file], "{}: shorter", case.name);
            fs::remove_file(&path).unwrap();
            assert_eq!(named(), [&*file], "{}: missing", case.name);
            fs::write(&path, bytes).unwrap();
        }
        let inner = files_below(&out).into_keys().find_map(|name| Some(name.rsplit_once('/')?.0.to_owned()));
        for folder in [Some(String::new()), inner].into_iter().flatten() {
            for name in ["pytorch_model-00009-of-00009.bin", "__7_0.distcp", "model.safetensors"] {
                let path = out.join(&folder).join(name);
                fs::write(&path, "x").unwrap();
                let stray = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
                assert_eq!(verify(&out).strays, [stray], "{}", case.name);
                fs::remove_file(path).unwrap();
            }
        }
    }
}

#[test]
fn a_finished_output_is_recognised_replaced_on_request_and_a_damaged_one_is_not_the_result() {
    for case in FORMAT_CASES {
        let scratch = merged(&case);
        let out = scratch.path().join("out");
        let same = plan(case.output(scratch.path(), &out, 2));
        assert!(Runner::default().execute(&same, PLAIN).unwrap()[0].was_done, "{}", case.name);
        let before = files_below(&out);
        let other = plan(case.output(scratch.path(), &out, 5));
        let error = Runner::default().execute(&other, PLAIN).unwrap_err();
        assert!(matches!(&error, Error::OutputExists { holds, .. } if holds == "holds another merge"), "{error}");
        check_same_files(&files_below(&out), &before, case.name);
        Runner::default().execute(&other, FORCE).unwrap();
        assert!(verify(&out).is_equal() && files_below(&out) != before, "{}", case.name);
        // The largest file holds tensors.
        let (file, mut bytes) = files_below(&out).into_iter().max_by_key(|(_, bytes)| bytes.len()).unwrap();
        let modified = fs::metadata(out.join(&file)).unwrap().modified().unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(out.join(&file), bytes).unwrap();
        fs::File::options().write(true).open(out.join(&file)).unwrap().set_modified(modified).unwrap();
        let error = Runner::default().execute(&other, PLAIN).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{}: {error}", case.name);
        Runner::default().execute(&other, FORCE).unwrap();
        // Something of somebody else in it, also in a folder inside, keeps it from being replaced.
        let inner = files_below(&out).into_keys().find_map(|name| Some(name.rsplit_once('/')?.0.to_owned()));
        let foreign = out.join(inner.unwrap_or_default()).join("thesis.tex");
        fs::write(&foreign, "ten years of work").unwrap();
        let error = Runner::default().execute(&same, FORCE).unwrap_err().to_string();
        assert!(error.contains("thesis.tex") && foreign.exists(), "{}: {error}", case.name);
    }
}

#[test]
fn a_foreign_file_in_the_stage_is_kept() {
    for case in FORMAT_CASES {
        let scratch = tempfile::tempdir().unwrap();
        case.put(scratch.path());
        let out = scratch.path().join("out");
        let stage = stage_path(&out);
        fs::create_dir(&stage).unwrap();
        fs::write(stage.join("__0_0.distcp"), "weights of mine").unwrap();
        let merge = plan(case.output(scratch.path(), &out, 2));
        for options in [PLAIN, FORCE] {
            let error = Runner::default().execute(&merge, options).unwrap_err().to_string();
            assert!(error.contains("`__0_0.distcp`"), "{}: {error}", case.name);
        }
        assert_eq!(fs::read(stage.join("__0_0.distcp")).unwrap(), b"weights of mine");
    }
}

#[test]
fn a_merge_of_merges_keeps_the_format_and_the_other_contents() {
    for case in FORMAT_CASES.iter().filter(|case| !case.name.ends_with("from-scratch") && case.name != "torch-file") {
        let scratch = merged(case);
        let at = |name: &str| scratch.path().join(name);
        let mut again = output(&[at("c0"), at("out")], &[1, 2], 2, &at("again"));
        (again.format, again.policy.optimizer) = {
            let first = case.output(scratch.path(), &at("x"), 2);
            (first.format, first.policy.optimizer)
        };
        let mut plain = OutputPlan { path: at("plain"), format: OutputFormat::Safetensors, ..again.clone() };
        plain.policy.optimizer = OptimizerPolicy::Drop;
        let expected = Runner::default().merge(&plan(plain));
        let files = merged_files(&Runner::default(), again);
        assert_same_tensors(&case.read(&at("again")), &expected, case.name);
        let first = files_below(&at("out"));
        let names = |files: &Files| files.keys().filter(|name| *name != "thalweg.json").cloned().collect::<Vec<_>>();
        assert_eq!(names(&files), names(&first), "{}", case.name);
    }
}

/// A copy of a fixture with more in its folder, such as the run folder of a trainer that is itself a checkpoint.
#[test]
fn folders_inside_a_checkpoint_are_copied_with_it_unless_they_are_something_else() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let put = |name: &str, bytes: &[u8]| {
        fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        fs::write(at(name), bytes).unwrap();
    };
    for (name, bytes) in files_below(&fixture("torch/bin-sharded/step-80")) {
        for folder in ["run", "run/checkpoint-60"] {
            put(&format!("{folder}/{name}"), &bytes);
        }
    }
    let kept = ["train/rank0.pt", "train/deep/er/state.json", "optimizer.pt"];
    let left =
        [".git/config", "runs/events.out.tfevents.1", "merged/thalweg.json", "merged/model.safetensors", "x.lock"];
    kept.iter().chain(&left).for_each(|name| put(&format!("run/{name}"), b"0123"));
    let mut output = output(&[at("run")], &[1], 2, &at("run/out"));
    (output.format, output.policy.optimizer) = (OutputFormat::Torch, OptimizerPolicy::Newest);
    let files = merged_files(&Runner::default(), output);
    for name in kept {
        assert!(files.get(name).is_some_and(|bytes| bytes == b"0123"), "{name}: {:?}", files.keys());
    }
    assert!(!files.keys().any(|name| left.contains(&&**name) || name.contains("checkpoint-60")), "{:?}", files.keys());
    assert!(verify(&at("run/out")).is_equal());
}

#[test]
fn an_output_says_in_a_note_what_else_it_has() {
    let told = |case: &FormatCase| {
        let scratch = tempfile::tempdir().unwrap();
        case.put(scratch.path());
        let plan = plan(case.output(scratch.path(), &scratch.path().join("out"), 2));
        let (result, notes) = Runner::default().with_context(|run| execute_merge(&plan, PLAIN, run));
        result.unwrap();
        notes.join("\n")
    };
    let dcp = told(&FORMAT_CASES[0]);
    assert!(
        dcp.contains("written as dcp; everything else is as in `c1`, also the tensors under `optim` (63)"),
        "{dcp}"
    );
    let alone = told(&FORMAT_CASES[6]);
    assert!(alone.contains("written as dcp, without the state of the training"), "{alone}");
}

#[test]
fn names_that_would_be_read_otherwise_are_not_written() {
    use crate::support::{f32_tensor, tensors, write_checkpoint};
    let scratch = tempfile::tempdir().unwrap();
    let write = |name: &str, names: [&str; 2], format: OutputFormat| {
        let source = scratch.path().join(name);
        write_checkpoint(&source, &tensors(names.map(|name| (name, f32_tensor(&[1.0])))));
        let mut output = output(&[source], &[1], 1, &scratch.path().join(format!("{name}-{format}")));
        output.format = format;
        Runner::default().execute(&plan(output), PLAIN).map(|outcomes| outcomes[0].path.clone())
    };
    let formats = [OutputFormat::Torch, OutputFormat::Dcp, OutputFormat::MegatronDist];
    for format in formats {
        for (number, names) in
            [["model.w", "lm_head.w"], ["model.w", "model.v"], ["module.w", "v"], ["state.a", "net.b"]]
                .iter()
                .enumerate()
        {
            let out = write(&format!("good{number}"), *names, format).unwrap_or_else(|error| panic!("{error}"));
            assert!(verify(&out).is_equal(), "{format}: {names:?}");
        }
        let error = write("wrapped", ["module.w", "module.v"], format).unwrap_err();
        assert!(error.to_string().contains("`module."), "{format}: {error}");
        assert!(error.hint().unwrap().contains("--format safetensors"));
    }
    let error = write("other", ["optimizer.w", "v"], OutputFormat::MegatronDist).unwrap_err();
    assert!(error.to_string().contains("`optimizer.w`"), "{error}");
}

#[test]
fn tensors_that_share_bytes_are_refused_where_their_results_differ() {
    let scratch = tempfile::tempdir().unwrap();
    let views = fixture("torch/quirks/zip.pt");
    let other = scratch.path().join("other.pt");
    fs::copy(&views, &other).unwrap();
    let make = |sources: &[std::path::PathBuf], out: &str| {
        let mut output = output(sources, &vec![1; sources.len()], 1, &scratch.path().join(out));
        (output.format, output.policy.optimizer) = (OutputFormat::Torch, OptimizerPolicy::Newest);
        output.policy.non_float = thalweg_merge::plan::NonFloatPolicy::Newest;
        output.policy.allow_non_finite = true;
        output
    };
    // The same views in both: one result.
    let shared = make(&[other.clone(), views.clone()], "shared");
    let found = Runner::default().execute(&plan(shared.clone()), PLAIN);
    found.unwrap_or_else(|error| panic!("{error}"));
    assert!(verify(&shared.path).is_equal());
    // In one of them no two tensors share bytes, so the results may differ.
    let apart = scratch.path().join("apart");
    let mut alone = output(std::slice::from_ref(&views), &[1], 1, &apart);
    alone.policy.allow_non_finite = true;
    Runner::default().execute(&plan(alone), PLAIN).unwrap_or_else(|error| panic!("{error}"));
    let error = Runner::default().execute(&plan(make(&[apart, views.clone()], "differ")), PLAIN).unwrap_err();
    assert!(matches!(&error, Error::Format(FormatError::SharedBytes { .. })), "{error}");
    assert!(error.hint().unwrap().contains("--format safetensors"), "{error}");
    // One is averaged and one is taken from the newest source.
    let mut classes = make(&[other, views], "classes");
    classes.policy.take_newest = vec!["contig".to_owned()];
    let error = Runner::default().execute(&plan(classes), PLAIN).unwrap_err();
    assert!(matches!(&error, Error::Format(FormatError::SharedBytes { .. })), "{error}");
}
