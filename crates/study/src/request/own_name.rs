//! What the name of a checkpoint tells.

use std::path::Path;

use thalweg_storage::FileKind;
use thalweg_trajectory::NamePattern;
use thalweg_trajectory::layout::{CheckpointName, parse_entry_name};

/// Parses a checkpoint's own name: that of its folder or file, or its revision; else that of the folder above it.
pub(super) fn parse_own_name(path: &Path, pattern: Option<&NamePattern>) -> Option<CheckpointName> {
    let text = |path: &Path| path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let name = text(path);
    // `run/step1000/model.safetensors` has its step in the name of the folder.
    let is_plain_file = name.starts_with("model") && (name.ends_with(".safetensors") || name.ends_with(".index.json"));
    let name = if is_plain_file { text(path.parent()?) } else { name };
    let parse = |name: &str| {
        parse_entry_name(name, FileKind::File, pattern).or_else(|| parse_entry_name(name, FileKind::Folder, pattern))
    };
    let own = parse(&name).or_else(|| parse(name.rsplit_once('@')?.1));
    // So has `run/step-1000/hf`. A number alone is too little: `/data/2/best` says nothing of a step.
    own.or_else(|| {
        let above = text(path.parent()?);
        parse(&above).filter(|_| above.bytes().any(|byte| byte.is_ascii_alphabetic()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_above_has_the_step_where_the_own_name_has_none() {
        for (path, step) in [
            ("run/step-1000", Some(1000)),
            ("run/step-1000/model.safetensors", Some(1000)),
            ("run/step-1000/hf", Some(1000)),
            ("run/step-1000/consolidated.00.pth", Some(1000)),
            ("run/step-1000/step-20", Some(20)),
            ("data/2/best", None),
            ("best", None),
        ] {
            assert_eq!(parse_own_name(Path::new(path), None).map(|name| name.step.0), step, "{path}");
        }
    }
}
