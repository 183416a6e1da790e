//! Outputs: laid out, staged, read back, and read by the reference library.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::TensorView;
use thalweg_checkpoint::{
    Error, LayoutEntry, Manifest, OutputLayout, StagedCheckpoint, commit_checkpoint, layout_output, open_checkpoint,
};
use thalweg_storage::Unwatched;
use thalweg_storage::publish::Replace;
use thalweg_tensor::{Dtype, Shape, TensorSink, TensorSource};

use crate::support::{disk, rules, tensor_bytes};

fn entry(name: &str, dtype: Dtype, dims: &[u64]) -> LayoutEntry {
    LayoutEntry { name: name.into(), dtype, shape: Shape::new(dims) }
}

/// Tensors of all widths, an empty one, a scalar, a name that needs escapes, odd sizes.
fn mixed_entries() -> Vec<LayoutEntry> {
    vec![
        entry("z", Dtype::F32, &[3, 5]),
        entry("a \"quoted\" \\ name\n", Dtype::U8, &[7]),
        entry("half", Dtype::Bf16, &[3]),
        entry("half.2", Dtype::F16, &[1]),
        entry("count", Dtype::I64, &[]),
        entry("empty", Dtype::F64, &[2, 0]),
        entry("layers.10.w", Dtype::F64, &[2]),
        entry("layers.2.w", Dtype::Bf16, &[9]),
    ]
}

/// Bytes that differ from tensor to tensor and along each.
fn content(tensor_idx: usize, n_bytes: u64) -> Vec<u8> {
    (0..n_bytes).map(|at| u8::try_from((at * 7 + tensor_idx as u64 * 31 + 1) % 251).unwrap()).collect()
}

fn layout(max_shard_bytes: u64) -> Arc<OutputLayout> {
    Arc::new(layout_output(&mixed_entries(), max_shard_bytes, &BTreeMap::new()).unwrap())
}

/// Stages the mixed tensors, last element first, and adds what makes the folder whole.
fn index_bytes(layout: &OutputLayout) -> Option<&[u8]> {
    layout.documents().first().map(|document| &*document.bytes)
}

fn stage(folder: &Path, layout: &Arc<OutputLayout>) -> StagedCheckpoint {
    let staged = StagedCheckpoint::create(&disk(), folder, Arc::clone(layout)).unwrap();
    for (tensor_idx, entry) in layout.catalog().entries().iter().enumerate().rev() {
        let bytes = content(tensor_idx, entry.n_bytes());
        let width = usize::try_from(entry.dtype.bytes().unwrap()).unwrap();
        for (first_element, element) in bytes.chunks(width).enumerate().rev() {
            staged.write_elements(tensor_idx, first_element as u64, element).unwrap();
        }
    }
    staged.sync().unwrap();
    staged
}

fn finish_by_hand(folder: &Path, layout: &OutputLayout) {
    if let Some(index) = index_bytes(layout) {
        fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    }
}

#[test]
fn a_written_file_equals_the_reference_writer_byte_for_byte() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = layout(u64::MAX);
    stage(scratch.path(), &layout);
    let ours = fs::read(scratch.path().join("model.safetensors")).unwrap();
    let contents: Vec<(String, Vec<u8>, safetensors::Dtype, Vec<usize>)> = layout
        .catalog()
        .entries()
        .iter()
        .enumerate()
        .map(|(tensor_idx, entry)| {
            let dtype = serde_json::from_str(&format!("\"{}\"", entry.dtype)).unwrap();
            let shape = entry.shape.0.iter().map(|&dim| usize::try_from(dim).unwrap()).collect();
            (entry.name.to_string(), content(tensor_idx, entry.n_bytes()), dtype, shape)
        })
        .collect();
    let views = contents
        .iter()
        .map(|(name, bytes, dtype, shape)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let theirs = safetensors::serialize(views, Some(metadata)).unwrap();
    assert_eq!(ours, theirs);
}

