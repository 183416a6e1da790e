//! What is not averaged, and what is refused.

use std::path::{Path, PathBuf};

use thalweg_merge::plan::{MergePlan, NonFloatPolicy, OutputDtype, OutputPlan, RouterPolicy};
use thalweg_merge::{Coefficients, Error};

use crate::support::{Setting, f32_bytes, merge, output_plan, write_tensors};

/// One checkpoint for each value, with a weight, a router and an integer.
fn sources(folder: &Path, values: &[f32]) -> Vec<PathBuf> {
    let make = |(i, &value): (usize, &f32)| {
        let path = folder.join(format!("c{i}"));
        write_tensors(
            &path.join("model.safetensors"),
            &[
                ("w", "F32", vec![3], f32_bytes(&[value, 1.0, -value])),
                ("layers.0.mlp.gate.weight", "F32", vec![1], f32_bytes(&[value])),
                ("seen", "I64", vec![], (i as i64).to_le_bytes().to_vec()),
            ],
        );
        path
    };
    values.iter().enumerate().map(make).collect()
}

fn change(sources: &[PathBuf], c: &[i32], d: i32, out: &Path, change: impl Fn(&mut OutputPlan)) -> MergePlan {
    let mut output = output_plan(sources, &Coefficients::new(c.to_vec(), d).unwrap(), out);
    output.policy.non_float = NonFloatPolicy::Newest;
    change(&mut output);
    MergePlan::new(vec![output]).unwrap()
}

#[test]
fn integers_that_differ_are_refused_or_the_newest() {
    let scratch = tempfile::tempdir().unwrap();
    let sources = sources(scratch.path(), &[1.0, 3.0]);
    let strict = change(&sources, &[1, 1], 2, &scratch.path().join("a"), |output| {
        output.policy.non_float = NonFloatPolicy::Error;
    });
    let refused = merge(&strict, Setting::default());
    assert!(matches!(&refused, Err(Error::NonFloatDiffers { tensor, .. }) if tensor == "seen"), "{refused:?}");
    assert!(!scratch.path().join("a").exists());
    let merged = merge(&change(&sources, &[1, 1], 2, &scratch.path().join("b"), |_| ()), Setting::default()).unwrap();
    assert_eq!(merged["seen"].2, 1i64.to_le_bytes());
    assert_eq!(merged["w"].2, f32_bytes(&[2.0, 1.0, -2.0]));
    assert_eq!(merged["layers.0.mlp.gate.weight"].2, f32_bytes(&[2.0]));
}

#[test]
fn routers_are_taken_from_the_newest_where_that_is_asked() {
    let scratch = tempfile::tempdir().unwrap();
    let sources = sources(scratch.path(), &[1.0, 3.0]);
    let newest = change(&sources, &[1, 1], 2, &scratch.path().join("out"), |output| {
        output.policy.router = RouterPolicy::Newest;
        output.dtype = OutputDtype::Bf16;
    });
    let merged = merge(&newest, Setting::default()).unwrap();
    assert_eq!(merged["layers.0.mlp.gate.weight"], ("BF16".to_owned(), vec![1], vec![0x40, 0x40]));
    assert_eq!(merged["w"].2, [0x00, 0x40, 0x80, 0x3F, 0x00, 0xC0]);
}

#[test]
fn a_source_with_coefficient_zero_is_not_read() {
    let scratch = tempfile::tempdir().unwrap();
    let sources = sources(scratch.path(), &[7.0, f32::NAN, f32::INFINITY]);
    let merged = merge(&change(&sources, &[1, 0, 0], 1, &scratch.path().join("out"), |_| ()), Setting::default());
    assert_eq!(merged.unwrap()["w"].2, f32_bytes(&[7.0, 1.0, -7.0]));
}

#[test]
fn a_value_that_is_not_finite_is_refused_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let sources = sources(scratch.path(), &[1.0, f32::NAN]);
    let refused = merge(&change(&sources, &[1, 1], 2, &scratch.path().join("a"), |_| ()), Setting::default());
    let Err(Error::NonFinite { path, element_idx, .. }) = &refused else { panic!("{refused:?}") };
    assert_eq!((path, *element_idx), (&sources[1], 0));
    let allowed = change(&sources, &[1, 1], 2, &scratch.path().join("b"), |output| {
        output.policy.allow_non_finite = true;
    });
    let merged = merge(&allowed, Setting::default()).unwrap();
    assert_eq!(merged["w"].2, f32_bytes(&[f32::from_bits(0x7FC0_0000), 1.0, f32::from_bits(0x7FC0_0000)]));
}

#[test]
fn a_finite_sum_that_is_too_large_is_an_error() {
    let scratch = tempfile::tempdir().unwrap();
    let sources = sources(scratch.path(), &[70_000.0, 70_000.0]);
    let narrow = change(&sources, &[1, 1], 2, &scratch.path().join("out"), |output| output.dtype = OutputDtype::F16);
    let refused = merge(&narrow, Setting::default());
    assert!(matches!(refused, Err(Error::Overflow { element_idx: 0, .. })), "{refused:?}");
    assert!(!scratch.path().join("out").exists());
}
