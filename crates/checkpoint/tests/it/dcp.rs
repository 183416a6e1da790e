//! Distributed checkpoints of PyTorch and Megatron-Core, as their own libraries wrote them.

use std::fs;
use std::path::Path;

use thalweg_checkpoint::{
    CatalogCache, Checkpoint, Error, Look, Note, Params, ReadOptions, open_checkpoint, open_checkpoint_with,
    open_with_cache,
};
use thalweg_tensor::TensorSource;

use crate::support::{disk, fixture, tensor_bytes, widened};

fn open(name: &str) -> Checkpoint {
    open_checkpoint(&disk(), &fixture(name)).unwrap()
}

/// Every tensor equals the one that was gathered in memory when the checkpoint was written.
fn check_equal(checkpoint: &Checkpoint, expected: &str, rename: impl Fn(&str) -> String) {
    let expected = open(expected);
    assert_eq!(checkpoint.catalog().entries().len(), expected.catalog().entries().len());
    for entry in expected.catalog().entries() {
        let name = rename(&entry.name);
        let tensor_idx = checkpoint.catalog().find(&name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(checkpoint.catalog().entries()[tensor_idx].shape, entry.shape, "{name}");
        assert!(widened(checkpoint, &name) == tensor_bytes(&expected, &entry.name), "{name}");
    }
}

fn same(name: &str) -> String {
    name.to_owned()
}

#[test]
fn shards_of_fsdp2_are_read_and_the_model_is_found_beside_the_optimizer() {
    let checkpoint = open("dcp-fsdp2/step-60");
    assert_eq!(checkpoint.format_name(), "dcp");
    check_equal(&checkpoint, "dcp-fsdp2/expected/step-60.f32.safetensors", same);
    assert!(checkpoint.notes().contains(&Note::KeyChosen { key: "model".to_owned() }));
    let others = checkpoint.notes().iter().any(|note| matches!(note, Note::OtherKeys { keys, .. } if keys.len() == 2));
    assert!(others, "{:?}", checkpoint.notes());
    checkpoint.look_inside(Look::EachPiece).unwrap();
}

#[test]
fn meshes_of_two_dimensions_and_every_way_of_writing_are_read() {
    for step in [20, 40] {
        let checkpoint = open(&format!("dcp-2d/step-{step}"));
        check_equal(&checkpoint, &format!("dcp-2d/expected/step-{step}.f32.safetensors"), same);
    }
    for variant in ["threads-3", "file-per-item", "async", "flat-keys"] {
        let checkpoint = open(&format!("dcp-variants/{variant}"));
        assert_eq!(checkpoint.format_name(), "dcp");
        check_equal(&checkpoint, "dcp-fsdp2/expected/step-80.f32.safetensors", same);
    }
}

/// A cache serves every way of reading: each finds what it finds alone.
#[test]
fn metadata_that_is_known_is_read_again_for_other_options_and_other_bytes() {
    let cache = CatalogCache::default();
    let key = |key: &str| ReadOptions { key: Some(key.to_owned()), ..ReadOptions::default() };
    let params = |params| ReadOptions { params: Some(params), ..ReadOptions::default() };
    let state = ReadOptions { optimizer: true, ..ReadOptions::default() };
    let ways = [ReadOptions::default(), key("optim.state"), state, params(Params::Module), params(Params::Master)];
    for folder in ["dcp-fsdp2/step-60", "dcp-fsdp2/step-80", "megatron-torch_dist/iter_0000080"] {
        for way in ways.iter().chain(&ways) {
            let alone = open_checkpoint_with(&disk(), &fixture(folder), way);
            let known = open_with_cache(&disk(), &fixture(folder), way, &cache);
            match (alone, known) {
                (Ok(alone), Ok(known)) => {
                    assert_eq!(alone.catalog(), known.catalog(), "{folder} {way:?}");
                    assert_eq!((alone.notes(), alone.findings()), (known.notes(), known.findings()), "{folder}");
                    assert_eq!(alone.identity(), known.identity());
                    known.look_inside(Look::EachPiece).unwrap();
                }
                (alone, known) => assert_eq!(alone.unwrap_err().to_string(), known.unwrap_err().to_string()),
            }
        }
    }
    let open = |way| open_with_cache(&disk(), &fixture("dcp-fsdp2/step-60"), way, &cache).unwrap();
    let (first, second) = (open(&ways[0]), open(&ways[0]));
    assert!(std::sync::Arc::ptr_eq(first.catalog(), second.catalog()));
}

#[test]
fn another_key_is_read_when_it_is_named() {
    let options = |key: &str| ReadOptions { key: Some(key.to_owned()), ..ReadOptions::default() };
    let read = |key| open_checkpoint_with(&disk(), &fixture("dcp-fsdp2/step-60"), &options(key));
    let optimizer = read("optim.state").unwrap();
    let name = "model.layers.0.mlp.up_proj.weight.exp_avg";
    assert!(optimizer.catalog().find(name).is_some(), "{:?}", optimizer.catalog().entries()[0].name);
    assert_eq!(tensor_bytes(&optimizer, name).len(), 4 * 64 * 24);
    let error = read("modle").unwrap_err();
    assert!(
        error.to_string().contains("no tensors are under the key `modle`; the tensors are under `model`"),
        "{error}"
    );
    assert!(read(".").unwrap().catalog().find("model.model.norm.weight").is_some());
}

#[test]
fn pieces_in_safetensors_files_are_not_taken_for_tensors() {
    for step in [20, 40, 60, 80] {
        let checkpoint = open(&format!("dcp-hf-sharded/step-{step}"));
        assert_eq!(checkpoint.format_name(), "dcp");
        check_equal(&checkpoint, &format!("dcp-hf-sharded/expected/step-{step}.f32.safetensors"), same);
        // Nothing in the files shows that the last rank is missing.
        assert!(checkpoint.notes().iter().any(|note| note.to_string().contains("if there were more than 2")));
    }
}

#[test]
fn stacked_layers_of_megatron_are_read_and_their_optimizer_state_is_not() {
    for step in [60, 80] {
        let checkpoint = open(&format!("megatron-torch_dist/iter_00000{step}"));
        assert_eq!(checkpoint.format_name(), "megatron-dist");
        check_equal(&checkpoint, &format!("megatron-torch_dist/expected/step-{step}.f32.safetensors"), same);
        let left_out = |note: &Note| matches!(note, Note::ObjectsLeftOut { names } if names.iter().any(|name| name.contains("_extra_state")));
        assert!(checkpoint.notes().iter().any(left_out), "{:?}", checkpoint.notes());
    }
}

#[test]
fn every_range_of_every_tensor_is_the_same_as_in_the_whole() {
    let checkpoint = open("dcp-2d/step-20");
    for (tensor_idx, entry) in checkpoint.catalog().entries().iter().enumerate() {
        let whole = tensor_bytes(&checkpoint, &entry.name);
        let n = entry.n_elements();
        for (start, end) in [(0, 1), (n / 3, n / 2), (n / 2 + 1, n), (n, n)] {
            let mut out = vec![0; usize::try_from(4 * (end - start)).unwrap()];
            checkpoint.will_read(tensor_idx, start..end);
            checkpoint.read_elements(tensor_idx, start..end, &mut out).unwrap();
            checkpoint.done_reading(tensor_idx, start..end);
            let at = |element: u64| usize::try_from(4 * element).unwrap();
            assert!(out == whole[at(start)..at(end)], "{}", entry.name);
        }
    }
}

#[test]
fn files_of_a_save_that_was_broken_off_are_told() {
    let scratch = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("dcp-2d/step-20")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), scratch.path().join(entry.file_name())).unwrap();
    }
    let is_told = || {
        let checkpoint = open_checkpoint(&disk(), scratch.path()).unwrap();
        checkpoint.notes().iter().any(|note| matches!(note, Note::NewerThanMetadata { n_older: 3, .. }))
    };
    assert!(!is_told());
    let file = fs::File::options().append(true).open(scratch.path().join("__2_0.distcp")).unwrap();
    let written = file.metadata().unwrap().modified().unwrap();
    file.set_modified(written + std::time::Duration::from_secs(3600)).unwrap();
    assert!(is_told());
}

