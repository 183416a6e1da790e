//! zstd files as one stream of what was packed.
//!
//! A file may hold many frames (`pzstd`, files put behind each other): all are read. It does not know lines or
//! documents.

use std::io::{Error, ErrorKind, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// What a frame with data begins with.
const FRAME_MAGIC: u32 = 0xfd2f_b528;
/// What a frame without begins with, but for its last four bits.
const SKIPPABLE_MAGIC: u32 = 0x184d_2a50;
/// Magic number and length of a frame that holds nothing to unpack.
const SKIPPABLE_HEADER_BYTES: usize = 8;

/// Whether a file begins as zstd files do, with a frame of either kind.
pub fn is_zstd(bytes: &[u8]) -> bool {
    let magic = bytes.first_chunk().map(|magic| u32::from_le_bytes(*magic));
    magic.is_some_and(|magic| magic == FRAME_MAGIC || magic & !0xf == SKIPPABLE_MAGIC)
}

/// Unpacks every frame of a file in memory; frames that hold no data are skipped.
///
/// Reading fails with `InvalidData` where a frame is broken, cut short, or differs from its checksum. Memory is that of
/// one frame's window, at most 100 MiB.
pub struct ZstdReader<'a> {
    rest: &'a [u8],
    frame: Option<StreamingDecoder<&'a [u8], FrameDecoder>>,
}

impl std::fmt::Debug for ZstdReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZstdReader").field("bytes_left", &self.rest.len()).finish_non_exhaustive()
    }
}

impl<'a> ZstdReader<'a> {
    /// A reader of `packed`, a whole file.
    pub fn new(packed: &'a [u8]) -> Self {
        Self { rest: packed, frame: None }
    }

    /// The next frame that holds data; `None` at the end.
    fn next_frame(&mut self) -> Result<Option<StreamingDecoder<&'a [u8], FrameDecoder>>, Error> {
        while !self.rest.is_empty() {
            match StreamingDecoder::new(self.rest) {
                Ok(frame) => return Ok(Some(frame)),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let n_bytes = SKIPPABLE_HEADER_BYTES.saturating_add(length as usize);
                    self.rest = self.rest.get(n_bytes..).ok_or_else(|| broken("a frame is cut short"))?;
                }
                Err(error) => return Err(invalid(format!("this is not a zstd file: {error}"))),
            }
        }
        Ok(None)
    }
}

impl Read for ZstdReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            let Some(mut frame) = self.frame.take().map_or_else(|| self.next_frame(), |frame| Ok(Some(frame)))? else {
                return Ok(0);
            };
            let n_bytes = frame.read(out).map_err(broken)?;
            if n_bytes > 0 {
                self.frame = Some(frame);
                return Ok(n_bytes);
            }
            let stored = frame.decoder.get_checksum_from_data();
            if stored.is_some() && stored != frame.decoder.get_calculated_checksum() {
                return Err(broken("its checksum differs"));
            }
            self.rest = frame.into_inner();
        }
    }
}

fn broken(what: impl std::fmt::Display) -> Error {
    invalid(format!("the zstd file is broken: {what}"))
}

fn invalid(what: String) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "hello\n" twelve times, by `zstd -19` with its checksum.
    const PACKED: [u8; 25] = [
        0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x68, 0x65, 0x00, 0x00, 0x30, 0x68, 0x65, 0x6c, 0x6c, 0x6f, 0x0a, 0x01, 0x00,
        0x8f, 0x54, 0x8a, 0x79, 0x2b, 0x72, 0x35,
    ];
    /// A frame of three bytes that holds no data.
    const SKIPPABLE: [u8; 11] = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 7, 7, 7];

    fn unpack(packed: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        ZstdReader::new(packed).read_to_end(&mut out).map_err(|error| error.to_string())?;
        Ok(out)
    }

    #[test]
    fn frames_unpack_one_after_another_and_broken_ones_are_refused() {
        let twice = [PACKED, PACKED].concat();
        assert_eq!(unpack(&twice).unwrap(), "hello\n".repeat(24).into_bytes());
        for n in 1..PACKED.len() {
            assert!(unpack(&PACKED[..n]).is_err(), "cut after {n} bytes");
            assert!(unpack(&twice[..PACKED.len() + n]).is_err(), "cut {n} bytes into the second frame");
        }
        let mut changed = PACKED;
        changed[12] ^= 1;
        assert_eq!(unpack(&changed).unwrap_err(), "the zstd file is broken: its checksum differs");
        assert_eq!(unpack(b""), Ok(Vec::new()));
    }

    #[test]
    fn frames_without_data_are_passed_over() {
        let between = [&SKIPPABLE[..], &PACKED, &SKIPPABLE, &SKIPPABLE, &PACKED, &SKIPPABLE].concat();
        assert_eq!(unpack(&between).unwrap(), "hello\n".repeat(24).into_bytes());
        assert!(is_zstd(&SKIPPABLE) && is_zstd(&PACKED) && !is_zstd(b"{\"text\": 1}") && !is_zstd(&PACKED[..3]));
        assert_eq!(unpack(&SKIPPABLE[..10]).unwrap_err(), "the zstd file is broken: a frame is cut short");
    }
}
