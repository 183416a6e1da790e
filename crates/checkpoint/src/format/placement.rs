//! Which box of a tensor a rank holds, given the mesh of ranks and how the tensor is placed on it.

use std::collections::HashMap;

/// How a tensor is placed along one dimension of a mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Each rank along it holds the same.
    Replicate,
    /// Cut along this dimension of the tensor.
    Shard {
        /// Dimension of the tensor.
        dim: usize,
    },
    /// Cut along this dimension after later dimensions of the mesh have already cut it.
    StridedShard {
        /// Dimension of the tensor.
        dim: usize,
        /// Number of pieces that the later dimensions made.
        split_factor: u64,
    },
}

impl Placement {
    fn dim(self) -> Option<usize> {
        match self {
            Self::Replicate => None,
            Self::Shard { dim } | Self::StridedShard { dim, .. } => Some(dim),
        }
    }
}

/// First index and extent of the box of the rank at `coordinate`; `None` for placements that do not fit the mesh or the
/// tensor.
///
/// A cut makes pieces of equal size, rounded up, so later ones may be shorter or empty; an empty one begins at the end.
pub(crate) fn box_at(
    shape: &[u64],
    mesh_shape: &[u64],
    coordinate: &[u64],
    placements: &[Placement],
) -> Option<(Vec<u64>, Vec<u64>)> {
    if mesh_shape.len() != placements.len() || coordinate.len() != placements.len() {
        return None;
    }
    let (mut start, mut extent) = (vec![0; shape.len()], shape.to_vec());
    for dim in 0..shape.len() {
        for mesh_dim in cut_order(dim, mesh_shape, placements)? {
            let (n_pieces, at) = (mesh_shape[mesh_dim], coordinate[mesh_dim]);
            if at >= n_pieces {
                return None;
            }
            let size = extent[dim].div_ceil(n_pieces);
            let first = size.checked_mul(at)?.min(extent[dim]);
            start[dim] += first;
            extent[dim] = size.min(extent[dim] - first);
        }
    }
    placements.iter().all(|placement| placement.dim().is_none_or(|dim| dim < shape.len())).then_some((start, extent))
}

/// The dimensions of the mesh that cut a dimension of the tensor, in the order in which they cut it.
fn cut_order(dim: usize, mesh_shape: &[u64], placements: &[Placement]) -> Option<Vec<usize>> {
    let mut order: Vec<usize> = Vec::new();
    for (mesh_dim, placement) in placements.iter().enumerate().rev() {
        match placement {
            Placement::Shard { dim: own } if *own == dim => order.insert(0, mesh_dim),
            Placement::StridedShard { dim: own, split_factor } if *own == dim => {
                // It comes after the later cuts that together make `split_factor` pieces.
                let mut n_pieces = 1_u64;
                let mut after = 0;
                while n_pieces < *split_factor {
                    n_pieces = n_pieces.checked_mul(*mesh_shape.get(*order.get(after)?)?)?;
                    after += 1;
                }
                if n_pieces != *split_factor {
                    return None;
                }
                order.insert(after, mesh_dim);
            }
            _ => {}
        }
    }
    Some(order)
}

/// The ranks of a mesh, listed row by row.
#[derive(Debug)]
pub(crate) struct MeshRanks {
    ranks: Vec<u64>,
    /// Where each is in the list. A mesh may have thousands of ranks, and each tensor looks for all of them.
    positions: HashMap<u64, u64>,
}

impl MeshRanks {
    pub(crate) fn new(ranks: Vec<u64>) -> Self {
        let mut positions = HashMap::with_capacity(ranks.len());
        for (position, rank) in (0..).zip(&ranks) {
            positions.entry(*rank).or_insert(position);
        }
        Self { ranks, positions }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        self.ranks.iter().copied()
    }
}

/// Coordinate of a rank in a mesh; `None` if the rank is not in the mesh.
pub(crate) fn coordinate_of(rank: u64, mesh_shape: &[u64], ranks: &MeshRanks) -> Option<Vec<u64>> {
    let mut position = *ranks.positions.get(&rank)?;
    let mut coordinate = vec![0; mesh_shape.len()];
    for (index, size) in coordinate.iter_mut().zip(mesh_shape).rev() {
        *index = position.checked_rem(*size)?;
        position /= size;
    }
    (position == 0).then_some(coordinate)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: Placement = Placement::Shard { dim: 0 };

    /// The rows of each rank of a mesh, in the order of ranks.
    fn check_rows(n_rows: u64, mesh_shape: &[u64], placements: &[Placement], expected: &[(u64, u64)]) {
        let ranks = MeshRanks::new((0..mesh_shape.iter().product()).collect());
        let rows = ranks.iter().map(|rank| {
            let coordinate = coordinate_of(rank, mesh_shape, &ranks).unwrap();
            let (start, extent) = box_at(&[n_rows, 5], mesh_shape, &coordinate, placements).unwrap();
            assert_eq!((start[1], extent[1]), (0, 5));
            (start[0], extent[0])
        });
        assert_eq!(rows.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn pieces_are_rounded_up_and_the_last_may_be_empty() {
        check_rows(41, &[3], &[SHARD], &[(0, 14), (14, 14), (28, 13)]);
        check_rows(4, &[3], &[SHARD], &[(0, 2), (2, 2), (4, 0)]);
        check_rows(1, &[4], &[SHARD], &[(0, 1), (1, 0), (1, 0), (1, 0)]);
        check_rows(6, &[2], &[Placement::Replicate], &[(0, 6), (0, 6)]);
    }

    #[test]
    fn strided_cuts_come_after_those_of_later_dimensions() {
        let strided = |split_factor| Placement::StridedShard { dim: 0, split_factor };
        check_rows(41, &[2, 2], &[strided(2), SHARD], &[(0, 11), (21, 10), (11, 10), (31, 10)]);
        check_rows(41, &[2, 2], &[SHARD, SHARD], &[(0, 11), (11, 10), (21, 10), (31, 10)]);
        check_rows(41, &[2, 2], &[strided(1), SHARD], &[(0, 11), (11, 10), (21, 10), (31, 10)]);
        // The last dimension cuts first, then the first one, which asks for two pieces, then the middle one.
        let rows = [(0, 1), (4, 1), (1, 1), (5, 1), (2, 1), (6, 1), (3, 1), (7, 1)];
        check_rows(8, &[2, 2, 2], &[strided(2), strided(2), SHARD], &rows);
    }

    #[test]
    fn placements_that_do_not_fit_are_refused() {
        let strided = Placement::StridedShard { dim: 0, split_factor: 3 };
        assert_eq!(box_at(&[8], &[2, 2], &[0, 0], &[strided, SHARD]), None);
        assert_eq!(box_at(&[8], &[2], &[2], &[SHARD]), None);
        assert_eq!(box_at(&[8], &[2], &[0], &[Placement::Shard { dim: 1 }]), None);
        assert_eq!(box_at(&[8], &[2, 2], &[0], &[SHARD]), None);
        let at =
            |rank, mesh_shape: &[u64], ranks: &[u64]| coordinate_of(rank, mesh_shape, &MeshRanks::new(ranks.to_vec()));
        assert_eq!(at(4, &[2, 2], &[0, 1, 2, 3]), None);
        assert_eq!(at(0, &[0], &[0]), None);
        assert_eq!(at(7, &[2, 2], &[4, 5, 6, 7]), Some(vec![1, 1]));
        // A rank that is listed twice is where it is first.
        assert_eq!(at(5, &[3], &[4, 5, 5]), Some(vec![1]));
    }
}
