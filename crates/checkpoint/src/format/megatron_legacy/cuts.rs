//! How tensor parallelism cuts the tensors of Megatron's models, and how to join them again.

use std::collections::BTreeMap;

use thalweg_tensor::{Piece, Shape, TensorEntry, display_name};

/// Why tensors of ranks were not joined.
#[derive(Debug)]
pub(super) enum Misfit {
    /// It is not known how one of them is cut: each rank's part can be read by itself.
    UnknownCut(String),
    /// They do not fit together.
    Other(String),
}

impl From<String> for Misfit {
    fn from(reason: String) -> Self {
        Self::Other(reason)
    }
}

impl Misfit {
    /// The reason.
    pub(super) fn into_reason(self) -> String {
        match self {
            Self::UnknownCut(reason) | Self::Other(reason) => reason,
        }
    }
}

/// How a tensor is spread over the tensor ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Each rank holds all of it.
    Replicated,
    /// Each rank holds an equal part of a dimension.
    Along(usize),
    /// Each rank holds a part of the first half of the rows, then a part of the second half.
    Gated,
}

/// Name endings of tensors that are cut by rows, which Megatron calls column-parallel.
const BY_ROWS: [&str; 16] = [
    "word_embeddings.weight",
    "word_embeddings_for_head.weight",
    "output_layer.weight",
    "output_layer.bias",
    "linear_qkv.weight",
    "linear_qkv.bias",
    "query_key_value.weight",
    "query_key_value.bias",
    "linear_q_proj.weight",
    "linear_q_up_proj.weight",
    "linear_kv_up_proj.weight",
    "linear_q.weight",
    "linear_kv.weight",
    "query.weight",
    "key_value.weight",
    "lm_head.bias",
];
/// Name endings of tensors that are cut by columns, which Megatron calls row-parallel.
const BY_COLUMNS: [&str; 4] =
    ["linear_proj.weight", "self_attention.dense.weight", "dense_4h_to_h.weight", "attention.dense.weight"];
/// Name endings of tensors that every rank holds in full.
const REPLICATED: [&str; 14] = [
    "linear_proj.bias",
    "linear_fc2.bias",
    "dense.bias",
    "dense_4h_to_h.bias",
    "router.weight",
    "router.bias",
    "expert_bias",
    "local_tokens_per_expert",
    "position_embeddings.weight",
    "linear_q_down_proj.weight",
    "linear_kv_down_proj.weight",
    "inv_freq",
    "_extra_state",
    "shared_experts.gate_weight",
];

/// Drops the number of the expert, which a matrix of grouped experts has at the end of its name.
fn without_number(name: &str) -> &str {
    if name.contains(".experts.") { name.trim_end_matches(|c: char| c.is_ascii_digit()) } else { name }
}

fn is_norm(name: &str) -> bool {
    let mut parts = name.rsplit('.');
    let (last, module) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    module.ends_with("norm") || module.ends_with("layernorm") || last.starts_with("layer_norm_")
}

/// Name of the second matrix of an MLP, given the name of the first.
fn second_matrix(name: &str) -> Option<String> {
    const PAIRS: [(&str, &str); 2] = [("linear_fc1", "linear_fc2"), ("dense_h_to_4h", "dense_4h_to_h")];
    let (first, second) = PAIRS.iter().find(|(first, _)| name.contains(first))?;
    Some(name.replace(first, second).replace(".bias", ".weight"))
}

fn cut_of(name: &str, shape: &Shape, of_rank: &BTreeMap<&str, &TensorEntry>) -> Option<Cut> {
    let stem = without_number(name);
    let ends = |names: &[&str]| names.iter().any(|end| stem.ends_with(end));
    if is_norm(name) || ends(&REPLICATED) {
        return Some(Cut::Replicated);
    }
    if ends(&BY_ROWS) {
        return Some(Cut::Along(0));
    }
    if ends(&BY_COLUMNS) || stem.ends_with("linear_fc2.weight") {
        return Some(Cut::Along(1));
    }
    // A gated MLP has twice as many rows in its first matrix as columns in its second.
    let second = of_rank.get(&*second_matrix(stem).map(|second| second + &name[stem.len()..])?)?;
    let (rows, columns) = (*shape.0.first()?, *second.shape.0.get(1)?);
    match rows {
        _ if rows == columns => Some(Cut::Along(0)),
        _ if Some(rows) == columns.checked_mul(2) => Some(Cut::Gated),
        _ => None,
    }
}

