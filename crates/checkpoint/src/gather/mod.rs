//! Reads and writes ranges of elements in pieces that are boxes or have strides: which bytes of a file a range needs,
//! and where they go. Reads and writes are few and large, and scratch memory is bounded. The pieces are known to cover
//! their tensor exactly once.

mod scatter;

pub(crate) use scatter::write_share;

use std::cell::RefCell;
use std::ops::Range;

use thalweg_tensor::{Piece, Shape, TensorEntry, to_index};

/// Scratch memory of one thread, in bytes: the most that it reads at once from a piece that is not contiguous in the
/// tensor.
pub const GATHER_SCRATCH_BYTES: u64 = 64 << 10;
/// Gaps of up to this many bytes are read too, which costs less than another call. Not measured.
const READ_ALONG_BYTES: u64 = 4 << 10;
/// Most runs in one batch.
const MAX_RUNS: usize = 2048;

/// Reads bytes at an offset in the file that holds a piece.
pub(crate) type ReadBytes<'a, E> = &'a mut dyn FnMut(u64, &mut [u8]) -> Result<(), E>;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The part of one piece that an element range needs: positions in the row-major order of its box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) piece_idx: usize,
    pub(crate) positions: Range<u64>,
}

/// The shares of all pieces that hold some of the elements. The range must be in the tensor.
pub(crate) fn shares_of(entry: &TensorEntry, elements: &Range<u64>) -> Vec<Share> {
    let shape = &entry.shape;
    let begins_before_end = |piece: &Piece| piece.start().map_or(0, |start| linear_index(shape, start)) < elements.end;
    // Pieces are sorted by their first element, so those that begin later are skipped.
    let n_candidates = entry.pieces.partition_point(begins_before_end);
    let mut shares = Vec::new();
    let mut n_left = elements.end.saturating_sub(elements.start);
    for (piece_idx, piece) in entry.pieces.iter().enumerate().take(n_candidates).rev() {
        if n_left == 0 {
            break;
        }
        let positions = position_of(shape, piece, elements.start)..position_of(shape, piece, elements.end);
        let n_shared = positions.end.saturating_sub(positions.start);
        if n_shared > 0 {
            shares.push(Share { piece_idx, positions });
            n_left = n_left.saturating_sub(n_shared);
        }
    }
    shares
}

/// Reads a share into its places in `out`, which holds the elements from `first_element` on.
///
/// `piece` says where the box is in the file: the entry's piece, or the one that the file itself describes.
pub(crate) fn read_share<E>(
    entry: &TensorEntry,
    piece: &Piece,
    positions: Range<u64>,
    first_element: u64,
    out: &mut [u8],
    read: ReadBytes<'_, E>,
) -> Result<(), E> {
    // A tensor of packed elements is one whole, row-major piece and never comes here.
    let width = entry.dtype.bytes().unwrap_or(1);
    let target = Target { shape: &entry.shape, piece, width, first_element };
    match piece.strides() {
        None => target.read_rows(positions, out, read),
        Some(strides) => target.read_strided(strides, positions, out, read),
    }
}

fn linear_index(shape: &Shape, index: &[u64]) -> u64 {
    shape.0.iter().zip(index).fold(0, |linear, (&dim, &i)| linear * dim + i)
}

/// Number of elements of the box before element `linear` of the tensor, which is its position if the box holds it.
fn position_of(shape: &Shape, piece: &Piece, linear: u64) -> u64 {
    let extent = piece.extent(shape);
    let (mut rest, mut below) = (linear, shape.n_elements().unwrap_or(0));
    let mut box_below: u64 = extent.iter().product();
    if linear >= below {
        return box_below;
    }
    let mut position = 0;
    for (dim, (&size, &extent)) in shape.0.iter().zip(extent).enumerate() {
        below /= size;
        box_below /= extent;
        let index = rest / below;
        rest %= below;
        let start = piece.start().map_or(0, |start| start[dim]);
        if index < start {
            return position;
        }
        position += (index - start).min(extent) * box_below;
        if index - start >= extent {
            return position;
        }
    }
    position
}

/// Where the elements of one piece go: into an output that begins at `first_element`.
struct Target<'a> {
    shape: &'a Shape,
    piece: &'a Piece,
    width: u64,
    first_element: u64,
}

