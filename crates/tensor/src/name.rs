//! How a tensor's name is shown. A name is only a name: it is never used as a path.

/// The name with control characters escaped, safe to print on a terminal.
///
/// # Example
/// ```
/// assert_eq!(thalweg_tensor::display_name("a\u{1b}[2J"), "a\\u{1b}[2J");
/// assert_eq!(thalweg_tensor::display_name("model.norm"), "model.norm");
/// ```
pub fn display_name(name: &str) -> String {
    name.chars().fold(String::with_capacity(name.len()), |mut out, c| {
        // Bidirectional overrides reorder a line without being control characters.
        if c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
        out
    })
}
