//! Archives of NumPy arrays, as NumPy and ml_dtypes wrote them, and broken ones.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::thread;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use thalweg_checkpoint::{Checkpoint, Error, Note, open_checkpoint};
use thalweg_tensor::{Dtype, TensorSource};

use crate::support::{disk, fixture, tensor_bytes, write};

fn open(name: &str) -> Checkpoint {
    open_checkpoint(&disk(), &fixture("npz").join(name)).unwrap()
}

fn check_quirks(name: &str) {
    let checkpoint = open(name);
    assert_eq!(checkpoint.format_name(), "npz");
    let expected: serde_json::Value = serde_json::from_slice(&fs::read(fixture("npz/quirks.json")).unwrap()).unwrap();
    let expected = expected.as_object().unwrap();
    assert!(expected.len() > 20);
    for (key, value) in expected {
        let shape: Vec<u64> = value[0].as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap()).collect();
        let entry = &checkpoint.catalog().entries()[checkpoint.catalog().find(key).unwrap()];
        assert_eq!(&*entry.shape.0, shape, "{key}");
        let hex: String = tensor_bytes(&checkpoint, key).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, value[1].as_str().unwrap(), "{key}");
    }
    assert!(checkpoint.notes().contains(&Note::ReadAsBfloat16 { n_tensors: 2 }), "{:?}", checkpoint.notes());
    let bf16 = &checkpoint.catalog().entries()[checkpoint.catalog().find("bf16").unwrap()];
    assert_eq!(bf16.dtype, Dtype::Bf16);
}

#[test]
fn every_type_order_and_version_is_read() {
    check_quirks("quirks.npz");
}

#[test]
fn deflated_arrays_are_the_same() {
    check_quirks("quirks-deflated.npz");
}

#[test]
fn a_deflated_array_is_read_by_many_threads_in_any_order() {
    let checkpoint = open("quirks-deflated.npz");
    let tensor_idx = checkpoint.catalog().find("large").unwrap();
    let check = |first: u64, n: u64| {
        let mut out = vec![0; usize::try_from(n * 4).unwrap()];
        checkpoint.read_elements(tensor_idx, first..first + n, &mut out).unwrap();
        let expected =
            (first..first + n).flat_map(|i| (u16::try_from(i * 7 % 100).map(f32::from)).unwrap().to_le_bytes());
        assert!(out.iter().copied().eq(expected), "{first}");
    };
    thread::scope(|scope| {
        for worker in 0..4 {
            let check = &check;
            scope.spawn(move || {
                (0..15).for_each(|part| check((part * 4 + worker) * 1000, 1000));
                (0..15).rev().for_each(|part| check((part * 4 + worker) * 1000 + 1, 999));
            });
        }
    });
}

#[test]
fn steps_in_both_orders_equal_those_of_torch() {
    for (step, _) in [("60", "in Fortran order"), ("80", "deflated")] {
        let found = open(&format!("step-{step}.npz"));
        let expected = fixture("torch/trainstate/expected").join(format!("step-{step}.f32.safetensors"));
        let expected = open_checkpoint(&disk(), &expected).unwrap();
        assert_eq!(found.catalog().entries().len(), expected.catalog().entries().len());
        for entry in expected.catalog().entries() {
            assert!(tensor_bytes(&found, &entry.name) == tensor_bytes(&expected, &entry.name), "{}", entry.name);
        }
    }
}

#[test]
fn arrays_without_numbers_are_named_and_never_opened() {
    let checkpoint = open("others.npz");
    assert_eq!(checkpoint.catalog().entries().len(), 1);
    let unreadable = &checkpoint.findings().unreadable;
    for (name, reason) in [
        ("objects", "a pickle, which thalweg never opens"),
        ("text", "`<U2` is not a numeric type"),
        ("big-endian", "big-endian"),
        ("float8", "any 8-bit type of ml_dtypes"),
        ("records", "records of several fields"),
        ("complex128", "`<c16` is not a numeric type"),
        ("time", "`<M8[s]` is not a numeric type"),
    ] {
        let found = unreadable.iter().find(|one| one.name == name);
        assert!(found.is_some_and(|found| found.reason.contains(reason)), "{name}: {found:?}");
    }
    assert_eq!(unreadable.len(), 7);
}

/// A record of an archive made by hand.
struct Record<'a> {
    name: &'a str,
    method: u16,
    content: Vec<u8>,
    len_bytes: u32,
    crc: u32,
}

fn array(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    while !(text.len() + 11).is_multiple_of(64) {
        text.push(' ');
    }
    text.push('\n');
    [b"\x93NUMPY\x01\0", &u16::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes(), data].concat()
}