impl Target<'_> {
    /// Byte of the output where the element at this position of the box goes.
    fn out_byte(&self, position: u64) -> usize {
        let extent = self.piece.extent(self.shape);
        let (mut rest, mut below) = (position, extent.iter().product::<u64>());
        let mut linear = 0;
        for (dim, (&size, &extent)) in self.shape.0.iter().zip(extent).enumerate() {
            below /= extent;
            linear = linear * size + self.piece.start().map_or(0, |start| start[dim]) + rest / below;
            rest %= below;
        }
        to_index((linear - self.first_element) * self.width)
    }

    /// The position after the run of neighbours in the tensor that holds this position of a row-major box.
    fn end_of_run(&self, position: u64) -> u64 {
        let extent = self.piece.extent(self.shape);
        // Neighbours in the box are neighbours in the tensor up to the innermost dimension that is cut.
        let cut = extent.iter().zip(&self.shape.0).rposition(|(extent, size)| extent != size);
        let run: u64 = cut.map_or(u64::MAX, |dim| extent[dim..].iter().product());
        (position / run).saturating_add(1).saturating_mul(run)
    }

    /// Reads a row-major box: the file has its elements in the tensor's order, without those of other boxes.
    fn read_rows<E>(&self, positions: Range<u64>, out: &mut [u8], read: ReadBytes<'_, E>) -> Result<(), E> {
        let byte_of = |position: u64| self.piece.offset + position * self.width;
        let end_of_run = |position: u64| self.end_of_run(position).min(positions.end);
        if end_of_run(positions.start) == positions.end {
            let (from, n_bytes) = (self.out_byte(positions.start), (positions.end - positions.start) * self.width);
            return read(byte_of(positions.start), &mut out[from..from + to_index(n_bytes)]);
        }
        with_scratch(|scratch| {
            let mut at = positions.start;
            while at < positions.end {
                let run_end = end_of_run(at);
                if (run_end - at) * self.width >= GATHER_SCRATCH_BYTES {
                    let (from, n_bytes) = (self.out_byte(at), to_index((run_end - at) * self.width));
                    read(byte_of(at), &mut out[from..from + n_bytes])?;
                    at = run_end;
                    continue;
                }
                let end = positions.end.min(at + GATHER_SCRATCH_BYTES / self.width);
                let window = &mut scratch[..to_index((end - at) * self.width)];
                read(byte_of(at), window)?;
                let mut rest = &*window;
                while at < end {
                    let run_end = end_of_run(at).min(end);
                    let (from, n_bytes) = (self.out_byte(at), to_index((run_end - at) * self.width));
                    let (own, others) = rest.split_at(n_bytes);
                    out[from..from + n_bytes].copy_from_slice(own);
                    (rest, at) = (others, run_end);
                }
            }
            Ok(())
        })
    }

    /// Reads a box with strides: cuts the range into boxes and reads each of them in file order.
    fn read_strided<E>(
        &self,
        strides: &[u64],
        positions: Range<u64>,
        out: &mut [u8],
        read: ReadBytes<'_, E>,
    ) -> Result<(), E> {
        let width = to_index(self.width);
        self.visit_strided(strides, positions, &mut |window, runs, first| {
            read(first, window)?;
            for run in runs {
                let from = to_index(run.file_byte - first);
                let bytes = &window[from..from + to_index(run.n) * width];
                let to = to_index(run.out_element) * width;
                if run.out_stride == 1 {
                    out[to..to + bytes.len()].copy_from_slice(bytes);
                    continue;
                }
                let step = to_index(run.out_stride) * width;
                for (element, at) in bytes.chunks_exact(width).zip((to..).step_by(step)) {
                    out[at..at + width].copy_from_slice(element);
                }
            }
            Ok(())
        })
    }

    /// Cuts a range of a box with strides into windows of the file, and visits each in file order.
    fn visit_strided<E>(&self, strides: &[u64], positions: Range<u64>, visit: VisitWindow<'_, E>) -> Result<(), E> {
        let extent = self.piece.extent(self.shape);
        let mut out_strides = vec![1; extent.len()];
        for dim in (1..extent.len()).rev() {
            out_strides[dim - 1] = out_strides[dim] * self.shape.0[dim];
        }
        with_scratch(|scratch| {
            let mut batch = Batch { width: self.width, scratch, runs: Vec::new(), visit };
            for sub in boxes_of(extent, positions) {
                let at = |strides: &[u64]| sub.iter().zip(strides).map(|(range, stride)| range.start * stride).sum();
                let (file_at, box_at): (u64, u64) = (at(strides), at(&out_strides));
                let origin = self.piece.start().map_or(0, |start| linear_index(self.shape, start));
                let out_at = origin + box_at - self.first_element;
                let axes = axes_of(&sub, strides, &out_strides);
                batch.add_box(self.piece.offset + file_at * self.width, out_at, &axes)?;
            }
            batch.flush()
        })
    }
}

fn with_scratch<T>(act: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(to_index(GATHER_SCRATCH_BYTES), 0);
        act(scratch)
    })
}

/// Splits a range of row-major positions of a box into boxes: the end of a row, whole rows, the beginning of a row, and
/// so on in each dimension.
fn boxes_of(extent: &[u64], positions: Range<u64>) -> Vec<Vec<Range<u64>>> {
    let mut boxes = Vec::new();
    let mut at = positions.start;
    while at < positions.end {
        let n_left = positions.end - at;
        // The outermost dimension in which a whole step fits here.
        let mut below = extent.iter().product::<u64>();
        let (mut rest, mut sub) = (at, Vec::with_capacity(extent.len()));
        let mut n_taken = 1;
        for (dim, &size) in extent.iter().enumerate() {
            below /= size;
            let index = rest / below;
            rest %= below;
            if rest == 0 && below <= n_left {
                let n_steps = (n_left / below).min(size - index);
                sub.push(index..index + n_steps);
                sub.extend(extent[dim + 1..].iter().map(|&size| 0..size));
                n_taken = n_steps * below;
                break;
            }
            sub.push(index..index + 1);
        }
        boxes.push(sub);
        at += n_taken;
    }
    boxes
}

