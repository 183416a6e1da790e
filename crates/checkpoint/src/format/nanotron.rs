//! Checkpoints of nanotron: one safetensors file for each parameter and tensor rank, in folders named after the
//! modules.
//!
//! Each file's header says which box of the whole tensor the file holds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use thalweg_storage::{FileKind, Storage};
use thalweg_tensor::{Dtype, Piece, Shape, TensorCatalog, TensorEntry, display_name};

use super::safetensors::read_header_text;
use super::{Format, FormatContent, OpenFile, Place};
use crate::error::{UnfinishedFault, storage_error};
use crate::{CatalogCache, Error, ReadOptions};

/// The file that a save writes last.
const META_NAME: &str = "checkpoint_metadata.json";
const MODEL_FOLDER: &str = "model";
const FILE_START: &str = "model_";
const FILE_END: &str = ".safetensors";
/// The name of the only tensor in a file.
const TENSOR_NAME: &str = "data";
/// Deepest nesting of folders.
const MAX_DEPTH: usize = 32;
/// Most files: more than any model needs for its parameters and ranks.
const MAX_FILES: usize = 1 << 20;

/// Folders of one small safetensors file for each parameter.
#[derive(Debug, Clone, Copy)]
pub struct Nanotron;

impl Format for Nanotron {
    fn name(&self) -> &'static str {
        "nanotron"
    }

    fn marks(&self) -> &'static [&'static str] {
        &[META_NAME]
    }

    fn recognises(&self, place: &Place) -> bool {
        place.file_names().any(|name| name == META_NAME) && place.folder_names().any(|name| name == MODEL_FOLDER)
    }

    fn open(
        &self,
        storage: &Arc<dyn Storage>,
        place: &Place,
        _options: &ReadOptions,
        cache: &CatalogCache,
    ) -> Result<FormatContent, Error> {
        let shards = list_shards(storage, place)?;
        check_ranks(place, &shards)?;
        let mut tensors: BTreeMap<&str, Vec<Part>> = BTreeMap::new();
        let mut files = Vec::with_capacity(shards.len());
        for (file_idx, shard) in (0..).zip(&shards) {
            let path = place.folder().join(&shard.file);
            let reader = storage.open_file(&path).map_err(|error| storage_error(&path, error))?;
            let header = read_header_text(&*reader, &path)?;
            let parsed = header.parse(&path)?;
            let [tensor] = &*parsed.tensors else {
                return Err(refuse(&path, format!("it holds {} tensors, one expected", parsed.tensors.len())));
            };
            if &*tensor.name != TENSOR_NAME {
                return Err(refuse(
                    &path,
                    format!("its tensor is called `{}`, `{TENSOR_NAME}` expected", display_name(&tensor.name)),
                ));
            }
            let offset = header.data_start() + tensor.begin;
            let local = Local { file_idx, offset, dtype: tensor.dtype, shape: tensor.shape.clone() };
            let part = read_part(local, &parsed.metadata).map_err(|reason| refuse(&path, reason))?;
            tensors.entry(&shard.name).or_default().push(part);
            files.push(OpenFile { name: shard.file.clone(), path, reader });
        }
        let entries =
            tensors.into_iter().map(|(name, parts)| join(place.path(), name, parts)).collect::<Result<_, _>>()?;
        let twice = |name: Box<str>| refuse(place.path(), format!("tensor `{}` appears twice", display_name(&name)));
        let catalog = cache.share(TensorCatalog::new(entries).map_err(twice)?);
        Ok(FormatContent { files, catalog, ..FormatContent::default() })
    }
}

fn refuse(path: &Path, reason: String) -> Error {
    Error::Layout { path: path.to_owned(), reason }
}

/// A file, and what its name says.
#[derive(Debug, PartialEq, Eq)]
struct Shard {
    /// Relative to the checkpoint's folder.
    file: String,
    /// Name of the parameter: folders and file joined by dots.
    name: String,
    /// Tensor rank and number of tensor ranks, if the parameter is cut.
    rank: Option<(u32, u32)>,
}

fn list_shards(storage: &Arc<dyn Storage>, place: &Place) -> Result<Vec<Shard>, Error> {
    let mut shards = Vec::new();
    let mut waiting = vec![(MODEL_FOLDER.to_owned(), Vec::<String>::new())];
    while let Some((folder, parts)) = waiting.pop() {
        for entry in storage.list_folder(&place.folder().join(&folder))? {
            let file = format!("{folder}/{}", entry.name);
            match entry.kind {
                FileKind::Folder if parts.len() >= MAX_DEPTH => {
                    return Err(refuse(place.path(), format!("its folders are nested more than {MAX_DEPTH} deep")));
                }
                FileKind::Folder => waiting.push((file, [parts.clone(), vec![entry.name]].concat())),
                FileKind::File => {
                    let named = parse_name(&entry.name);
                    shards.extend(named.map(|(last, rank)| {
                        let name = [parts.clone(), vec![last.to_owned()]].concat().join(".");
                        Shard { file, name, rank }
                    }));
                }
                FileKind::Other => {}
            }
        }
        if shards.len() > MAX_FILES {
            return Err(refuse(place.path(), format!("it has more than {MAX_FILES} files")));
        }
    }
    shards.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(shards)
}

