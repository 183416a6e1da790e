//! Outputs in the formats of PyTorch: staged, sealed, and opened again.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use thalweg_checkpoint::{
    Checkpoint, CopiedBytes, DcpExtras, DcpObject, Error, LayoutEntry, Look, MegatronExtras, Note, OrbaxExtras,
    OutputLayout, Params, PathPart, ReadOptions, StagedCheckpoint, dcp_extras, layout_dcp, layout_megatron_dist,
    layout_orbax, layout_torch, open_checkpoint, open_checkpoint_with,
};
use thalweg_tensor::{Dtype, Shape, TensorSink};

use crate::support::{disk, fixture, tensor_bytes};

fn entry(name: &str, dtype: Dtype, dims: &[u64]) -> LayoutEntry {
    LayoutEntry { name: name.into(), dtype, shape: Shape::new(dims) }
}

/// A tensor of each type that PyTorch has, scalars, empty ones, odd names and sizes.
fn mixed_entries() -> Vec<LayoutEntry> {
    let mut entries: Vec<LayoutEntry> = Dtype::all()
        .filter(|dtype| !matches!(dtype, Dtype::F4 | Dtype::F6E2M3 | Dtype::F6E3M2))
        .map(|dtype| entry(&format!("of.{dtype}"), dtype, &[3, 5]))
        .collect();
    entries.extend([
        entry("z", Dtype::F32, &[3, 5]),
        entry("a \"quoted\" \\ 'name'\n", Dtype::U8, &[7]),
        entry("schön.重み.🦀", Dtype::Bf16, &[1, 1, 1, 1, 3]),
        entry("", Dtype::F16, &[2]),
        entry("count", Dtype::I64, &[]),
        entry("flag", Dtype::U32, &[]),
        entry("empty", Dtype::F64, &[2, 0]),
        entry("empty.first", Dtype::U16, &[0, 3]),
        entry("layers.10.w", Dtype::F64, &[2]),
        entry("layers.2.w", Dtype::Bf16, &[300, 70]),
    ]);
    entries
}

/// Bytes that differ from tensor to tensor and along each.
fn content(tensor_idx: usize, n_bytes: u64) -> Vec<u8> {
    (0..n_bytes).map(|at| u8::try_from((at * 7 + tensor_idx as u64 * 31 + 1) % 251).unwrap()).collect()
}

#[derive(Clone, Copy)]
enum Order {
    Forward,
    /// Last tensor first, in pieces of a few elements, last piece first.
    Backward,
}

/// Writes an output as a commit does, but for the receipt.
fn write_output(folder: &Path, layout: OutputLayout, order: Order) {
    let layout = Arc::new(layout);
    let mut staged = StagedCheckpoint::create(&disk(), folder, Arc::clone(&layout)).unwrap();
    let mut buffer = Vec::new();
    for copy in staged.frame_copies(100).in_order() {
        staged.copy_frame(&copy, &mut buffer).unwrap();
    }
    let mut tensors: Vec<_> = layout.catalog().entries().iter().enumerate().collect();
    if matches!(order, Order::Backward) {
        tensors.reverse();
    }
    for (tensor_idx, entry) in tensors {
        let bytes = content(tensor_idx, entry.n_bytes());
        let width = usize::try_from(entry.dtype.bytes().unwrap()).unwrap();
        match order {
            Order::Forward => staged.write_elements(tensor_idx, 0, &bytes).unwrap(),
            Order::Backward => {
                let n_elements = 1 + tensor_idx % 3;
                for (number, piece) in bytes.chunks(n_elements * width).enumerate().rev() {
                    staged.write_elements(tensor_idx, (number * n_elements) as u64, piece).unwrap();
                }
            }
        }
    }
    staged.seal("thalweg.json", b"{}", &Default::default()).unwrap();
}

fn check_read_back(checkpoint: &Checkpoint, entries: &[LayoutEntry]) {
    let mut sorted: Vec<&LayoutEntry> = entries.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(checkpoint.catalog().entries().len(), sorted.len());
    checkpoint.look_inside(Look::EachPiece).unwrap();
    for (tensor_idx, entry) in sorted.into_iter().enumerate() {
        let found = &checkpoint.catalog().entries()[tensor_idx];
        assert_eq!((&found.name, found.dtype, &found.shape), (&entry.name, entry.dtype, &entry.shape));
        assert!(tensor_bytes(checkpoint, &entry.name) == content(tensor_idx, found.n_bytes()), "{}", entry.name);
    }
}

