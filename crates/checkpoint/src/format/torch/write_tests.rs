//! Archives of ours against those of PyTorch, byte for byte.

use std::path::{Path, PathBuf};

use thalweg_storage::{LocalStorage, Storage};
use thalweg_tensor::{Dtype, Shape, TensorEntry, to_index};

use super::archive_write::{CHUNK_ROOT, StoredTensor, lay_archive};
use super::read_content;
use super::tensor::{StorageType, dtype_named};
use super::write::{layout_torch, torch_type, write_state_dict, write_tensor};
use crate::ReadOptions;
use crate::frame_builder::FrameBuilder;
use crate::layout::{FrameContent, LayoutEntry, OutputFile};
use crate::pickle::PickleWriter;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn read(path: &Path) -> Vec<u8> {
    LocalStorage::new().read_file(path, 1 << 20).unwrap()
}

/// The tensors of a file in the order in which its pickle lists them.
fn entries_of(path: &Path) -> Vec<TensorEntry> {
    let reader = LocalStorage::new().open_file(path).unwrap();
    let whole = ReadOptions { key: Some(".".to_owned()), ..ReadOptions::default() };
    read_content(&*reader, 0, &whole).unwrap().entries
}

fn wanted(entry: &TensorEntry) -> LayoutEntry {
    LayoutEntry { name: entry.name.clone(), dtype: entry.dtype, shape: entry.shape.clone() }
}

/// The bytes of a file whose tensors have these contents.
fn fill(file: &OutputFile, contents: &[(u64, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; to_index(file.len_bytes)];
    let mut put = |offset: u64, part: &[u8]| bytes[to_index(offset)..][..part.len()].copy_from_slice(part);
    for part in &file.frame {
        let FrameContent::Bytes(known) = &part.content else { panic!("a copy") };
        put(part.offset, known);
    }
    contents.iter().for_each(|(offset, content)| put(*offset, content));
    for checksum in &file.checksums {
        let sum = crc32fast::hash(&bytes[to_index(checksum.range.start)..to_index(checksum.range.end)]);
        for place in &checksum.places {
            bytes[to_index(*place)..][..4].copy_from_slice(&sum.to_le_bytes());
        }
    }
    bytes
}

/// Puts zeros in the place of an archive's identity and of the two sums of it.
fn without_identity(mut bytes: Vec<u8>) -> Vec<u8> {
    const END_BYTES: usize = 56 + 20 + 22;
    let end = bytes.len() - END_BYTES;
    let name_start = bytes[..end].windows(21).rposition(|name| name == b".data/serialization_i").unwrap();
    let entry_start = bytes[..name_start].windows(4).rposition(|four| four == b"PK\x01\x02").unwrap();
    bytes[entry_start + 16..entry_start + 20].fill(0);
    let directory = bytes[..entry_start].windows(4).position(|four| four == b"PK\x01\x02").unwrap();
    let is_large = bytes[entry_start + 42..entry_start + 46] == [0xff; 4];
    let n_after = if is_large { 24 } else { 16 };
    bytes[directory - n_after - 40..directory - n_after].fill(0);
    bytes[directory - n_after + 4..directory - n_after + 8].fill(0);
    bytes
}

fn check_equal(ours: Vec<u8>, theirs: Vec<u8>, what: &str) {
    let (ours, theirs) = (without_identity(ours), without_identity(theirs));
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let differs = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs);
    assert_eq!(differs, None, "{what}: {:?}", differs.map(|at| (&ours[at..at + 8], &theirs[at..at + 8])));
}

#[test]
fn files_equal_those_of_pytorch_byte_for_byte() {
    let mut n_files = 0;
    for step in [20, 40] {
        for number in 1..=4 {
            let stem = format!("pytorch_model-0000{number}-of-00004");
            let path = fixture(&format!("torch/bin-sharded/step-{step}/{stem}.bin"));
            let theirs = read(&path);
            let found = entries_of(&path);
            let entries: Vec<LayoutEntry> = found.iter().map(wanted).collect();
            let typed: Vec<_> = entries.iter().map(|entry| (entry, torch_type(entry).unwrap())).collect();
            let mut frame = FrameBuilder::default();
            let tensors =
                (0..).zip(&found).map(|(at, entry)| StoredTensor { tensor_idx: at, len_bytes: entry.n_bytes() });
            let offsets = lay_archive(&mut frame, &stem, &write_state_dict(&typed), tensors);
            let contents = found.iter().zip(&offsets).map(|(entry, offset)| {
                let start = to_index(entry.pieces[0].offset);
                (*offset, &theirs[start..start + to_index(entry.n_bytes())])
            });
            let contents: Vec<(u64, &[u8])> = contents.collect();
            assert!(found.iter().zip(&offsets).all(|(entry, offset)| entry.pieces[0].offset == *offset));
            let ours = fill(&frame.finish(String::new()), &contents);
            check_equal(ours, theirs.clone(), &path.display().to_string());
            n_files += 1;
        }
    }
    assert_eq!(n_files, 8);
}

