//! Writes TensorBoard event files: scalars only, as records that `tensorboard` and `thalweg` read.
//!
//! A record is length (u64), masked CRC-32C of the length (u32), data, masked CRC-32C of the data (u32), all little
//! endian (TensorFlow, `core/lib/io/record_writer.cc`). The event's time is left at 0, so that equal runs give equal
//! files. The reader is `thalweg_trajectory::step_log`.

/// The first record of a file, which says its version.
pub fn file_version_record() -> Vec<u8> {
    let mut event = Vec::new();
    // `Event.file_version` is field 3.
    push_bytes(&mut event, 3, b"brain.Event:2");
    frame(&event)
}

/// The record of one step with its scalars, as `simple_value`s.
///
/// # Example
/// ```
/// use thalweg_lab::event_file::{event_record, file_version_record};
///
/// let file = [file_version_record(), event_record(7, &[("loss", 2.5)])].concat();
/// let log = thalweg_trajectory::parse_event_file(&file, &Default::default())?;
/// assert_eq!(log.losses().next(), Some((thalweg_trajectory::Step(7), 2.5)));
/// # Ok::<(), thalweg_trajectory::LogError>(())
/// ```
pub fn event_record(step: u64, scalars: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars {
        let mut entry = Vec::new();
        push_bytes(&mut entry, 1, tag.as_bytes());
        push_float(&mut entry, 2, *value);
        push_bytes(&mut summary, 1, &entry);
    }
    let mut event = Vec::new();
    push_varint(&mut event, 2 << 3);
    push_varint(&mut event, step);
    push_bytes(&mut event, 5, &summary);
    frame(&event)
}

fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked_checksum(&length).to_le_bytes());
    record.extend_from_slice(data);
    record.extend(masked_checksum(data).to_le_bytes());
    record
}

/// Checksums are rotated and shifted, so that data holding checksums do not check themselves.
fn masked_checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn push_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    push_varint(out, field << 3 | 2);
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[expect(clippy::cast_possible_truncation, reason = "the format has single precision")]
fn push_float(out: &mut Vec<u8>, field: u64, value: f64) {
    push_varint(out, field << 3 | 5);
    out.extend((value as f32).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_trajectory::{ColumnMap, Step, Tokens, parse_event_file};

    #[test]
    fn what_is_written_is_what_the_reader_reads() {
        let steps = [1, 127, 128, 300_000, u64::from(u32::MAX) + 5];
        let mut file = file_version_record();
        for step in steps {
            let scalars = [("tokens", 4096.0), ("loss", 2.25), ("learning_rate", 1e-3), ("grad_norm", f64::INFINITY)];
            file.extend(event_record(step, &scalars));
        }
        let log = parse_event_file(&file, &ColumnMap::default()).unwrap();
        assert!(log.notes().is_empty(), "{:?}", log.notes());
        assert_eq!(log.entries().len(), steps.len());
        for (entry, step) in log.entries().iter().zip(steps) {
            assert_eq!((entry.step, entry.tokens), (Step(step), Some(Tokens(4096))));
            assert_eq!((entry.loss, entry.grad_norm), (Some(2.25), Some(f64::INFINITY)));
            assert_eq!(entry.learning_rate, Some(f64::from(1e-3_f32)));
        }
    }
}
