//! How a word is written so that a shell reads it as one.

/// The word, in quotes where a shell would read it otherwise.
///
/// # Example
/// ```
/// assert_eq!(thalweg_tensor::shell_word("runs/step-1"), "runs/step-1");
/// assert_eq!(thalweg_tensor::shell_word("my run"), "'my run'");
/// assert_eq!(thalweg_tensor::shell_word("it's"), r"'it'\''s'");
/// ```
pub fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@+%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
