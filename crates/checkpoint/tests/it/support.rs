//! Small files and folders for the tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_checkpoint::{Checkpoint, CommitRules};
use thalweg_storage::guard::{Contents, OwnFolder};
use thalweg_storage::publish::Replace;
use thalweg_storage::{LocalStorage, Storage};
use thalweg_tensor::{Dtype, TensorSource};

/// The machine's own disk.
pub(crate) fn disk() -> Arc<dyn Storage> {
    Arc::new(LocalStorage::new())
}

/// A folder of the project's fixtures.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// The bytes of a safetensors file.
pub(crate) fn safetensors_bytes(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// Writes a file, with its folder.
pub(crate) fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// All bytes of a tensor.
pub(crate) fn tensor_bytes(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let tensor_idx = checkpoint.catalog().find(name).unwrap_or_else(|| panic!("no tensor {name}"));
    let entry = &checkpoint.catalog().entries()[tensor_idx];
    let mut out = vec![0; usize::try_from(entry.n_bytes()).unwrap()];
    checkpoint.read_elements(tensor_idx, 0..entry.n_elements(), &mut out).unwrap();
    out
}

/// Little-endian bytes of F32 values.
pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Bytes of a tensor, widened to F32, which is exact.
pub(crate) fn widened(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let bytes = tensor_bytes(checkpoint, name);
    let tensor_idx = checkpoint.catalog().find(name).unwrap();
    match checkpoint.catalog().entries()[tensor_idx].dtype {
        Dtype::F32 => bytes,
        Dtype::Bf16 => bytes.chunks_exact(2).flat_map(|two| [0, 0, two[0], two[1]]).collect(),
        other => panic!("{other}"),
    }
}

/// Rules by which every old output may be replaced; `leftovers` are removed from the stage.
pub(crate) fn rules(replace: Replace, leftovers: &BTreeSet<String>) -> CommitRules<'_> {
    let own = OwnFolder { what: "an output", contents_of: &all_is_ours };
    CommitRules { replace, own, leftovers }
}

fn all_is_ours(_: &dyn Storage, _: &Path) -> Result<Contents, thalweg_storage::Error> {
    Ok(Contents::Ours { manifest: "thalweg.json".to_owned(), foreign: Vec::new() })
}
