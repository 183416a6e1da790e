//! Sources that turned out to hold the same bytes: a checkpoint that was copied to the name of another step counts
//! twice.

use std::collections::{BTreeMap, BTreeSet};

use thalweg_tensor::display_name;

use crate::context::RunContext;
use crate::receipt::MergeReceipt;

/// Notes sources with equal digests, each pair once. Without digests there is nothing to compare.
pub(crate) fn note_equal_sources(receipts: &[MergeReceipt], run: &RunContext<'_>) {
    let pairs: BTreeSet<(String, String)> = receipts.iter().flat_map(equal_sources).collect();
    for (first, second) in pairs {
        run.progress.note(&format!(
            "`{first}` and `{second}` hold the same tensors, byte for byte: if one is a copy under another name, it \
             counts twice"
        ));
    }
}

fn equal_sources(receipt: &MergeReceipt) -> Vec<(String, String)> {
    let mut first_by_digest = BTreeMap::new();
    let mut pairs = Vec::new();
    for source in &receipt.sources {
        let Some(digest) = &source.digest else { continue };
        let first = *first_by_digest.entry(digest).or_insert(&source.path);
        if *first != source.path {
            let name = |path: &std::path::Path| display_name(&path.display().to_string());
            pairs.push((name(first), name(&source.path)));
        }
    }
    pairs
}
