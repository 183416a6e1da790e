//! How a word or a path is written so that a shell reads it as one, and a command does not take it for an option.

use std::path::Path;

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

/// A path as [`shell_word`] writes it; one that begins with a dash gets `./` before it.
///
/// # Example
/// ```
/// assert_eq!(thalweg_tensor::shell_path("my run/step-1"), "'my run/step-1'");
/// assert_eq!(thalweg_tensor::shell_path("-plan.json"), "./-plan.json");
/// ```
pub fn shell_path(path: impl AsRef<Path>) -> String {
    let text = path.as_ref().display().to_string();
    shell_word(&if text.starts_with('-') { format!("./{text}") } else { text })
}