fn files_in(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for path in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push((path.strip_prefix(folder).unwrap().display().to_string(), fs::read(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

/// Writes a layout twice, in different orders, and opens the result.
fn check_output(format: &str, entries: &[LayoutEntry], lay: &dyn Fn() -> OutputLayout) -> Checkpoint {
    let scratch = tempfile::tempdir().unwrap();
    let (forward, backward) = (scratch.path().join("forward"), scratch.path().join("backward"));
    write_output(&forward, lay(), Order::Forward);
    write_output(&backward, lay(), Order::Backward);
    assert!(files_in(&forward) == files_in(&backward), "the bytes depend on the order");
    let checkpoint = open_checkpoint(&disk(), &forward).unwrap();
    assert_eq!(checkpoint.format_name(), format);
    check_read_back(&checkpoint, entries);
    checkpoint
}

#[test]
fn files_of_torch_save_are_read_as_they_were_laid_out() {
    let entries = mixed_entries();
    for max_shard_bytes in [u64::MAX, 100_000, 100, 1] {
        let lay = || layout_torch(&entries, max_shard_bytes).unwrap();
        let checkpoint = check_output("torch", &entries, &lay);
        assert_eq!(checkpoint.notes(), [], "{max_shard_bytes}");
        assert_eq!(checkpoint.catalog(), lay().catalog());
        assert_eq!(lay().files().len() == 1, max_shard_bytes > 50_000, "{max_shard_bytes}");
        for tensor in lay().catalog().entries() {
            assert!(tensor.pieces[0].offset.is_multiple_of(64), "{}", tensor.name);
        }
    }
}

#[test]
fn stores_of_orbax_are_read_as_they_were_laid_out() {
    let mut entries = mixed_entries();
    entries.retain(|entry| !entry.name.is_empty());
    for max_file_bytes in [u64::MAX, 1000, 1] {
        let lay = || layout_orbax(&entries, max_file_bytes, &OrbaxExtras::default()).unwrap();
        assert_eq!(check_output("orbax", &entries, &lay).notes(), [], "{max_file_bytes}");
        assert_eq!(lay().files().len() == 1, max_file_bytes > 50_000, "{max_file_bytes}");
    }
    let lay = |name: &str, dtype| layout_orbax(&[entry(name, dtype, &[2])], 100, &OrbaxExtras::default());
    for (name, dtype, reason) in [
        ("", Dtype::F32, "it has no name"),
        ("layers/0/", Dtype::F32, "tensorstore drops a slash at the end of a name"),
        (&*"n".repeat(4097), Dtype::F32, "its name is too long"),
        ("opt_state.mu", Dtype::F32, "readers of this format would mistake it for optimizer state"),
        ("w", Dtype::F4, "zarr has no arrays of its element type"),
    ] {
        let error = lay(name, dtype).unwrap_err();
        assert!(matches!(&error, Error::UnwritableTensor { reason: found, .. } if *found == reason), "{error}");
    }
}

#[test]
fn distributed_checkpoints_are_read_as_they_were_laid_out() {
    let entries = mixed_entries();
    for max_shard_bytes in [u64::MAX, 100, 1] {
        let lay = || layout_dcp(&entries, max_shard_bytes, &DcpExtras::default()).unwrap();
        let checkpoint = check_output("dcp", &entries, &lay);
        assert_eq!(checkpoint.notes(), [], "{max_shard_bytes}");
    }
    let lay = || layout_megatron_dist(&entries, 100, &MegatronExtras::default()).unwrap();
    assert_eq!(check_output("megatron-dist", &entries, &lay).notes(), []);
}

#[test]
fn a_key_leads_to_the_model_and_is_not_part_of_its_names() {
    let entries = [entry("layers.0.w", Dtype::F32, &[2]), entry("norm", Dtype::F32, &[3])];
    let extras = DcpExtras { key: vec!["app".to_owned(), "model".to_owned()], objects: Vec::new() };
    let checkpoint = check_output("dcp", &entries, &|| layout_dcp(&entries, u64::MAX, &extras).unwrap());
    assert_eq!(checkpoint.notes(), [Note::KeyChosen { key: "app.model".to_owned() }]);
}

#[test]
fn what_is_not_a_tensor_is_carried_over_byte_for_byte() {
    let source = fixture("dcp-fsdp2/step-60");
    let extras = dcp_extras(&disk(), &source, None).unwrap();
    assert_eq!(extras.key, ["model"]);
    let paths: Vec<_> = extras.objects.iter().map(|object| (&*object.name, &*object.path)).collect();
    let key = |key: &str| PathPart::Key(key.to_owned());
    assert!(paths.iter().any(|(name, path)| !path.is_empty() && name.starts_with("optim.")), "{paths:?}");
    assert!(extras.objects.iter().all(|object| object.path.first() != Some(&key("model"))));

    let entries = mixed_entries();
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("out");
    write_output(&folder, layout_dcp(&entries, 1000, &extras).unwrap(), Order::Forward);
    check_read_back(&open_checkpoint(&disk(), &folder).unwrap(), &entries);
    let again = dcp_extras(&disk(), &folder, None).unwrap();
    assert_eq!(again.key, extras.key);
    assert_eq!(again.objects.len(), extras.objects.len());
    for (ours, theirs) in again.objects.iter().zip(&extras.objects) {
        assert_eq!((&ours.name, &ours.path), (&theirs.name, &theirs.path));
        assert!(read_range(&ours.bytes) == read_range(&theirs.bytes), "{}", ours.name);
    }
    let options = ReadOptions { key: Some("optim".to_owned()), ..ReadOptions::default() };
    assert!(open_checkpoint_with(&disk(), &folder, &options).is_err());
}

fn read_range(bytes: &CopiedBytes) -> Vec<u8> {
    let file = disk().open_file(&bytes.path).unwrap();
    let mut out = vec![0; usize::try_from(bytes.len_bytes).unwrap()];
    file.read_exact_at(bytes.offset, &mut out).unwrap();
    out
}

#[test]
fn objects_and_common_values_of_megatron_are_carried_over() {
    let source = fixture("megatron-torch_dist/iter_0000060");
    let objects = dcp_extras(&disk(), &source, None).unwrap().objects;
    assert!(objects.iter().any(|object| object.name.contains("_extra_state/shard_")));
    let path = source.join("common.pt");
    let common = fs::read(&path).unwrap();
    let copied = CopiedBytes { path, offset: 0, len_bytes: common.len() as u64 };
    let extras = MegatronExtras { objects: objects.clone(), common: Some(copied) };
    let entries = mixed_entries();
    let scratch = tempfile::tempdir().unwrap();
    write_output(scratch.path(), layout_megatron_dist(&entries, u64::MAX, &extras).unwrap(), Order::Backward);
    assert_eq!(fs::read(scratch.path().join("common.pt")).unwrap(), common);
    let checkpoint = open_checkpoint(&disk(), scratch.path()).unwrap();
    assert_eq!(checkpoint.format_name(), "megatron-dist");
    check_read_back(&checkpoint, &entries);
    assert_eq!(dcp_extras(&disk(), scratch.path(), None).unwrap().objects.len(), objects.len());
}

#[test]
fn what_cannot_be_written_is_refused_by_name() {
    let no_objects = DcpExtras::default();
    for dtype in [Dtype::F4, Dtype::F6E2M3, Dtype::F6E3M2] {
        let entries = [entry("w", Dtype::F32, &[4]), entry("packed", dtype, &[4])];
        for error in [layout_torch(&entries, 100).unwrap_err(), layout_dcp(&entries, 100, &no_objects).unwrap_err()] {
            let told = "tensor `packed` cannot be written: PyTorch has no tensors of its element type";
            assert_eq!(error.to_string(), told);
        }
    }
    assert!(matches!(layout_torch(&[], 100), Err(Error::NothingToWrite)));
    assert!(matches!(layout_dcp(&[], 100, &no_objects), Err(Error::NothingToWrite)));
    let wide = [entry("w", Dtype::F32, &[0, u64::MAX])];
    assert!(layout_torch(&wide, 100).unwrap_err().to_string().contains("longer than PyTorch can count"));
    // A tensor and an object of one name.
    let bytes = CopiedBytes { path: "x".into(), offset: 0, len_bytes: 1 };
    let objects = vec![DcpObject { name: "model.w".to_owned(), path: Vec::new(), bytes }];
    let extras = DcpExtras { key: vec!["model".to_owned()], objects };
    let error = layout_dcp(&[entry("w", Dtype::F32, &[4])], 100, &extras).unwrap_err();
    assert_eq!(error.to_string(), "tensor `model.w` cannot be written: its name appears twice");
}

#[test]
fn more_records_than_sixteen_bits_count_are_laid_out_and_read() {
    let entries: Vec<LayoutEntry> = (0..65_600).map(|i| entry(&format!("layers.{i}.w"), Dtype::U8, &[1])).collect();
    let layout = layout_torch(&entries, u64::MAX).unwrap();
    assert_eq!(layout.files().len(), 1);
    let scratch = tempfile::tempdir().unwrap();
    write_output(&scratch.path().join("out"), layout.clone(), Order::Forward);
    assert_eq!(open_checkpoint(&disk(), &scratch.path().join("out")).unwrap().catalog(), layout.catalog());
}

#[test]
fn a_sealed_stage_can_be_resumed_and_changed() {
    let entries = mixed_entries();
    let lays: [&dyn Fn() -> OutputLayout; 2] =
        [&|| layout_torch(&entries, 200).unwrap(), &|| layout_dcp(&entries, 200, &DcpExtras::default()).unwrap()];
    for lay in lays {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("out");
        write_output(&folder, lay(), Order::Forward);
        let before = files_in(&folder);
        // The sums are in the files now, and differ from what was there when the stage was created.
        let layout = Arc::new(lay());
        let mut again = StagedCheckpoint::reopen(&disk(), &folder, Arc::clone(&layout)).unwrap();
        let tensor_idx = layout.catalog().find("z").unwrap();
        again.write_elements(tensor_idx, 0, &[9; 60]).unwrap();
        again.seal("thalweg.json", b"{}", &Default::default()).unwrap();
        assert!(files_in(&folder) != before);
        let mut again = StagedCheckpoint::reopen(&disk(), &folder, Arc::clone(&layout)).unwrap();
        again.write_elements(tensor_idx, 0, &content(tensor_idx, 60)).unwrap();
        again.seal("thalweg.json", b"{}", &Default::default()).unwrap();
        assert!(files_in(&folder) == before);
    }
}

#[test]
fn metadata_of_thousands_of_tensors_lists_them_all() {
    let entries: Vec<LayoutEntry> = (0..5_000).map(|i| entry(&format!("layers.{i}.w"), Dtype::U8, &[1])).collect();
    let layout = layout_dcp(&entries, 4_000, &DcpExtras::default()).unwrap();
    assert_eq!(layout.files().len(), 2);
    let listed = thalweg_checkpoint::format::dcp::read_metadata(&layout.documents()[0].bytes, None).unwrap();
    assert_eq!(listed.len(), 5_000);
    assert!(listed.iter().all(|tensor| tensor.pieces.len() == 1));
}

#[test]
fn extras_of_a_broken_checkpoint_are_refused() {
    let extras = |path: &Path| dcp_extras(&disk(), path, None);
    assert!(matches!(extras(&fixture("no-such-folder")), Err(Error::NotFound { .. })));
    assert!(extras(&fixture("hostile/dcp/metadata-os-system")).is_err());
    let scratch = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("dcp-fsdp2/step-60")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), scratch.path().join(entry.file_name())).unwrap();
    }
    assert!(extras(scratch.path()).is_ok());
    let name = extras(scratch.path()).unwrap().objects[0].bytes.path.clone();
    fs::File::options().write(true).open(&name).unwrap().set_len(10).unwrap();
    let error = extras(scratch.path()).unwrap_err();
    assert!(error.to_string().contains("ends at byte 10"), "{error}");
    fs::remove_file(&name).unwrap();
    assert!(extras(scratch.path()).unwrap_err().to_string().contains("is missing"));
}

#[test]
fn masters_of_megatron_are_found_under_either_name_and_not_in_buffers() {
    let written = |names: &[&str]| {
        let scratch = tempfile::tempdir().unwrap();
        // Names of an optimizer's state are refused, so they are put in afterwards, with the same length.
        let named = |name: &&str| entry(&name.replace("optimizer", "0ptimizer"), Dtype::F32, &[4]);
        let entries: Vec<_> = names.iter().map(named).collect();
        let layout = layout_megatron_dist(&entries, u64::MAX, &MegatronExtras::default()).unwrap();
        write_output(&scratch.path().join("out"), layout, Order::Forward);
        let metadata = scratch.path().join("out/.metadata");
        let mut bytes = fs::read(&metadata).unwrap();
        let starts: Vec<usize> = (0..bytes.len()).filter(|&i| bytes[i..].starts_with(b"0ptimizer")).collect();
        starts.into_iter().for_each(|i| bytes[i] = b'o');
        fs::write(&metadata, bytes).unwrap();
        scratch
    };
    let opened = |folder: &Path, params| {
        let options = ReadOptions { params, ..ReadOptions::default() };
        open_checkpoint_with(&disk(), &folder.join("out"), &options)
    };
    for key in ["optimizer.state.fp32_param", "optimizer.state.param"] {
        let folder = written(&["a.weight", &format!("{key}.a.weight"), "optimizer.state.exp_avg.a.weight"]);
        let masters = opened(folder.path(), Some(Params::Master)).unwrap();
        assert_eq!(masters.findings().key.as_deref(), Some(key));
        assert_eq!(&*masters.catalog().entries()[0].name, "a.weight");
        assert_eq!(opened(folder.path(), None).unwrap().findings().params, Some(Params::Master));
        let module = opened(folder.path(), Some(Params::Module)).unwrap();
        assert_eq!((module.findings().params, module.catalog().entries().len()), (Some(Params::Module), 1));
        let folder = written(&["a.weight", "b.bias", &format!("{key}.a.weight")]);
        assert_eq!(opened(folder.path(), None).unwrap().findings().params, None);
    }
    let buffers = "optimizer.distributed.dp_group_idx_0.gbuf_idx_0.dtype_(torch.bfloat16, torch.float32).bucket_idx_0";
    let folder = written(&["a.weight", &format!("{buffers}.param")]);
    assert_eq!(opened(folder.path(), None).unwrap().findings().params, None);
    assert!(opened(folder.path(), Some(Params::Master)).is_err());
}