/// Joins the tensors of one stage from all tensor ranks, in rank order; the error is the reason why they do not fit.
pub(super) fn join_ranks(mut ranks: Vec<Vec<TensorEntry>>) -> Result<Vec<TensorEntry>, Misfit> {
    if ranks.len() == 1 {
        return Ok(ranks.swap_remove(0));
    }
    let by_name: Vec<BTreeMap<&str, &TensorEntry>> =
        ranks.iter().map(|entries| entries.iter().map(|entry| (&*entry.name, entry)).collect()).collect();
    let (first, others) = by_name.split_first().ok_or_else(|| "there are no ranks".to_owned())?;
    if let Some(name) = others.iter().flat_map(BTreeMap::keys).find(|name| !first.contains_key(*name)) {
        return Err(format!("tensor `{}` is not in the file of tensor rank 0", display_name(name)).into());
    }
    let mut joined = Vec::with_capacity(first.len());
    for (name, entry) in first {
        let shown = display_name(name);
        let parts: Vec<&TensorEntry> = by_name.iter().filter_map(|entries| entries.get(name).copied()).collect();
        if parts.len() != ranks.len() {
            return Err(format!("tensor `{shown}` is not in the file of every tensor rank").into());
        }
        if parts.iter().any(|part| part.shape != entry.shape || part.dtype != entry.dtype) {
            return Err(format!("tensor `{shown}` differs in shape or element type between tensor ranks").into());
        }
        let Some(cut) = cut_of(name, &entry.shape, first) else {
            let reason = format!("it is unknown how tensor `{shown}` is split over {} tensor ranks", ranks.len());
            return Err(Misfit::UnknownCut(reason));
        };
        joined.push(join_tensor(&parts, cut).ok_or_else(|| format!("tensor `{shown}` cannot be joined"))?);
    }
    Ok(joined)
}

fn join_tensor(parts: &[&TensorEntry], cut: Cut) -> Option<TensorEntry> {
    let first = *parts.first()?;
    let dim = match cut {
        Cut::Replicated => return Some(first.clone()),
        Cut::Along(dim) => dim,
        Cut::Gated => 0,
    };
    let local = *first.shape.0.get(dim)?;
    let mut sizes = first.shape.0.to_vec();
    sizes[dim] = local.checked_mul(parts.len() as u64)?;
    let shape = Shape::new(sizes);
    let n_slices = if cut == Cut::Gated { 2 } else { 1 };
    let slice = local / n_slices;
    let mut pieces = Vec::new();
    for (rank, part) in (0..).zip(parts) {
        let [piece] = &*part.pieces else { return None };
        // PyTorch saves parameters row-major; a part in another order would need strides within each slice.
        if !piece.is_whole() {
            return None;
        }
        let row_bytes = part.dtype.bytes_of(part.shape.n_elements()?)?.checked_div(local).unwrap_or(0);
        for n in 0..n_slices {
            let mut start = vec![0; shape.0.len()];
            start[dim] = n * slice * parts.len() as u64 + rank * slice;
            let mut extent = first.shape.0.to_vec();
            extent[dim] = slice;
            let offset = piece.offset.checked_add(n.checked_mul(slice)?.checked_mul(row_bytes)?)?;
            pieces.push(Piece::boxed(piece.file_idx, offset, &start, &extent));
        }
    }
    TensorEntry::of_pieces(first.name.clone(), first.dtype, shape, pieces).ok()
}

#[cfg(test)]
mod tests {
    use thalweg_tensor::Dtype;

    use super::*;