#[test]
fn chunks_equal_those_of_pytorch_byte_for_byte() {
    let theirs = read(&fixture("hostile/dcp/good-one-tensor/__0_0.distcp"));
    let entry = LayoutEntry { name: "".into(), dtype: Dtype::F32, shape: Shape::new([12, 32]) };
    let mut writer = PickleWriter::new();
    write_tensor(&mut writer, &entry, torch_type(&entry).unwrap(), 0);
    // What stands before the archive in a file does not matter to it.
    let mut frame = FrameBuilder::default();
    frame.put(b"before");
    let tensor = StoredTensor { tensor_idx: 0, len_bytes: 4 * 12 * 32 };
    let offsets = lay_archive(&mut frame, CHUNK_ROOT, &writer.finish(), [tensor]);
    let start = to_index(offsets[0]) - 6;
    let ours = fill(&frame.finish(String::new()), &[(offsets[0], &theirs[start..start + 4 * 12 * 32])]);
    check_equal(ours[6..].to_vec(), theirs, "a chunk");
}

#[test]
fn a_file_of_more_than_four_gib_has_the_numbers_of_pytorch() {
    let entry = |name: &str, dtype, n| LayoutEntry { name: name.into(), dtype, shape: Shape::new([n]) };
    let n_large = (1_u64 << 32) + 5;
    let entries = [entry("a", Dtype::U8, n_large), entry("b", Dtype::F32, 3), entry("c", Dtype::F32, 0)];
    let layout = layout_torch(&entries, u64::MAX).unwrap();
    let file = &layout.files()[0];
    let [head, tail, length] = ["head", "tail", "length"].map(|name| read(&fixture("torch/large").join(name)));
    assert_eq!(file.len_bytes.to_string(), String::from_utf8(length).unwrap().trim());
    assert_eq!(file.header(), head);
    assert_eq!(layout.catalog().entries()[0].pieces[0].offset, head.len() as u64);

    // The large tensor is cut out of both, and its sum, which is that of zeros, is put in by hand.
    let cut = |offset: u64| if offset >= head.len() as u64 { offset - n_large } else { offset };
    let mut short = OutputFile { len_bytes: file.len_bytes - n_large, ..file.clone() };
    short.frame.iter_mut().for_each(|part| part.offset = cut(part.offset));
    let of_large = short.checksums.remove(0);
    for checksum in &mut short.checksums {
        checksum.range = cut(checksum.range.start)..cut(checksum.range.end);
        checksum.places.iter_mut().for_each(|place| *place = cut(*place));
    }
    let ones = [1_f32.to_le_bytes(); 3].concat();
    let mut ours = fill(&short, &[(cut(layout.catalog().entries()[1].pieces[0].offset), &ones)]);
    let mut zeros = crc32fast::Hasher::new();
    (0..1 << 12).for_each(|_| zeros.update(&vec![0; 1 << 20]));
    zeros.update(&[0; 5]);
    let sum = zeros.finalize().to_le_bytes();
    for place in of_large.places {
        ours[to_index(cut(place))..][..4].copy_from_slice(&sum);
    }
    check_equal(ours, [head.clone(), tail].concat(), "a large file");
}

#[test]
fn every_element_type_that_is_written_is_read_as_the_same() {
    let mut refused = Vec::new();
    for dtype in Dtype::all() {
        let entry = LayoutEntry { name: "w".into(), dtype, shape: Shape::new([4]) };
        match torch_type(&entry) {
            Ok(torch) => assert_eq!(dtype_named(torch.name), Some(StorageType::Known(dtype))),
            Err(error) => {
                assert!(error.to_string().contains("`w` cannot be written: PyTorch has no tensors"), "{error}");
                refused.push(dtype);
            }
        }
    }
    assert_eq!(refused, [Dtype::F6E2M3, Dtype::F6E3M2, Dtype::F4]);
}
