//! Checkpoints with block-scaled FP8 weights, opened as they are stored and as the values that they stand for.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use thalweg_checkpoint::{Checkpoint, CheckpointPool, Note, ReadOptions, open_checkpoint_with};
use thalweg_tensor::{Dtype, TensorSource};
use thalweg_testkit::{Sharding, TinyCheckpoint};

use crate::support::disk;

fn values() -> ReadOptions {
    ReadOptions { dequantise: true, ..ReadOptions::default() }
}

fn open(path: &Path, options: &ReadOptions) -> Checkpoint {
    open_checkpoint_with(&disk(), path, options).unwrap_or_else(|error| panic!("{error}"))
}

/// Two matrices of 3 x 4 codes in blocks of 2 x 3, each with scales 1, 2, 3, 4 in `dtype`, and a norm between them.
fn scaled(dtype: Dtype) -> TinyCheckpoint {
    let quantised = json!({"quant_method": "fp8", "weight_block_size": [2, 3]});
    let codes = [0x38, 0x40, 0xb8, 0x3c, 0x30, 0x00, 0x80, 0x01, 0x7e, 0xfe, 0x08, 0x38];
    let add = |made: TinyCheckpoint, name: &str| {
        made.raw_tensor(&format!("{name}.weight"), Dtype::F8E4M3, &[3, 4], &codes).tensor(
            &format!("{name}.weight_scale_inv"),
            dtype,
            &[2, 2],
            &[1.0, 2.0, 3.0, 4.0],
        )
    };
    let made = add(TinyCheckpoint::new(), "a").tensor("b.norm", Dtype::Bf16, &[2], &[1.0, 2.0]);
    add(made, "c").config(&json!({"a": 1, "quantization_config": quantised, "b": 2}))
}

const EXPECTED: [f64; 12] =
    [1.0, 2.0, -1.0, 1.5 * 2.0, 0.5, 0.0, -0.0, 2.0 / 512.0, 448.0 * 3.0, -448.0 * 3.0, 3.0 / 64.0, 4.0];

#[test]
fn weights_are_seen_as_products_and_scales_are_not_seen() {
    let scratch = tempfile::tempdir().unwrap();
    for (i, (dtype, sharding)) in
        [(Dtype::F32, Sharding::Single), (Dtype::Bf16, Sharding::Shards(5))].into_iter().enumerate()
    {
        let path = scratch.path().join(i.to_string());
        scaled(dtype).sharding(sharding).write_to_disk(&path);
        let seen = open(&path, &values());
        let names: Vec<_> = seen.catalog().entries().iter().map(|entry| (&*entry.name, entry.dtype)).collect();
        assert_eq!(names, [("a.weight", Dtype::F64), ("b.norm", Dtype::Bf16), ("c.weight", Dtype::F64)]);
        assert_eq!(seen.dequantised_weights(), Some((2, [2, 3])));
        assert!(matches!(seen.notes(), [Note::Dequantised { n_tensors: 2, block: [2, 3] }]), "{:?}", seen.notes());
        assert_eq!(seen.config(), Some(&json!({"a": 1, "b": 2})));
        for t in [0, 2] {
            for (start, end) in [(0_u64, 12_u64), (3, 5), (7, 8), (11, 12), (4, 4)] {
                let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
                let mut bytes = vec![0; 8 * range.len()];
                seen.read_elements(t, start..end, &mut bytes).unwrap();
                let expected: Vec<u8> = EXPECTED[range].iter().flat_map(|value| value.to_le_bytes()).collect();
                assert_eq!(bytes, expected);
            }
            assert!(seen.read_elements(t, 5..13, &mut [0; 64]).is_err());
            assert!(seen.read_elements(t, 5..6, &mut [0; 7]).is_err());
            let parts = seen.stored_bytes(t, 0..5) + seen.stored_bytes(t, 5..12);
            assert_eq!(parts, 12 + 4 * dtype.bytes().unwrap());
        }
        let mut norm = [0; 4];
        seen.read_elements(1, 0..2, &mut norm).unwrap();
        assert_eq!(norm, [0x80, 0x3f, 0x00, 0x40]);
        assert!(seen.read_elements(3, 0..1, &mut [0; 8]).is_err());
        let stored = open(&path, &ReadOptions::default());
        assert_eq!(stored.catalog().entries().len(), 5);
        assert_eq!(stored.block_scaled().unwrap().unwrap().block, [2, 3]);
        assert_eq!((stored.dequantised_weights(), stored.notes().len()), (None, 0));
    }
}

#[test]
fn a_pool_opens_a_checkpoint_without_codes_once_and_one_with_codes_in_both_ways() {
    let scratch = tempfile::tempdir().unwrap();
    let (plain, coded) = (scratch.path().join("plain"), scratch.path().join("coded"));
    TinyCheckpoint::llama(Dtype::Bf16, 1.0).write_to_disk(&plain);
    scaled(Dtype::F32).write_to_disk(&coded);
    let pool = CheckpointPool::new(&disk());
    let open = |path: &Path, options: &ReadOptions| pool.open(path, options).unwrap();
    assert!(Arc::ptr_eq(&open(&plain, &values()), &open(&plain, &ReadOptions::default())));
    let (seen, stored) = (open(&coded, &values()), open(&coded, &ReadOptions::default()));
    assert_eq!((seen.catalog().entries().len(), stored.catalog().entries().len()), (3, 5));
    assert!(Arc::ptr_eq(&seen, &open(&coded, &values())));
    assert!(Arc::ptr_eq(&stored, &open(&coded, &ReadOptions::default())));
}
