//! Checkpoints that other programs wrote, and folders as users have them.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use thalweg_checkpoint::{Error, ReadOptions, open_checkpoint, open_checkpoints};
use thalweg_storage::{LocalStorage, Storage};
use thalweg_tensor::{Dtype, TensorSource};

use crate::support::{disk, fixture, safetensors_bytes, tensor_bytes, write};

fn check_against_reference(name: &str) {
    for step in [20, 40, 60, 80] {
        let folder = fixture(name).join(format!("step-{step}"));
        let ours = open_checkpoint(&disk(), &folder).unwrap();
        assert_eq!(ours.notes(), []);
        assert!(ours.config().is_some());
        let mut n_tensors = 0;
        for shard in ours.files() {
            let bytes = fs::read(folder.join(&shard.name)).unwrap();
            let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            for (tensor, view) in reference.tensors() {
                let entry = &ours.catalog().entries()[ours.catalog().find(&tensor).unwrap()];
                let shape: Vec<u64> = view.shape().iter().map(|&dim| dim as u64).collect();
                assert_eq!((*entry.shape.0).to_vec(), shape, "{tensor}");
                assert_eq!(entry.dtype, Dtype::Bf16);
                assert_eq!(tensor_bytes(&ours, &tensor), view.data(), "{tensor}");
                n_tensors += 1;
            }
        }
        assert_eq!(n_tensors, ours.catalog().entries().len());
    }
}

#[test]
fn dense_shards_hold_what_the_reference_reads() {
    check_against_reference("hf-sharded");
}

#[test]
fn expert_shards_hold_what_the_reference_reads() {
    check_against_reference("hf-moe");
}

#[test]
fn checkpoints_of_one_run_share_one_catalog() {
    let paths: Vec<PathBuf> = [20, 40, 60, 80].iter().map(|step| fixture(&format!("hf-sharded/step-{step}"))).collect();
    let opened: Vec<_> =
        open_checkpoints(&disk(), &paths, &ReadOptions::default()).into_iter().map(Result::unwrap).collect();
    for (checkpoint, path) in opened.iter().zip(&paths) {
        assert_eq!(checkpoint.path(), path);
        assert!(Arc::ptr_eq(checkpoint.catalog(), opened[0].catalog()));
    }
}

#[test]
fn files_with_equal_headers_share_what_was_parsed_and_keep_their_names() {
    let scratch = tempfile::tempdir().unwrap();
    let header = r#"{"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2],"extra":1},"__metadata__":{"format":"pt"}}"#;
    let paths: Vec<PathBuf> = (0..6).map(|step| scratch.path().join(format!("step_{step}.safetensors"))).collect();
    for (path, byte) in paths.iter().zip(b'a'..) {
        write(path, safetensors_bytes(header, &[byte, byte]));
    }
    let padded = format!("{header} ");
    write(&paths[5], safetensors_bytes(&padded, b"ff"));
    let opened: Vec<_> =
        open_checkpoints(&disk(), &paths, &ReadOptions::default()).into_iter().map(Result::unwrap).collect();
    for ((checkpoint, path), byte) in opened.iter().zip(&paths).zip(b'a'..) {
        assert_eq!(tensor_bytes(checkpoint, "w"), [byte, byte]);
        assert_eq!(checkpoint.metadata()["format"], "pt");
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(checkpoint.notes()[0].to_string().contains(name));
        // Padding moves the data, so the last one has a separate catalog.
        assert_eq!(Arc::ptr_eq(checkpoint.catalog(), opened[0].catalog()), name != "step_5.safetensors");
    }
}

#[test]
fn more_checkpoints_than_open_files_are_read() {
    let scratch = tempfile::tempdir().unwrap();
    let header = r#"{"w":{"dtype":"U16","shape":[],"data_offsets":[0,2]}}"#;
    let paths: Vec<PathBuf> = (0..300).map(|step| scratch.path().join(format!("step_{step}.safetensors"))).collect();
    for (path, number) in paths.iter().zip(0_u16..) {
        write(path, safetensors_bytes(header, &number.to_le_bytes()));
    }
    let few: Arc<dyn Storage> = Arc::new(LocalStorage::with_max_open_files(16));
    let opened: Vec<_> =
        open_checkpoints(&few, &paths, &ReadOptions::default()).into_iter().map(Result::unwrap).collect();
    for (checkpoint, number) in opened.iter().zip(0..300_u16).rev() {
        assert_eq!(tensor_bytes(checkpoint, "w"), number.to_le_bytes());
        checkpoint.check_unchanged().unwrap();
    }
}

