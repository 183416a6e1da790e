//! One more checkpoint in a mean: the bytes of a merge from scratch, with the old checkpoints or without them.

use std::path::{Path, PathBuf};

use crate::support::run;
use crate::watch::{N_ELEMENTS, checkpoint, file_of, receipt};

/// Values that need many bits to be summed exactly: wide ranges, both zeros, subnormals, near ties.
fn wide_values(step: u64) -> impl Iterator<Item = f32> {
    (0..N_ELEMENTS).map(move |i| {
        let mixed = (i as u64 + 1).wrapping_mul(step.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1) >> 20;
        let mantissa = 1.0 + (mixed % 8_388_608) as f32 / 8_388_608.0;
        match i % 7 {
            0 => -0.0,
            1 if step.is_multiple_of(2) => 0.0,
            1 => -0.0,
            2 => f32::from_bits(small(mixed % 1000)),
            3 => mantissa * 2_f32.powi(small(mixed % 60).cast_signed() - 30),
            4 => -mantissa * 2_f32.powi(small(mixed % 60).cast_signed() - 40),
            _ => mantissa - 1.5,
        }
    })
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap()
}

/// Values as in a real run.
fn near_values(step: u64) -> impl Iterator<Item = f32> {
    (0..N_ELEMENTS as u64).map(move |i| ((i * 31 + step * 7919) % 1009) as f32 * 0.001 + 0.25)
}

fn write<I: Iterator<Item = f32>>(folder: &Path, steps: impl Iterator<Item = u64>, values: impl Fn(u64) -> I) {
    std::fs::create_dir_all(folder).unwrap();
    steps.for_each(|step| std::fs::write(checkpoint(folder, step), file_of(values(step))).unwrap());
}

struct Lab {
    scratch: tempfile::TempDir,
}

