//! Checkpoints of trainers that cut a model over ranks, against what their own code puts together.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use thalweg_checkpoint::{Checkpoint, Error, Params, ReadOptions, open_checkpoint, open_checkpoint_with};
use thalweg_tensor::{Dtype, TensorSource};

use crate::support::{disk, fixture, tensor_bytes};

fn open(path: &Path) -> Result<Checkpoint, Error> {
    open_checkpoint(&disk(), path)
}

fn open_params(path: &Path, params: Params) -> Result<Checkpoint, Error> {
    open_checkpoint_with(&disk(), path, &ReadOptions { params: Some(params), ..ReadOptions::default() })
}

/// Name to shape and F32 bytes.
type Reference = BTreeMap<String, (Vec<u64>, Vec<u8>)>;

fn reference(path: &str) -> Reference {
    let bytes = fs::read(fixture(path)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let sizes = |shape: &[usize]| shape.iter().map(|&n| n as u64).collect();
    file.iter().map(|(name, view)| (name.to_owned(), (sizes(view.shape()), view.data().to_vec()))).collect()
}

/// Every tensor, widened to F32, is the one of the reference, and any part of it the same part.
fn check_values(checkpoint: &Checkpoint, expected: &Reference, dtype: Dtype) {
    let names: Vec<&str> = checkpoint.catalog().entries().iter().map(|entry| &*entry.name).collect();
    assert_eq!(names, expected.keys().map(String::as_str).collect::<Vec<_>>());
    for (tensor_idx, entry) in checkpoint.catalog().entries().iter().enumerate() {
        let (shape, wanted) = &expected[&*entry.name];
        assert_eq!((&*entry.shape.0, entry.dtype), (&**shape, dtype), "{}", entry.name);
        let widen = |bytes: Vec<u8>| match dtype {
            Dtype::Bf16 => bytes.chunks(2).flat_map(|two| [0, 0, two[0], two[1]]).collect(),
            _ => bytes,
        };
        assert_eq!(widen(tensor_bytes(checkpoint, &entry.name)), *wanted, "{}", entry.name);
        let (n, size) = (entry.n_elements(), entry.dtype.bytes().unwrap());
        for (start, end) in [(n / 3, n - n / 4), (n / 2, n / 2 + 1)] {
            let mut out = vec![0; usize::try_from((end - start) * size).unwrap()];
            checkpoint.read_elements(tensor_idx, start..end, &mut out).unwrap();
            let range = usize::try_from(4 * start).unwrap()..usize::try_from(4 * end).unwrap();
            assert_eq!(widen(out), wanted[range], "{} {start}..{end}", entry.name);
        }
    }
}

#[test]
fn masters_of_each_stage_of_zero_are_put_together() {
    let zero1 = open(&fixture("deepspeed/zero1/global_step80")).unwrap();
    assert_eq!(zero1.format_name(), "deepspeed-zero");
    check_values(&zero1, &reference("deepspeed/expected/zero1-masters.safetensors"), Dtype::F32);
    let zero3 = open(&fixture("deepspeed/zero3/global_step80")).unwrap();
    assert_eq!(zero3.format_name(), "deepspeed-zero");
    check_values(&zero3, &reference("deepspeed/expected/zero3-masters.safetensors"), Dtype::F32);
    let universal = open(&fixture("deepspeed/universal/global_step80_universal")).unwrap();
    assert_eq!(universal.format_name(), "deepspeed-universal");
    check_values(&universal, &reference("deepspeed/expected/zero1-masters.safetensors"), Dtype::F32);
    assert!(universal.notes()[0].to_string().contains("the F32 masters of the optimizer are read"));
}

#[test]
fn weights_of_the_module_are_read_on_request() {
    let expected = reference("deepspeed/expected/zero1-module.safetensors");
    for folder in ["deepspeed/zero1/global_step80", "deepspeed/universal/global_step80_universal"] {
        check_values(&open_params(&fixture(folder), Params::Module).unwrap(), &expected, Dtype::Bf16);
    }
    let error = open_params(&fixture("deepspeed/zero3/global_step80"), Params::Module).unwrap_err();
    assert!(error.to_string().contains("`--params master`"), "{error}");
}

#[test]
fn the_folder_above_is_the_checkpoint_that_latest_names() {
    let checkpoint = open(&fixture("deepspeed/zero1")).unwrap();
    check_values(&checkpoint, &reference("deepspeed/expected/zero1-masters.safetensors"), Dtype::F32);
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target)
        } else {
            drop(fs::copy(entry.path(), &target).unwrap())
        }
    }
}