/// One loop over a box: its length, and the distance between its elements in the file and in the output, in elements.
#[derive(Debug, Clone, Copy)]
struct Axis {
    n: u64,
    file_stride: u64,
    out_stride: u64,
}

/// Loops in file order, outermost first; loops that continue one another are merged.
fn axes_of(sub: &[Range<u64>], strides: &[u64], out_strides: &[u64]) -> Vec<Axis> {
    let axes = sub.iter().zip(strides).zip(out_strides);
    let axis = |((range, &file_stride), &out_stride): ((&Range<u64>, &u64), &u64)| Axis {
        n: range.end - range.start,
        file_stride,
        out_stride,
    };
    let mut axes: Vec<Axis> = axes.map(axis).filter(|axis| axis.n > 1).collect();
    // Stride 0 repeats one element along a dimension, and each repeat reads it again, so that dimension goes outermost.
    axes.sort_by_key(|axis| if axis.file_stride == 0 { 0 } else { u64::MAX - axis.file_stride });
    let mut merged: Vec<Axis> = Vec::with_capacity(axes.len());
    for inner in axes {
        match merged.last_mut() {
            Some(outer)
                if outer.file_stride == inner.file_stride.saturating_mul(inner.n)
                    && outer.out_stride == inner.out_stride.saturating_mul(inner.n) =>
            {
                *outer = Axis { n: outer.n * inner.n, ..inner };
            }
            _ => merged.push(inner),
        }
    }
    merged
}

/// Elements that are contiguous in the file.
#[derive(Debug, Clone, Copy)]
struct Run {
    file_byte: u64,
    out_element: u64,
    n: u64,
    out_stride: u64,
}

/// Acts on the runs in a window of the file, given memory for the window and the window's first byte.
type VisitWindow<'a, E> = &'a mut dyn FnMut(&mut [u8], &[Run], u64) -> Result<(), E>;

/// Runs that are read or written with one call.
struct Batch<'a, 'r, E> {
    width: u64,
    scratch: &'a mut [u8],
    runs: Vec<Run>,
    visit: VisitWindow<'r, E>,
}

impl<E> Batch<'_, '_, E> {
    fn add_box(&mut self, file_byte: u64, out_element: u64, axes: &[Axis]) -> Result<(), E> {
        let (outer, run) = match axes.split_last() {
            Some((last, outer)) if last.file_stride == 1 => (outer, *last),
            _ => (axes, Axis { n: 1, file_stride: 1, out_stride: 1 }),
        };
        let mut index = vec![0; outer.len()];
        loop {
            let sum = |stride: &dyn Fn(&Axis) -> u64| -> u64 {
                outer.iter().zip(&index).map(|(axis, i)| i * stride(axis)).sum()
            };
            let file_byte = file_byte + sum(&|axis| axis.file_stride) * self.width;
            let out_element = out_element + sum(&|axis| axis.out_stride);
            self.add_run(Run { file_byte, out_element, n: run.n, out_stride: run.out_stride })?;
            let Some(dim) = (0..outer.len()).rev().find(|&dim| index[dim] + 1 < outer[dim].n) else { return Ok(()) };
            index[dim] += 1;
            index[dim + 1..].fill(0);
        }
    }

    fn add_run(&mut self, mut run: Run) -> Result<(), E> {
        let most = GATHER_SCRATCH_BYTES / self.width;
        while run.n > most {
            self.add_short_run(Run { n: most, ..run })?;
            run.file_byte += most * self.width;
            run.out_element += most * run.out_stride;
            run.n -= most;
        }
        self.add_short_run(run)
    }

    fn add_short_run(&mut self, run: Run) -> Result<(), E> {
        if let (Some(first), Some(last)) = (self.runs.first(), self.runs.last()) {
            let last_end = last.file_byte + last.n * self.width;
            let is_near = run.file_byte >= last.file_byte && run.file_byte <= last_end + READ_ALONG_BYTES;
            let fits = run.file_byte + run.n * self.width <= first.file_byte + GATHER_SCRATCH_BYTES;
            if !is_near || !fits || self.runs.len() >= MAX_RUNS {
                self.flush()?;
            }
        }
        self.runs.push(run);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), E> {
        let Some(first) = self.runs.first().map(|run| run.file_byte) else { return Ok(()) };
        let end = self.runs.iter().map(|run| run.file_byte + run.n * self.width).max().unwrap_or(first);
        (self.visit)(&mut self.scratch[..to_index(end - first)], &self.runs, first)?;
        self.runs.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
