//! Outputs with the files of an existing checkpoint, over checkpoints that other programs wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_checkpoint::format::torch::archive::Archive;
use thalweg_checkpoint::{
    Checkpoint, FrameContent, FrameCopies, FrameCopy, LayoutEntry, Manifest, Params, ReadOptions, RenameMap,
    StagedCheckpoint, Template, commit_checkpoint, layout_like, open_checkpoint_with,
};
use thalweg_storage::Unwatched;
use thalweg_storage::publish::Replace;
use thalweg_tensor::{Dtype, TensorEntry, TensorSink, TensorSource};
use thalweg_testkit::TinyCheckpoint;

use crate::support::{disk, fixture, rules, tensor_bytes};

const WRITTEN: [(&str, ReadOptions); 22] = [
    ("dcp-fsdp2/step-60", PLAIN),
    ("dcp-2d/step-20", PLAIN),
    ("dcp-hf-sharded/step-20", PLAIN),
    ("dcp-variants/async", PLAIN),
    ("dcp-variants/file-per-item", PLAIN),
    ("dcp-variants/threads-3", PLAIN),
    ("megatron-torch_dist/iter_0000060", PLAIN),
    ("deepspeed/zero1/global_step80", PLAIN),
    ("deepspeed/zero1/global_step80", MODULE),
    ("deepspeed/zero3/global_step80", PLAIN),
    ("deepspeed/universal/global_step80_universal", PLAIN),
    ("torch/bin-sharded/step-60", PLAIN),
    ("torch/trainstate/step-60.pt", PLAIN),
    ("trainers/torchtitan/step-30", PLAIN),
    ("dcp-fsdp2/step-60", STATE),
    ("megatron-torch_dist/iter_0000060", STATE),
    ("torch/trainstate/step-60.pt", STATE),
    ("trainers/torchtitan/step-30", STATE),
    ("deepspeed/zero1/global_step80", STATE),
    ("deepspeed/zero3/global_step80", STATE),
    ("trainers/other-ranks/deepspeed-zero2/global_step20", STATE),
    ("trainers/other-ranks/deepspeed-universal/global_step20_universal", STATE),
];
const PLAIN: ReadOptions = reading(None, false);
const MODULE: ReadOptions = reading(Some(Params::Module), false);
const STATE: ReadOptions = reading(None, true);

const fn reading(params: Option<Params>, optimizer: bool) -> ReadOptions {
    ReadOptions { key: None, params, rename: RenameMap(Vec::new()), to_huggingface: None, optimizer, dequantise: false }
}

fn open(path: &Path, options: &ReadOptions) -> Checkpoint {
    open_checkpoint_with(&disk(), path, options).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files_below(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                let name = entry.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(entry).unwrap());
            }
        }
    }
    found
}

/// The tensors of a checkpoint, to lay out.
fn entries_of(source: &Checkpoint) -> Vec<LayoutEntry> {
    let entry = |entry: &thalweg_tensor::TensorEntry| LayoutEntry {
        name: entry.name.clone(),
        dtype: entry.dtype,
        shape: entry.shape.clone(),
    };
    source.catalog().entries().iter().map(entry).collect()
}

/// Writes an output with the files of `source`, whose elements `change` has changed, into `target`.
fn write_like(source: &Checkpoint, target: &Path, n_bytes_at_once: u64, change: impl Fn(u8) -> u8) {
    let entries = entries_of(source);
    let template = Template { checkpoint: source, other_copy: None, replaced: &BTreeSet::new() };
    let layout = Arc::new(layout_like(&disk(), &template, &entries).unwrap());
    let stage = target.with_extension("stage");
    let staged = StagedCheckpoint::create(&disk(), &stage, layout).unwrap();
    let copy_all = |copies: Vec<FrameCopy>| {
        copies.iter().for_each(|copy| staged.copy_frame(copy, &mut Vec::new()).unwrap());
    };
    let FrameCopies { before, after, last } = staged.frame_copies(1000);
    copy_all(before);
    for (t, entry) in source.catalog().entries().iter().enumerate().rev() {
        let step = (n_bytes_at_once / entry.dtype.bytes().unwrap()).max(1);
        for first in (0..entry.n_elements()).step_by(usize::try_from(step).unwrap()) {
            let elements = first..entry.n_elements().min(first + step);
            let n_bytes = entry.dtype.bytes_of(elements.end - elements.start).unwrap();
            let mut bytes = vec![0; usize::try_from(n_bytes).unwrap()];
            source.read_elements(t, elements.clone(), &mut bytes).unwrap();
            bytes.iter_mut().for_each(|byte| *byte = change(*byte));
            staged.write_elements(t, first, &bytes).unwrap();
            let mut back = vec![0; bytes.len()];
            staged.read_back(t, elements, &mut back).unwrap();
            assert_eq!(back, bytes);
        }
    }
    copy_all(after);
    let unfinished = output_path(source.path(), &stage);
    assert!(open_checkpoint_with(&disk(), &unfinished, &PLAIN).is_err(), "{}", source.path().display());
    copy_all(last);
    commit_checkpoint(
        staged,
        target,
        Manifest { name: "receipt", bytes: b"{}" },
        rules(Replace::Never, &BTreeSet::new()),
        &Unwatched,
    )
    .unwrap();
}