/// Reads `model_NAME[_pp-rank-P-of-PP_tp-rank-T-of-TT[_exp-rank-E-of-EE]].safetensors`; older versions also write
/// `.safetensors` after `NAME`.
fn parse_name(file: &str) -> Option<(&str, Option<(u32, u32)>)> {
    let stem = file.strip_prefix(FILE_START)?.strip_suffix(FILE_END)?;
    let Some((name, ranks)) = stem.split_once("_pp-rank-") else {
        return Some((stem, None));
    };
    let (rank, rest) = ranks.split_once("_tp-rank-")?.1.split_once("-of-")?;
    let n_ranks = rest.split('_').next()?;
    Some((name.strip_suffix(FILE_END).unwrap_or(name), Some((rank.parse().ok()?, n_ranks.parse().ok()?))))
}

/// Checks that every parameter that is cut has a file for each of its tensor ranks.
fn check_ranks(place: &Place, shards: &[Shard]) -> Result<(), Error> {
    let mut found: BTreeMap<&str, (u32, BTreeSet<u32>)> = BTreeMap::new();
    for shard in shards {
        if let Some((rank, n_ranks)) = shard.rank {
            let known = found.entry(&shard.name).or_insert((n_ranks, BTreeSet::new()));
            known.0 = known.0.max(n_ranks);
            known.1.insert(rank);
        }
    }
    let missing = found.into_iter().filter_map(|(name, (n_ranks, ranks))| {
        let rank = (0..n_ranks).find(|rank| !ranks.contains(rank))?;
        Some(UnfinishedFault::MissingShard { file: format!("{name}, tensor rank {rank} of {n_ranks}") })
    });
    let faults: Vec<_> = missing.collect();
    if faults.is_empty() { Ok(()) } else { Err(Error::Unfinished { path: place.path().to_owned(), faults }) }
}

/// The tensor in a file.
struct Local {
    file_idx: u32,
    offset: u64,
    dtype: Dtype,
    shape: Shape,
}

/// The part of a parameter that a file holds.
struct Part {
    dtype: Dtype,
    shape: Shape,
    pieces: Vec<Piece>,
}

/// First index and length in each dimension.
type StartAndExtent = (Vec<u64>, Vec<u64>);

fn read_part(local: Local, metadata: &BTreeMap<String, String>) -> Result<Part, String> {
    let Local { file_idx, offset, dtype, shape } = local;
    let Some(pairs) = metadata.get("local_global_slices_pairs") else {
        return Ok(Part { dtype, shape, pieces: vec![Piece::whole(file_idx, offset)] });
    };
    let whole = metadata.get("unsharded_shape").and_then(|text| parse_shape(text));
    let whole = whole.ok_or("its `unsharded_shape` is not in the form that nanotron writes")?;
    // A file without elements has no element to step over, and its sizes may be too large for a product.
    let stride = |dim: usize| shape.0[dim + 1..].iter().product();
    let strides: Vec<u64> = (0..shape.0.len()).map(|dim| if shape.0.contains(&0) { 0 } else { stride(dim) }).collect();
    let mut pieces = Vec::new();
    for pair in pairs.split(';') {
        let boxes =
            pair.split_once('#').and_then(|(here, there)| Some((parse_box(here, &shape)?, parse_box(there, &whole)?)));
        let Some(((start, extent), (global, _))) = boxes.filter(|(here, there)| here.1 == there.1) else {
            return Err(format!("its slices `{}` are not in the form that nanotron writes", display_name(pair)));
        };
        let first: u64 = start.iter().zip(&strides).map(|(index, stride)| index * stride).sum();
        let at = dtype.bytes_of(first).ok_or("its elements do not fill whole bytes")?;
        let piece = Piece::boxed(file_idx, offset + at, &global, &extent).with_strides(&whole, &strides);
        pieces.push(piece.ok_or("its slices and its tensor differ in their number of dimensions")?);
    }
    Ok(Part { dtype, shape: whole, pieces })
}

/// `(256, 24)`, where numbers may be written `np.int64(256)`.
fn parse_shape(text: &str) -> Option<Shape> {
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    let number = |text: &str| {
        let text = text.trim();
        text.strip_prefix("np.int64(").and_then(|text| text.strip_suffix(')')).unwrap_or(text).parse().ok()
    };
    let sizes: Vec<u64> = inner.split(',').filter(|size| !size.trim().is_empty()).map(number).collect::<Option<_>>()?;
    let shape = Shape::new(sizes);
    shape.n_elements().map(|_| shape)
}

