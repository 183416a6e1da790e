//! `thalweg inspect CKPT`: what a checkpoint holds, and what blocks a merge.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::json;
use thalweg_checkpoint::{Checkpoint, Look, Naming, SideFileKind, naming_of};
use thalweg_merge::contents::{find_obstacles, tied_pair, untied_note};
use thalweg_merge::verify::read_merge;
use thalweg_tensor::{Dtype, DtypeClass, TensorSource, counted, display_name};

use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::options::{show_bytes, show_count};

/// Tensors that are printed; `-v` prints all.
const MAX_ROWS: usize = 12;

/// Most pieces of a distributed checkpoint that are looked into, since each costs some small reads. Checkpoints of more
/// pieces are looked into only when they are merged.
const MAX_PIECES: usize = 4096;

pub(super) fn show(checkpoint: &Checkpoint, world: &World<'_>) -> Result<Outcome, Error> {
    let n_pieces: usize = checkpoint.catalog().entries().iter().map(|entry| entry.pieces.len()).sum();
    if n_pieces <= MAX_PIECES {
        checkpoint.look_inside(Look::EachPiece)?;
    }
    checkpoint.notes().iter().for_each(|note| world.note(note));
    note_untied(checkpoint, world)?;
    let merge = read_merge(&*world.storage, checkpoint.path());
    let mut json = document(checkpoint);
    json["merge"] = merge
        .as_ref()
        .map_or(serde_json::Value::Null, |merge| json!({"n_checkpoints": merge.n_checkpoints, "scheme": merge.scheme}));
    world.messages.json(&json);
    let made = merge.map(|merge| match merge.copy_of {
        Some(source) => format!("a copy of `{}`\n", display_name(&source.path.display().to_string())),
        None => format!("a merge of {} by {}\n", counted(merge.n_checkpoints, "checkpoint"), merge.scheme),
    });
    world.messages.text(&(describe(checkpoint) + made.as_deref().unwrap_or_default()));
    let entries = checkpoint.catalog().entries();
    if !world.messages.wants_json() && entries.len() > MAX_ROWS {
        world.messages.detail(table(checkpoint, entries.len()));
    }
    Ok(Outcome::Done)
}

/// Notes a head and an embedding that the config ties but whose beginnings differ.
fn note_untied(checkpoint: &Checkpoint, world: &World<'_>) -> Result<(), Error> {
    const LOOK_ELEMENTS: u64 = 64 << 10;
    let catalog = checkpoint.catalog();
    let Some((head, embedding)) = checkpoint.config().and_then(|config| tied_pair(catalog, config)) else {
        return Ok(());
    };
    let entry = &catalog.entries()[head];
    let elements = 0..entry.n_elements().min(LOOK_ELEMENTS);
    let Some(n_bytes) = entry.dtype.bytes_of(elements.end) else { return Ok(()) };
    let read = |t: usize| -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; thalweg_tensor::to_index(n_bytes)];
        checkpoint.read_elements(t, elements.clone(), &mut bytes).map_err(thalweg_checkpoint::Error::from)?;
        Ok(bytes)
    };
    if read(head)? != read(embedding)? {
        world.note(untied_note(catalog, (head, embedding)));
    }
    Ok(())
}

/// Parameters by element type.
fn dtypes(checkpoint: &Checkpoint) -> BTreeMap<Dtype, u64> {
    let mut dtypes = BTreeMap::new();
    for entry in checkpoint.catalog().entries() {
        *dtypes.entry(entry.dtype).or_insert(0) += entry.n_elements();
    }
    dtypes
}

/// What would keep this checkpoint from being merged with others like it.
fn blocks_merge(checkpoint: &Checkpoint) -> Vec<String> {
    let entries = checkpoint.catalog().entries();
    if entries.is_empty() {
        return vec!["it holds no tensors".to_owned()];
    }
    let mut blocks: Vec<String> = find_obstacles(checkpoint, &|_| true)
        .iter()
        .map(|obstacle| format!("{obstacle}; {}", obstacle.hint()))
        .collect();
    let scaled = scaled_codes(checkpoint);
    let refused = entries.iter().enumerate().filter(|(_, entry)| entry.dtype.class() == DtypeClass::Refused);
    let refused = refused.filter(|(t, _)| !scaled.contains(t)).map(|(_, entry)| entry);
    let codes = refused.filter(|entry| !entry.name.ends_with("_extra_state"));
    blocks.extend(codes.map(|entry| {
        let name = display_name(&entry.name);
        format!("tensor `{name}` is {}, which cannot be averaged: it must be equal in all sources", entry.dtype)
    }));
    let cannot_be_read = checkpoint.findings().unreadable.iter();
    blocks.extend(
        cannot_be_read.map(|one| format!("tensor `{}` cannot be read: {}", display_name(&one.name), one.reason)),
    );
    blocks
}

/// Numbers of the tensors of codes that `--dtype` turns into values; they are told together.
fn scaled_codes(checkpoint: &Checkpoint) -> BTreeSet<usize> {
    let found = checkpoint.block_scaled().and_then(Result::ok);
    found.into_iter().flat_map(|found| found.weights).map(|weight| weight.codes).collect()
}

