//! Logs of runs: event files, JSON lines, CSV, console output, a trainer's state.

use thalweg_trajectory::{
    ColumnMap, LogEntry, LogError, StepLog, parse_console, parse_csv, parse_database, parse_event_file,
    parse_json_lines, parse_trainer_progress, parse_trainer_state, parse_wandb_lines,
};

use crate::check_message;

/// The input as an event file; and once more with its checksums made right, so that what is in the records is
/// read too.
pub(crate) fn check_event_file(bytes: &[u8]) {
    check_log(bytes.len(), parse_event_file(bytes, &ColumnMap::default()));
    check_log(bytes.len(), parse_event_file(&with_checksums(bytes), &ColumnMap::default()));
}

/// The input as each kind of text.
pub(crate) fn check_step_log(bytes: &[u8]) {
    let named: ColumnMap = "loss=ce,lr=opt/lr".parse().unwrap();
    for columns in [&ColumnMap::default(), &named] {
        check_log(bytes.len(), parse_json_lines(bytes, columns));
        check_log(bytes.len(), parse_csv(bytes, columns));
        check_log(bytes.len(), parse_console(bytes, columns));
        check_log(bytes.len(), parse_trainer_state(bytes, columns));
        check_log(bytes.len(), parse_wandb_lines(bytes, columns));
        check_log(bytes.len(), parse_database(bytes, None, columns));
    }
    if let Err(error) = parse_trainer_progress(bytes) {
        check_message(&error);
    }
}

/// The input as the SQLite file of a tracker, alone and with its write-ahead log, which follows a line `== log` and
/// gets right checksums. A log without a transaction changes nothing.
pub(crate) fn check_tracker_database(bytes: &[u8]) {
    const MARK: &[u8] = b"\n== log\n";
    let split = bytes.windows(MARK.len()).position(|part| part == MARK);
    let (file, log) = split.map_or((bytes, &[][..]), |at| (&bytes[..at], &bytes[at + MARK.len()..]));
    let columns = ColumnMap::default();
    let alone = parse_database(file, None, &columns);
    let log = with_log_checksums(file, log);
    check_log(bytes.len(), parse_database(file, Some(&log), &columns));
    // A log that is cut off before its first transaction says nothing.
    let without = parse_database(file, Some(&log[..log.len().min(LOG_HEADER_BYTES)]), &columns);
    match (&alone, &without) {
        (Ok(alone), Ok(without)) => assert_eq!(alone.entries().len(), without.entries().len()),
        (Err(alone), Err(without)) => assert_eq!(alone.to_string(), without.to_string()),
        _ => panic!("an empty log changes whether a file is read"),
    }
    check_log(bytes.len(), alone);
}

const LOG_HEADER_BYTES: usize = 32;

/// The log of an SQLite file with the checksums, and in each frame the salt, that its header asks for.
fn with_log_checksums(file: &[u8], log: &[u8]) -> Vec<u8> {
    let mut out = log.to_vec();
    let page_bytes = match file.get(16..18) {
        Some([0, 1]) => 65_536,
        Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
        _ => return out,
    };
    let Some((header, frames)) = out.split_at_mut_checked(LOG_HEADER_BYTES) else { return out };
    let is_big_endian = header[3] & 1 == 1;
    let add = |sums: &mut [u32; 2], bytes: &[u8]| {
        for pair in bytes.as_chunks::<8>().0 {
            for (i, word) in pair.as_chunks::<4>().0.iter().enumerate() {
                let word = if is_big_endian { u32::from_be_bytes(*word) } else { u32::from_le_bytes(*word) };
                sums[i] = sums[i].wrapping_add(word).wrapping_add(sums[1 - i]);
            }
        }
    };
    let put = |place: &mut [u8], sums: [u32; 2]| {
        place[..4].copy_from_slice(&sums[0].to_be_bytes());
        place[4..].copy_from_slice(&sums[1].to_be_bytes());
    };
    let mut sums = [0; 2];
    add(&mut sums, &header[..24]);
    put(&mut header[24..], sums);
    for frame in frames.chunks_exact_mut(24 + page_bytes) {
        add(&mut sums, &frame[..8]);
        add(&mut sums, &frame[24..]);
        frame[8..16].copy_from_slice(&header[16..24]);
        put(&mut frame[16..24], sums);
    }
    out
}

/// One entry for each step, ascending, no more than the input can hold; and printed as CSV it reads back.
fn check_log(n_bytes: usize, log: Result<StepLog, LogError>) {
    let log = match log {
        Ok(log) => log,
        Err(error) => return check_message(&error),
    };
    let entries = log.entries();
    assert!(entries.len() <= n_bytes);
    assert!(entries.windows(2).all(|pair| pair[0].step < pair[1].step));
    assert_eq!(log.last_step(), entries.last().map(|entry| entry.step));
    assert_eq!(log.losses().count(), entries.iter().filter(|entry| entry.loss.is_some()).count());
    log.notes().iter().for_each(check_message);
    if entries.iter().all(|entry| entry.loss.is_none()) {
        return;
    }
    let Some(after) = log.last_step().and_then(|step| step.0.checked_add(1)) else { return };
    // Empty losses mean that none was logged only if a loss follows; at the end of a log they are of a run that
    // diverged.
    let printed = format!("{}{after},,1,,\n", print_csv(entries));
    let again = parse_csv(printed.as_bytes(), &ColumnMap::default()).unwrap_or_else(|e| panic!("{e}\n{printed}"));
    let as_bits = |entries: &[LogEntry]| -> Vec<_> {
        let bits = |value: Option<f64>| value.map(|x| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() });
        let row = |e: &LogEntry| (e.step, e.tokens, bits(e.loss), bits(e.learning_rate), bits(e.grad_norm));
        entries.iter().map(row).collect()
    };
    let (last, others) = again.entries().split_last().unwrap_or_else(|| panic!("{printed}"));
    assert_eq!((last.step.0, as_bits(others)), (after, as_bits(entries)), "{printed}");
}

fn print_csv(entries: &[LogEntry]) -> String {
    let show = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    let row = |entry: &LogEntry| {
        let tokens = entry.tokens.map_or_else(String::new, |tokens| tokens.0.to_string());
        let reals = [entry.loss, entry.learning_rate, entry.grad_norm].map(show).join(",");
        format!("{},{tokens},{reals}\n", entry.step.0)
    };
    "step,tokens,loss,lr,grad_norm\n".to_owned() + &entries.iter().map(row).collect::<String>()
}

/// The same records with right checksums, as far as their lengths fit the input.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mask = |crc: u32| crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while let Some(length) = out.get(at..at + 8) {
        let checksum = mask(crc32c::crc32c(length));
        let length = usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap();
        let Some(place) = out.get_mut(at + 8..at + 12) else { break };
        place.copy_from_slice(&checksum);
        let start = at + 12;
        let Some(end) = start.checked_add(length).filter(|end| *end <= out.len()) else { break };
        let checksum = mask(crc32c::crc32c(&out[start..end]));
        let Some(place) = out.get_mut(end..end + 4) else { break };
        place.copy_from_slice(&checksum);
        at = end + 4;
    }
    out
}
