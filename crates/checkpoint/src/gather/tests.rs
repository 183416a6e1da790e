//! The oracle: each element encodes its index in the tensor, so the expected bytes are known without a second reader.

use std::convert::Infallible;

use thalweg_tensor::Dtype;

use super::*;

/// Files with boxes laid out with arbitrary strides, and the entry that describes them.
struct Laid {
    entry: TensorEntry,
    files: Vec<Vec<u8>>,
}

/// Small pseudo-random numbers from a seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n.max(1)
    }
}

fn element_bytes(linear: u64, width: usize) -> Vec<u8> {
    linear.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[..width].to_vec()
}

/// Cuts a box at random planes until the pieces are small or the draw says stop.
fn split(start: Vec<u64>, extent: Vec<u64>, draw: &mut Draw, depth: u32, out: &mut Vec<(Vec<u64>, Vec<u64>)>) {
    let dim = draw.below(extent.len() as u64);
    let dim = to_index(dim);
    if depth == 0 || extent.is_empty() || extent[dim] < 2 || draw.below(4) == 0 {
        out.push((start, extent));
        return;
    }
    let at = 1 + draw.below(extent[dim] - 1);
    let (mut low, mut high) = (extent.clone(), extent);
    (low[dim], high[dim]) = (at, high[dim] - at);
    let mut high_start = start.clone();
    high_start[dim] += at;
    split(start, low, draw, depth - 1, out);
    split(high_start, high, draw, depth - 1, out);
}

/// Strides of a box with its dimensions in any order and gaps between rows, as a view of a larger storage has.
fn random_strides(extent: &[u64], draw: &mut Draw) -> Vec<u64> {
    let mut order: Vec<usize> = (0..extent.len()).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, to_index(draw.below(i as u64 + 1)));
    }
    let mut stride = 1 + draw.below(2);
    let mut strides = vec![0; extent.len()];
    for dim in order {
        strides[dim] = stride;
        stride = stride * extent[dim] + draw.below(3);
    }
    strides
}

fn lay_out(shape: &[u64], dtype: Dtype, is_strided: bool, seed: u64) -> Laid {
    let mut draw = Draw(seed);
    let shape = Shape::new(shape);
    let width = to_index(dtype.bytes().unwrap());
    let mut boxes = Vec::new();
    split(vec![0; shape.0.len()], shape.0.to_vec(), &mut draw, 5, &mut boxes);
    let mut files = vec![vec![0xEE; 3], vec![0xEE; 11]];
    let mut pieces = Vec::new();
    for (start, extent) in boxes {
        let file_idx = to_index(draw.below(2));
        let offset = files[file_idx].len() as u64;
        let u32_idx = u32::try_from(file_idx).unwrap();
        let mut piece = Piece::boxed(u32_idx, offset, &start, &extent);
        if is_strided && draw.below(3) > 0 {
            piece = piece.with_strides(&shape, &random_strides(&extent, &mut draw)).unwrap();
        }
        let mut natural = vec![1; extent.len()];
        for dim in (1..extent.len()).rev() {
            natural[dim - 1] = natural[dim] * extent[dim];
        }
        let strides = piece.strides().map_or(natural, <[u64]>::to_vec);
        let n_spanned = to_index(piece.n_spanned(&shape).unwrap());
        files[file_idx].resize(to_index(offset) + n_spanned * width, 0xEE);
        let n: u64 = extent.iter().product();
        for position in 0..n {
            let (mut rest, mut below, mut linear, mut place) = (position, n, 0, 0);
            for dim in 0..extent.len() {
                below /= extent[dim];
                let index = rest / below;
                rest %= below;
                linear = linear * shape.0[dim] + start[dim] + index;
                place += index * strides[dim];
            }
            let at = to_index(offset) + to_index(place) * width;
            files[file_idx][at..at + width].copy_from_slice(&element_bytes(linear, width));
        }
        pieces.push(piece);
    }
    let entry = TensorEntry::of_pieces("w".into(), dtype, shape, pieces).unwrap();
    Laid { entry, files }
}