pub(super) fn document(checkpoint: &Checkpoint) -> serde_json::Value {
    let catalog = checkpoint.catalog();
    let tensors: Vec<_> = catalog
        .entries()
        .iter()
        .map(|entry| json!({"name": entry.name, "dtype": entry.dtype.name(), "shape": entry.shape.0}))
        .collect();
    let files: Vec<_> =
        checkpoint.files().iter().map(|file| json!({"name": file.name, "len_bytes": file.info.len_bytes})).collect();
    let dtypes: serde_json::Map<_, _> =
        dtypes(checkpoint).into_iter().map(|(dtype, n)| (dtype.name().to_owned(), json!(n))).collect();
    let findings = checkpoint.findings();
    let block_scaled = checkpoint.block_scaled().and_then(Result::ok);
    let block_scaled = block_scaled.map(|found| json!({"n_tensors": found.weights.len(), "block": found.block}));
    json!({
        "kind": "thalweg-inspect",
        "version": 1,
        "path": checkpoint.path(),
        "format": checkpoint.format_name(),
        "n_params": catalog.n_params(),
        "n_bytes": catalog.n_bytes(),
        "dtypes": dtypes,
        "files": files,
        "config": checkpoint.config(),
        "naming": naming_of(catalog).name(),
        "side_files": checkpoint.side_files().iter().map(|file| &file.name).collect::<Vec<_>>(),
        "key": findings.key,
        "other_keys": findings.other_keys.iter().map(|(key, n)| json!({"key": key, "n_tensors": n})).collect::<Vec<_>>(),
        "foreign_names": findings.foreign_names,
        "block_scaled": block_scaled,
        "tensors": tensors,
        "blocks_merge": blocks_merge(checkpoint),
    })
}

pub(super) fn describe(checkpoint: &Checkpoint) -> String {
    let catalog = checkpoint.catalog();
    let mut text = String::new();
    let dtypes: Vec<String> =
        dtypes(checkpoint).into_iter().map(|(dtype, n)| format!("{} {dtype}", show_count(n))).collect();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "`{}`: {} checkpoint", checkpoint.path().display(), checkpoint.format_name());
    let _ = writeln!(
        text,
        "{} parameters ({}) in {}, {} in {}",
        show_count(catalog.n_params()),
        dtypes.join(", "),
        counted(catalog.entries().len(), "tensor"),
        show_bytes(catalog.n_bytes()),
        counted(checkpoint.files().len(), "file")
    );
    let key = |key: &str| checkpoint.config().and_then(|config| config.get(key)).map(ToString::to_string);
    let config: Vec<String> = ["model_type", "hidden_size", "num_hidden_layers", "vocab_size", "tie_word_embeddings"]
        .iter()
        .filter_map(|name| Some(format!("{name} {}", key(name)?)))
        .collect();
    if !config.is_empty() {
        let _ = writeln!(text, "config: {}", config.join(", "));
    }
    let is_own = |kind: SideFileKind| matches!(kind, SideFileKind::Travels | SideFileKind::Code);
    let side_files: Vec<String> =
        checkpoint.side_files().iter().filter(|file| is_own(file.kind)).map(|file| display_name(&file.name)).collect();
    if !side_files.is_empty() {
        let _ = writeln!(text, "beside the tensors: {}", side_files.join(", "));
    }
    let names = &checkpoint.findings().foreign_names;
    if !names.is_empty() {
        let shown: Vec<&str> = names.iter().take(MAX_ROWS).map(String::as_str).collect();
        let more = if names.len() > MAX_ROWS { format!(" and {} more", names.len() - MAX_ROWS) } else { String::new() };
        let _ = writeln!(text, "objects that thalweg does not construct: {}{more}", shown.join(", "));
    }
    // Writing to a String cannot fail.
    let _infallible = naming_line(checkpoint).map(|line| writeln!(text, "{line}"));
    text.push_str(&table(checkpoint, MAX_ROWS));
    let blocks = blocks_merge(checkpoint);
    if blocks.is_empty() {
        text.push_str("nothing blocks a merge\n");
    } else {
        let _ = writeln!(text, "a merge is blocked:");
        blocks.iter().take(MAX_ROWS).for_each(|block| {
            let _ = writeln!(text, "  {block}");
        });
    }
    text
}

/// What gives the tensors Hugging Face names, if they have those of a trainer.
fn naming_line(checkpoint: &Checkpoint) -> Option<String> {
    match naming_of(checkpoint.catalog()) {
        Naming::TorchtitanLlama => {
            Some("names: torchtitan's Llama; `thalweg convert --to-huggingface` writes Hugging Face's".to_owned())
        }
        naming => {
            let (name, exporter) = naming.name().zip(naming.exporter())?;
            Some(format!("names: {name}; after a merge, {exporter} exports it to Hugging Face"))
        }
    }
}

fn table(checkpoint: &Checkpoint, max_rows: usize) -> String {
    let entries = checkpoint.catalog().entries();
    let mut text = String::new();
    for entry in entries.iter().take(max_rows) {
        let shape = entry.shape.to_string();
        let _ = writeln!(text, "  {:<6} {shape:<18} {}", entry.dtype.name(), display_name(&entry.name));
    }
    if entries.len() > max_rows {
        let _ = writeln!(text, "  and {} more (`-v` shows all)", entries.len() - max_rows);
    }
    text
}