#[test]
fn shards_of_any_size_are_read_by_the_reference_and_by_us() {
    for max_shard_bytes in [0, 1, 16, 40, 100] {
        let scratch = tempfile::tempdir().unwrap();
        let layout = layout(max_shard_bytes);
        stage(scratch.path(), &layout);
        finish_by_hand(scratch.path(), &layout);
        let ours = open_checkpoint(&disk(), scratch.path()).unwrap();
        assert_eq!(ours.notes(), [], "{max_shard_bytes}");
        assert_eq!(ours.catalog(), layout.catalog());
        assert_eq!(ours.metadata()["format"], "pt");
        for (tensor_idx, entry) in layout.catalog().entries().iter().enumerate() {
            assert_eq!(tensor_bytes(&ours, &entry.name), content(tensor_idx, entry.n_bytes()), "{}", entry.name);
        }
        for file in layout.files() {
            let bytes = fs::read(scratch.path().join(&file.name)).unwrap();
            assert_eq!(bytes.len() as u64, file.len_bytes);
            let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            assert_eq!(theirs.len(), file.tensors.len());
        }
        assert_eq!(layout.files().iter().map(|file| file.len_bytes).sum::<u64>(), layout.len_bytes());
    }
}

#[test]
fn a_stage_is_reopened_only_for_the_same_layout() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = layout(40);
    let first = stage(scratch.path(), &layout);
    drop(first);
    let again = StagedCheckpoint::reopen(&disk(), scratch.path(), Arc::clone(&layout)).unwrap();
    let tensor_idx = layout.catalog().find("z").unwrap();
    let mut out = [0; 8];
    again.read_back(tensor_idx, 1..3, &mut out).unwrap();
    assert_eq!(out, content(tensor_idx, 60)[4..12]);

    let refuse = |expected: &str| {
        let error = StagedCheckpoint::reopen(&disk(), scratch.path(), Arc::clone(&layout)).unwrap_err();
        assert!(matches!(error, Error::StageMismatch { .. }) && error.to_string().contains(expected), "{error}");
        assert!(error.hint().is_some());
    };
    let path = scratch.path().join(&layout.files()[1].name);
    let whole = fs::read(&path).unwrap();
    let mut renamed = whole.clone();
    renamed[20] ^= 1;
    fs::write(&path, renamed).unwrap();
    refuse("its header lists other tensors");
    fs::write(&path, &whole[1..]).unwrap();
    refuse("expected");
    fs::remove_file(&path).unwrap();
    refuse("the file is missing");
}

#[test]
fn a_stage_never_writes_over_what_is_there_or_beside_its_tensors() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = layout(40);
    let mut staged = stage(scratch.path(), &layout);
    assert!(StagedCheckpoint::create(&disk(), scratch.path(), Arc::clone(&layout)).is_err());
    let tensor_idx = layout.catalog().find("half").unwrap();
    for (first_element, n_bytes) in [(0, 8), (3, 2), (u64::MAX, 2), (0, 3)] {
        assert!(
            staged.write_elements(tensor_idx, first_element, &vec![1; n_bytes]).is_err(),
            "{first_element} {n_bytes}"
        );
    }
    assert!(staged.write_elements(99, 0, &[1]).is_err());
    staged.add_file("config.json", b"{}").unwrap();
    for name in ["config.json", "model.safetensors.index.json", &layout.files()[0].name.clone()] {
        assert!(matches!(staged.add_file(name, b"x"), Err(Error::DuplicateFile { .. })), "{name}");
    }
    for name in ["../config.json", "a/b", "", "/etc/passwd", "."] {
        assert!(matches!(staged.add_file(name, b"x"), Err(Error::BadFileName { .. })), "{name}");
    }
}

