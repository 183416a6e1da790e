//! What the name of a checkpoint tells.

use std::path::Path;

use thalweg_storage::FileKind;
use thalweg_trajectory::NamePattern;
use thalweg_trajectory::layout::{CheckpointName, parse_entry_name};

/// Parses a checkpoint's own name: that of its folder or file, or its revision.
pub(super) fn parse_own_name(path: &Path, pattern: Option<&NamePattern>) -> Option<CheckpointName> {
    let text = |path: &Path| path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let name = text(path);
    // `run/step1000/model.safetensors` has its step in the name of the folder.
    let is_plain_file = name.starts_with("model") && (name.ends_with(".safetensors") || name.ends_with(".index.json"));
    let name = if is_plain_file { text(path.parent()?) } else { name };
    let parse = |name: &str| {
        parse_entry_name(name, FileKind::File, pattern).or_else(|| parse_entry_name(name, FileKind::Folder, pattern))
    };
    parse(&name).or_else(|| parse(name.rsplit_once('@')?.1))
}
