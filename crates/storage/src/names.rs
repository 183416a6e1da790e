//! Names that this program reserves beside an output, and the names by which trainers count checkpoints.
//!
//! A stage is beside the output that it becomes, often in a folder that a trainer watches. Trainers decide by names
//! alone: torchtitan's `keep_latest_k` deletes the oldest entries whose name contains `step-N`, whatever they hold. So
//! no name made here contains a word that trainers use followed by a number.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Marks an output that is being written.
const STAGE_SUFFIX: &str = ".thalweg-partial";
/// Marks an output that is being replaced, where two folders cannot be exchanged.
const OLD_SUFFIX: &str = ".thalweg-old";
/// Marks a small file that is being written.
const NEW_SUFFIX: &str = ".thalweg-new";

/// Words that trainers put before a step in the names of checkpoints.
const TRAINER_WORDS: [&str; 6] = ["step", "checkpoint", "ckpt", "iteration", "iter", "epoch"];
/// What may come between such a word and its number.
const SEPARATORS: [char; 5] = ['-', '_', '=', '.', ' '];

/// Where the output `target` is written before it gets its name: a path beside it, always the same for the same target.
///
/// # Example
/// ```
/// use std::path::Path;
/// use thalweg_storage::publish::{is_stage_name, stage_path};
///
/// assert_eq!(stage_path(Path::new("runs/merged/")), Path::new("runs/merged.thalweg-partial"));
/// assert_eq!(stage_path(Path::new("run/step-90")), Path::new("run/step-n90.thalweg-partial"));
/// assert!(is_stage_name("step-n90.thalweg-partial"));
/// ```
pub fn stage_path(target: &Path) -> PathBuf {
    beside(target, STAGE_SUFFIX)
}

/// Where an output is between the two renames that replace it.
pub(crate) fn old_path(target: &Path) -> PathBuf {
    beside(target, OLD_SUFFIX)
}

/// Where a small file is written before it gets its name.
pub(crate) fn new_path(target: &Path) -> PathBuf {
    beside(target, NEW_SUFFIX)
}

/// Whether a name is one that this program gives to something unfinished or about to be removed: never a checkpoint.
pub fn is_stage_name(name: &str) -> bool {
    [STAGE_SUFFIX, OLD_SUFFIX, NEW_SUFFIX].iter().any(|suffix| name.contains(suffix))
}

/// The part of a name that a trainer takes for a step, such as `step-90` in `step-90-merged`.
///
/// # Example
/// ```
/// use thalweg_storage::publish::trainer_part;
///
/// assert_eq!(trainer_part("mean-of-checkpoint-500"), Some("checkpoint-500"));
/// assert_eq!(trainer_part("merged-10"), None);
/// ```
pub fn trainer_part(name: &str) -> Option<&str> {
    let (start, digits) = trainer_span(name, 0)?;
    let end = name[digits..].find(|c: char| !c.is_numeric()).map_or(name.len(), |n| digits + n);
    name.get(start..end)
}

/// Where a trainer's word begins and where its number does, at or after byte `from`.
fn trainer_span(name: &str, from: usize) -> Option<(usize, usize)> {
    // Only ASCII letters change their case, so positions are the same in both strings.
    let lower = name.to_ascii_lowercase();
    let found = TRAINER_WORDS.iter().flat_map(|word| {
        lower[from..].match_indices(word).filter_map(|(at, word)| {
            let start = from + at;
            let after = &name[start + word.len()..];
            let number = after.strip_prefix(SEPARATORS).unwrap_or(after);
            let digits = name.len() - number.len();
            // Python's `\d`, by which trainers search, takes the digits of any script.
            number.starts_with(char::is_numeric).then_some((start, digits))
        })
    });
    found.min_by_key(|&(_, digits)| digits)
}

/// A name beside `path`; a `/` at its end must not make it a name inside.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let path = path.components().as_path();
    let Some(name) = path.file_name() else {
        let mut whole: OsString = path.as_os_str().to_owned();
        whole.push(suffix);
        return whole.into();
    };
    // A name that is not Unicode is matched by its Unicode parts: trainers list such names the same way.
    let mut safe = match name.to_str() {
        Some(name) => OsString::from(without_steps(name)),
        None if trainer_part(&name.to_string_lossy()).is_some() => {
            OsString::from(without_steps(&name.to_string_lossy()))
        }
        None => name.to_owned(),
    };
    safe.push(suffix);
    path.with_file_name(safe)
}

/// The name with a letter before every number that a trainer would take for a step.
fn without_steps(name: &str) -> String {
    let mut safe = name.to_owned();
    let mut from = 0;
    while let Some((_, digits)) = trainer_span(&safe, from) {
        safe.insert(digits, 'n');
        from = digits;
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(target: &str) -> String {
        stage_path(Path::new(target)).display().to_string()
    }

    #[test]
    fn a_slash_at_the_end_makes_no_name_inside() {
        for target in ["/runs/out", "/runs/out/", "/runs/out//", "/runs/out/."] {
            assert_eq!(stage(target), "/runs/out.thalweg-partial", "{target}");
        }
    }

    #[test]
    fn no_name_beside_an_output_looks_like_a_step_to_a_trainer() {
        let targets = [
            "step-900",
            "step-900-merged",
            "merged-step-900",
            "checkpoint-1000",
            "mean_checkpoint_7_of_step-9",
            "iter_0000100",
            "global_step120",
            "epoch=3-step=500.ckpt",
            "Step-12",
            "step-\u{0663}",
            "ckpt.5",
        ];
        for target in targets {
            assert!(trainer_part(target).is_some(), "{target}");
            for beside in [stage_path(Path::new(target)), old_path(Path::new(target)), new_path(Path::new(target))] {
                let name = beside.file_name().unwrap().to_str().unwrap();
                assert_eq!(trainer_part(name), None, "{target}");
                assert!(is_stage_name(name), "{name}");
            }
        }
    }

    #[test]
    fn names_without_a_step_stay_readable() {
        assert_eq!(stage("merged-10"), "merged-10.thalweg-partial");
        assert_eq!(stage("/a/steps/out2"), "/a/steps/out2.thalweg-partial");
        assert_eq!(stage("run/checkpoint-final"), "run/checkpoint-final.thalweg-partial");
    }

    #[test]
    fn the_part_that_a_trainer_sees_is_said() {
        assert_eq!(trainer_part("sma-of-step-900-v2"), Some("step-900"));
        assert_eq!(trainer_part("iteration_12"), Some("iteration_12"));
        assert_eq!(trainer_part("merged"), None);
        assert_eq!(trainer_part("step-by-step"), None);
    }
}