fn stored(name: &str, content: Vec<u8>) -> Record<'_> {
    let (len_bytes, crc) = (u32::try_from(content.len()).unwrap(), crc32fast::hash(&content));
    Record { name, method: 0, content, len_bytes, crc }
}

fn deflated(name: &str, content: &[u8]) -> Record<'static> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    let whole = stored(name, content.to_vec());
    Record { name: "w.npy", method: 8, content: encoder.finish().unwrap(), ..Record { name: "", ..whole } }
}

fn archive(records: &[Record<'_>]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for record in records {
        let offset = u32::try_from(bytes.len()).unwrap();
        let n_content = u32::try_from(record.content.len()).unwrap();
        let n_name = u16::try_from(record.name.len()).unwrap();
        let fields = [
            &[20, 0, 0, 0][..],
            &record.method.to_le_bytes(),
            &[0; 4],
            &record.crc.to_le_bytes(),
            &n_content.to_le_bytes(),
            &record.len_bytes.to_le_bytes(),
            &n_name.to_le_bytes(),
            &[0, 0],
        ]
        .concat();
        let entry = [b"PK\x01\x02\x14\0", &*fields, &[0; 10], &offset.to_le_bytes(), record.name.as_bytes()].concat();
        directory.extend(entry);
        bytes.extend([b"PK\x03\x04", &*fields, record.name.as_bytes(), &record.content].concat());
    }
    let n = u16::try_from(records.len()).unwrap().to_le_bytes();
    let (start, len) = (u32::try_from(bytes.len()).unwrap(), u32::try_from(directory.len()).unwrap());
    bytes.extend(directory);
    bytes.extend([b"PK\x05\x06", &[0; 4][..], &n, &n, &len.to_le_bytes(), &start.to_le_bytes(), &[0, 0]].concat());
    bytes
}

fn open_bytes(folder: &Path, bytes: &[u8]) -> Result<Checkpoint, Error> {
    let path = folder.join("x.npz");
    write(&path, bytes);
    open_checkpoint(&disk(), &path)
}

#[test]
fn archives_that_numpy_does_not_write_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let good = || array("<f4", "(2,)", &[0; 8]);
    let refuse = |records: &[Record<'_>]| {
        let error = open_bytes(folder.path(), &archive(records)).unwrap_err().to_string();
        assert!(error.contains("x.npz") && error.len() < 400, "{error}");
        error
    };
    assert_eq!(open_bytes(folder.path(), &archive(&[stored("w.npy", good())])).unwrap().catalog().entries().len(), 1);
    for (content, reason) in [
        (array("<f4", "(3,)", &[0; 8]), "array `w`: shape [3] of F32 needs 12 bytes, 8 are there"),
        (array("<f4", "(1,)", &[0; 8]), "needs 4 bytes, 8 are there"),
        (array("<f4", "(4294967296, 4294967296, 2)", &[]), "overflows 64 bits"),
        (array("<f4", "(18446744073709551615, 0)", &[0; 1]), "needs 0 bytes, 1 are there"),
        (b"\x93NUMPY\x01\0\xff\xff{".to_vec(), "header is cut short"),
        (b"\x93NUMPY\x02\0\xff\xff\xff\xff{".to_vec(), "more than the limit of 65536"),
        (b"\x93NUMPY".to_vec(), "header is cut short"),
        (b"not an array".to_vec(), "does not begin like a NumPy array"),
        (Vec::new(), "does not begin like a NumPy array"),
    ] {
        assert!(refuse(&[stored("w.npy", content.clone())]).contains(reason), "{reason}");
        assert!(refuse(&[deflated("w.npy", &content)]).contains(reason), "{reason}");
    }
    assert!(refuse(&[Record { method: 14, ..stored("w.npy", good()) }]).contains("zip method 14"));
    assert!(refuse(&[Record { len_bytes: 9, ..stored("w.npy", good()) }]).contains("its two lengths differ"));
    assert!(
        refuse(&[Record { len_bytes: u32::MAX - 1, ..deflated("w.npy", &good()) }])
            .contains("cannot expand to the 4294967294")
    );
    assert!(refuse(&[stored("w.npy", good()), stored("w.npy", good())]).contains("appears twice"));
}

