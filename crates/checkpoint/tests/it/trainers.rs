//! Checkpoints of trainers that cut a model over ranks, against what their own code assembles.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use thalweg_checkpoint::{Checkpoint, Error, Params, ReadOptions, open_checkpoint, open_checkpoint_with};
use thalweg_tensor::{Dtype, TensorSource};
use thalweg_testkit::copy_folder;

use crate::support::{disk, fixture, tensor_bytes, write};

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

/// Every tensor, widened to F32, equals the reference, and so does any part of it.
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
    assert!(format!("{:?}", error.hint()).contains("the masters are read"), "{error}");
}

#[test]
fn the_folder_above_is_the_checkpoint_that_latest_names() {
    let checkpoint = open(&fixture("deepspeed/zero1")).unwrap();
    check_values(&checkpoint, &reference("deepspeed/expected/zero1-masters.safetensors"), Dtype::F32);
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

/// A disk that is full leaves files without a byte.
#[test]
fn a_file_without_a_byte_is_named_by_each_format_of_a_folder() {
    for (folder, file, words) in [
        ("megatron-torch_dist/iter_0000080", "common.pt", "is unfinished: `common.pt` is empty"),
        ("megatron-torch_dist/iter_0000080", "metadata.json", "`metadata.json` of Megatron-Core is not in the form"),
        ("megatron-torch_dist/iter_0000080", ".metadata", "byte 0 of the pickle: the bytes end"),
        ("megatron-torch_dist/iter_0000080", "__0_0.distcp", "shard `__0_0.distcp` ends at byte 0"),
        (
            "megatron-legacy/iter_0000080",
            "mp_rank_01/model_optim_rng.pt",
            "model_optim_rng.pt`: it is not a torch.save file",
        ),
        (
            "deepspeed/zero1/global_step80",
            "mp_rank_00_model_states.pt",
            "model_states.pt`: it is not a torch.save file",
        ),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        copy_folder(&fixture(folder), scratch.path());
        assert!(open(scratch.path()).is_ok(), "{folder}");
        write(&scratch.path().join(file), "");
        let error = open(scratch.path()).unwrap_err();
        let shown = format!("{error} {}", error.details().join(" "));
        assert!(shown.contains(words), "{folder} {file}: {shown}");
        let may_be_unfinished = matches!(file, "common.pt" | "__0_0.distcp");
        assert_eq!(error.is_unfinished(), may_be_unfinished, "{folder} {file}: {shown}");
    }
}

#[test]
fn ranks_of_megatron_that_are_missing_or_of_another_iteration_are_noticed() {
    let scratch = tempfile::tempdir().unwrap();
    copy_folder(&fixture("megatron-legacy/iter_0000080"), scratch.path());
    let last = scratch.path().join("mp_rank_01/model_optim_rng.pt");
    fs::copy(fixture("megatron-legacy/iter_0000060/mp_rank_01/model_optim_rng.pt"), &last).unwrap();
    let error = open(scratch.path()).unwrap_err().to_string();
    assert!(error.contains("it is from iteration 60, but the ranks before it are from iteration 80"), "{error}");
    // Only the arguments show that the folder of the last rank is missing.
    fs::remove_dir_all(last.parent().unwrap()).unwrap();
    let error = open(scratch.path()).unwrap_err();
    assert!(error.is_unfinished() && error.to_string().contains("mp_rank_01"), "{error}");
}

#[test]
fn a_rank_of_deepspeed_at_another_step_is_noticed() {
    // The optimizer's step is a separate F32 tensor: 80 becomes 60 in the file of one rank.
    for (folder, name) in [("zero1", "base_optimizer_state"), ("zero3", "optimizer_state_dict")] {
        let scratch = tempfile::tempdir().unwrap();
        copy_folder(&fixture(&format!("deepspeed/{folder}/global_step80")), scratch.path());
        let path = scratch.path().join("bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt");
        let mut bytes = fs::read(&path).unwrap();
        let (old, new) = (80.0_f32.to_le_bytes(), 60.0_f32.to_le_bytes());
        for at in 0..bytes.len() - 3 {
            if bytes[at..at + 4] == old {
                bytes[at..at + 4].copy_from_slice(&new);
            }
        }
        fs::write(&path, bytes).unwrap();
        let error = open(scratch.path()).unwrap_err().to_string();
        assert!(error.contains("its optimizer is at step 60") && error.contains("at step 80"), "{name}: {error}");
    }
}

#[test]
fn masters_of_zero_3_that_no_parameter_claims_are_noticed() {
    let scratch = tempfile::tempdir().unwrap();
    copy_folder(&fixture("deepspeed/zero3/global_step80"), scratch.path());
    let path = scratch.path().join("zero_pp_rank_0_mp_rank_00_model_states.pt");
    let mut bytes = fs::read(&path).unwrap();
    // The shape [256, 24] of the first parameter, as a pickle has it, becomes [256, 23].
    let shape = b"M\x00\x01K\x18\x86";
    let names = bytes.windows(12).position(|window| window == b"param_shapes").unwrap();
    let at = names + bytes[names..].windows(shape.len()).position(|window| window == shape).unwrap();
    bytes[at + 4] = 0x17;
    fs::write(&path, bytes).unwrap();
    let error = open(scratch.path()).unwrap_err().to_string();
    assert!(error.contains("its masters have") && error.contains("its parameters"), "{error}");
}

#[test]
fn a_second_rank_of_the_model_needs_its_optimizer_files() {
    let scratch = tempfile::tempdir().unwrap();
    copy_folder(&fixture("deepspeed/zero1/global_step80"), scratch.path());
    let first = scratch.path().join("mp_rank_00_model_states.pt");
    fs::copy(&first, scratch.path().join("mp_rank_01_model_states.pt")).unwrap();
    let error = open(scratch.path()).unwrap_err().to_string();
    assert!(error.contains("shard `zero_pp_rank_0_mp_rank_01_optim_states.pt` is missing"), "{error}");
    for rank in 0..2 {
        let name = |model_rank: u32| {
            scratch.path().join(format!("bf16_zero_pp_rank_{rank}_mp_rank_{model_rank:02}_optim_states.pt"))
        };
        fs::copy(name(0), name(1)).unwrap();
    }
    let cut = open(scratch.path()).unwrap();
    let whole = open(&fixture("deepspeed/zero1/global_step80")).unwrap();
    assert_eq!(cut.catalog().entries().len(), 2 * whole.catalog().entries().len());
    assert!(cut.catalog().entries().iter().all(|entry| entry.name.starts_with("mp_rank_0")));
}

#[test]
fn what_lightning_torchtune_and_old_releases_of_torch_wrote_is_read() {
    for (file, expected) in [
        ("lightning/epoch=0-step=30.ckpt", "lightning/expected/step-30"),
        ("lightning/last.ckpt", "lightning/expected/step-40"),
        ("lightning-ema/epoch=0-step=40.ckpt", "lightning-ema/expected/step-40"),
        ("torchtune/own/epoch_0", "torchtune/own/expected/step-30"),
        ("torchtune/hf/epoch_1", "torchtune/hf/expected/step-40"),
        ("old-torch/1.4.0/checkpoint_30.pt", "old-torch/expected/step-30"),
        ("old-torch/1.4.0/checkpoint_40.pt", "old-torch/expected/step-40"),
        ("old-torch/1.13.1/checkpoint_40.pt", "old-torch/expected/step-40"),
    ] {
        let checkpoint = open(&fixture("trainers").join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let dtype = checkpoint.catalog().entries()[0].dtype;
        check_values(&checkpoint, &reference(&format!("trainers/{expected}.f32.safetensors")), dtype);
    }
    // The averages are where a reader looks for the model; the weights themselves have a separate key.
    let raw = ReadOptions { key: Some("current_model_state".to_owned()), ..ReadOptions::default() };
    let file = fixture("trainers/lightning-ema/epoch=0-step=30.ckpt");
    let checkpoint = open_checkpoint_with(&disk(), &file, &raw).unwrap();
    check_values(&checkpoint, &reference("trainers/lightning-ema/expected-raw/step-30.f32.safetensors"), Dtype::F32);
    let named = open(&file).unwrap();
    assert!(named.findings().other_keys.iter().any(|(key, _)| key == "current_model_state"));
    // Old releases saved the class of a whole module as a separate reference.
    for (release, refusal) in [("1.4.0", "something to call expected"), ("1.13.1", "which thalweg does not construct")]
    {
        let folder = fixture("trainers/old-torch").join(release);
        let half = open(&folder.join("half.pth")).unwrap();
        assert!(half.catalog().find("model.norm.weight").is_some() && half.catalog().entries()[0].dtype == Dtype::F16);
        assert!(open(&folder.join("other-form.pt")).unwrap().catalog().find("model.norm.weight").is_some());
        let error = open(&folder.join("whole_module.pt")).unwrap_err().to_string();
        assert!(error.contains(refusal), "{error}");
    }
}

/// A safetensors file of one F32 tensor called `data`, as nanotron writes it.
fn nanotron_file(shape: &[usize], values: &[f32], cut: Option<(&str, &str)>) -> Vec<u8> {
    let metadata = cut.map_or_else(String::new, |(slices, whole)| {
        format!(
            r#""__metadata__":{{"version":"1.4","local_global_slices_pairs":"{slices}","unsharded_shape":"{whole}"}},"#
        )
    });
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let header =
        format!(r#"{{{metadata}"data":{{"dtype":"F32","shape":{shape:?},"data_offsets":[0,{}]}}}}"#, data.len());
    crate::support::safetensors_bytes(&header, &data)
}

#[test]
fn parameters_of_nanotron_are_put_together_by_their_slices() {
    let scratch = tempfile::tempdir().unwrap();
    let write = |file: &str, bytes: Vec<u8>| crate::support::write(&scratch.path().join(file), bytes);
    write("checkpoint_metadata.json", b"{}".to_vec());
    let layer = "model/model/decoder/0/pp_block";
    write(&format!("{layer}/norm/model_weight.safetensors"), nanotron_file(&[2], &[1.0, 2.0], None));
    let rank = |rank: usize| format!("{layer}/mlp/model_weight_pp-rank-0-of-1_tp-rank-{rank}-of-2.safetensors");
    let slices = |columns: &str| format!("None,None,None|None,None,None#None,None,None|{columns},None");
    write(&rank(0), nanotron_file(&[2, 1], &[1.0, 3.0], Some((&slices("0,1"), "(2, 2)"))));
    let error = open(scratch.path()).unwrap_err();
    assert!(error.is_unfinished() && error.to_string().contains("tensor rank 1 of 2"), "{error}");
    write(&rank(1), nanotron_file(&[2, 1], &[2.0, 4.0], Some((&slices("1,2"), "(2, 2)"))));
    let checkpoint = open(scratch.path()).unwrap();
    assert_eq!(checkpoint.format_name(), "nanotron");
    let norm = "model.decoder.0.pp_block.norm.weight";
    assert_eq!(tensor_bytes(&checkpoint, norm), crate::support::f32_bytes(&[1.0, 2.0]));
    let mlp = "model.decoder.0.pp_block.mlp.weight";
    assert_eq!(tensor_bytes(&checkpoint, mlp), crate::support::f32_bytes(&[1.0, 2.0, 3.0, 4.0]));
    write(&rank(1), nanotron_file(&[2, 1], &[2.0, 4.0], Some((&slices("0,1"), "(2, 2)"))));
    assert!(open(scratch.path()).unwrap_err().to_string().contains("more than one chunk"));
}

/// Rows of a matrix of F32.
fn rows(bytes: &[u8], row_bytes: usize, from: usize, to: usize) -> Vec<u8> {
    bytes[from * row_bytes..to * row_bytes].to_vec()
}

/// Two tensor ranks joined by hand, as Megatron's layers use each of their tensors.
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

#[test]
fn frozen_parameters_under_zero_3_are_put_together_from_the_shares_of_all_ranks() {
    let folder = fixture("trainers/frozen-zero3/global_step6");
    let expected = open(&fixture("trainers/frozen-zero3/expected/step-6.safetensors")).unwrap();
    let check = |found: &Checkpoint| {
        assert_eq!(found.catalog().entries().len(), expected.catalog().entries().len());
        for entry in expected.catalog().entries() {
            let found_entry = &found.catalog().entries()[found.catalog().find(&entry.name).unwrap()];
            assert_eq!((found_entry.dtype, &found_entry.shape), (entry.dtype, &entry.shape), "{}", entry.name);
            assert!(tensor_bytes(found, &entry.name) == tensor_bytes(&expected, &entry.name), "{}", entry.name);
        }
    };
    let found = open(&folder).unwrap();
    check(&found);
    // ZeRO-3 has no weights of the module that `--params module` could read.
    assert!(!found.notes().iter().any(|note| note.to_string().contains("--params")), "{:?}", found.notes());
    let scratch = tempfile::tempdir().unwrap();
    copy_folder(&folder, scratch.path());
    fs::remove_file(scratch.path().join("zero_pp_rank_2_mp_rank_00_model_states.pt")).unwrap();
    let error = open(scratch.path()).unwrap_err();
    assert!(error.is_unfinished() && error.to_string().contains("zero_pp_rank_2_mp_rank_00_model_states.pt"));
}

#[test]
fn masters_that_have_no_names_are_refused_with_what_works() {
    let scratch = tempfile::tempdir().unwrap();
    let state = fs::read(fixture("torch/trainstate/step-60.pt")).unwrap();
    fs::write(scratch.path().join("mp_rank_00_model_states.pt"), state).unwrap();
    let error = open_params(scratch.path(), Params::Master).unwrap_err();
    assert!(matches!(error, Error::NoMasters { .. }), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("leave out `--params master`")));
}