/// Writes all elements in ranges of `step` into files that held none, and compares each byte of the files.
fn check_written(laid: &Laid, step: u64) {
    let width = to_index(laid.entry.dtype.bytes().unwrap());
    let mut files: Vec<Vec<u8>> = laid.files.clone();
    for piece in &laid.entry.pieces {
        // Wipes the elements and what is between them; the latter is put back as a frame would be.
        let spanned = to_index(piece.n_spanned(&laid.entry.shape).unwrap()) * width;
        let at = to_index(piece.offset);
        let file_idx = to_index(piece.file_idx.into());
        let is_gap = |i: usize| laid.files[file_idx][i] == 0xEE;
        (at..at + spanned).filter(|&i| !is_gap(i)).for_each(|i| files[file_idx][i] = 0x11);
    }
    let n_elements = laid.entry.n_elements();
    let files = RefCell::new(files);
    for first in (0..n_elements).step_by(to_index(step)) {
        let elements = first..n_elements.min(first + step);
        let bytes: Vec<u8> = elements.clone().flat_map(|linear| element_bytes(linear, width)).collect();
        for share in shares_of(&laid.entry, &elements) {
            let piece = &laid.entry.pieces[share.piece_idx];
            let file_idx = to_index(piece.file_idx.into());
            let read = &mut |offset: u64, out: &mut [u8]| {
                out.copy_from_slice(&files.borrow()[file_idx][to_index(offset)..to_index(offset) + out.len()]);
                Ok::<(), Infallible>(())
            };
            let write = &mut |offset: u64, bytes: &[u8]| {
                files.borrow_mut()[file_idx][to_index(offset)..to_index(offset) + bytes.len()].copy_from_slice(bytes);
                Ok::<(), Infallible>(())
            };
            let Ok(()) = write_share(&laid.entry, piece, share.positions, first, &bytes, (read, write));
        }
    }
    assert!(*files.borrow() == laid.files, "{:?}", laid.entry);
}

#[test]
fn what_is_written_in_any_cut_is_what_reading_expects() {
    for seed in 0..60 {
        for (shape, dtype) in
            [(&[7, 5, 3][..], Dtype::F32), (&[64, 33], Dtype::Bf16), (&[300], Dtype::U8), (&[], Dtype::F64)]
        {
            for is_strided in [false, true] {
                let laid = lay_out(shape, dtype, is_strided, seed);
                [1, 7, 64, 100_000].into_iter().for_each(|step| check_written(&laid, step));
            }
        }
    }
}

#[test]
fn rows_longer_than_the_scratch_are_written_too() {
    let laid = lay_out(&[3, 70_000], Dtype::Bf16, false, 5);
    check_written(&laid, 100_000);
    check_written(&laid, 45_001);
}

/// Reads a range and compares; returns the number of reads.
fn check_range(laid: &Laid, elements: Range<u64>) -> usize {
    let width = to_index(laid.entry.dtype.bytes().unwrap());
    let mut out = vec![0xAB; to_index(elements.end - elements.start) * width];
    let mut n_reads = 0;
    for share in shares_of(&laid.entry, &elements) {
        let piece = &laid.entry.pieces[share.piece_idx];
        let file = &laid.files[to_index(piece.file_idx.into())];
        let read = &mut |offset: u64, out: &mut [u8]| {
            n_reads += 1;
            out.copy_from_slice(&file[to_index(offset)..to_index(offset) + out.len()]);
            Ok::<(), Infallible>(())
        };
        let Ok(()) = read_share(&laid.entry, piece, share.positions, elements.start, &mut out, read);
    }
    let expected: Vec<u8> = elements.flat_map(|linear| element_bytes(linear, width)).collect();
    assert!(out == expected, "{:?}", laid.entry);
    n_reads
}

