//! What is not read is named, and the way out that is proposed works.

use std::fs;
use std::path::Path;
use std::process::Command;

use thalweg_checkpoint::open_checkpoint;

use crate::support::{disk, fixture, write};

/// Opening `path` fails with `what` in the message and `way_out` in the hint.
fn check_stranger(path: &Path, what: &str, way_out: &str) {
    let error = open_checkpoint(&disk(), path).unwrap_err();
    assert!(error.to_string().contains(what), "{error}");
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains(way_out), "{}: {hint}", path.display());
}

fn n_tensors(path: &Path) -> usize {
    open_checkpoint(&disk(), path).unwrap().catalog().entries().len()
}

#[test]
fn a_shard_of_a_distributed_checkpoint_names_the_folder() {
    for name in ["dcp-fsdp2/step-60/__0_0.distcp", "megatron-torch_dist/iter_0000060/__1_0.distcp"] {
        let shard = fixture(name);
        check_stranger(&shard, "it is a shard of a PyTorch distributed checkpoint", "give the folder that contains it");
        assert!(n_tensors(shard.parent().unwrap()) > 0, "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("__0_0.distcp"), "cut off");
    check_stranger(&folder.path().join("__0_0.distcp"), "it is a shard", "give the folder");
}

#[test]
fn a_nemo_archive_is_unpacked_with_tar() {
    let folder = tempfile::tempdir().unwrap();
    let (inner, archive) = (folder.path().join("inner"), folder.path().join("model.nemo"));
    write(&inner.join("model_config.yaml"), "target: nemo");
    let weights = inner.join("model_weights");
    fs::create_dir(&weights).unwrap();
    for entry in fs::read_dir(fixture("megatron-torch_dist/iter_0000060")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), weights.join(entry.file_name())).unwrap();
    }
    fs::copy(fixture("torch/trainstate/step-60.pt"), inner.join("model_weights.ckpt")).unwrap();
    let tar = |arguments: &[&str]| {
        let status = Command::new("tar").current_dir(folder.path()).args(arguments).status().unwrap();
        assert!(status.success(), "{arguments:?}");
    };
    tar(&["-cf", "model.nemo", "-C", "inner", "."]);
    fs::remove_dir_all(&inner).unwrap();
    check_stranger(&archive, "it is a NeMo archive", "unpack it with `tar -xf`");
    tar(&["-xf", "model.nemo"]);
    assert!(n_tensors(&folder.path().join("model_weights")) > 0);
    assert!(n_tensors(&folder.path().join("model_weights.ckpt")) > 0);
}

#[test]
fn other_formats_name_the_functions_that_convert_them() {
    let folder = tempfile::tempdir().unwrap();
    for (name, what, way_out) in [
        ("flax_model.msgpack", "it is a Flax file", "flax.serialization.msgpack_restore"),
        ("model.weights.h5", "it is a file of arrays", "the library that wrote it"),
        ("model.onnx", "it is a file of another framework", "the checkpoint that it was made from"),
    ] {
        let path = folder.path().join(name);
        // torch.save files are zip archives; so could any other be.
        write(&path, "PK\x03\x04");
        check_stranger(&path, what, way_out);
    }
    let orbax = folder.path().join("orbax");
    write(&orbax.join(".zarray"), "{}");
    check_stranger(&orbax, "it holds a zarr array (`.zarray`)", "the folder of the checkpoint");
}

#[test]
fn other_back_ends_of_megatron_name_the_converter_of_each() {
    for (backend, way_out) in [
        ("zarr", "--ckpt-convert-format torch_dist"),
        ("fsdp_dtensor", "convert-fsdp-dtensor-to-torch-dist FROM TO"),
        ("array_store", "the release of Megatron-Core that wrote it"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("common.pt"), "");
        let json = format!("{{\"sharded_backend\": \"{backend}\", \"sharded_backend_version\": 1}}");
        write(&folder.path().join("metadata.json"), json);
        check_stranger(folder.path(), "only `torch_dist` version 1 is supported", way_out);
    }
}