#[test]
fn elements_of_every_size_read_back_as_they_were_written() {
    let scratch = tempfile::tempdir().unwrap();
    let sizes =
        [(Dtype::U8, 7 * (1 << 20) + 3), (Dtype::F6E2M3, 8 * (1 << 20)), (Dtype::F32, 0), (Dtype::F64, 1 << 17)];
    let entries: Vec<LayoutEntry> =
        sizes.iter().enumerate().map(|(i, (dtype, n))| entry(&format!("{i}"), *dtype, &[*n])).collect();
    let layout = Arc::new(layout_output(&entries, u64::MAX, &BTreeMap::new()).unwrap());
    let staged = StagedCheckpoint::create(&disk(), scratch.path(), Arc::clone(&layout)).unwrap();
    for (tensor_idx, entry) in layout.catalog().entries().iter().enumerate() {
        let bytes = content(tensor_idx, entry.n_bytes());
        staged.write_elements(tensor_idx, 0, &bytes).unwrap();
    }
    staged.sync().unwrap();
    let checkpoint = open_checkpoint(&disk(), scratch.path()).unwrap();
    for (tensor_idx, entry) in layout.catalog().entries().iter().enumerate() {
        assert!(tensor_bytes(&checkpoint, &entry.name) == content(tensor_idx, entry.n_bytes()), "{}", entry.name);
    }
    let mut out = vec![0; 3];
    checkpoint.read_elements(1, 4..8, &mut out).unwrap();
    assert_eq!(out, content(1, 6)[3..6]);
    assert!(checkpoint.read_elements(1, 1..5, &mut out).is_err());
}

#[test]
fn a_hundred_thousand_tensors_and_shards_are_laid_out() {
    let entries: Vec<LayoutEntry> =
        (0..100_000).map(|i| entry(&format!("model.layers.{i}.w"), Dtype::F32, &[2, 4])).collect();
    let one = layout_output(&entries, u64::MAX, &BTreeMap::new()).unwrap();
    assert_eq!(one.files().len(), 1);
    let many = layout_output(&entries, 32, &BTreeMap::new()).unwrap();
    assert_eq!(many.files().len(), 100_000);
    assert_eq!(many.files()[99_999].name, "model-100000-of-100000.safetensors");
    let index: serde_json::Value = serde_json::from_slice(index_bytes(&many).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], 3_200_000);
    assert_eq!(index["metadata"]["total_parameters"], 800_000);
    let parsed = thalweg_checkpoint::index::parse_index(index_bytes(&many).unwrap()).unwrap();
    assert_eq!(parsed.files.len(), 100_000);
}

#[test]
fn layouts_place_tensors_beyond_32_bits() {
    let scratch = tempfile::tempdir().unwrap();
    let big = (1_u64 << 32) + 2;
    let entries = [entry("a", Dtype::Bf16, &[big / 2]), entry("b", Dtype::Bf16, &[2])];
    let layout = Arc::new(layout_output(&entries, u64::MAX, &BTreeMap::new()).unwrap());
    // Made by hand, because a stage reserves its space on the disk and this test does not need it.
    let file = fs::File::create(scratch.path().join("model.safetensors")).unwrap();
    file.set_len(layout.len_bytes()).unwrap();
    file.write_all_at(layout.files()[0].header(), 0).unwrap();
    let staged = StagedCheckpoint::reopen(&disk(), scratch.path(), Arc::clone(&layout)).unwrap();
    staged.write_elements(1, 0, b"abcd").unwrap();
    staged.write_elements(0, big / 2 - 1, b"xy").unwrap();
    staged.sync().unwrap();
    let checkpoint = open_checkpoint(&disk(), scratch.path()).unwrap();
    assert_eq!(tensor_bytes(&checkpoint, "b"), b"abcd");
    let mut out = [0; 2];
    checkpoint.read_elements(0, big / 2 - 1..big / 2, &mut out).unwrap();
    assert_eq!(&out, b"xy");
}

const MANIFEST: Manifest<'_> = Manifest { name: "thalweg.json", bytes: b"{\"kind\":\"receipt\"}" };

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

