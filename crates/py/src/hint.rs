//! Messages name options as on the command line; in Python an option is a keyword of the same name.
//!
//! One rule: `--interval-tokens 8B` becomes `interval_tokens="8B"`, `--steps 1,2` becomes `steps=[1, 2]`, and `--force`
//! becomes `force=True`.

/// What has another shape in Python than an option with a value.
const PHRASES: [(&str, &str); 2] = [("-m CKPT:COEF", "sources=[(CKPT, COEF), ...]"), ("-m", "sources")];
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

/// The text with its options as keywords: in back-ticks with their values, outside by their names.
pub(crate) fn as_keywords(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let parts = parts.map(|(i, part)| if i % 2 == 1 { quoted(part) } else { plain(part) });
    parts.collect::<Vec<_>>().join("`")
}

fn plain(text: &str) -> String {
    let word = |word: &str| {
        let end = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).len();
        let (name, after) = word.split_at(end);
        name.strip_prefix("--").and(keyword_of(name)).map_or_else(|| word.to_owned(), |keyword| keyword + after)
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// What is between back-ticks: options become keywords; anything else, such as a whole command, stays as it is.
fn quoted(text: &str) -> String {
    if let Some((_, phrase)) = PHRASES.iter().find(|(option, _)| *option == text) {
        return (*phrase).to_owned();
    }
    let words = shell_words(text);
    let mut words = words.iter().map(String::as_str).peekable();
    let mut options: Vec<(String, Vec<String>)> = Vec::new();
    while let Some(word) = words.next() {
        let Some(keyword) = keyword_of(word) else { return text.to_owned() };
        let value = words.next_if(|next| keyword_of(next).is_none()).map(shown_values).unwrap_or_default();
        match options.iter_mut().find(|(known, _)| *known == keyword) {
            Some((_, values)) => values.extend(value),
            None => options.push((keyword, value)),
        }
    }
    let shown = options.into_iter().map(|(keyword, values)| match &*values {
        [] if FLAGS.contains(&keyword.as_str()) => format!("{keyword}=True"),
        [] => keyword,
        [only] => format!("{keyword}={only}"),
        several => format!("{keyword}=[{}]", several.join(", ")),
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// A value as Python writes it; numbers with commas between them are several.
fn shown_values(value: &str) -> Vec<String> {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match value.split(',').all(is_number) {
        true => value.split(',').map(str::to_owned).collect(),
        false => vec![format!("{value:?}")],
    }
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