#[test]
fn a_cut_file_is_unfinished() {
    let folder = tempfile::tempdir().unwrap();
    let whole = fs::read(fixture("npz/quirks.npz")).unwrap();
    for n in [0, 3, 100, whole.len() / 2, whole.len() - 1] {
        let error = open_bytes(folder.path(), &whole[..n]).unwrap_err();
        assert!(error.is_unfinished(), "{n}: {error}");
    }
    let pointer =
        open_bytes(folder.path(), b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n").unwrap_err();
    assert!(matches!(pointer, Error::Pointer { .. }), "{pointer}");
    let page = open_bytes(folder.path(), b"<!DOCTYPE html>").unwrap_err();
    assert!(page.to_string().contains("HTML"), "{page}");
}

#[test]
fn packed_bytes_that_are_damaged_are_found_when_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let content = array("<f4", "(1000,)", &(0..1000_u32).flat_map(|i| (i * i).to_le_bytes()).collect::<Vec<_>>());
    let read = |record: Record<'_>| {
        let checkpoint = open_bytes(folder.path(), &archive(&[record])).unwrap();
        let mut out = vec![0; 4000];
        checkpoint.read_elements(0, 0..1000, &mut out).map(|()| out)
    };
    assert_eq!(read(deflated("w.npy", &content)).unwrap(), content[128..]);
    let wrong_sum = read(Record { crc: 1, ..deflated("w.npy", &content) }).unwrap_err();
    let shown = format!("{wrong_sum} {:?}", std::error::Error::source(&wrong_sum).map(ToString::to_string));
    assert!(shown.contains("tensor `w`") && shown.contains("do not match the CRC-32"), "{shown}");
    let mut cut = deflated("w.npy", &content);
    cut.content.truncate(cut.content.len() - 8);
    assert!(read(cut).is_err());
}

#[test]
fn names_of_arrays_are_never_paths_and_other_records_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let records =
        [stored("../../w.npy", array("<f4", "(1,)", &[0; 4])), stored("/etc/passwd.npy", array("<f4", "()", &[0; 4]))];
    let others = [stored("readme.txt", b"hello".to_vec()), stored("folder/", Vec::new())];
    let records: Vec<Record<'_>> = records.into_iter().chain(others).collect();
    let checkpoint = open_bytes(folder.path(), &archive(&records)).unwrap();
    let names: Vec<&str> = checkpoint.catalog().entries().iter().map(|entry| &*entry.name).collect();
    assert_eq!(names, ["../../w", "/etc/passwd"]);
    let left_out = Note::ObjectsLeftOut { names: vec!["folder/".to_owned(), "readme.txt".to_owned()] };
    assert!(checkpoint.notes().contains(&left_out), "{:?}", checkpoint.notes());
}

#[test]
fn a_folder_with_several_archives_is_ambiguous_unless_one_has_the_usual_name() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = archive(&[stored("w.npy", array("<f4", "(1,)", &[0; 4]))]);
    write(&folder.path().join("a.npz"), &bytes);
    assert!(open_checkpoint(&disk(), folder.path()).is_ok());
    write(&folder.path().join("b.npz"), &bytes);
    assert!(matches!(open_checkpoint(&disk(), folder.path()), Err(Error::Ambiguous { .. })));
    write(&folder.path().join("model.npz"), &bytes);
    assert_eq!(open_checkpoint(&disk(), folder.path()).unwrap().files()[0].name, "model.npz");
}

#[test]
fn stored_bytes_that_are_damaged_are_found_once_all_of_the_array_was_read() {
    let folder = tempfile::tempdir().unwrap();
    let content = array("<f4", "(1000,)", &(0..1000_u32).flat_map(|i| (i * i).to_le_bytes()).collect::<Vec<_>>());
    let read = |bytes: &[u8], parts: &[(u64, u64)]| -> Result<(), String> {
        let checkpoint = open_bytes(folder.path(), bytes).unwrap();
        for &(from, to) in parts {
            let mut out = vec![0; usize::try_from(4 * (to - from)).unwrap()];
            let read = checkpoint.read_elements(0, from..to, &mut out);
            read.map_err(|error| format!("{error} {:?}", std::error::Error::source(&error).map(ToString::to_string)))?;
        }
        Ok(())
    };
    let sound = archive(&[stored("w.npy", content.clone())]);
    for parts in [&[(0, 1000)][..], &[(500, 1000), (0, 500)], &[(0, 400), (700, 1000), (400, 700)]] {
        read(&sound, parts).unwrap();
        for at in [200, 3000] {
            let mut damaged = sound.clone();
            damaged[at] ^= 0x10;
            let error = read(&damaged, parts).unwrap_err();
            assert!(
                error.contains("tensor `w`") && error.contains("do not match the CRC-32"),
                "{at} {parts:?}: {error}"
            );
        }
    }
    // Half of the array alone says nothing about the whole.
    let mut damaged = sound.clone();
    damaged[3000] ^= 0x10;
    read(&damaged, &[(0, 500)]).unwrap();
}
