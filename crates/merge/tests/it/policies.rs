//! Zero coefficients, values that are not finite, routers, output element types: what a plan says is what happens.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_merge::Error;
use thalweg_merge::output_format::OptimizerPolicy;
use thalweg_merge::plan::{MergePlan, OutputDtype, RouterPolicy};
use thalweg_merge::receipt::{MergeReceipt, RECEIPT_NAME};
use thalweg_storage::LocalStorage;

use crate::support::{
    PLAIN, Runner, Tensor, Tensors, bits16_tensor, data_start, encode_safetensors, f32_bytes, f32_tensor, mean, output,
    plan, read_tensors, tensors, write_checkpoint,
};
use thalweg_testkit::Tap;

/// A checkpoint for each tensor, which is called `w`.
fn write_all<const N: usize>(folder: &Path, list: [Tensor; N]) -> [PathBuf; N] {
    let mut i = 0;
    list.map(|tensor| {
        let path = folder.join(format!("c{i}"));
        write_checkpoint(&path, &tensors([("w", tensor)]));
        i += 1;
        path
    })
}

#[test]
fn a_source_with_coefficient_zero_is_not_read_and_may_hold_nan() {
    let folder = tempfile::tempdir().unwrap();
    let list = [f32_tensor(&[1.0, 2.0]), f32_tensor(&[f32::NAN, f32::INFINITY]), f32_tensor(&[3.0, 6.0])];
    let sources = write_all(folder.path(), list.clone());
    let tap = Tap::new(Arc::new(LocalStorage::new()));
    let found = Runner::on(tap.storage()).merge(&plan(output(&sources, &[1, 0, 1], 2, &folder.path().join("out"))));
    assert_eq!(found["w"].2, f32_bytes(&[2.0, 4.0]));
    let start = data_start(&encode_safetensors(&tensors([("w", list[1].clone())]))) as u64;
    let read = |i: usize| tap.bytes_read(&sources[i].join("model.safetensors"), start);
    assert_eq!([read(0), read(1), read(2)], [8, 0, 8]);
}

#[test]
fn coefficients_one_zero_zero_copy_the_first_source() {
    let folder = tempfile::tempdir().unwrap();
    let odd = [-0.0, f32::from_bits(1), f32::MAX, -1.5];
    let list = [f32_tensor(&odd), f32_tensor(&[f32::NAN; 4]), f32_tensor(&[f32::INFINITY; 4])];
    let sources = write_all(folder.path(), list);
    let found = Runner::default().merge(&plan(output(&sources, &[1, 0, 0], 1, &folder.path().join("out"))));
    assert_eq!(found, read_tensors(&sources[0]));
}

#[test]
fn the_first_value_that_is_not_finite_is_named() {
    let folder = tempfile::tempdir().unwrap();
    // More than one unit of work: the index counts from the start of the tensor.
    let mut values = vec![1.0_f32; 700_000];
    values[599_999] = f32::NEG_INFINITY;
    values[600_001] = f32::NAN;
    let sources = write_all(folder.path(), [f32_tensor(&vec![1.0; 700_000]), f32_tensor(&values)]);
    let out = folder.path().join("out");
    let error = Runner::default().execute(&mean(&sources, &out), PLAIN).unwrap_err();
    let Error::NonFinite { tensor, path, element_idx, is_newest: true, summed: None } = &error else {
        panic!("{error}")
    };
    assert_eq!((tensor.as_str(), path, *element_idx), ("w", &sources[1], 599_999));
    assert!(error.hint().unwrap().contains("--allow-non-finite"));
    assert!(!out.exists());
}

/// The tensors of a mixture that the policy for routers covers, and those that it does not, in one trainer's names.
fn check_routers(covered: &[&str], others: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let names = || covered.iter().chain(others).copied();
    let sources = [1.0_f32, 3.0].map(|value| {
        let path = folder.path().join(format!("c{value}"));
        write_checkpoint(&path, &names().map(|name| (name.to_owned(), f32_tensor(&[value]))).collect());
        path
    });
    for (router, expected) in [(RouterPolicy::Average, 2.0_f32), (RouterPolicy::Newest, 3.0)] {
        let out = folder.path().join(format!("{router:?}"));
        let mut output = output(&sources, &[1, 1], 2, &out);
        output.policy.router = router;
        let found = Runner::default().merge(&plan(output));
        covered.iter().for_each(|name| assert_eq!(found[*name].2, f32_bytes(&[expected]), "{name}"));
        others.iter().for_each(|name| assert_eq!(found[*name].2, f32_bytes(&[2.0]), "{name}"));
        let path = out.join(RECEIPT_NAME);
        let receipt = MergeReceipt::from_json(&std::fs::read(&path).unwrap(), &path).unwrap();
        for tensor in &receipt.tensors {
            let is_covered = covered.contains(&&*tensor.name);
            assert_eq!(tensor.router, is_covered.then_some(router), "{}", tensor.name);
        }
        assert_eq!(receipt.tensors.len(), names().count());
    }
}

