//! Files that PyTorch wrote, and hostile ones in its form.

use std::fs;
use std::path::Path;

use thalweg_checkpoint::{Checkpoint, Error, ReadOptions, open_checkpoint, open_checkpoint_with};
use thalweg_tensor::{Dtype, TensorSource};

use crate::support::{disk, f32_bytes, fixture, tensor_bytes, write};

fn open(path: &Path) -> Result<Checkpoint, Error> {
    open_checkpoint(&disk(), path)
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Every tensor of a file of quirks against what PyTorch says of it, except those that the file lacks.
fn check_quirks(file: &str, lacks: &[&str]) {
    let bytes = fs::read(fixture("torch/quirks/expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let checkpoint = open(&fixture("torch/quirks").join(file)).unwrap();
    assert_eq!(checkpoint.format_name(), "torch");
    let mut n_tensors = 0;
    for (name, tensor) in expected["tensors"].as_object().unwrap() {
        if lacks.contains(&&**name) {
            continue;
        }
        n_tensors += 1;
        let entry = &checkpoint.catalog().entries()[checkpoint.catalog().find(name).expect(name)];
        let shape: Vec<u64> = tensor["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
        assert_eq!(&*entry.shape.0, &*shape, "{file}: {name}");
        let wanted = hex(tensor["logical_bytes_hex"].as_str().unwrap());
        assert_eq!(tensor_bytes(&checkpoint, name), wanted, "{file}: {name}");
        check_parts(&checkpoint, name, &wanted);
    }
    assert_eq!(checkpoint.catalog().entries().len(), n_tensors);
}

/// Any range of elements is what the whole holds there.
fn check_parts(checkpoint: &Checkpoint, name: &str, wanted: &[u8]) {
    let tensor_idx = checkpoint.catalog().find(name).unwrap();
    let entry = &checkpoint.catalog().entries()[tensor_idx];
    let size = usize::try_from(entry.dtype.bytes().unwrap()).unwrap();
    let n_elements = usize::try_from(entry.n_elements()).unwrap();
    for (start, end) in [(0, n_elements / 2), (n_elements / 3, n_elements), (n_elements / 2, n_elements / 2)] {
        let mut out = vec![0; (end - start) * size];
        checkpoint.read_elements(tensor_idx, start as u64..end as u64, &mut out).unwrap();
        assert_eq!(out, wanted[start * size..end * size], "{name} {start}..{end}");
    }
}

#[test]
fn views_and_every_element_type_of_each_protocol_are_read() {
    for file in ["zip.pt", "zip-proto3.pt", "zip-proto4.pt", "zip-proto5.pt"] {
        check_quirks(file, &[]);
    }
    check_quirks("legacy.pt", &["f8e4m3", "f8e5m2", "u16"]);
}

#[test]
fn what_pytorch_saves_that_is_no_state_dict_is_named() {
    let quirk = |name: &str| open(&fixture("torch/quirks").join(name));
    let says = |name: &str, wanted: &str| {
        let error = quirk(name).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(wanted), "{error}");
    };
    says("whole-module.pt", "it is an object of `torch.nn.modules.linear.Linear`, which thalweg does not construct");
    says("bare-tensor.pt", "it holds one unnamed tensor");
    let list = quirk("list.pt").unwrap();
    assert_eq!(list.catalog().entries().len(), 2);
    let objects = quirk("user-objects.pt").unwrap();
    assert_eq!(tensor_bytes(&objects, "weight"), f32_bytes(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
    assert_eq!(tensor_bytes(&objects, "bias"), f32_bytes(&[0.5, -0.5]));
    let names = &objects.findings().foreign_names;
    assert!(!names.is_empty() && !names.iter().any(|name| name.ends_with("Storage")), "{names:?}");
    let odd = quirk("meta-and-sparse.pt").unwrap();
    assert_eq!(tensor_bytes(&odd, "w"), f32_bytes(&[1.0, 1.0]));
    let reasons: Vec<String> =
        odd.findings().unreadable.iter().map(|one| format!("{}: {}", one.name, one.reason)).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons.iter().any(|reason| reason.contains("meta tensor")), "{reasons:?}");
    assert!(reasons.iter().any(|reason| reason.contains("sparse")), "{reasons:?}");
}

/// Every tensor, widened to F32, against a safetensors file of F32.
fn check_values(checkpoint: &Checkpoint, expected: &Path, dtype: Dtype) {
    let bytes = fs::read(expected).unwrap();
    let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(checkpoint.catalog().entries().len(), reference.len());
    for (name, view) in reference.tensors() {
        let entry = &checkpoint.catalog().entries()[checkpoint.catalog().find(&name).expect(&name)];
        assert_eq!(entry.dtype, dtype);
        let found = tensor_bytes(checkpoint, &name);
        let widened = match dtype {
            Dtype::Bf16 => found.chunks(2).flat_map(|two| [0, 0, two[0], two[1]]).collect(),
            _ => found,
        };
        assert_eq!(widened, view.data(), "{name}");
    }
}

#[test]
fn sharded_files_and_training_states_hold_what_pytorch_put_there() {
    for step in [20, 40, 60, 80] {
        let folder = fixture(&format!("torch/bin-sharded/step-{step}"));
        let expected = fixture(&format!("hf-sharded/expected/step-{step}.f32.safetensors"));
        let checkpoint = open(&folder).unwrap();
        assert_eq!(checkpoint.notes(), []);
        assert!(checkpoint.config().is_some());
        check_values(&checkpoint, &expected, Dtype::Bf16);
        let by_index = open(&folder.join("pytorch_model.bin.index.json")).unwrap();
        assert_eq!(by_index.catalog(), checkpoint.catalog());
    }
    for step in [60, 80] {
        let file = fixture(&format!("torch/trainstate/step-{step}.pt"));
        let checkpoint = open(&file).unwrap();
        assert_eq!(checkpoint.findings().key.as_deref(), Some("model"));
        assert!(checkpoint.findings().other_keys.iter().any(|(key, _)| key == "optimizer"));
        check_values(
            &checkpoint,
            &fixture(&format!("torch/trainstate/expected/step-{step}.f32.safetensors")),
            Dtype::F32,
        );
    }
}

#[test]
fn a_key_names_another_part_of_the_file() {
    let file = fixture("torch/trainstate/step-80.pt");
    let open_key = |key: &str| {
        let options = ReadOptions { key: Some(key.to_owned()), ..ReadOptions::default() };
        open_checkpoint_with(&disk(), &file, &options)
    };
    let moments = open_key("optimizer").unwrap();
    assert!(moments.catalog().find("0.exp_avg").is_some(), "{:?}", moments.catalog().entries()[0].name);
    let error = open_key("modle").unwrap_err();
    assert!(error.to_string().contains("no tensors are under the key `modle`; the tensors are under `model`"));
    assert!(error.hint().unwrap().contains("--key"));
}

#[test]
fn a_shard_that_is_missing_or_cut_is_unfinished() {
    let scratch = tempfile::tempdir().unwrap();
    let step = fixture("torch/bin-sharded/step-20");
    for entry in fs::read_dir(&step).unwrap() {
        let entry = entry.unwrap();
        write(&scratch.path().join(entry.file_name()), fs::read(entry.path()).unwrap());
    }
    let shard = scratch.path().join("pytorch_model-00003-of-00004.bin");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() - 5]).unwrap();
    let error = open(scratch.path()).unwrap_err();
    assert!(error.is_unfinished() && error.to_string().contains("pytorch_model-00003-of-00004.bin"), "{error}");
    fs::remove_file(&shard).unwrap();
    let error = open(scratch.path()).unwrap_err();
    assert!(error.is_unfinished() && error.to_string().contains("is missing"), "{error}");
}

/// The verdicts of the manifest, on the files that are kept here.
#[test]
fn every_hostile_file_gets_the_verdict_of_the_manifest() {
    let bytes = fs::read(fixture("hostile/MANIFEST.json")).unwrap();
    let entries: Vec<serde_json::Value> = serde_json::from_slice(&bytes).unwrap();
    let mut n_files = 0;
    for entry in &entries {
        let (path, verdict) = (entry["path"].as_str().unwrap(), entry["verdict"].as_str().unwrap());
        let Some(file) = path.strip_prefix("pickle/") else { continue };
        n_files += 1;
        let result = open(&fixture("hostile").join(path));
        match (verdict, &result) {
            ("accept" | "either" | "skip-part", Ok(checkpoint)) => {
                for entry in checkpoint.catalog().entries().iter().filter(|entry| entry.n_bytes() < 1 << 20) {
                    tensor_bytes(checkpoint, &entry.name);
                }
            }
            ("reject" | "either" | "skip-part", Err(error)) => {
                assert!(error.to_string().contains(file), "{path} is not named: {error}");
                assert!(error.to_string().len() < 1000, "{path}: {error}");
            }
            _ => panic!("{path}: {verdict} expected, {result:?} found"),
        }
    }
    assert_eq!(n_files, 79);
    assert!(!Path::new("pwned-by-pickle").exists());
}

#[test]
fn hostile_files_are_refused_for_the_right_reason() {
    let cases = [
        ("os-system-reduce.pt", "system"),
        ("os-system-reduce.pkl", "system"),
        ("eval.pt", "eval"),
        ("getattr-chain.pt", "getattr"),
        ("inst-opcode.pt", "operation INST would call"),
        ("obj-opcode.pt", "operation OBJ would call"),
        ("ext1-opcode.pt", "EXT1"),
        ("allowed-module-bad-name.pt", "_rebuild_qtensor"),
        ("torch-jit.pt", "TorchScript"),
        ("persid-text.pt", "PERSID"),
        ("tensor-numel-larger-than-record.pt", "tensor `w`"),
        ("tensor-view-past-storage.pt", "tensor `w`: it needs"),
        ("tensor-offset-huge.pt", "tensor `w`"),
        ("tensor-stride-huge.pt", "tensor `w`"),
        ("tensor-size-overflow.pt", "tensor `w`"),
        ("tensor-rank-mismatch.pt", "tensor `w`"),
        ("tensor-record-missing.pt", "tensor `w`"),
        ("tensor-record-key-path.pt", "tensor `w`"),
        ("record-too-short.pt", "23 bytes in the file, 24 expected"),
        ("byteorder-junk.pt", "byte order"),
        ("two-roots.pt", "2 records named `data.pkl`"),
        ("duplicate-entry.pt", "appears twice"),
        ("truncated-zip.pt", "no zip directory"),
        ("central-size-lies.pt", "past the end"),
        ("legacy-key-missing.pt", "not in the file"),
        ("legacy-code.pt", "system"),
        ("legacy-code-in-magic.pt", "system"),
        ("legacy-numel-huge.pt", "elements, 6 expected"),
        ("text.pt", "Git LFS"),
        ("empty.pt", "empty"),
    ];
    for (file, wanted) in cases {
        let error = open(&fixture("hostile/pickle").join(file)).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
    let transposed = open(&fixture("hostile/pickle/tensor-overlapping-ok.pt")).unwrap();
    assert_eq!(tensor_bytes(&transposed, "b"), f32_bytes(&[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
    assert_eq!(tensor_bytes(&transposed, "c"), f32_bytes(&[5.0, 5.0]));
}