/// `0,10,None|None,None,None`: start, end and step of each dimension of a tensor of this shape.
fn parse_box(text: &str, shape: &Shape) -> Option<StartAndExtent> {
    let slices: Vec<&str> = text.split('|').collect();
    if slices.len() != shape.0.len() {
        return None;
    }
    let mut found = (Vec::new(), Vec::new());
    for (slice, &size) in slices.iter().zip(&*shape.0) {
        let mut numbers =
            slice.split(',').map(|number| if number == "None" { Some(None) } else { number.parse().ok().map(Some) });
        let (start, end, step) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let (start, end) = (start.unwrap_or(0), end.unwrap_or(size));
        if step.is_some_and(|step: u64| step != 1) || start > end || end > size || numbers.next().is_some() {
            return None;
        }
        found.0.push(start);
        found.1.push(end - start);
    }
    Some(found)
}

fn join(folder: &Path, name: &str, parts: Vec<Part>) -> Result<TensorEntry, Error> {
    let shown = display_name(name);
    let Some(first) = parts.first() else {
        return Err(refuse(folder, format!("tensor `{shown}` has no file")));
    };
    let (dtype, shape) = (first.dtype, first.shape.clone());
    if parts.iter().any(|part| part.dtype != dtype || part.shape != shape) {
        return Err(refuse(folder, format!("tensor `{shown}` differs in shape or element type between tensor ranks")));
    }
    let pieces = parts.into_iter().flat_map(|part| part.pieces).collect();
    let entry = TensorEntry::of_pieces(name.into(), dtype, shape, pieces);
    entry.map_err(|fault| refuse(folder, format!("tensor `{shown}`: {fault}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_versions_say_parameter_and_rank() {
        assert_eq!(parse_name("model_weight.safetensors"), Some(("weight", None)));
        let cut = "model_weight_pp-rank-0-of-1_tp-rank-1-of-2.safetensors";
        assert_eq!(parse_name(cut), Some(("weight", Some((1, 2)))));
        let expert = "model_weight_pp-rank-0-of-1_tp-rank-0-of-2_exp-rank-3-of-4.safetensors";
        assert_eq!(parse_name(expert), Some(("weight", Some((0, 2)))));
        let doubled = "model_weight.safetensors_pp-rank-0-of-1_tp-rank-0-of-4.safetensors";
        assert_eq!(parse_name(doubled), Some(("weight", Some((0, 4)))));
        assert_eq!(parse_name("optimizer_weight.safetensors"), None);
    }

    #[test]
    fn slices_are_boxes() {
        let shape = Shape::new([8, 3]);
        assert_eq!(parse_box("0,4,None|None,None,None", &shape), Some((vec![0, 0], vec![4, 3])));
        assert_eq!(parse_box("4,8,1|1,2,None", &shape), Some((vec![4, 1], vec![4, 1])));
        for wrong in [
            "0,4,None",
            "0,9,None|None,None,None",
            "5,4,None|None,None,None",
            "0,4,2|None,None,None",
            "a,b,c|0,1,1",
            "",
        ] {
            assert_eq!(parse_box(wrong, &shape), None, "{wrong}");
        }
        assert_eq!(parse_shape("(256, 24)"), Some(Shape::new([256, 24])));
        assert_eq!(parse_shape("(24,)"), Some(Shape::new([24])));
        assert_eq!(parse_shape("(np.int64(6), 2)"), Some(Shape::new([6, 2])));
        assert_eq!(parse_shape("()"), Some(Shape::new([])));
        assert_eq!(parse_shape("(18446744073709551615, 2)"), None);
    }

    #[test]
    fn several_slices_of_one_file_are_several_pieces() {
        let pairs = "0,2,None|None,None,None#0,2,None|None,None,None;2,4,None|None,None,None#6,8,None|None,None,None";
        let metadata = BTreeMap::from([
            ("local_global_slices_pairs".to_owned(), pairs.to_owned()),
            ("unsharded_shape".to_owned(), "(8, 3)".to_owned()),
        ]);
        let local = Local { file_idx: 5, offset: 100, dtype: Dtype::F32, shape: Shape::new([4, 3]) };
        let part = read_part(local, &metadata).ok().unwrap();
        let wanted = [Piece::boxed(5, 100, &[0, 0], &[2, 3]), Piece::boxed(5, 124, &[6, 0], &[2, 3])];
        assert_eq!(part.pieces, wanted);
        // The columns of a file are not adjacent in it.
        let columns = BTreeMap::from([
            ("local_global_slices_pairs".to_owned(), "None,None,None|1,2,None#None,None,None|0,1,None".to_owned()),
            ("unsharded_shape".to_owned(), "(4, 1)".to_owned()),
        ]);
        let local = Local { file_idx: 0, offset: 100, dtype: Dtype::F32, shape: Shape::new([4, 3]) };
        let part = read_part(local, &columns).ok().unwrap();
        assert_eq!((part.pieces[0].offset, part.pieces[0].strides()), (104, Some(&[3, 1][..])));
    }
}
