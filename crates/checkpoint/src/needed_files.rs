//! Which files of a folder a merge reads, told by names alone: before the folder is here.
//!
//! What is decided here agrees with what opening the folder decides once its files are here.

use std::path::Path;

use thalweg_storage::FolderEntry;

use crate::Error;
use crate::format::{Format, Place, huggingface, torch};
use crate::side_files::{SideFileKind, side_file_kind};
use crate::stranger::describe_stranger;

/// The names of the files that a merge of a folder with these entries reads: the weights in one format, safetensors
/// before torch files, and what travels with them. `also` says which other files are wanted; `path` is for messages.
///
/// # Errors
/// `NotACheckpoint`, `Ambiguous` or `Unfinished` as for a folder that is here.
pub fn needed_files(
    path: &Path,
    entries: Vec<FolderEntry>,
    also: &dyn Fn(&str, SideFileKind) -> bool,
) -> Result<Vec<String>, Error> {
    let place = Place::Folder { path: path.to_owned(), entries };
    let mut needed = if huggingface::HuggingFace.recognises(&place) {
        huggingface::files_by_name(&place)?
    } else if torch::Torch.recognises(&place) {
        torch::files_by_name(&place)?
    } else {
        return Err(describe_stranger(&place));
    };
    let Place::Folder { entries, .. } = &place else { return Ok(needed) };
    for entry in entries.iter().filter(|entry| entry.kind == thalweg_storage::FileKind::File) {
        let kind = side_file_kind(&entry.name, entry.len_bytes);
        if (kind == SideFileKind::Travels || also(&entry.name, kind)) && !needed.contains(&entry.name) {
            needed.push(entry.name.clone());
        }
    }
    Ok(needed)
}

#[cfg(test)]
mod tests {
    use thalweg_storage::FileKind;

    use super::*;

    fn check_needed(names: &[&str], expected: &[&str]) {
        let entry = |name: &&str| FolderEntry { name: (*name).to_owned(), kind: FileKind::File, len_bytes: 10 };
        let needed =
            needed_files(Path::new("org/small"), names.iter().map(entry).collect(), &|name, _| name == "wanted");
        let mut needed = needed.unwrap();
        needed.sort();
        assert_eq!(needed, expected);
    }

    #[test]
    fn a_merge_needs_one_form_of_the_weights_and_what_travels() {
        let beside = ["README.md", "config.json", "optimizer.pt", "tokenizer.json", "training_args.bin", "wanted"];
        let with = |names: &[&'static str]| [&beside[..], names].concat();
        check_needed(
            &with(&["model.safetensors", "pytorch_model.bin", "tf_model.h5"]),
            &["config.json", "model.safetensors", "tokenizer.json", "wanted"],
        );
        let index = "model.safetensors.index.json";
        let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        check_needed(
            &with(&[index, shards[0], shards[1], "consolidated.safetensors", "pytorch_model.bin"]),
            &["config.json", shards[0], shards[1], index, "tokenizer.json", "wanted"],
        );
        let torch = ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"];
        check_needed(&with(&torch), &["config.json", torch[0], torch[1], "tokenizer.json", "wanted"]);
        let ranks = ["consolidated.00.pth", "consolidated.01.pth"];
        check_needed(&with(&ranks), &["config.json", ranks[0], ranks[1], "tokenizer.json", "wanted"]);
    }

    #[test]
    fn a_folder_without_weights_is_named() {
        let entry = FolderEntry { name: "config.json".to_owned(), kind: FileKind::File, len_bytes: 10 };
        let error = needed_files(Path::new("org/small@main"), vec![entry], &|_, _| false).unwrap_err();
        assert!(error.to_string().contains("org/small@main"), "{error}");
    }
}
