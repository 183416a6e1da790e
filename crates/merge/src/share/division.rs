//! Which share does which unit.

use thalweg_checkpoint::OutputLayout;

use crate::unit::{Part, UnitList};

/// The share of each unit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Division {
    /// `None` for units that the last step does.
    shares: Vec<Option<usize>>,
}

impl Division {
    /// Divides units into `count` shares of about equal bytes: runs of units in the order of their places in the
    /// output, so that a share writes to few files.
    ///
    /// A tensor larger than a share is divided between its units. Files with elements that are not contiguous are left
    /// to the last step, because their neighbours are written with them.
    pub(crate) fn new(units: &UnitList, layout: &OutputLayout, count: usize) -> Self {
        let entries = layout.catalog().entries();
        let strided = layout.strided_files();
        let is_left = |part: &Part| {
            !strided.is_empty() && !layout.files_of(part.tensor_idx, &part.elements).is_disjoint(&strided)
        };
        let bytes_of = |part: &Part| {
            let n_elements = part.elements.end - part.elements.start;
            u128::from(entries[part.tensor_idx].dtype.bytes_of(n_elements).unwrap_or(0))
        };
        let place = |&unit_idx: &usize| {
            let first = units.parts(unit_idx).first();
            first.map(|part| {
                let piece = entries[part.tensor_idx].pieces.first();
                (piece.map(|piece| (piece.file_idx, piece.offset)), part.elements.start)
            })
        };
        let mut order: Vec<usize> =
            (0..units.len()).filter(|&unit_idx| !units.parts(unit_idx).iter().any(is_left)).collect();
        order.sort_by_cached_key(place);
        let bytes: Vec<u128> = order.iter().map(|&unit_idx| units.parts(unit_idx).iter().map(bytes_of).sum()).collect();
        let total = bytes.iter().sum::<u128>().max(1);
        let mut shares = vec![None; units.len()];
        let mut before = 0;
        for (unit_idx, bytes) in order.into_iter().zip(bytes) {
            // By the middle of the unit: no share is more than half a unit from its due.
            let share = (2 * before + bytes) * count as u128 / (2 * total);
            shares[unit_idx] = Some(usize::try_from(share).unwrap_or(count).min(count - 1));
            before += bytes;
        }
        Self { shares }
    }

    /// The share of a unit; `None` if the last step does it.
    pub(crate) fn share_of(&self, unit_idx: usize) -> Option<usize> {
        self.shares.get(unit_idx).copied().flatten()
    }

    /// The units of a share.
    pub(crate) fn units_of(&self, share: usize) -> impl Iterator<Item = usize> + '_ {
        self.shares.iter().enumerate().filter(move |(_, of)| **of == Some(share)).map(|(unit_idx, _)| unit_idx)
    }

    /// Numbers of the files that a share writes to.
    pub(crate) fn files_of(
        &self,
        share: usize,
        units: &UnitList,
        layout: &OutputLayout,
    ) -> std::collections::BTreeSet<usize> {
        let parts = self.units_of(share).flat_map(|unit_idx| units.parts(unit_idx));
        parts.flat_map(|part| layout.files_of(part.tensor_idx, &part.elements)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use thalweg_checkpoint::{LayoutEntry, layout_output};
    use thalweg_tensor::{Dtype, Shape};

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Units and layout of bf16 tensors of these numbers of elements, in shards of 8 MiB.
    fn scene(lengths: &[u64]) -> (UnitList, OutputLayout) {
        let entry = |(i, &n): (usize, &u64)| LayoutEntry {
            name: format!("t{i:04}").into(),
            dtype: Dtype::Bf16,
            shape: Shape::new([n]),
        };
        let entries: Vec<LayoutEntry> = lengths.iter().enumerate().map(entry).collect();
        let layout = layout_output(&entries, 8 * MIB, &BTreeMap::new()).unwrap();
        (UnitList::cut(layout.catalog(), |_| true, |_| 2), layout)
    }

    fn check(lengths: &[u64], count: usize) {
        let (units, layout) = scene(lengths);
        let division = Division::new(&units, &layout, count);
        let bytes = |unit_idx: usize| -> u64 {
            units.parts(unit_idx).iter().map(|part| 2 * (part.elements.end - part.elements.start)).sum()
        };
        let of_share: Vec<u64> = (0..count).map(|share| division.units_of(share).map(bytes).sum()).collect();
        let total: u64 = lengths.iter().map(|n| 2 * n).sum();
        assert_eq!(of_share.iter().sum::<u64>(), total, "every unit has one share");
        assert_eq!((0..count).map(|share| division.units_of(share).count()).sum::<usize>(), units.len());
        for (share, bytes) in of_share.iter().enumerate() {
            let due = total / count as u64;
            assert!(bytes.abs_diff(due) <= MIB, "{lengths:?}: share {share} of {count} has {bytes}, {due} due");
        }
    }

    #[test]
    fn shares_are_balanced_to_one_unit_whatever_the_tensors() {
        let many = vec![1000; 500];
        let mixed: Vec<u64> = (0..60).map(|i| if i % 7 == 0 { 3 * MIB } else { 900 * i }).collect();
        for lengths in [&[40 * MIB][..], &[MIB, 2 * MIB, 17 * MIB + 5], &many, &mixed, &[0, 0, 9]] {
            for count in [1, 2, 3, 7, 8, 64] {
                check(lengths, count);
            }
        }
    }

    #[test]
    fn a_share_writes_to_neighbouring_files_only() {
        let (units, layout) = scene(&[4 * MIB; 16]);
        let division = Division::new(&units, &layout, 4);
        for share in 0..4 {
            let files = division.files_of(share, &units, &layout);
            assert!(files.iter().zip(files.iter().skip(1)).all(|(a, b)| a + 1 == *b), "{files:?}");
            assert_eq!(files.len(), 4, "{files:?}");
        }
    }

    #[test]
    fn a_tensor_larger_than_a_share_is_divided() {
        let (units, layout) = scene(&[64 * MIB]);
        let division = Division::new(&units, &layout, 3);
        assert!((0..3).all(|share| division.units_of(share).count() >= 42));
        assert_eq!(Division::new(&units, &layout, 3), division, "the same each time");
    }
}
