//! Lays out zip archives: records are stored as they are and aligned, and their CRC-32 checksums are left to the stage.
//!
//! Every byte is where torch.save of PyTorch 2.15 puts it, which every reader of zip archives accepts.

use std::ops::Range;

use crate::frame_builder::FrameBuilder;
use crate::layout::Checksum;

/// Records begin at multiples of this.
pub(crate) const ALIGNMENT: u64 = 64;
/// Numbers from here on are written with 64 bits.
const LARGE: u64 = 0xffff_ffff;

/// A record with a tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member<'a> {
    /// Bytes before the tensor.
    pub(crate) head: &'a [u8],
    /// Position of the tensor in the catalog.
    pub(crate) tensor_idx: usize,
    /// Length of the tensor.
    pub(crate) len_bytes: u64,
}

/// A record as the directory states it.
struct Record {
    name: String,
    /// Counted from the start of the archive.
    header_offset: u64,
    len_bytes: u64,
    sum: Sum,
}

/// The CRC-32 checksum of a record.
enum Sum {
    Known(u32),
    /// Of these bytes of the file, with the places where it is written.
    OfTensor {
        range: Range<u64>,
        places: Vec<u64>,
    },
}

/// A zip archive whose records are not packed. It may be a part of a file.
pub(crate) struct ZipLayout<'a> {
    frame: &'a mut FrameBuilder,
    /// What every name begins with.
    root: String,
    start: u64,
    records: Vec<Record>,
}

impl<'a> ZipLayout<'a> {
    /// An archive that begins where the frame ends.
    pub(crate) fn new(frame: &'a mut FrameBuilder, root: &str) -> Self {
        Self { start: frame.position(), frame, root: root.to_owned(), records: Vec::new() }
    }

    /// Adds a record of these bytes.
    pub(crate) fn known(&mut self, name: &str, bytes: &[u8]) {
        let mut record = self.begin(name, bytes.len() as u64);
        self.frame.put(bytes);
        record.sum = Sum::Known(crc32fast::hash(bytes));
        self.finish(record);
    }

    /// Adds a record with a tensor, and returns where the tensor begins in the file.
    pub(crate) fn tensor(&mut self, name: &str, member: Member<'_>) -> u64 {
        let head_bytes = member.head.len() as u64;
        let mut record = self.begin(name, head_bytes + member.len_bytes);
        self.frame.put(member.head);
        let tensor = self.frame.tensor(member.tensor_idx, member.len_bytes);
        record.sum = match member.len_bytes {
            0 => Sum::Known(crc32fast::hash(member.head)),
            _ => Sum::OfTensor { range: tensor.start - head_bytes..tensor.end, places: Vec::new() },
        };
        self.finish(record);
        tensor.start
    }

    /// Writes the header before a record, which pads it to the next multiple of the alignment.
    fn begin(&mut self, name: &str, len_bytes: u64) -> Record {
        let header_offset = self.frame.position() - self.start;
        let name = format!("{}{name}", self.root);
        let record = Record { name, header_offset, len_bytes, sum: Sum::Known(0) };
        // The packed length is not known yet where PyTorch writes this.
        let large = large_numbers(&record, 0);
        let n_before = 30 + record.name.len() + large.len() + 4;
        let n_padding = (header_offset + n_before as u64).next_multiple_of(ALIGNMENT) - header_offset - n_before as u64;
        let padding = &[b'Z'; 64][..usize::try_from(n_padding).unwrap_or(0)];
        self.frame.put(b"PK\x03\x04\0\0");
        self.frame.put(&flags(&record));
        // No method, no time, and neither sum nor lengths, which follow the record.
        self.frame.put(&[0; 18]);
        self.frame.put(&short(record.name.len()));
        self.frame.put(&short(large.len() + 4 + padding.len()));
        self.frame.put(record.name.as_bytes());
        self.frame.put(&large);
        self.frame.put(b"FB");
        self.frame.put(&short(padding.len()));
        self.frame.put(padding);
        record
    }

