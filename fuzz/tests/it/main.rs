//! Replays every kept input, and the fixtures that are inputs too. One test: memory is counted for the process.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use thalweg_fuzz::TARGETS;

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}

#[test]
fn every_kept_input_keeps_the_promises() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let hostile = files(&root.join("../fixtures/hostile/safetensors"));
    assert_eq!(hostile.len(), 56);
    for target in &TARGETS {
        let kept = files(&root.join("corpus").join(target.name));
        assert!(kept.len() >= 5, "{}: {} inputs", target.name, kept.len());
        for path in kept {
            // Cargo shows what a failed test printed: the input that it died on comes last.
            println!("{}", path.display());
            target.check(&fs::read(&path).unwrap());
        }
        // Odd and broken files, within the same memory: sizes that they claim are not allocated.
        for path in &hostile {
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