/// The path to open in an output: a file if the source was one.
fn output_path(source: &Path, target: &Path) -> PathBuf {
    if source.is_dir() { target.to_owned() } else { target.join(source.file_name().unwrap()) }
}

#[test]
fn equal_elements_give_equal_files() {
    let scratch = tempfile::tempdir().unwrap();
    for (number, (name, options)) in WRITTEN.iter().enumerate() {
        let path = fixture(name);
        let target = scratch.path().join(format!("out{number}"));
        write_like(&open(&path, options), &target, 777, |byte| byte);
        let mut written = files_below(&target);
        assert!(written.remove("receipt").is_some());
        if path.is_dir() {
            assert!(files_below(&path) == written, "{name}: {:?}", written.keys());
        } else {
            assert!(written.into_values().eq([fs::read(&path).unwrap()]), "{name}");
        }
    }
}

/// Checkpoints of Orbax, whose store is written anew.
fn rewritten() -> Vec<(&'static str, ReadOptions)> {
    let variants = ["zarr2-plain", "zarr3-plain", "zarr3-ocdbt", "zarr2-small-chunks", "zarr3-small-chunks"];
    let variants = variants.map(|name| (format!("orbax/variants/{name}").leak() as &str, PLAIN));
    let key = |key: &str| ReadOptions { key: Some(key.to_owned()), ..PLAIN };
    let others = [
        ("orbax/manager/20", PLAIN),
        ("orbax/manager/20/default", PLAIN),
        ("orbax/manager/20", key("opt_state")),
        ("orbax/maxtext/20", PLAIN),
        ("orbax/levanter/step-20", PLAIN),
        ("orbax/tensorstore", key(".")),
        ("orbax/tensorstore", key("of")),
    ];
    variants.into_iter().chain(others).collect()
}

#[test]
fn a_store_that_is_written_anew_keeps_what_is_beside_the_tensors() {
    let scratch = tempfile::tempdir().unwrap();
    let whole = ReadOptions { key: Some(".".to_owned()), ..PLAIN };
    for (number, (name, options)) in rewritten().into_iter().enumerate() {
        let (path, target) = (fixture(name), scratch.path().join(format!("out{number}")));
        let source = open(&path, &options);
        write_like(&source, &target, 4096, |byte| byte ^ 0x55);
        let [all, found] = [&path, &target].map(|path| open(path, &whole));
        let names =
            |one: &Checkpoint| one.catalog().entries().iter().map(|entry| entry.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&all), names(&found), "{name}");
        for entry in all.catalog().entries() {
            let is_merged = source.catalog().find(&entry.name).is_some();
            let changed = |byte: &u8| if is_merged { byte ^ 0x55 } else { *byte };
            let bytes = tensor_bytes(&all, &entry.name).iter().map(changed).collect::<Vec<u8>>();
            assert!(tensor_bytes(&found, &entry.name) == bytes, "{name}: {}", entry.name);
        }
        // Twice is the same, and files that are not of the store are copied.
        let again = scratch.path().join(format!("again{number}"));
        write_like(&source, &again, 777, |byte| byte ^ 0x55);
        let (before, after) = (files_below(&path), files_below(&target));
        assert!(after == files_below(&again), "{name}");
        for (file, bytes) in &before {
            let rooted = format!("/{file}");
            let is_of_store = ["/manifest.ocdbt", "/d/", "/ocdbt.process_"].iter().any(|part| rooted.contains(part));
            let is_of_array = source.files().iter().any(|known| known.name == *file && file != "metadata.json");
            let is_copied = !is_of_store && !is_of_array && !file.ends_with(".zarray") && !file.ends_with("zarr.json");
            assert!(!is_copied || after.get(file) == Some(bytes) || file.starts_with("expected/"), "{name}: {file}");
        }
    }
}

#[test]
fn other_elements_are_read_back_and_archives_keep_right_sums() {
    let scratch = tempfile::tempdir().unwrap();
    let mut n_sums = 0;
    for (number, (name, options)) in WRITTEN.iter().enumerate() {
        let (path, target) = (fixture(name), scratch.path().join(format!("out{number}")));
        let source = open(&path, options);
        write_like(&source, &target, 4096, |byte| byte ^ 0x55);
        let found = open(&output_path(&path, &target), options);
        assert_eq!(found.format_name(), source.format_name());
        assert_eq!(found.catalog().entries().len(), source.catalog().entries().len(), "{name}");
        for (t, entry) in source.catalog().entries().iter().enumerate() {
            let mut bytes = [0, 1].map(|_| vec![0; usize::try_from(entry.n_bytes()).unwrap()]);
            source.read_elements(t, 0..entry.n_elements(), &mut bytes[0]).unwrap();
            found.read_elements(t, 0..entry.n_elements(), &mut bytes[1]).unwrap();
            assert!(bytes[0].iter().zip(&bytes[1]).all(|(a, b)| a ^ 0x55 == *b), "{name}: {}", entry.name);
        }
        n_sums += files_below(&target).keys().map(|file| check_sums(&target.join(file))).sum::<usize>();
    }
    assert!(n_sums > 100, "{n_sums}");
}

