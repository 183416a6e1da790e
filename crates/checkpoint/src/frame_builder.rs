//! Builds the frame of an output file from its first byte to its last.
//!
//! Tensors and their sums are left out: the stage writes them, and compares the rest with what it finds when it
//! resumes.

use std::ops::Range;

use crate::layout::{Checksum, CopiedBytes, FrameContent, FramePart, OutputFile};

/// A file whose bytes are described in order.
#[derive(Debug, Default)]
pub(crate) struct FrameBuilder {
    at: u64,
    parts: Vec<FramePart>,
    checksums: Vec<Checksum>,
    tensors: Vec<usize>,
}

impl FrameBuilder {
    /// Where the next byte goes.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// Bytes that are known.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        let start = self.at;
        self.at += bytes.len() as u64;
        if let Some(FramePart { offset, content: FrameContent::Bytes(known) }) = self.parts.last_mut()
            && *offset + known.len() as u64 == start
        {
            return known.extend_from_slice(bytes);
        }
        if !bytes.is_empty() {
            self.parts.push(FramePart { offset: start, content: FrameContent::Bytes(bytes.to_vec()) });
        }
    }

    /// Bytes of a file. What is next to each other in both files becomes one part.
    pub(crate) fn copy(&mut self, from: &CopiedBytes) {
        if let Some(FramePart { offset, content: FrameContent::Copy(last) }) = self.parts.last_mut()
            && *offset + last.len_bytes == self.at
            && last.path == from.path
            && last.offset + last.len_bytes == from.offset
        {
            last.len_bytes += from.len_bytes;
            self.at += from.len_bytes;
            return;
        }
        self.parts.push(FramePart { offset: self.at, content: FrameContent::Copy(from.clone()) });
        self.at += from.len_bytes;
    }

    /// The bytes of a tensor, or some of them if it is in several pieces.
    pub(crate) fn tensor(&mut self, tensor_idx: usize, len_bytes: u64) -> Range<u64> {
        if self.tensors.last() != Some(&tensor_idx) {
            self.tensors.push(tensor_idx);
        }
        self.leave_out(len_bytes)
    }

    /// The sum of a range; its place is noted in `places`.
    pub(crate) fn sum(&mut self, places: &mut Vec<u64>) {
        places.push(self.leave_out(4).start);
    }

    /// Says which range has a sum, and where that is.
    pub(crate) fn add_checksum(&mut self, checksum: Checksum) {
        self.checksums.push(checksum);
    }

    fn leave_out(&mut self, len_bytes: u64) -> Range<u64> {
        let start = self.at;
        self.at += len_bytes;
        start..self.at
    }

    /// The file.
    pub(crate) fn finish(self, name: String) -> OutputFile {
        let Self { at, parts, checksums, tensors } = self;
        OutputFile { name, len_bytes: at, frame: parts, checksums, tensors }
    }
}
