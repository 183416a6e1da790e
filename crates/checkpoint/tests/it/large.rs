//! Sizes beyond 32 bits and many names.

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Instant;

use thalweg_checkpoint::format::safetensors::parse_header;
use thalweg_checkpoint::{ReadOptions, open_checkpoint, open_checkpoints};
use thalweg_tensor::TensorSource;

use crate::support::{disk, write};

#[test]
fn tensors_over_4_gib_and_offsets_beyond_32_bits_are_read_in_place() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.safetensors");
    let big = (1_u64 << 32) + 10;
    let end = big + 6;
    let first = format!(r#""big":{{"dtype":"U8","shape":[{big}],"data_offsets":[0,{big}]}}"#);
    let header = format!(r#"{{{first},"after":{{"dtype":"BF16","shape":[3],"data_offsets":[{big},{end}]}}}}"#);
    let file = File::create(&path).unwrap();
    let start = 8 + header.len() as u64;
    file.set_len(start + big + 6).unwrap();
    file.write_all_at(&(header.len() as u64).to_le_bytes(), 0).unwrap();
    file.write_all_at(header.as_bytes(), 8).unwrap();
    file.write_all_at(b"xy", start + big - 2).unwrap();
    file.write_all_at(b"abcdef", start + big).unwrap();
    let checkpoint = open_checkpoint(&disk(), &path).unwrap();
    let (after, whole) = (checkpoint.catalog().find("after").unwrap(), checkpoint.catalog().find("big").unwrap());
    let mut out = [0; 2];
    checkpoint.read_elements(whole, big - 2..big, &mut out).unwrap();
    assert_eq!(&out, b"xy");
    checkpoint.read_elements(after, 1..2, &mut out).unwrap();
    assert_eq!(&out, b"cd");
}

#[test]
fn a_header_of_100_000_tensors_is_read() {
    let mut header = String::from("{");
    for number in 0..100_000_u64 {
        let (begin, end) = (number * 8, number * 8 + 8);
        let name = format!("model.layers.{}.mlp.experts.{number}.gate_proj.weight", number / 1000);
        write!(header, r#""{name}":{{"dtype":"F32","shape":[1,2],"data_offsets":[{begin},{end}]}},"#).unwrap();
    }
    header.pop();
    header.push('}');
    let started = Instant::now();
    let parsed = parse_header(header.as_bytes(), 800_000).unwrap();
    println!("100,000 tensors: {:?}", started.elapsed());
    assert_eq!(parsed.tensors.len(), 100_000);
    assert!(parse_header(header.as_bytes(), 800_001).is_err());
}

#[test]
fn fifty_checkpoints_of_thirty_sparse_shards_open_together() {
    let scratch = tempfile::tempdir().unwrap();
    let (n_checkpoints, n_shards, n_tensors, size) = (50, 30, 24, 190_000_000_u64);
    let mut index = String::from(r#"{"weight_map":{"#);
    let mut headers = Vec::new();
    for shard in 0..n_shards {
        let mut header = String::from("{");
        for tensor in 0..n_tensors {
            let name = format!("model.layers.{shard}.part.{tensor}.weight");
            let (begin, end) = (tensor * size, (tensor + 1) * size);
            write!(header, r#""{name}":{{"dtype":"BF16","shape":[{}],"data_offsets":[{begin},{end}]}},"#, size / 2)
                .unwrap();
            write!(index, r#""{name}":"model-{shard:05}-of-00030.safetensors","#).unwrap();
        }
        header.pop();
        header.push('}');
        headers.push(header);
    }
    index.pop();
    index.push_str("}}");
    let mut paths: Vec<PathBuf> = Vec::new();
    for number in 0..n_checkpoints {
        let folder = scratch.path().join(format!("step-{number}"));
        write(&folder.join("model.safetensors.index.json"), &index);
        for (shard, header) in headers.iter().enumerate() {
            let file = File::create(folder.join(format!("model-{shard:05}-of-00030.safetensors"))).unwrap();
            file.set_len(8 + header.len() as u64 + n_tensors * size).unwrap();
            file.write_all_at(&(header.len() as u64).to_le_bytes(), 0).unwrap();
            file.write_all_at(header.as_bytes(), 8).unwrap();
        }
        paths.push(folder);
    }
    let started = Instant::now();
    let opened = open_checkpoints(&disk(), &paths, &ReadOptions::default());
    println!("50 checkpoints of 30 shards: {:?}", started.elapsed());
    assert!(opened.iter().all(Result::is_ok));
    assert_eq!(opened[49].as_ref().unwrap().catalog().n_bytes(), 30 * n_tensors * size);
}