#[test]
fn a_folder_its_index_and_one_shard_can_be_opened() {
    let folder = fixture("hf-sharded/step-20");
    let whole = open_checkpoint(&disk(), &folder).unwrap();
    let index = open_checkpoint(&disk(), &folder.join("model.safetensors.index.json")).unwrap();
    let shard = open_checkpoint(&disk(), &folder.join("model-00001-of-00004.safetensors")).unwrap();
    assert_eq!(whole.catalog(), index.catalog());
    assert!(shard.catalog().entries().len() < whole.catalog().entries().len());
    let names = |checkpoint: &thalweg_checkpoint::Checkpoint| {
        checkpoint.side_files().iter().map(|file| file.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&whole), ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]);
    assert_eq!(names(&whole), names(&index));
    assert_eq!(whole.config(), shard.config());
}

#[test]
fn unfinished_folders_say_what_is_missing() {
    let scratch = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("hf-sharded/step-20")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), scratch.path().join(entry.file_name())).unwrap();
    }
    let says = |expected: &[&str]| {
        let error = open_checkpoint(&disk(), scratch.path()).unwrap_err();
        assert!(error.is_unfinished(), "{error}");
        let all = format!("{error}\n{}", error.details().join("\n"));
        expected.iter().for_each(|fact| assert!(all.contains(fact), "{all}"));
    };
    let shard = scratch.path().join("model-00002-of-00004.safetensors");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap();
    fs::remove_file(scratch.path().join("model-00003-of-00004.safetensors")).unwrap();
    says(&[
        "shard `model-00002-of-00004.safetensors` is cut off: the file ends inside tensor",
        "shard `model-00003-of-00004.safetensors` is missing",
    ]);
    fs::remove_file(scratch.path().join("model.safetensors.index.json")).unwrap();
    says(&["3 shards are there, but no `model.safetensors.index.json`"]);
}

#[test]
fn paths_that_hold_no_checkpoint_say_what_they_hold() {
    let scratch = tempfile::tempdir().unwrap();
    let open = |name: &str| open_checkpoint(&disk(), &scratch.path().join(name)).unwrap_err();
    assert!(matches!(open("nothing"), Error::NotFound { .. }));
    fs::create_dir(scratch.path().join("empty")).unwrap();
    assert!(open("empty").to_string().contains("the folder is empty"));
    write(&scratch.path().join("bin/pytorch_model.bin"), "x");
    assert!(open("bin").to_string().contains("it is not a torch.save file"));
    write(&scratch.path().join("run/step-1/model.safetensors"), "x");
    assert!(open("run").to_string().contains("it holds `step-1`, as a run does"));
    for name in ["a", "b"] {
        write(&scratch.path().join(format!("two/{name}.safetensors")), "x");
    }
    assert!(matches!(open("two"), Error::Ambiguous { .. }));
}

#[test]
fn a_changed_file_is_noticed() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.safetensors");
    let header = r#"{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
    write(&path, safetensors_bytes(header, b"abc"));
    let checkpoint = open_checkpoint(&disk(), &path).unwrap();
    assert_eq!(tensor_bytes(&checkpoint, "w"), b"abc");
    checkpoint.check_unchanged().unwrap();
    write(&path, safetensors_bytes(header, b"ab"));
    assert!(checkpoint.check_unchanged().is_err());
    let error = checkpoint.read_elements(0, 0..3, &mut [0; 3]).unwrap_err();
    assert!(error.to_string().contains("tensor `w`"), "{error}");
}

#[test]
fn ranges_outside_a_tensor_are_refused() {
    let checkpoint = open_checkpoint(&disk(), &fixture("hostile/safetensors/misaligned-tensors.safetensors")).unwrap();
    let n_elements = checkpoint.catalog().entries()[0].n_elements();
    let size = usize::try_from(checkpoint.catalog().entries()[0].dtype.bytes().unwrap()).unwrap();
    assert!(checkpoint.read_elements(0, n_elements..n_elements + 1, &mut vec![0; size]).is_err());
    assert!(checkpoint.read_elements(0, 0..1, &mut vec![0; size + 1]).is_err());
    assert!(checkpoint.read_elements(99, 0..1, &mut vec![0; size]).is_err());
}

#[test]
fn broken_configs_are_named_and_python_words_are_read() {
    let scratch = tempfile::tempdir().unwrap();
    let header = r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    write(&scratch.path().join("model.safetensors"), safetensors_bytes(header, b"a"));
    let config = scratch.path().join("config.json");
    for broken in ["", "[]", "{", "{\"a\":}", "nul", "{\"a\": NaNN}"] {
        write(&config, broken);
        let error = open_checkpoint(&disk(), scratch.path()).unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{broken}: {error}");
        assert!(error.to_string().contains("config.json"));
    }
    write(&config, r#"{"limits": [0.0, Infinity, -Infinity], "name": "NaN \" Infinity", "x": NaN, "y": -1}"#);
    let checkpoint = open_checkpoint(&disk(), scratch.path()).unwrap();
    let config = checkpoint.config().unwrap();
    assert_eq!(config["limits"][2], "-Infinity");
    assert_eq!(config["name"], "NaN \" Infinity");
    assert_eq!(config["y"], -1);
}