/// What a user sees of a hostile folder: opened, looked into and read, or refused.
fn try_all(path: &Path) -> Result<Checkpoint, Error> {
    let checkpoint = open_checkpoint(&disk(), path)?;
    checkpoint.look_inside(Look::EachPiece)?;
    for (tensor_idx, entry) in checkpoint.catalog().entries().iter().enumerate() {
        let mut out = vec![0; usize::try_from(entry.n_bytes()).unwrap()];
        checkpoint.read_elements(tensor_idx, 0..entry.n_elements(), &mut out)?;
    }
    Ok(checkpoint)
}

#[test]
fn every_distributed_checkpoint_gets_the_verdict_of_the_manifest() {
    let bytes = fs::read(fixture("hostile/MANIFEST.json")).unwrap();
    let entries: Vec<serde_json::Value> = serde_json::from_slice(&bytes).unwrap();
    let mut n_cases = 0;
    for entry in entries {
        let (path, verdict) = (entry["path"].as_str().unwrap(), entry["verdict"].as_str().unwrap());
        if !path.starts_with("dcp/") {
            continue;
        }
        n_cases += 1;
        let outcome = try_all(&fixture("hostile").join(path));
        assert_eq!(outcome.is_ok(), verdict == "accept", "{path} must be {verdict}ed: {outcome:?}");
        if let Err(error) = outcome {
            assert!(error.to_string().contains(path.trim_start_matches("dcp/")), "{path} is not named: {error}");
        }
    }
    assert_eq!(n_cases, 18);
    let good = open("hostile/dcp/good-one-tensor");
    let name = "model.layers.0.mlp.down_proj.weight";
    let expected = tensor_bytes(&open("dcp-2d/expected/step-20.f32.safetensors"), name);
    assert!(tensor_bytes(&good, name) == expected);
}

#[test]
fn refusals_say_what_is_wrong() {
    let cases = [
        ("no-metadata", "no `.metadata`"),
        ("metadata-tmp-only", "no `.metadata`"),
        ("metadata-os-system", "the metadata is an object of `os.system`, which thalweg does not construct"),
        ("relative-path-parent", "only files below the folder are opened"),
        ("relative-path-absolute", "only files below the folder are opened"),
        ("file-missing", "is missing"),
        ("file-truncated", "ends at byte"),
        ("chunk-hole", "no chunk contains the element at"),
        ("chunk-overlap", "more than one chunk contains the element at"),
        ("size-not-covered", "no chunk contains the element at"),
        ("dtype-differs", "the metadata says BF16, but the chunk at byte 0 holds F32"),
        ("storage-entry-missing", "but not the file that holds it"),
        ("length-negative", "length"),
    ];
    for (name, expected) in cases {
        let error = try_all(&fixture("hostile/dcp").join(name)).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(format!("{error} {source}").contains(expected), "{name}: {error} {source}");
    }
}
