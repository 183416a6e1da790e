//! The pages of a database: of the file, or newer ones of its write-ahead log.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{HEADER_BYTES, MAGIC, cut_off, damaged, read_u16, read_u32};
use crate::step_log::LogError;

/// Header of a write-ahead log, and of each page in it.
pub(in crate::step_log) const LOG_HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
const LOG_MAGIC: u32 = 0x377F_0682;

#[derive(Debug)]
pub(super) struct Pages<'a> {
    file: &'a [u8],
    page_bytes: usize,
    /// Bytes of a page that hold something.
    usable_bytes: usize,
    /// The newest content of pages that the log has.
    newer: BTreeMap<u32, &'a [u8]>,
}

impl<'a> Pages<'a> {
    pub(super) fn new(file: &'a [u8], log: Option<&'a [u8]>) -> Result<Self, LogError> {
        if !file.starts_with(MAGIC) || file.len() < HEADER_BYTES {
            return Err(cut_off());
        }
        let page_bytes = match read_u16(file, 16)? {
            1 => 65_536,
            bytes if bytes >= 512 && bytes.is_power_of_two() => usize::from(bytes),
            _ => return Err(damaged("its pages have an impossible size")),
        };
        let usable_bytes = page_bytes - usize::from(file[20]);
        // The format demands as much, so that rows fit.
        if usable_bytes < 480 {
            return Err(damaged("its pages have an impossible size"));
        }
        // 0 in a file without tables.
        if read_u32(file, 56)? > 1 {
            return Err(damaged("its text is not UTF-8"));
        }
        let newer = log.map_or_else(BTreeMap::new, |log| committed_pages(log, page_bytes));
        Ok(Self { file, page_bytes, usable_bytes, newer })
    }

    /// Bytes of all pages.
    pub(super) fn n_bytes(&self) -> u64 {
        (self.file.len() + self.newer.len() * self.page_bytes) as u64
    }

    /// A page, counted from 1.
    pub(super) fn page(&self, number: u32) -> Result<&'a [u8], LogError> {
        let idx = usize::try_from(number).ok().and_then(|number| number.checked_sub(1)).ok_or_else(cut_off)?;
        let of_file = || {
            let start = idx.checked_mul(self.page_bytes)?;
            self.file.get(start..start.checked_add(self.page_bytes)?)
        };
        let page = self.newer.get(&number).copied().or_else(of_file).ok_or_else(cut_off)?;
        page.get(..self.usable_bytes).ok_or_else(cut_off)
    }

    /// The bytes of a row that begins with `local`: what does not fit its page is in a chain of others.
    pub(super) fn payload(&self, local: &'a [u8], n_bytes: u64) -> Result<Cow<'a, [u8]>, LogError> {
        let usable = self.usable_bytes;
        let n_bytes = usize::try_from(n_bytes).map_err(|_| cut_off())?;
        let most = usable - 35;
        if n_bytes <= most {
            return Ok(Cow::Borrowed(local.get(..n_bytes).ok_or_else(cut_off)?));
        }
        let least = (usable - 12) * 32 / 255 - 23;
        let wanted = least + (n_bytes - least) % (usable - 4);
        let n_local = if wanted <= most { wanted } else { least };
        let mut payload = local.get(..n_local).ok_or_else(cut_off)?.to_vec();
        let mut next = read_u32(local, n_local)?;
        // Each page adds at least one byte, so that even a circle ends.
        while payload.len() < n_bytes {
            let page = self.page(next)?;
            let n = (n_bytes - payload.len()).min(usable - 4);
            payload.extend_from_slice(page.get(4..4 + n).ok_or_else(cut_off)?);
            next = read_u32(page, 0)?;
        }
        Ok(Cow::Owned(payload))
    }
}

/// The pages of a log up to its last whole transaction. What follows a wrong checksum is of an earlier log, or was cut
/// off.
fn committed_pages(log: &[u8], page_bytes: usize) -> BTreeMap<u32, &[u8]> {
    let (mut pages, mut pending) = (BTreeMap::new(), Vec::new());
    let Some(header) = log.first_chunk::<LOG_HEADER_BYTES>() else { return pages };
    let magic = read_u32(header, 0).unwrap_or(0);
    let has_page_size = read_u32(header, 8).is_ok_and(|bytes| usize::try_from(bytes) == Ok(page_bytes));
    if magic & !1 != LOG_MAGIC || !has_page_size {
        return pages;
    }
    let mut sum = Checksum { is_big_endian: magic & 1 == 1, sums: [0; 2] };
    sum.add(&header[..24]);
    if !sum.is(&header[24..]) {
        return pages;
    }
    for frame in log[LOG_HEADER_BYTES..].chunks_exact(FRAME_HEADER_BYTES + page_bytes) {
        let (frame, page) = frame.split_at(FRAME_HEADER_BYTES);
        sum.add(&frame[..8]);
        sum.add(page);
        if frame[8..16] != header[16..24] || !sum.is(&frame[16..]) {
            break;
        }
        let (number, n_pages) = (read_u32(frame, 0).unwrap_or(0), read_u32(frame, 4).unwrap_or(0));
        pending.push((number, page));
        // Of the last page of a transaction: the size of the database after it.
        if n_pages > 0 {
            pages.extend(pending.drain(..));
        }
    }
    pages
}

/// The running checksum of a log.
struct Checksum {
    is_big_endian: bool,
    sums: [u32; 2],
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        let word =
            |bytes: [u8; 4]| if self.is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
        let [mut first, mut second] = self.sums;
        for pair in bytes.as_chunks::<4>().0.as_chunks::<2>().0 {
            first = first.wrapping_add(word(pair[0])).wrapping_add(second);
            second = second.wrapping_add(word(pair[1])).wrapping_add(first);
        }
        self.sums = [first, second];
    }

    fn is(&self, stored: &[u8]) -> bool {
        read_u32(stored, 0) == Ok(self.sums[0]) && read_u32(stored, 4) == Ok(self.sums[1])
    }
}
