//! Runs of a flat vector as boxes of a tensor: ZeRO cuts parameters wherever a rank's share ends.

use thalweg_tensor::{Dtype, Piece, Shape};

/// The pieces of a tensor that hold its elements `start..end` in row-major order, which are contiguous in a file.
///
/// At most two for each dimension. `offset` is the byte of element `start`. Empty for a range that is not in the
/// tensor.
pub(crate) fn pieces_of_run(
    shape: &Shape,
    dtype: Dtype,
    (start, end): (u64, u64),
    file_idx: u32,
    offset: u64,
) -> Vec<Piece> {
    let Some(n_elements) = shape.n_elements().filter(|n| start < end && end <= *n) else {
        return Vec::new();
    };
    if start == 0 && end == n_elements {
        return vec![Piece::whole(file_idx, offset)];
    }
    let mut boxes = Vec::new();
    let mut waiting = vec![(Vec::new(), start, end)];
    while let Some((prefix, start, end)) = waiting.pop() {
        let dim = prefix.len();
        let row: u64 = shape.0[dim + 1..].iter().product();
        let (first, last) = (start / row, end / row);
        let inner = |index: u64| {
            let mut inner: Vec<u64> = prefix.clone();
            inner.push(index);
            inner
        };
        if first == last {
            waiting.push((inner(first), start % row, end % row));
            continue;
        }
        if !end.is_multiple_of(row) {
            waiting.push((inner(last), 0, end % row));
        }
        let first_whole = start.div_ceil(row);
        if first_whole < last {
            boxes.push((prefix.clone(), first_whole, last));
        }
        if !start.is_multiple_of(row) {
            waiting.push((inner(first), start % row, row));
        }
    }
    boxes
        .into_iter()
        .filter_map(|(prefix, first, last)| piece_of(shape, dtype, start, (prefix, first, last), file_idx, offset))
        .collect()
}

/// One box: rows `first..last` below the indices `prefix`, whole in all further dimensions.
fn piece_of(
    shape: &Shape,
    dtype: Dtype,
    run_start: u64,
    (prefix, first, last): (Vec<u64>, u64, u64),
    file_idx: u32,
    offset: u64,
) -> Option<Piece> {
    let dim = prefix.len();
    let mut start = prefix;
    start.push(first);
    start.resize(shape.0.len(), 0);
    let mut extent = vec![1; dim];
    extent.push(last - first);
    extent.extend(&shape.0[dim + 1..]);
    let position = start.iter().zip(&*shape.0).fold(0, |position, (index, size)| position * size + index);
    Some(Piece::boxed(file_idx, offset + dtype.bytes_of(position - run_start)?, &start, &extent))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every element of every run of a shape is where the run says.
    fn check_shape(dims: &[u64]) {
        let shape = Shape::new(dims);
        let n_elements = shape.n_elements().unwrap();
        for start in 0..n_elements {
            for end in start + 1..=n_elements {
                let pieces = pieces_of_run(&shape, Dtype::F32, (start, end), 3, 1000);
                assert!(pieces.len() < 2 * dims.len().max(1), "{start}..{end}: {pieces:?}");
                let mut seen = vec![false; usize::try_from(n_elements).unwrap()];
                for piece in &pieces {
                    assert_eq!(piece.file_idx, 3);
                    mark(&shape, piece, start, &mut seen);
                }
                let wanted = |at: u64| (start..end).contains(&at);
                assert!(seen.iter().zip(0..).all(|(seen, at)| *seen == wanted(at)), "{dims:?} {start}..{end}");
            }
        }
    }

    fn mark(shape: &Shape, piece: &Piece, run_start: u64, seen: &mut [bool]) {
        let extent = piece.extent(shape).to_vec();
        let start = piece.start().map_or_else(|| vec![0; extent.len()], <[u64]>::to_vec);
        let n: u64 = extent.iter().product();
        for inner in 0..n {
            let mut rest = inner;
            let mut index = start.clone();
            for dim in (0..extent.len()).rev() {
                index[dim] += rest % extent[dim];
                rest /= extent[dim];
            }
            let position = index.iter().zip(&*shape.0).fold(0, |position, (index, size)| position * size + index);
            // The elements of a box of a run are contiguous in the file.
            assert_eq!(1000 + 4 * (position - run_start), piece.offset + 4 * inner, "{piece:?}");
            let slot = &mut seen[usize::try_from(position).unwrap()];
            assert!(!*slot);
            *slot = true;
        }
    }

    #[test]
    fn every_run_of_a_tensor_is_covered_once() {
        for dims in [&[7][..], &[3, 4], &[2, 3, 4], &[1, 5, 1, 2], &[4, 1], &[1, 1]] {
            check_shape(dims);
        }
    }

    #[test]
    fn scalars_and_empty_runs_have_no_cuts() {
        assert!(pieces_of_run(&Shape::new([]), Dtype::F32, (0, 1), 0, 8)[0].is_whole());
        assert_eq!(pieces_of_run(&Shape::new([4]), Dtype::F32, (2, 2), 0, 8), []);
        assert_eq!(pieces_of_run(&Shape::new([4]), Dtype::F32, (2, 5), 0, 8), []);
        assert_eq!(pieces_of_run(&Shape::new([0, 4]), Dtype::F32, (0, 1), 0, 8), []);
    }
}
