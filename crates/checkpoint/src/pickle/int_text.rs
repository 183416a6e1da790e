//! Numbers and strings of the operations that write them as lines of text.

use super::PickleFault;

/// The beginning of a line, for messages.
fn excerpt(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(40)]).into_owned()
}

/// An integer in decimal digits; `None` where it does not fit 128 bits.
pub(super) fn parse_int(line: &[u8]) -> Result<Option<i128>, PickleFault> {
    let digits = line.strip_prefix(b"-").unwrap_or(line);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(PickleFault::BadText { wanted: "an integer", found: excerpt(line) });
    }
    // 38 digits always fit. Longer numbers, which even Python takes long to read, are only known to be large.
    Ok(std::str::from_utf8(line).ok().filter(|line| line.len() <= 40).and_then(|line| line.parse().ok()))
}

/// A floating-point number in decimal digits.
pub(super) fn parse_float(line: &[u8]) -> Result<f64, PickleFault> {
    let bad = || PickleFault::BadText { wanted: "a floating-point number", found: excerpt(line) };
    let text = std::str::from_utf8(line).ok().filter(|text| text.len() <= 400).ok_or_else(bad)?;
    text.parse().map_err(|_| bad())
}

/// A little-endian integer in two's complement; `None` where it does not fit 128 bits.
pub(super) fn int_of_bytes(bytes: &[u8]) -> Option<i128> {
    let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
    let (low, high) = bytes.split_at(bytes.len().min(16));
    let mut all = [fill; 16];
    all[..low.len()].copy_from_slice(low);
    let value = i128::from_le_bytes(all);
    let sign_agrees = (value < 0) == (fill == 0xff);
    (sign_agrees && high.iter().all(|byte| *byte == fill)).then_some(value)
}

/// A string in which characters outside Latin-1 are written as `\u1234` or `\U00012345`; `None` for a lone surrogate.
pub(super) fn decode_escaped(line: &[u8]) -> Result<Option<String>, PickleFault> {
    let bad = || PickleFault::BadText { wanted: "an escaped string", found: excerpt(line) };
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let [byte, after @ ..] = rest {
        let n_digits = match (byte, after.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                text.push(char::from(*byte));
                rest = after;
                continue;
            }
        };
        let digits = after.get(1..=n_digits).and_then(|digits| std::str::from_utf8(digits).ok()).ok_or_else(bad)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let Some(c) = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32) else {
            return Ok(None);
        };
        text.push(c);
        rest = &after[1 + n_digits..];
    }
    Ok(Some(text))
}
