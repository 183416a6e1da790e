//! Digests of what passes through a part of the work, and what a finished part leaves behind.

use thalweg_tensor::digest::{DigestKind, SUBTREE_BYTES, SubtreeDigest, SubtreeHasher};
use thalweg_tensor::{Dtype, to_index};

use crate::plan::DigestChoice;
use crate::tensor_stats::TensorStats;

/// What a finished part leaves behind.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PartResult {
    /// For each source that was read (in the order of `SourceUse::read`), its subtrees; empty without digests, and for
    /// sources whose digest is known.
    pub(crate) source_subtrees: Vec<Vec<SubtreeDigest>>,
    /// For each output, its subtrees and statistics.
    pub(crate) outputs: Vec<(Vec<SubtreeDigest>, TensorStats)>,
}

/// Hashes what passes through, cut at subtrees.
pub(crate) struct PartHashers {
    sources: Vec<RunningHash>,
    outputs: Vec<RunningHash>,
}

impl PartHashers {
    /// For a part from element `first` on of a tensor with `n_elements`, which is read from sources, and written to
    /// outputs, of these element types. A source of no type is not hashed.
    pub(crate) fn new(
        record: Option<DigestChoice>,
        (first, n_elements): (u64, u64),
        sources: impl Iterator<Item = Option<Dtype>>,
        outputs: impl Iterator<Item = Dtype>,
    ) -> Self {
        let start = |kind: Option<DigestKind>, dtype: Dtype| {
            let offset = dtype.bytes_of(first).unwrap_or(0);
            RunningHash::new(kind, offset / SUBTREE_BYTES, dtype.bytes_of(n_elements).unwrap_or(0))
        };
        let asked = record.and_then(DigestChoice::kind);
        // A stage must be able to check what it holds, whether digests were asked for or not.
        let of_outputs = record.map(|_| asked.unwrap_or(DigestKind::Xxh3));
        Self {
            sources: sources
                .map(|dtype| start(asked.filter(|_| dtype.is_some()), dtype.unwrap_or(Dtype::U8)))
                .collect(),
            outputs: outputs.map(|dtype| start(of_outputs, dtype)).collect(),
        }
    }

    pub(crate) fn source(&mut self, slot: usize, bytes: &[u8]) {
        self.sources[slot].update(bytes);
    }

    pub(crate) fn output(&mut self, k: usize, bytes: &[u8]) {
        self.outputs[k].update(bytes);
    }

    pub(crate) fn finish(self, stats: Vec<TensorStats>) -> PartResult {
        PartResult {
            source_subtrees: self.sources.into_iter().map(RunningHash::finish).collect(),
            outputs: self.outputs.into_iter().map(RunningHash::finish).zip(stats).collect(),
        }
    }
}

/// The subtrees of a run of bytes that begins at a subtree.
pub(crate) struct RunningHash {
    kind: Option<DigestKind>,
    tensor_bytes: u64,
    subtree_idx: u64,
    n_in_subtree: u64,
    current: Option<SubtreeHasher>,
    finished: Vec<SubtreeDigest>,
}

impl RunningHash {
    pub(crate) fn new(kind: Option<DigestKind>, subtree_idx: u64, tensor_bytes: u64) -> Self {
        let current = kind.map(|kind| SubtreeHasher::new(kind, subtree_idx, tensor_bytes));
        Self { kind, tensor_bytes, subtree_idx, n_in_subtree: 0, current, finished: Vec::new() }
    }

    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        let Some(kind) = self.kind else { return };
        while !bytes.is_empty() {
            if self.n_in_subtree == SUBTREE_BYTES {
                self.finished.extend(self.current.take().map(SubtreeHasher::finish));
                self.subtree_idx += 1;
                self.n_in_subtree = 0;
            }
            let n = bytes.len().min(to_index(SUBTREE_BYTES - self.n_in_subtree));
            let (now, later) = bytes.split_at(n);
            self.current
                .get_or_insert_with(|| SubtreeHasher::new(kind, self.subtree_idx, self.tensor_bytes))
                .update(now);
            self.n_in_subtree += n as u64;
            bytes = later;
        }
    }

    pub(crate) fn finish(mut self) -> Vec<SubtreeDigest> {
        self.finished.extend(self.current.take().map(SubtreeHasher::finish));
        self.finished
    }
}
