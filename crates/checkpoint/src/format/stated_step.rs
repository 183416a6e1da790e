//! The step that the files of a checkpoint say, against what else says it: files of two saves have the same names and
//! shapes.

use std::path::Path;

use thalweg_tensor::display_name;

use crate::Note;
use crate::note::StepWitness;

/// A step that a file says.
#[derive(Debug, Clone)]
pub(super) struct StatedStep {
    /// The file.
    pub(super) file: String,
    /// The step.
    pub(super) step: u64,
}

/// The step in the name of a folder as trainers write it: the digits after one of these beginnings. A folder of another
/// name says nothing.
pub(super) fn step_in_name(folder: &Path, starts: &[&str]) -> Option<u64> {
    let name = folder.file_name()?.to_str()?;
    let rest = starts.iter().find_map(|start| name.strip_prefix(start))?;
    let n_digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest[..n_digits].parse().ok()
}

/// Compares what a file says with the name of the folder and the count of the optimizer's steps.
///
/// # Errors
/// Why the file is from another save, if both witnesses agree on another step than it says. One of them alone may
/// differ in a sound checkpoint: folders are renamed, and optimizers are reset.
pub(super) fn compare_step(
    stated: &StatedStep,
    name_step: Option<u64>,
    optimizer_step: Option<f64>,
) -> Result<Option<Note>, String> {
    let StatedStep { file, step } = stated;
    let is_at = |optimizer: f64, step: u64| (optimizer - step as f64).abs() < 0.5;
    let note = |wanted, witness| Note::OtherStep { file: file.clone(), step: *step, wanted: (wanted, witness) };
    match (name_step.filter(|named| named != step), optimizer_step.filter(|counted| !is_at(*counted, *step))) {
        (Some(named), Some(counted)) if is_at(counted, named) => Err(format!(
            "`{}` is from step {step}, but the optimizer's state and the folder's name say {named}: the file \
             comes from a different save",
            display_name(file)
        )),
        (Some(named), _) => Ok(Some(note(named, StepWitness::FolderName))),
        // A count that is not a whole number comes from a damaged file, and says nothing.
        (None, Some(counted)) => Ok(counted.to_string().parse().ok().map(|count| note(count, StepWitness::Optimizer))),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_folders_say_a_step_only_as_trainers_write_them() {
        let step = |name: &str| step_in_name(Path::new(name), &["global_step", "iter_"]);
        assert_eq!(step("/run/global_step80"), Some(80));
        assert_eq!(step("/run/global_step80_universal"), Some(80));
        assert_eq!(step("iter_0000060"), Some(60));
        for name in ["/run/best", "/run/global_step", "/", "release", "iter_99999999999999999999999", "step-80"] {
            assert_eq!(step(name), None, "{name}");
        }
    }

    #[test]
    fn a_file_is_of_another_save_only_if_both_witnesses_say_so() {
        let compare = |name, optimizer| {
            let stated = StatedStep { file: "m.pt".to_owned(), step: 60 };
            compare_step(&stated, name, optimizer).map(|note| note.map(|note| note.to_string()))
        };
        for (name, optimizer) in [(None, None), (Some(60), None), (None, Some(60.0)), (Some(60), Some(60.0))] {
            assert_eq!(compare(name, optimizer), Ok(None));
        }
        assert!(compare(Some(80), Some(80.0)).unwrap_err().contains("`m.pt` is from step 60"));
        for (name, optimizer, fact) in [
            (Some(80), None, "the name of the folder says 80"),
            (Some(80), Some(60.0), "the name of the folder says 80"),
            (Some(80), Some(20.0), "the name of the folder says 80"),
            (None, Some(20.0), "the state of the optimizer says 20"),
            (Some(60), Some(f64::NAN), ""),
        ] {
            let note = compare(name, optimizer).unwrap().unwrap_or_default();
            assert!(note.contains(fact), "{name:?} {optimizer:?}: {note}");
        }
    }
}
