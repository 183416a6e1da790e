//! Hints name options as on the command line; in Python an option is a keyword of the same name.
//!
//! One rule: `--interval-tokens 8B` becomes `interval_tokens="8B"`, and `--force` becomes `force=True`.

use thalweg_tensor::count::parse_count;

/// Options whose keyword has another name, because one letter says nothing in Python.
const SHORT: [(&str, &str); 1] = [("-o", "out")];
/// Options that take no value.
const FLAGS: [&str; 8] = [
    "force",
    "discard_partial",
    "allow_changed",
    "allow_non_finite",
    "allow_sum",
    "normalize",
    "code",
    "to_huggingface",
];

/// The text with options in back-ticks as keywords.
pub(crate) fn as_keywords(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let parts = parts.map(|(i, part)| if i % 2 == 1 { quoted(part) } else { part.to_owned() });
    parts.collect::<Vec<_>>().join("`")
}

/// What is between back-ticks: options become keywords; a whole command of the program stays as it is.
fn quoted(text: &str) -> String {
    if text.starts_with("thalweg ") {
        return text.to_owned();
    }
    let words = shell_words(text);
    let mut words = words.iter().map(String::as_str).peekable();
    let mut shown = Vec::new();
    while let Some(word) = words.next() {
        let Some(keyword) = keyword_of(word) else {
            // Not an option, so not ours to change.
            return text.to_owned();
        };
        let value = words.next_if(|next| keyword_of(next).is_none());
        shown.push(match value {
            Some(value) if is_number(value) => format!("{keyword}={value}"),
            Some(value) => format!("{keyword}={value:?}"),
            None if FLAGS.contains(&keyword.as_str()) => format!("{keyword}=True"),
            None => keyword,
        });
    }
    shown.join(", ")
}

fn is_number(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_digit()) && parse_count(value).is_ok()
}

/// The keyword of an option; `None` if the word is not one.
fn keyword_of(word: &str) -> Option<String> {
    if let Some((_, keyword)) = SHORT.iter().find(|(short, _)| *short == word) {
        return Some((*keyword).to_owned());
    }
    let name = word.strip_prefix("--")?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    is_name.then(|| name.replace('-', "_"))
}

/// Words as a shell takes them, where a word may be in single quotes.
fn shell_words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut is_in_quotes) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '\'' => is_in_quotes = !is_in_quotes,
            ' ' if !is_in_quotes => words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty())),
            _ => word.push(c),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}