    /// Writes what follows a record.
    fn finish(&mut self, mut record: Record) {
        if record.len_bytes > 0 {
            self.frame.put(b"PK\x07\x08");
            put_sum(self.frame, &mut record.sum);
            for _ in 0..2 {
                match is_large(&record) {
                    true => self.frame.put(&record.len_bytes.to_le_bytes()),
                    false => self.frame.put(&word(record.len_bytes)),
                }
            }
        }
        self.records.push(record);
    }

    /// Writes the directory and the end.
    pub(crate) fn end(self) {
        let Self { frame, start, records, .. } = self;
        let directory_start = frame.position();
        let n_records = records.len() as u64;
        for mut record in records {
            let large = large_numbers(&record, record.len_bytes);
            frame.put(b"PK\x01\x02\0\0\0\0");
            frame.put(&flags(&record));
            frame.put(&[0; 6]);
            put_sum(frame, &mut record.sum);
            frame.put(&word(record.len_bytes));
            frame.put(&word(record.len_bytes));
            frame.put(&short(record.name.len()));
            frame.put(&short(large.len()));
            frame.put(&[0; 10]);
            frame.put(&word(record.header_offset));
            frame.put(record.name.as_bytes());
            frame.put(&large);
            if let Sum::OfTensor { range, places } = record.sum {
                frame.add_checksum(Checksum { range, places });
            }
        }
        put_end(frame, n_records, directory_start - start, frame.position() - directory_start);
    }
}

/// The 64-bit end, where to find it, and the end that every reader knows.
fn put_end(frame: &mut FrameBuilder, n_records: u64, directory_offset: u64, directory_bytes: u64) {
    frame.put(b"PK\x06\x06");
    frame.put(&44_u64.to_le_bytes());
    frame.put(&[0x1e, 0x03, 0x2d, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for number in [n_records, n_records, directory_bytes, directory_offset] {
        frame.put(&number.to_le_bytes());
    }
    frame.put(b"PK\x06\x07\0\0\0\0");
    frame.put(&(directory_offset + directory_bytes).to_le_bytes());
    frame.put(&1_u32.to_le_bytes());
    frame.put(b"PK\x05\x06\0\0\0\0");
    let n_small = u16::try_from(n_records).unwrap_or(u16::MAX).to_le_bytes();
    frame.put(&n_small);
    frame.put(&n_small);
    frame.put(&word(directory_bytes));
    frame.put(&word(directory_offset));
    frame.put(&[0; 2]);
}

fn put_sum(frame: &mut FrameBuilder, sum: &mut Sum) {
    match sum {
        Sum::Known(sum) => frame.put(&sum.to_le_bytes()),
        Sum::OfTensor { places, .. } => frame.sum(places),
    }
}

fn is_large(record: &Record) -> bool {
    record.len_bytes >= LARGE || record.header_offset >= LARGE
}

/// The extra field with the numbers that 32 bits do not hold.
fn large_numbers(record: &Record, packed_bytes: u64) -> Vec<u8> {
    let mut numbers = Vec::new();
    if record.len_bytes >= LARGE {
        numbers.extend([record.len_bytes, packed_bytes]);
    }
    if record.header_offset >= LARGE {
        numbers.push(record.header_offset);
    }
    let mut field = Vec::new();
    if !numbers.is_empty() {
        field.extend_from_slice(&1_u16.to_le_bytes());
        field.extend_from_slice(&short(8 * numbers.len()));
        numbers.iter().for_each(|number| field.extend_from_slice(&number.to_le_bytes()));
    }
    field
}

/// Names are UTF-8; the lengths of a record that has any follow it.
fn flags(record: &Record) -> [u8; 2] {
    if record.len_bytes > 0 { [8, 8] } else { [0, 8] }
}

/// A number of 32 bits, or the one that refers to the extra field.
fn word(number: u64) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes()
}

fn short(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes()
}
