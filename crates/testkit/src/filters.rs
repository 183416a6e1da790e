//! Makes what a command prints the same on every machine and day, so that it can be compared as a whole.
//!
//! Apply it before the comparison. Counts (`1.10B`, `4B` tokens) stay: only a unit that means bytes makes a size.

use std::path::Path;

const TIME_UNITS: [&str; 9] = ["ns", "us", "\u{b5}s", "\u{3bc}s", "ms", "s", "m", "min", "h"];
const BYTE_UNITS: [&str; 9] = ["kB", "KB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB"];

/// Replaces folders by `[PATH]`, and numbers with their units by `[TIME]`, `[SPEED]`, `[SIZE]` and `[VERSION]`.
///
/// A version is three numbers with dots between. Times that follow one another (`1m 20s`) become one.
///
/// # Example
/// ```
/// use std::path::Path;
/// use thalweg_testkit::filters::filter_output;
///
/// let text = "thalweg 0.1.0 read 8.80 GB of 10 checkpoints in /tmp/x1/run in 1m 2.5s (3.52 GB/s)";
/// assert_eq!(
///     filter_output(text, &[Path::new("/tmp/x1")]),
///     "thalweg [VERSION] read [SIZE] of 10 checkpoints in [PATH]/run in [TIME] ([SPEED])",
/// );
/// ```
pub fn filter_output(text: &str, folders: &[&Path]) -> String {
    let mut folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    // A folder in another one is named first.
    folders.sort_by_key(|folder| std::cmp::Reverse(folder.len()));
    folders.dedup();
    let text = folders.iter().fold(text.to_owned(), |text, folder| replace_folder(&text, folder));
    replace_numbers(&text).replace("[TIME] [TIME]", "[TIME]")
}

fn replace_folder(text: &str, folder: &str) -> String {
    let folder = folder.trim_end_matches('/');
    if folder.is_empty() {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(folder) {
        let (before, after) = rest.split_at(at);
        let after = &after[folder.len()..];
        let is_whole = !after.starts_with(|next: char| next.is_alphanumeric() || next == '_' || next == '-');
        out.push_str(before);
        out.push_str(if is_whole { "[PATH]" } else { folder });
        rest = after;
    }
    out + rest
}

fn replace_numbers(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let is_joined = out.ends_with(|last: char| last.is_alphanumeric() || matches!(last, '.' | '_'));
        let found = if next.is_ascii_digit() && !is_joined { measure_at(rest) } else { None };
        let n_bytes = if let Some((name, n_bytes)) = found {
            out.push_str(name);
            n_bytes
        } else {
            out.push(next);
            next.len_utf8()
        };
        rest = &rest[n_bytes..];
    }
    out
}

/// What the number at the beginning of a text measures, and how far number and unit reach.
fn measure_at(text: &str) -> Option<(&'static str, usize)> {
    let n_digits =
        text.len() - text.trim_start_matches(|next: char| next.is_ascii_digit() || ".:".contains(next)).len();
    let number = text[..n_digits].trim_end_matches(['.', ':']);
    let after = &text[number.len()..];
    let parts_by = |separator| number.split(separator).filter(|part: &&str| !part.is_empty()).count();
    if number.contains(':') {
        let is_clock = parts_by(':') >= 2 && !after.starts_with(char::is_alphanumeric);
        return is_clock.then_some(("[TIME]", number.len()));
    }
    match parts_by('.') {
        1 | 2 => {}
        3 if !after.starts_with(char::is_alphanumeric) => return Some(("[VERSION]", number.len())),
        _ => return None,
    }
    let has_space = after.starts_with(' ');
    let unit_text = after.strip_prefix(' ').unwrap_or(after);
    let n_letters = unit_text.len() - unit_text.trim_start_matches(char::is_alphabetic).len();
    let (unit, tail) = unit_text.split_at(n_letters);
    if tail.starts_with(|next: char| next.is_ascii_digit() || next == '_') {
        return None;
    }
    let end = number.len() + usize::from(has_space) + n_letters;
    // `4B` is a count of tokens; `4 B` are bytes.
    if BYTE_UNITS.contains(&unit) || (unit == "B" && (has_space || is_per_second(tail))) {
        return Some(if is_per_second(tail) { ("[SPEED]", end + 2) } else { ("[SIZE]", end) });
    }
    TIME_UNITS.contains(&unit).then_some(("[TIME]", end))
}

fn is_per_second(tail: &str) -> bool {
    tail.strip_prefix("/s").is_some_and(|tail| !tail.starts_with(char::is_alphanumeric))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_filter(text: &str, expected: &str) {
        assert_eq!(filter_output(text, &[Path::new("/tmp/a"), Path::new("/tmp/a/deep/")]), expected);
    }

    #[test]
    fn what_differs_from_machine_to_machine_is_replaced() {
        check_filter("took 12 ms, 0.5s, 3 min 2 s.", "took [TIME], [TIME], [TIME].");
        check_filter("at 01:02:03 left 00:10", "at [TIME] left [TIME]");
        check_filter("8.80 GB of 12.00 GB, 3.52 GB/s, 512 B, 64MiB", "[SIZE] of [SIZE], [SPEED], [SIZE], [SIZE]");
        check_filter("12 B/s", "[SPEED]");
        check_filter("thalweg 1.20.3: done", "thalweg [VERSION]: done");
        check_filter("`/tmp/a/deep/x` `/tmp/a` /tmp/ab", "`[PATH]/x` `[PATH]` /tmp/ab");
        check_filter("{\"seconds\":\"1.5 s\"}", "{\"seconds\":\"[TIME]\"}");
    }

    #[test]
    fn what_a_command_must_say_stays() {
        for text in [
            "10 checkpoints, 1.10B params, 4B tokens, 248k",
            "step12000 [2048, 512] bf16 model-00002-of-00004.safetensors",
            "layers.3.mlp.up 5 steps 3 s_idx 2 MBs 7 mergeable h2 1.5",
            "0.5, 0.3, 0.2. ends 7. caf\u{e9} 10.0.0.1 v1.2.3",
            "3 m/s2 5 sources 12 hours",
        ] {
            let expected = text.replace("3 m/s2", "[TIME]/s2");
            check_filter(text, &expected);
        }
    }
}
