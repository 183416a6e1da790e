//! Writes a small checkpoint in every format that thalweg can write: the tensors of a checkpoint, or made-up ones.
//!
//! ```text
//! cargo run -p thalweg-checkpoint --example write_formats -- OUT [SOURCE [MAX_SHARD_BYTES]]
//! ```
//!
//! `OUT` gets `torch`, `dcp` and `megatron-dist`, and `safetensors` for comparison. If `SOURCE` is a distributed
//! checkpoint, what it holds besides tensors is carried over. `scripts/written_formats.py` loads the results with the
//! libraries that read them.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_checkpoint::{
    Checkpoint, CopiedBytes, DcpExtras, LayoutEntry, MegatronExtras, OutputLayout, StagedCheckpoint, dcp_extras,
    layout_dcp, layout_megatron_dist, layout_output, layout_torch, open_checkpoint,
};
use thalweg_storage::{LocalStorage, Storage};
use thalweg_tensor::{Dtype, Shape, TensorSink as _, TensorSource as _, to_index};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let out = PathBuf::from(arguments.first().ok_or("give the folder for the results")?);
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new());
    let source = arguments.get(1).map(|path| open_checkpoint(&storage, Path::new(path))).transpose()?;
    let max_shard_bytes = arguments.get(2).map_or(Ok(u64::MAX), |text| text.parse())?;
    let entries = source.as_ref().map_or_else(made_up_entries, entries_of);

    let (mut dcp, mut megatron) = (DcpExtras::default(), MegatronExtras::default());
    if let (Some(path), Some("dcp" | "megatron-dist")) =
        (arguments.get(1), source.as_ref().map(Checkpoint::format_name))
    {
        dcp = dcp_extras(&storage, Path::new(path), None)?;
        megatron.objects = dcp.objects.clone();
        megatron.common = common_of(&*storage, &Path::new(path).join("common.pt"));
    }
    let layouts = [
        ("safetensors", layout_output(&entries, max_shard_bytes, &BTreeMap::new())?),
        ("torch", layout_torch(&entries, max_shard_bytes)?),
        ("dcp", layout_dcp(&entries, max_shard_bytes, &dcp)?),
        ("megatron-dist", layout_megatron_dist(&entries, max_shard_bytes, &megatron)?),
    ];
    for (name, layout) in layouts {
        write_output(&storage, &out.join(name), layout, source.as_ref())?;
    }
    Ok(())
}

/// Tensors of several types, a scalar, an empty one, and names that need care.
fn made_up_entries() -> Vec<LayoutEntry> {
    let entry = |name: &str, dtype, dims: &[u64]| LayoutEntry { name: name.into(), dtype, shape: Shape::new(dims) };
    let types = [
        (Dtype::F64, "f64"),
        (Dtype::F32, "f32"),
        (Dtype::F16, "f16"),
        (Dtype::Bf16, "bf16"),
        (Dtype::I64, "i64"),
        (Dtype::I32, "i32"),
        (Dtype::I16, "i16"),
        (Dtype::I8, "i8"),
        (Dtype::U8, "u8"),
        (Dtype::U16, "u16"),
        (Dtype::U32, "u32"),
        (Dtype::U64, "u64"),
        (Dtype::Bool, "bool"),
        (Dtype::C64, "c64"),
        (Dtype::F8E4M3, "f8_e4m3"),
        (Dtype::F8E5M2, "f8_e5m2"),
    ];
    let mut entries: Vec<LayoutEntry> =
        types.iter().map(|(dtype, name)| entry(&format!("of.{name}"), *dtype, &[4, 6])).collect();
    entries.extend([
        entry("layers.2.w", Dtype::Bf16, &[300, 70]),
        entry("count", Dtype::I64, &[]),
        entry("empty", Dtype::F32, &[2, 0]),
        entry("five", Dtype::F32, &[1, 2, 1, 2, 1]),
        entry("schön \"quoted\" 重み", Dtype::F32, &[7]),
    ]);
    entries
}

fn entries_of(source: &Checkpoint) -> Vec<LayoutEntry> {
    let entries = source.catalog().entries().iter();
    let copy = |entry: &thalweg_tensor::TensorEntry| LayoutEntry {
        name: entry.name.clone(),
        dtype: entry.dtype,
        shape: entry.shape.clone(),
    };
    entries.map(copy).collect()
}

fn common_of(storage: &dyn Storage, path: &Path) -> Option<CopiedBytes> {
    let len_bytes = storage.file_info(path).ok()?.len_bytes;
    Some(CopiedBytes { path: path.to_owned(), offset: 0, len_bytes })
}

/// Made-up elements: each byte is 0 or 1, which is a number in every type.
fn made_up_content(tensor_idx: usize, n_bytes: usize) -> Vec<u8> {
    (0..n_bytes).map(|at| u8::from((at * 5 + tensor_idx * 3) % 7 < 3)).collect()
}

fn write_output(
    storage: &Arc<dyn Storage>,
    folder: &Path,
    layout: OutputLayout,
    source: Option<&Checkpoint>,
) -> Result<(), Box<dyn Error>> {
    let layout = Arc::new(layout);
    let mut staged = StagedCheckpoint::create(storage, folder, Arc::clone(&layout))?;
    let mut buffer = Vec::new();
    for copy in staged.frame_copies(1 << 20).in_order() {
        staged.copy_frame(&copy, &mut buffer)?;
    }
    for (tensor_idx, entry) in layout.catalog().entries().iter().enumerate() {
        let mut bytes = made_up_content(tensor_idx, to_index(entry.n_bytes()));
        if let Some(source) = source {
            source.read_elements(tensor_idx, 0..entry.n_elements(), &mut bytes)?;
        }
        staged.write_elements(tensor_idx, 0, &bytes)?;
    }
    staged.seal("thalweg.json", b"{}\n", &BTreeSet::new())?;
    Ok(())
}