#[test]
fn routers_in_names_of_transformers_follow_the_policy_and_the_receipt_lists_them() {
    check_routers(
        &["model.layers.0.mlp.gate.weight", "model.layers.0.mlp.gate.e_score_correction_bias"],
        &["model.layers.0.mlp.experts.0.gate_proj.weight", "w"],
    );
}

#[test]
fn routers_in_names_of_torchtitan_follow_the_policy_and_the_receipt_lists_them() {
    check_routers(
        &["layers.0.moe.expert_bias_E", "layers.0.moe.router.gate.weight", "layers.0.moe.tokens_per_expert_E"],
        &["layers.0.moe.experts.w1_EFD"],
    );
    check_routers(&["layers.0.moe.expert_bias", "layers.0.moe.tokens_per_expert"], &["layers.0.moe.experts.w1"]);
}

#[test]
fn routers_in_names_of_megatron_follow_the_policy_and_the_receipt_lists_them() {
    check_routers(
        &["decoder.layers.0.mlp.router.weight", "decoder.layers.0.mlp.router.expert_bias"],
        &["decoder.layers.0.mlp.experts.linear_fc1.weight"],
    );
}

#[test]
fn a_bias_taken_by_name_is_not_a_matter_of_the_policy_for_routers() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["layers.0.moe.expert_bias", "layers.0.moe.router.gate.weight"];
    let sources = [1.0_f32, 3.0].map(|value| {
        let path = folder.path().join(format!("c{value}"));
        write_checkpoint(&path, &tensors(names.map(|name| (name, f32_tensor(&[value])))));
        path
    });
    let out = folder.path().join("out");
    let mut output = output(&sources, &[1, 1], 2, &out);
    output.policy.take_newest = vec!["*.expert_bias".to_owned()];
    let found = Runner::default().merge(&plan(output));
    assert_eq!(names.map(|name| found[name].2.clone()), [f32_bytes(&[3.0]), f32_bytes(&[2.0])]);
    let path = out.join(RECEIPT_NAME);
    let receipt = MergeReceipt::from_json(&std::fs::read(&path).unwrap(), &path).unwrap();
    let listed: Vec<_> = receipt.tensors.iter().map(|tensor| tensor.router).collect();
    assert_eq!(listed, [None, Some(RouterPolicy::Average)]);
}

fn merge_as(dtype: OutputDtype, list: [Tensor; 2]) -> Result<Tensors, Error> {
    let folder = tempfile::tempdir().unwrap();
    let sources = write_all(folder.path(), list);
    let out = folder.path().join("out");
    let mut output = output(&sources, &[1, 1], 2, &out);
    output.dtype = dtype;
    let result = Runner::default().execute(&plan(output), PLAIN);
    assert_eq!(result.is_ok(), out.exists());
    result.map(|_| read_tensors(&out))
}

#[test]
fn f32_output_of_bf16_sources_keeps_what_bf16_would_round() {
    let found = merge_as(OutputDtype::F32, [0x3f80, 0x3f81].map(|bits| bits16_tensor("BF16", &[bits]))).unwrap();
    assert_eq!(found["w"], f32_tensor(&[1.0 + 0.5_f32.powi(8)]));
}

#[test]
fn bf16_output_of_f32_sources_is_rounded_once() {
    // The mean is 1.00390625 + 2^-24: just above a tie of bf16, and lost if f32 is passed through.
    let found = merge_as(OutputDtype::Bf16, [f32_tensor(&[1.0]), f32_tensor(&[f32::from_bits(0x3f81_0001)])]).unwrap();
    assert_eq!(found["w"], bits16_tensor("BF16", &[0x3f81]));
}

#[test]
fn f16_output_reaches_its_largest_number_and_no_further() {
    let largest = merge_as(OutputDtype::F16, [65_519.0, 65_520.0].map(|value| f32_tensor(&[value]))).unwrap();
    assert_eq!(largest["w"], bits16_tensor("F16", &[0x7bff]));
    let error = merge_as(OutputDtype::F16, [65_520.0, 65_520.0].map(|value| f32_tensor(&[0.0, value]))).unwrap_err();
    let Error::Overflow { tensor, element_idx, value, .. } = &error else { panic!("{error}") };
    assert_eq!((tensor.as_str(), *element_idx), ("w", 1));
    assert!(value.total_cmp(&65_520.0).is_eq(), "{value}");
}

#[test]
fn a_plan_that_averages_moments_reads_them_and_no_other_does() {
    let folder = tempfile::tempdir().unwrap();
    let sources = [folder.path().join("a"), folder.path().join("b")];
    for (policy, reads, is_valid) in [
        (OptimizerPolicy::Average, true, true),
        (OptimizerPolicy::Average, false, false),
        (OptimizerPolicy::Newest, true, false),
        (OptimizerPolicy::Newest, false, true),
    ] {
        let mut output = output(&sources, &[1, 1], 2, &folder.path().join("out"));
        (output.policy.optimizer, output.reading.optimizer) = (policy, reads);
        let alone = output.of_model_alone();
        assert_eq!(MergePlan::new(vec![output]).is_ok(), is_valid, "{policy:?} {reads}");
        assert!(MergePlan::new(vec![alone]).is_ok());
    }
}
