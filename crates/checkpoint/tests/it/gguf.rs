//! GGUF files, as the package gguf wrote them.

use std::fs;

use thalweg_checkpoint::{Checkpoint, Error, open_checkpoint};
use thalweg_tensor::Dtype;

use crate::support::{disk, fixture, tensor_bytes, write};

fn open(name: &str) -> Checkpoint {
    open_checkpoint(&disk(), &fixture("gguf").join(name)).unwrap()
}

/// Names, shapes and order of the tensors, as the maker has them.
const SHAPES: [(&str, &[u64]); 6] = [
    ("token_embd.weight", &[40, 8]),
    ("blk.0.attn_norm.weight", &[8]),
    ("blk.0.attn_q.weight", &[8, 8]),
    ("blk.0.ffn_up.weight", &[12, 8]),
    ("output_norm.weight", &[8]),
    ("output.weight", &[40, 8]),
];

fn widened(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    let halves =
        |widen: fn(u16) -> f32| bytes.chunks_exact(2).map(|two| widen(u16::from_le_bytes([two[0], two[1]]))).collect();
    match dtype {
        Dtype::F32 => bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect(),
        Dtype::Bf16 => halves(|bits| f32::from_bits(u32::from(bits) << 16)),
        // The maker writes no subnormal numbers.
        Dtype::F16 => halves(|bits| {
            let (sign, rest) = (u32::from(bits >> 15) << 31, u32::from(bits & 0x7fff));
            f32::from_bits(sign | if rest == 0 { 0 } else { (rest << 13) + (112 << 23) })
        }),
        other => panic!("{other}"),
    }
}

fn check_model(name: &str, divisor: f32, dtype: Dtype) {
    let checkpoint = open(name);
    assert_eq!(checkpoint.format_name(), "gguf");
    assert_eq!(checkpoint.catalog().entries().len(), SHAPES.len());
    for (number, (tensor, dims)) in (0_u16..).zip(SHAPES) {
        let entry = &checkpoint.catalog().entries()[checkpoint.catalog().find(tensor).unwrap()];
        assert_eq!(
            (&*entry.shape.0, entry.dtype),
            (dims, if dims.len() == 1 { Dtype::F32 } else { dtype }),
            "{tensor}"
        );
        let n = u16::try_from(entry.n_elements()).unwrap();
        let expected: Vec<f32> = (0..n).map(|i| (f32::from((i * 7 + number * 31) % 64) - 32.0) / divisor).collect();
        assert_eq!(widened(&tensor_bytes(&checkpoint, tensor), entry.dtype), expected, "{name}: {tensor}");
    }
    assert_eq!(checkpoint.metadata()["general.architecture"], "llama");
}

#[test]
fn models_in_bf16_and_f16_are_read_with_the_slowest_dimension_first() {
    check_model("step-10.gguf", 8.0, Dtype::Bf16);
    check_model("step-20.gguf", 64.0, Dtype::Bf16);
    check_model("f16-aligned.gguf", 64.0, Dtype::F16);
}

#[test]
fn every_type_that_is_not_quantised_is_read() {
    let checkpoint = open("types.gguf");
    let types: Vec<(&str, Dtype)> =
        checkpoint.catalog().entries().iter().map(|entry| (&*entry.name, entry.dtype)).collect();
    let expected = [
        ("of.float16", Dtype::F16),
        ("of.float32", Dtype::F32),
        ("of.float64", Dtype::F64),
        ("of.int16", Dtype::I16),
        ("of.int32", Dtype::I32),
        ("of.int64", Dtype::I64),
        ("of.int8", Dtype::I8),
    ];
    assert_eq!(types, expected);
    let bytes: Vec<u8> = (0..24).map(|i| i % 10).collect();
    assert_eq!(tensor_bytes(&checkpoint, "of.int8"), bytes);
}

#[test]
fn quantised_tensors_are_refused_by_name() {
    let checkpoint = open("quantised.gguf");
    let [only] = &*checkpoint.findings().unreadable else { panic!("{:?}", checkpoint.findings()) };
    assert_eq!(only.name, "blk.0.attn_q.weight");
    assert!(only.reason.contains("`Q8_0`"), "{}", only.reason);
    assert_eq!(checkpoint.catalog().entries().len(), 1);
}

#[test]
fn files_that_are_cut_or_something_else_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let whole = fs::read(fixture("gguf/step-10.gguf")).unwrap();
    for n in [3, 4, 100, 1000, whole.len() - 64] {
        write(&path, &whole[..n]);
        let error = open_checkpoint(&disk(), &path).unwrap_err();
        assert!(error.is_unfinished(), "{n}: {error}");
    }
    write(&path, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
    assert!(matches!(open_checkpoint(&disk(), &path), Err(Error::Pointer { .. })));
    write(&path, b"x");
    let error = open_checkpoint(&disk(), &path).unwrap_err();
    assert!(error.to_string().contains("x.gguf"), "{error}");
}