impl Lab {
    fn new<I: Iterator<Item = f32>>(values: impl Fn(u64) -> I) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        write(&scratch.path().join("run"), 1..=6, values);
        Self { scratch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn word(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn step(&self, step: u64) -> String {
        checkpoint(&self.path("run"), step).to_str().unwrap().to_owned()
    }

    /// Runs `merge` and returns whether it succeeded, with standard error.
    fn merge(&self, arguments: &[&str]) -> (bool, String) {
        let output = run(&[&["merge"], arguments].concat());
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn merged(&self, arguments: &[&str]) {
        let (is_done, stderr) = self.merge(arguments);
        assert!(is_done, "{arguments:?}: {stderr}");
    }

    /// The mean of the first `n` from scratch, with more arguments.
    fn mean(&self, n: u64, name: &str, more: &[&str]) {
        let (run_path, to, out) = (self.word("run"), n.to_string(), self.word(name));
        self.merged(&[&[run_path.as_str(), "--to-step", &to, "-o", &out], more].concat());
    }

    fn assert_same(&self, a: &str, b: &str) {
        assert_eq!(receipt(&self.path(a))["digest"], receipt(&self.path(b))["digest"], "{a} and {b}");
        let bytes = |name: &str| std::fs::read(self.path(name).join("model.safetensors")).unwrap();
        assert!(bytes(a) == bytes(b), "{a} and {b}");
    }
}

fn check_chain<I: Iterator<Item = f32>>(values: impl Fn(u64) -> I, more: &[&str], n_planes: u64) {
    let lab = Lab::new(values);
    for n in 4..=6 {
        lab.mean(n, &format!("scratch-{n}"), more);
    }
    lab.mean(3, "mean-3", &[more, &["--keep-sums", &lab.word("sums-3")]].concat());
    let sums = std::fs::read_to_string(lab.path("sums-3/sums.json")).unwrap();
    let sums: serde_json::Value = serde_json::from_str(&sums).unwrap();
    assert_eq!(sums["planes"].as_array().unwrap().len() as u64, n_planes, "{sums}");
    for n in 4..=6_u64 {
        // Only the sums and the new checkpoint are left.
        (1..n).for_each(|step| drop(std::fs::remove_file(lab.step(step))));
        let (old, new) = (lab.word(&format!("mean-{}", n - 1)), lab.word(&format!("mean-{n}")));
        let (sums, kept) = (lab.word(&format!("sums-{}", n - 1)), lab.word(&format!("sums-{n}")));
        lab.merged(&["--append", &old, "-m", &lab.step(n), "--sums", &sums, "--keep-sums", &kept, "-o", &new]);
        lab.assert_same(&format!("mean-{n}"), &format!("scratch-{n}"));
        std::fs::remove_dir_all(sums).unwrap();
    }
    let verified = run(&["verify", &lab.word("mean-6")]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[test]
fn sums_of_a_run_fit_one_plane_and_outlast_its_checkpoints() {
    check_chain(near_values, &[], 1);
}

#[test]
fn sums_of_wide_ranges_need_two_planes_and_keep_signs_of_zeros() {
    check_chain(wide_values, &[], 2);
}

#[test]
fn a_mean_in_another_element_type_is_rounded_once_too() {
    check_chain(near_values, &["--dtype", "bf16"], 1);
    check_chain(wide_values, &["--dtype", "bf16"], 2);
}

#[test]
fn without_sums_the_old_checkpoints_are_read_again() {
    let lab = Lab::new(wide_values);
    lab.mean(3, "mean-3", &[]);
    for n in 4..=5 {
        let (old, new) = (lab.word(&format!("mean-{}", n - 1)), lab.word(&format!("mean-{n}")));
        lab.merged(&["--append", &old, "-m", &lab.step(n), "-o", &new]);
        lab.mean(n, &format!("scratch-{n}"), &[]);
        lab.assert_same(&format!("mean-{n}"), &format!("scratch-{n}"));
    }
}

#[test]
fn old_checkpoints_that_are_gone_or_changed_are_an_error_whose_hint_works() {
    let lab = Lab::new(near_values);
    lab.mean(3, "mean-3", &["--keep-sums", &lab.word("sums")]);
    lab.mean(4, "scratch-4", &[]);
    let append = |more: &[&str]| {
        lab.merge(&[&["--append", &lab.word("mean-3"), "-m", &lab.step(4), "-o", &lab.word("mean-4")], more].concat())
    };
    std::fs::write(lab.path("run/step_2.safetensors"), file_of(near_values(77))).unwrap();
    let (is_done, stderr) = append(&[]);
    assert!(!is_done && stderr.contains("step_2.safetensors`, which is in the old merge, changed since"), "{stderr}");
    std::fs::remove_file(lab.step(2)).unwrap();
    let (is_done, stderr) = append(&[]);
    assert!(
        !is_done && stderr.contains("no longer exists") && stderr.contains("hint: append with `--sums DIR`"),
        "{stderr}"
    );
    assert!(append(&["--sums", &lab.word("sums")]).0);
    lab.assert_same("mean-4", "scratch-4");
}

#[test]
fn a_sum_that_two_planes_cannot_hold_is_refused_and_the_merge_kept() {
    let far = |step: u64| {
        (0..N_ELEMENTS as u64).map(move |i| match (i + step) % 3 {
            0 => 1e30,
            1 => 1.0,
            _ => 1e-30,
        })
    };
    let lab = Lab::new(far);
    let (is_done, stderr) =
        lab.merge(&[&lab.word("run"), "--last", "3", "--keep-sums", &lab.word("sums"), "-o", &lab.word("mean")]);
    assert!(!is_done && stderr.contains("does not fit into two planes of doubles"), "{stderr}");
    assert!(lab.path("mean/thalweg.json").exists() && !lab.path("sums/sums.json").exists());
}

#[test]
fn only_a_mean_is_appended_to_and_only_by_its_own_sums() {
    let lab = Lab::new(near_values);
    lab.mean(3, "mean-3", &["--keep-sums", &lab.word("sums-3")]);
    lab.mean(4, "mean-4", &[]);
    lab.mean(3, "wma-3", &["--scheme", "wma"]);
    let append = |old: &str, model: &str, more: &[&str]| {
        lab.merge(&[&["--append", &lab.word(old), "-m", model, "-o", &lab.word("out")], more].concat()).1
    };
    assert!(append("wma-3", &lab.step(4), &[]).contains("the old merge was made by `wma`"));
    assert!(append("mean-3", &lab.step(2), &[]).contains("is already in the mean"));
    let other = append("mean-4", &lab.step(5), &["--sums", &lab.word("sums-3")]);
    assert!(other.contains("these are the sums of a different merge"), "{other}");
    assert!(append("mean-3", &lab.step(4), &["--sums", &lab.word("run")]).contains("`--keep-sums` wrote"));
    assert!(append("mean-3", &format!("{}:2", lab.step(4)), &[]).contains("a mean takes no coefficients"));
    let (is_done, stderr) = lab.merge(&[
        &lab.word("run"),
        "--last",
        "3",
        "--scheme",
        "wma",
        "--keep-sums",
        &lab.word("sums-w"),
        "-o",
        &lab.word("w"),
    ]);
    assert!(!is_done && stderr.contains("`--keep-sums` keeps the sum of a plain mean"), "{stderr}");
}

/// A run of folders: BF16 tensors whose config says float32, integers, a norm, a buffer that is not finite.
fn folders(run: &Path, steps: impl Iterator<Item = u64>) {
    for step in steps {
        let folder = run.join(format!("checkpoint-{step}"));
        std::fs::create_dir_all(&folder).unwrap();
        let words = |seed: u64| {
            (0..64_u64).flat_map(move |i| small(0x3f00 + (i * seed + step / 7) % 120).to_le_bytes()[..2].to_vec())
        };
        let data: Vec<u8> = [words(3).collect(), words(5).collect(), [0x80, 0xff].repeat(4)].concat();
        let header = r#"{"a.weight":{"dtype":"BF16","shape":[64],"data_offsets":[0,128]},"b.norm.weight":{"dtype":"BF16","shape":[64],"data_offsets":[128,256]},"mask":{"dtype":"BF16","shape":[4],"data_offsets":[256,264]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&data);
        std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
        std::fs::write(folder.join("config.json"), r#"{"model_type":"x","torch_dtype":"float32"}"#).unwrap();
    }
}

fn folder_lab() -> Lab {
    let lab = Lab { scratch: tempfile::tempdir().unwrap() };
    folders(&lab.path("r"), [100, 200, 300, 400, 500].into_iter());
    lab
}

/// Keeps the sums of three, appends the fourth by them, and compares with a merge from scratch.
fn check_like_scratch(options: &[&str]) {
    let lab = folder_lab();
    let run_path = lab.word("r");
    let merge = |steps: &str, out: &str, more: &[&str]| {
        lab.merged(&[&[run_path.as_str(), "--steps", steps, "-o", &lab.word(out)], options, more].concat());
    };
    merge("100,200,300", "m3", &["--keep-sums", &lab.word("sums")]);
    merge("100,200,300,400", "m4", &[]);
    let new = lab.word("r/checkpoint-400");
    lab.merged(&["--append", &lab.word("m3"), "-m", &new, "--sums", &lab.word("sums"), "-o", &lab.word("a4")]);
    lab.merged(&["--append", &lab.word("m3"), "-m", &new, "-o", &lab.word("b4")]);
    for name in ["model.safetensors", "config.json"] {
        let bytes = |out: &str| std::fs::read(lab.path(out).join(name)).unwrap();
        assert!(bytes("a4") == bytes("m4") && bytes("b4") == bytes("m4"), "{options:?}: {name}");
    }
    let verified = run(&["verify", &lab.word("a4"), "--inputs"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[test]
fn an_append_by_sums_has_the_files_of_a_merge_from_scratch() {
    check_like_scratch(&[]);
    check_like_scratch(&["--take-newest", "*norm*"]);
    check_like_scratch(&["--digest", "none"]);
    check_like_scratch(&["--digest", "xxh3"]);
    check_like_scratch(&["--dtype", "f32"]);
    check_like_scratch(&["--drop", "mask"]);
}

#[test]
fn a_checkpoint_is_in_a_mean_once_by_path_or_by_bytes() {
    let lab = folder_lab();
    let run_path = lab.word("r");
    let append = |old: &str, new: &str, more: &[&str]| {
        lab.merge(&[&["--append", &lab.word(old), "-m", &lab.word(new), "-o", &lab.word("x")], more].concat())
    };
    std::fs::create_dir_all(lab.path("copies/checkpoint-200")).unwrap();
    std::fs::create_dir_all(lab.path("copies/other")).unwrap();
    for name in ["model.safetensors", "config.json"] {
        for folder in ["copies/checkpoint-200", "copies/other"] {
            std::fs::copy(lab.path("r/checkpoint-200").join(name), lab.path(folder).join(name)).unwrap();
        }
    }
    for digest in ["blake3", "xxh3", "none"] {
        let (mean, sums) = (format!("m-{digest}"), format!("s-{digest}"));
        let (out, sums_path) = (lab.word(&mean), lab.word(&sums));
        lab.merged(&[&run_path, "--steps", "100,200,300", "--digest", digest, "-o", &out, "--keep-sums", &sums_path]);
        for more in [&[][..], &["--sums", &sums_path]] {
            let (is_done, stderr) = append(&mean, "r/checkpoint-200", more);
            assert!(!is_done && stderr.contains("checkpoint-200` is already in the mean"), "{digest}: {stderr}");
            let (is_done, stderr) = append(&mean, "copies/checkpoint-200", more);
            assert!(!is_done && stderr.contains("holds the same bytes as"), "{digest}: {stderr}");
            if digest != "none" {
                let (is_done, stderr) = append(&mean, "copies/other", more);
                assert!(!is_done && stderr.contains("holds the same bytes as"), "{digest}: {stderr}");
            }
        }
    }
    // The list outlives an append.
    let (old, kept) = (lab.word("m-blake3"), lab.word("s4"));
    let new = lab.word("r/checkpoint-400");
    let sums = lab.word("s-blake3");
    lab.merged(&["--append", &old, "-m", &new, "--sums", &sums, "--keep-sums", &kept, "-o", &lab.word("m4")]);
    for again in ["r/checkpoint-400", "r/checkpoint-100", "copies/checkpoint-200"] {
        let (is_done, stderr) = append("m4", again, &["--sums", &kept]);
        assert!(!is_done && stderr.contains("already in the mean"), "{again}: {stderr}");
    }
}

#[test]
fn an_append_by_sums_says_that_it_is_a_mean_of_all() {
    let lab = folder_lab();
    let (mean, sums) = (lab.word("m3"), lab.word("sums"));
    lab.merged(&[&lab.word("r"), "--steps", "100,200,300", "-o", &mean, "--keep-sums", &sums]);
    let (new, out) = (lab.word("r/checkpoint-400"), lab.word("m4"));
    let output = run(&["merge", "--append", &mean, "-m", &new, "--sums", &sums, "-o", &out]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("merged 4 checkpoints (steps 100, 200, 300, 400) by sma into"), "{text}");
    let card = std::fs::read_to_string(lab.path("m4/README.md")).unwrap();
    assert!(card.contains("Weighted average of 4 checkpoints") && card.contains("sum to 1."), "{card}");
    assert!(card.contains("| 100 | - | 0.25 | `r/checkpoint-100` |") && !card.contains("scales"), "{card}");
    // Without new sums, the old ones are read again.
    let next = lab.word("r/checkpoint-500");
    let wrong = lab.merge(&["--append", &out, "-m", &next, "--sums", &sums, "-o", &lab.word("m5")]);
    assert!(!wrong.0 && wrong.1.contains("leave out `--sums`"), "{}", wrong.1);
    lab.merged(&["--append", &out, "-m", &next, "-o", &lab.word("m5"), "--keep-sums", &lab.word("sums-5")]);
    lab.merged(&[&lab.word("r"), "--last", "5", "-o", &lab.word("scratch")]);
    lab.assert_same("m5", "scratch");
}

#[test]
fn an_older_checkpoint_is_not_appended_by_sums() {
    let lab = folder_lab();
    let (mean, sums, new) = (lab.word("m"), lab.word("sums"), lab.word("r/checkpoint-100"));
    lab.merged(&[&lab.word("r"), "--steps", "200,300", "-o", &mean, "--keep-sums", &sums]);
    let append = ["--append", &mean, "-m", &new, "-o", &lab.word("x")];
    let (is_done, stderr) = lab.merge(&[&append[..], &["--sums", &sums]].concat());
    assert!(!is_done && stderr.contains("is older than") && stderr.contains("leave out `--sums`"), "{stderr}");
    lab.merged(&append);
    lab.merged(&[&lab.word("r"), "--steps", "100,200,300", "-o", &lab.word("scratch")]);
    lab.assert_same("x", "scratch");
}

#[test]
fn sums_replace_only_sums_and_only_when_forced() {
    let lab = folder_lab();
    let (run_path, sums) = (lab.word("r"), lab.word("sums"));
    let merge = |steps: &str, out: &str, keep: &str, more: &[&str]| {
        let (out, keep) = (lab.word(out), lab.word(keep));
        lab.merge(&[&[run_path.as_str(), "--steps", steps, "-o", &out, "--keep-sums", &keep], more].concat())
    };
    assert!(merge("100,200,300", "m3", "sums", &[]).0);
    let before = std::fs::read(lab.path("sums/sums.json")).unwrap();
    // The same command again changes nothing.
    assert!(merge("100,200,300", "m3", "sums", &[]).0);
    let (is_done, stderr) = merge("100,200", "m2", "sums", &[]);
    assert!(!is_done && stderr.contains("the sums of a different merge") && stderr.contains("--force"), "{stderr}");
    assert!(!lab.path("m2").exists() && std::fs::read(lab.path("sums/sums.json")).unwrap() == before);
    // Places that are not ours, each refused before the merge.
    std::fs::create_dir_all(lab.path("notes")).unwrap();
    std::fs::write(lab.path("notes/sums.json"), "{}").unwrap();
    for place in ["notes", "r/checkpoint-100", "r/checkpoint-100/sums", "m2", "m2/sums", "m3", "m3/sums"] {
        let (is_done, stderr) = merge("100,200", "m2", place, &["--force"]);
        assert!(!is_done && stderr.contains("hint: "), "{place}: {stderr}");
        assert!(!lab.path("m2").exists(), "{place}: {stderr}");
    }
    assert_eq!(std::fs::read_dir(lab.path("r/checkpoint-100")).unwrap().count(), 2);
    let (old, new, out) = (lab.word("m3"), lab.word("r/checkpoint-400"), lab.word("m4"));
    let own = lab.merge(&["--append", &old, "-m", &new, "--sums", &sums, "--keep-sums", &sums, "-o", &out, "--force"]);
    assert!(!own.0 && own.1.contains("another folder for `--keep-sums`"), "{}", own.1);
    let (is_done, stderr) = merge("100,200", "m2", "sums", &["--force"]);
    assert!(is_done && std::fs::read(lab.path("sums/sums.json")).unwrap() != before, "{stderr}");
    assert_eq!(std::fs::read_dir(lab.path("sums")).unwrap().count(), 2);
}

#[test]
fn sums_that_are_not_those_that_were_kept_are_refused() {
    let lab = folder_lab();
    let (run_path, mean, sums) = (lab.word("r"), lab.word("m3"), lab.word("sums"));
    lab.merged(&[&run_path, "--steps", "100,200,300", "-o", &mean, "--keep-sums", &sums]);
    lab.merged(&[&run_path, "--steps", "100,200", "-o", &lab.word("m2"), "--keep-sums", &lab.word("others")]);
    let plane = lab.path("sums/plane-1/model.safetensors");
    let kept = std::fs::read(&plane).unwrap();
    let (new, out) = (lab.word("r/checkpoint-400"), lab.word("m4"));
    let append = ["--append", &mean, "-m", &new, "--sums", &sums, "-o", &out];
    let mut flipped = kept.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let others = std::fs::read(lab.path("others/plane-1/model.safetensors")).unwrap();
    for (what, bytes) in [("a flipped bit", &flipped[..]), ("another plane", &others), ("cut off", &kept[..90])] {
        std::fs::write(&plane, bytes).unwrap();
        let (is_done, stderr) = lab.merge(&append);
        assert!(!is_done && stderr.contains("has changed since it was written"), "{what}: {stderr}");
        assert!(!lab.path("m4").exists(), "{what}");
    }
    // Another plane with its receipt is consistent by itself.
    std::fs::write(&plane, &others).unwrap();
    std::fs::copy(lab.path("others/plane-1/thalweg.json"), lab.path("sums/plane-1/thalweg.json")).unwrap();
    assert!(!lab.merge(&append).0);
    std::fs::remove_dir_all(lab.path("sums/plane-1")).unwrap();
    std::fs::create_dir(lab.path("sums/plane-1")).unwrap();
    assert!(!lab.merge(&append).0);
    // The way out that the message names.
    lab.merged(&["--append", &mean, "-m", &new, "-o", &out]);
}

#[test]
fn sums_of_an_earlier_version_name_the_way_out() {
    let lab = folder_lab();
    let (mean, sums, new) = (lab.word("m3"), lab.word("sums"), lab.word("r/checkpoint-400"));
    lab.merged(&[&lab.word("r"), "--steps", "100,200,300", "-o", &mean, "--keep-sums", &sums]);
    let path = lab.path("sums/sums.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"version\":2", "\"version\":1");
    std::fs::write(&path, text).unwrap();
    let append = ["--append", &mean, "-m", &new, "-o", &lab.word("x")];
    let (is_done, stderr) = lab.merge(&[&append[..], &["--sums", &sums]].concat());
    assert!(!is_done && stderr.contains("version 1") && stderr.contains("hint: leave out `--sums`"), "{stderr}");
    lab.merged(&append);
}