#[test]
fn any_range_of_any_boxes_is_read_right() {
    const DTYPES: [Dtype; 4] = [Dtype::U8, Dtype::Bf16, Dtype::F32, Dtype::F64];
    let mut draw = Draw(5);
    for seed in 0..1000 {
        let rank = draw.below(5);
        let shape: Vec<u64> = (0..rank).map(|_| 1 + draw.below(7)).collect();
        let laid = lay_out(&shape, DTYPES[to_index(draw.below(4))], seed % 3 > 0, seed);
        let n = laid.entry.n_elements();
        let ends = [draw.below(n + 1), draw.below(n + 1)];
        check_range(&laid, ends[0].min(ends[1])..ends[0].max(ends[1]));
        check_range(&laid, 0..n);
    }
}

#[test]
fn boxes_larger_than_the_scratch_are_read_in_several_windows() {
    for seed in 0..3 {
        let laid = lay_out(&[160, 7, 111], Dtype::Bf16, seed % 2 == 0, seed);
        check_range(&laid, 0..laid.entry.n_elements());
        check_range(&laid, 1_003..120_009);
    }
}

fn one_piece(shape: &[u64], start: &[u64], extent: &[u64]) -> Piece {
    assert_eq!((start.len(), extent.len()), (shape.len(), shape.len()));
    Piece::boxed(0, 0, start, extent)
}

fn n_reads_of(shape: &[u64], pieces: Vec<Piece>, elements: Range<u64>) -> usize {
    let entry = TensorEntry::of_pieces("w".into(), Dtype::Bf16, Shape::new(shape), pieces).unwrap();
    let mut out = vec![0; to_index(elements.end - elements.start) * 2];
    let mut n_reads = 0;
    for share in shares_of(&entry, &elements) {
        let read = &mut |_: u64, _: &mut [u8]| {
            n_reads += 1;
            Ok::<(), Infallible>(())
        };
        let Ok(()) =
            read_share(&entry, &entry.pieces[share.piece_idx], share.positions, elements.start, &mut out, read);
    }
    n_reads
}

#[test]
fn shards_of_rows_cost_one_read_each_and_shards_of_columns_one_a_window() {
    let rows = (0..8).map(|i| one_piece(&[64, 1024], &[8 * i, 0], &[8, 1024])).collect::<Vec<_>>();
    assert_eq!(n_reads_of(&[64, 1024], rows.clone(), 0..64 * 1024), 8);
    assert_eq!(n_reads_of(&[64, 1024], rows, 9 * 1024 - 3..15 * 1024), 1);
    let columns = (0..4).map(|i| one_piece(&[64, 1024], &[0, 256 * i], &[64, 256])).collect::<Vec<_>>();
    assert_eq!(n_reads_of(&[64, 1024], columns.clone(), 0..64 * 1024), 4);
    assert_eq!(n_reads_of(&[64, 1024], columns, 0..256), 1);
    let wide =
        vec![one_piece(&[2, 1 << 17], &[0, 0], &[2, 1 << 16]), one_piece(&[2, 1 << 17], &[0, 1 << 16], &[2, 1 << 16])];
    assert_eq!(n_reads_of(&[2, 1 << 17], wide, 0..1 << 18), 4);
}

#[test]
fn a_transposed_tensor_is_read_in_windows_and_an_expanded_one_from_its_own_bytes() {
    let shape = Shape::new([64, 512]);
    let transposed = Piece::whole(0, 0).with_strides(&shape, &[1, 64]).unwrap();
    assert_eq!(n_reads_of(&[64, 512], vec![transposed], 0..64 * 512), 1);
    let expanded = Piece::whole(0, 0).with_strides(&shape, &[0, 1]).unwrap();
    assert_eq!(expanded.n_spanned(&shape), Some(512));
    assert!(n_reads_of(&[64, 512], vec![expanded], 0..64 * 512) <= 64);
}
