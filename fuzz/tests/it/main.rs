//! Replays every kept input, and the fixtures that are inputs too. One test: memory is counted for the process.
#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use thalweg_fuzz::{TARGETS, open_folder};

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let folders = entries.filter(|path| path.is_dir()).collect::<Vec<_>>();
    folders.iter().flat_map(|folder| files_below(folder)).chain(files(folder)).collect()
}

#[test]
fn folders_open_and_every_kept_input_keeps_the_promises() {
    check_folders_open();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let hostile = files_below(&root.join("../fixtures/hostile"));
    assert!(hostile.len() > 200, "{} files", hostile.len());
    for target in &TARGETS {
        let kept = files(&root.join("corpus").join(target.name));
        assert!(kept.len() >= 3, "{}: {} inputs", target.name, kept.len());
        for path in kept {
            // Cargo shows what a failed test printed: the input that it died on comes last.
            println!("{}", path.display());
            target.check(&fs::read(&path).unwrap());
        }
        // Odd and broken files of every format, within the same memory: sizes that they claim are not allocated.
        for path in &hostile {
            println!("{}", path.display());
            target.check(&fs::read(path).unwrap());
        }
        // Parsers do not know whose input they get: each target survives the inputs of the others.
        for other in &TARGETS {
            for path in files(&root.join("corpus").join(other.name)).iter().take(40) {
                target.check(&fs::read(path).unwrap());
            }
        }
    }
}

/// Only what is opened is read: a search that begins with refused folders learns little.
fn check_folders_open() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut refused = Vec::new();
    for target in
        ["torch_folder", "dcp_folder", "megatron", "deepspeed", "nanotron", "torch_checkpointing", "orbax_folder"]
    {
        let starts = |path: &Path, start: &str| path.file_name().unwrap().to_str().unwrap().starts_with(start);
        let is_whole = |path: &&PathBuf| !["found", "refused", "hostile"].iter().any(|start| starts(path, start));
        for path in files(&root.join(target)).iter().filter(is_whole) {
            if let Err(error) = open_folder(&fs::read(path).unwrap()) {
                refused.push(format!("{}: {error} {:?}", path.display(), error.details()));
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