/// Compares the sums of an archive with its data; returns how many there are.
fn check_sums(path: &Path) -> usize {
    let file = disk().open_file(path).unwrap();
    let bytes = fs::read(path).unwrap();
    if !bytes.starts_with(b"PK\x03\x04") || path.extension().is_some_and(|extension| extension == "distcp") {
        return 0;
    }
    let sums = Archive::open(&*file, 0..bytes.len() as u64).unwrap().record_sums(&*file).unwrap();
    for sum in &sums {
        let data = &bytes[usize::try_from(sum.range.start).unwrap()..usize::try_from(sum.range.end).unwrap()];
        for place in &sum.places {
            let at = usize::try_from(*place).unwrap();
            assert_eq!(crc32fast::hash(data).to_le_bytes(), bytes[at..at + 4], "{}", path.display());
        }
        assert!(!sum.places.is_empty());
    }
    sums.len()
}

#[test]
fn formats_that_store_elements_more_than_once_are_refused() {
    for name in ["megatron-legacy/iter_0000060", "torch-checkpointing/one-rank/step-10"] {
        let source = open(&fixture(name), &PLAIN);
        let template = Template { checkpoint: &source, other_copy: None, replaced: &BTreeSet::new() };
        let error = layout_like(&disk(), &template, &[]).unwrap_err();
        assert!(error.to_string().contains("more than once") && error.hint().is_some(), "{error}");
    }
}

#[test]
fn a_file_that_changes_while_its_frame_is_copied_is_noticed() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("step-60.pt");
    fs::copy(fixture("torch/trainstate/step-60.pt"), &path).unwrap();
    let source = open(&path, &PLAIN);
    let entries = entries_of(&source);
    let template = Template { checkpoint: &source, other_copy: None, replaced: &BTreeSet::new() };
    let layout = Arc::new(layout_like(&disk(), &template, &entries).unwrap());
    let staged = StagedCheckpoint::create(&disk(), &scratch.path().join("stage"), layout).unwrap();
    let copies: Vec<_> = staged.frame_copies(1000).in_order().collect();
    staged.copy_frame(&copies[0], &mut Vec::new()).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.push(0);
    fs::write(&path, bytes).unwrap();
    let error = staged.copy_frame(&copies[1], &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("changed while it was read"), "{error}");
}

#[test]
fn a_copy_of_the_parameters_in_fp8_is_refused_before_the_merge() {
    let scratch = tempfile::tempdir().unwrap();
    let source = open(&fixture("torch/trainstate/step-60.pt"), &PLAIN);
    let entries = entries_of(&source);
    for (dtype, is_refused) in [(Dtype::F8E4M3, true), (Dtype::I8, true), (Dtype::Bf16, false)] {
        let (first, n_elements) = (&entries[0], source.catalog().entries()[0].n_elements());
        let bytes = vec![0; usize::try_from(dtype.bytes_of(n_elements).unwrap()).unwrap()];
        let path = scratch.path().join(dtype.name());
        TinyCheckpoint::new().raw_tensor(&first.name, dtype, &first.shape.0, &bytes).write_to_disk(&path);
        let other = open(&path, &PLAIN);
        let template = Template { checkpoint: &source, other_copy: Some(&other), replaced: &BTreeSet::new() };
        let refused = layout_like(&disk(), &template, &entries).err().map(|error| error.to_string());
        let names_it =
            refused.as_ref().is_some_and(|error| error.contains(dtype.name()) && error.contains(&*first.name));
        assert_eq!(names_it, is_refused, "{refused:?}");
    }
}

#[test]
fn what_is_rounded_from_the_merge_is_not_copied_before() {
    let folder = fixture("deepspeed/zero1/global_step80");
    let (source, other) = (open(&folder, &PLAIN), open(&folder, &MODULE));
    let template = Template { checkpoint: &source, other_copy: Some(&other), replaced: &BTreeSet::new() };
    let layout = layout_like(&disk(), &template, &entries_of(&source)).unwrap();
    let parts = layout.files().iter().flat_map(|file| &file.frame);
    let n_copied: u64 = parts
        .map(|part| match &part.content {
            FrameContent::Copy(from) => from.len_bytes,
            FrameContent::Bytes(bytes) => bytes.len() as u64,
        })
        .sum();
    let n_bytes = |entries: &[TensorEntry]| entries.iter().map(TensorEntry::n_bytes).sum::<u64>();
    let (merged, rounded) = (n_bytes(layout.catalog().entries()), n_bytes(layout.copies().entries()));
    let n_all: u64 = layout.files().iter().map(|file| file.len_bytes).sum();
    assert!(rounded > 0);
    assert_eq!(n_copied + merged + rounded, n_all);
}
