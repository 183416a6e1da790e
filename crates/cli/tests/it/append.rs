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
    assert!(sums.contains(&format!("\"n_planes\":{n_planes}")), "{sums}");
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
    assert!(!is_done && stderr.contains("does not fit two planes of doubles"), "{stderr}");
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
    assert!(append("wma-3", &lab.step(4), &[]).contains("the old merge is by `wma`"));
    assert!(append("mean-3", &lab.step(2), &[]).contains("is in the mean already"));
    let other = append("mean-4", &lab.step(5), &["--sums", &lab.word("sums-3")]);
    assert!(other.contains("these are the sums of another merge"), "{other}");
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
