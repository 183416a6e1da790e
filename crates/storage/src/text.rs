//! Texts that people and other programs write. It does not read files.

use std::string::FromUtf8Error;

/// What some programs on Windows put before a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The bytes of a text after its byte order mark, if it begins with one.
pub fn skip_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// The text of a file, without a byte order mark.
///
/// # Errors
/// The bytes are not UTF-8.
pub fn text_of(bytes: Vec<u8>) -> Result<String, FromUtf8Error> {
    let n_mark = bytes.len() - skip_mark(&bytes).len();
    let mut text = String::from_utf8(bytes)?;
    text.drain(..n_mark);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_not_part_of_a_text() {
        for (bytes, text) in [("\u{feff}a\u{feff}", "a\u{feff}"), ("\u{feff}", ""), ("a", "a"), ("", "")] {
            assert_eq!(text_of(bytes.as_bytes().to_vec()).unwrap(), text);
        }
        let fault = text_of(b"\xef\xbb\xbfab\xff".to_vec()).unwrap_err();
        assert_eq!(fault.utf8_error().valid_up_to(), 5, "places are those of the file");
    }
}