#[test]
fn a_rank_that_is_missing_makes_a_checkpoint_unfinished() {
    for (folder, file) in [
        ("deepspeed/zero1/global_step80", "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"),
        ("deepspeed/zero3/global_step80", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"),
        ("deepspeed/zero1/global_step80", "mp_rank_00_model_states.pt"),
        ("deepspeed/universal/global_step80_universal", "zero/lm_head.weight/fp32.pt"),
        ("megatron-legacy/iter_0000080", "mp_rank_01/model_optim_rng.pt"),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        copy_folder(&fixture(folder), scratch.path());
        fs::remove_file(scratch.path().join(file)).unwrap();
        let error = open(scratch.path()).unwrap_err();
        let shown = format!("{error} {}", error.details().join(" "));
        let last = file.rsplit('/').next().unwrap().trim_start_matches("bf16_");
        assert!(error.is_unfinished() || matches!(error, Error::NotFound { .. }), "{folder} {file}: {shown}");
        assert!(shown.contains(last), "{folder} {file}: {shown}");
    }
}

#[test]
fn a_model_that_is_itself_cut_is_refused_with_the_way_out() {
    let scratch = tempfile::tempdir().unwrap();
    copy_folder(&fixture("deepspeed/zero1/global_step80"), scratch.path());
    let first = scratch.path().join("mp_rank_00_model_states.pt");
    fs::copy(&first, scratch.path().join("mp_rank_01_model_states.pt")).unwrap();
    let error = open(scratch.path()).unwrap_err().to_string();
    assert!(error.contains("mp_rank_01_model_states.pt") && error.contains("ds_to_universal"), "{error}");
}

/// Rows of a matrix of F32.
fn rows(bytes: &[u8], row_bytes: usize, from: usize, to: usize) -> Vec<u8> {
    bytes[from * row_bytes..to * row_bytes].to_vec()
}

/// Two tensor ranks put together by hand, by what Megatron's layers do with each of their tensors.
fn join_ranks(a: &Reference, b: &Reference) -> Reference {
    let join = |name: &String| {
        let ((shape, first), (_, second)) = (&a[name], &b[name]);
        if name.contains("layernorm") {
            return (shape.clone(), first.clone());
        }
        let (n_rows, n_columns) = (usize::try_from(shape[0]).unwrap(), usize::try_from(shape[1]).unwrap());
        let row = 4 * n_columns;
        if name.ends_with("linear_proj.weight") || name.ends_with("linear_fc2.weight") {
            let side_by_side = |at: usize| [rows(first, row, at, at + 1), rows(second, row, at, at + 1)].concat();
            return (vec![shape[0], 2 * shape[1]], (0..n_rows).flat_map(side_by_side).collect());
        }
        let parts = if name.ends_with("linear_fc1.weight") {
            // SwiGLU: gates of both ranks, then the rest of both.
            let half = n_rows / 2;
            [
                rows(first, row, 0, half),
                rows(second, row, 0, half),
                rows(first, row, half, n_rows),
                rows(second, row, half, n_rows),
            ]
            .concat()
        } else {
            [first.clone(), second.clone()].concat()
        };
        (vec![2 * shape[0], shape[1]], parts)
    };
    a.keys().map(|name| (name.clone(), join(name))).collect()
}

#[test]
fn tensor_ranks_of_megatron_are_put_together_and_readable_alone() {
    let ranks = [0, 1].map(|rank| reference(&format!("megatron-legacy/expected/rank{rank}-step-80.f32.safetensors")));
    let folder = fixture("megatron-legacy/iter_0000080");
    let whole = open(&folder).unwrap();
    assert_eq!(whole.format_name(), "megatron-legacy");
    check_values(&whole, &join_ranks(&ranks[0], &ranks[1]), Dtype::F32);
    for (rank, expected) in ranks.iter().enumerate() {
        let file = folder.join(format!("mp_rank_0{rank}/model_optim_rng.pt"));
        check_values(&open(&file).unwrap(), expected, Dtype::F32);
    }
}