#[test]
fn a_committed_checkpoint_holds_the_output_and_what_someone_else_put_there() {
    let scratch = tempfile::tempdir().unwrap();
    let (partial, target) = (scratch.path().join("out.partial"), scratch.path().join("out"));
    let layout = layout(40);
    fs::create_dir_all(&partial).unwrap();
    fs::write(partial.join("notes.md"), "not ours to remove").unwrap();
    fs::write(partial.join("journal"), "x").unwrap();
    fs::write(partial.join("thalweg.json"), "of another attempt").unwrap();
    let mut staged = stage(&partial, &layout);
    staged.add_file("config.json", b"{}").unwrap();
    commit_checkpoint(
        staged,
        &target,
        MANIFEST,
        rules(Replace::Never, &BTreeSet::from(["journal".to_owned()])),
        &Unwatched,
    )
    .unwrap();
    let mut expected: Vec<String> = layout.files().iter().map(|file| file.name.clone()).collect();
    expected.extend(["config.json", "model.safetensors.index.json", "notes.md", "thalweg.json"].map(str::to_owned));
    expected.sort();
    assert_eq!(names_in(&target), expected);
    assert_eq!(names_in(scratch.path()), ["out"]);
    assert_eq!(fs::read(target.join("thalweg.json")).unwrap(), MANIFEST.bytes);
    assert_eq!(open_checkpoint(&disk(), &target).unwrap().notes(), []);
}

#[test]
fn an_existing_output_is_replaced_only_when_asked() {
    let scratch = tempfile::tempdir().unwrap();
    let (partial, target) = (scratch.path().join("out.partial"), scratch.path().join("out"));
    fs::create_dir(&target).unwrap();
    fs::write(target.join("model-00009-of-00009.safetensors"), "old").unwrap();
    let layout = layout(40);
    let error = commit_checkpoint(
        stage(&partial, &layout),
        &target,
        MANIFEST,
        rules(Replace::Never, &BTreeSet::new()),
        &Unwatched,
    )
    .unwrap_err();
    assert!(matches!(error, Error::OutputExists { .. }), "{error}");
    assert!(error.to_string().ends_with(&format!("is in `{}`", partial.display())), "{error}");
    assert_eq!(names_in(&target), ["model-00009-of-00009.safetensors"]);

    // The refused stage is whole and can be taken up again.
    let again = StagedCheckpoint::reopen(&disk(), &partial, Arc::clone(&layout)).unwrap();
    for name in [&*layout.files()[0].name, "model.safetensors.index.json", "../x", "a/b"] {
        let taken = Manifest { name, bytes: b"" };
        let again = StagedCheckpoint::reopen(&disk(), &partial, Arc::clone(&layout)).unwrap();
        assert!(
            commit_checkpoint(again, &target, taken, rules(Replace::Force, &BTreeSet::new()), &Unwatched).is_err(),
            "{name}"
        );
    }
    commit_checkpoint(again, &target, MANIFEST, rules(Replace::Force, &BTreeSet::new()), &Unwatched).unwrap();
    assert_eq!(names_in(scratch.path()), ["out"]);
    assert_eq!(open_checkpoint(&disk(), &target).unwrap().notes(), []);
}

#[test]
fn outputs_of_many_shards_do_not_keep_them_all_open() {
    let scratch = tempfile::tempdir().unwrap();
    let (partial, target) = (scratch.path().join("out.partial"), scratch.path().join("out"));
    let entries: Vec<LayoutEntry> = (0..300).map(|i| entry(&format!("{i:03}"), Dtype::U8, &[2])).collect();
    let layout = Arc::new(layout_output(&entries, 2, &BTreeMap::new()).unwrap());
    let staged = StagedCheckpoint::create(&disk(), &partial, Arc::clone(&layout)).unwrap();
    let n_open = || {
        let links = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.filter(|path| path.starts_with(&partial)).count()
    };
    assert!((1..=48).contains(&n_open()), "{}", n_open());
    for tensor_idx in (0..300).rev() {
        staged.write_elements(tensor_idx, 0, &content(tensor_idx, 2)).unwrap();
    }
    assert!(n_open() <= 48);
    commit_checkpoint(staged, &target, MANIFEST, rules(Replace::Never, &BTreeSet::new()), &Unwatched).unwrap();
    let written = open_checkpoint(&disk(), &target).unwrap();
    for tensor_idx in 0..300 {
        assert_eq!(tensor_bytes(&written, &format!("{tensor_idx:03}")), content(tensor_idx, 2));
    }
}