    fn rank(file_idx: u32, tensors: &[(&str, &[u64])]) -> Vec<TensorEntry> {
        let entry = |(name, shape): &(&str, &[u64])| TensorEntry {
            name: (*name).into(),
            dtype: Dtype::F32,
            shape: Shape::new(*shape),
            pieces: [Piece::whole(file_idx, 1000)].into(),
        };
        tensors.iter().map(entry).collect()
    }

    fn join(tensors: &[(&str, &[u64])]) -> Result<Vec<TensorEntry>, String> {
        join_ranks(vec![rank(0, tensors), rank(1, tensors)]).map_err(Misfit::into_reason)
    }

    #[track_caller]
    fn check(name: &str, local: &[u64], wanted: &[u64], pieces: &[(u32, u64, &[u64], &[u64])]) {
        let second = ("mlp.linear_fc2.weight", &[4, 3][..]);
        let joined = join(&[(name, local), second]).unwrap();
        let entry = joined.iter().find(|entry| &*entry.name == name).unwrap();
        assert_eq!(&*entry.shape.0, wanted);
        let pieces: Vec<Piece> =
            pieces.iter().map(|(file, offset, start, extent)| Piece::boxed(*file, *offset, start, extent)).collect();
        assert_eq!(*entry.pieces, *pieces);
    }

    #[test]
    fn each_kind_of_tensor_is_put_together_as_it_was_cut() {
        check("a.linear_qkv.weight", &[6, 4], &[12, 4], &[(0, 1000, &[0, 0], &[6, 4]), (1, 1000, &[6, 0], &[6, 4])]);
        check("a.linear_qkv.bias", &[6], &[12], &[(0, 1000, &[0], &[6]), (1, 1000, &[6], &[6])]);
        check("a.linear_proj.weight", &[4, 2], &[4, 4], &[(0, 1000, &[0, 0], &[4, 2]), (1, 1000, &[0, 2], &[4, 2])]);
        check("mlp.linear_fc1.weight", &[3, 4], &[6, 4], &[(0, 1000, &[0, 0], &[3, 4]), (1, 1000, &[3, 0], &[3, 4])]);
        // Gated: the first half of all ranks, then the second half of all ranks.
        let gated: [(u32, u64, &[u64], &[u64]); 4] = [
            (0, 1000, &[0, 0], &[3, 4]),
            (1, 1000, &[3, 0], &[3, 4]),
            (0, 1048, &[6, 0], &[3, 4]),
            (1, 1048, &[9, 0], &[3, 4]),
        ];
        check("mlp.linear_fc1.weight", &[6, 4], &[12, 4], &gated);
        let replicated = join(&[("a.input_layernorm.weight", &[4])]).unwrap();
        assert!(replicated[0].pieces[0].is_whole());
        let fused = join(&[("a.linear_qkv.layer_norm_weight", &[4])]).unwrap();
        assert_eq!(&*fused[0].shape.0, [4]);
    }

    #[test]
    fn experts_in_groups_are_known_without_their_number() {
        let experts = [("l.experts.linear_fc1.weight3", &[6, 4][..]), ("l.experts.linear_fc2.weight3", &[4, 3])];
        let joined = join(&experts).unwrap();
        assert_eq!(&*joined[0].shape.0, [12, 4]);
        assert_eq!(joined[0].pieces.len(), 4);
        assert_eq!(&*joined[1].shape.0, [4, 6]);
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        assert!(
            join(&[("a.mixer.in_proj.weight", &[4, 4])]).unwrap_err().contains("how tensor `a.mixer.in_proj.weight`")
        );
        assert!(join(&[("mlp.linear_fc1.weight", &[5, 4]), ("mlp.linear_fc2.weight", &[4, 3])]).is_err());
        let differ = join_ranks(vec![rank(0, &[("w.norm.weight", &[4])]), rank(1, &[("w.norm.weight", &[5])])]);
        assert!(differ.unwrap_err().into_reason().contains("differs in shape"));
        let lacks = join_ranks(vec![rank(0, &[]), rank(1, &[("w.norm.weight", &[5])])]);
        assert!(lacks.unwrap_err().into_reason().contains("not in the file of tensor rank 0"));
    }
}
