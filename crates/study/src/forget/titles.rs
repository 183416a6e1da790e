//! Titles in texts: whole words only, the longest of those that begin at one place.

use std::ops::Range;

use aho_corasick::AhoCorasick;

use crate::Error;

/// Finds any of many titles.
#[derive(Debug)]
pub(super) struct TitleFinder {
    automaton: AhoCorasick,
}

/// The most bytes of all titles together.
const MAX_BYTES: usize = 256 << 20;

impl TitleFinder {
    pub(super) fn new(titles: &[&str]) -> Result<Self, Error> {
        let n_bytes: usize = titles.iter().map(|title| title.len()).sum();
        if n_bytes > MAX_BYTES {
            return Err(Error::request_with_hint(
                format!("the titles take {n_bytes} bytes, more than {MAX_BYTES}"),
                "take a sample of them",
            ));
        }
        let automaton = AhoCorasick::new(titles);
        let automaton = automaton.map_err(|error| Error::request(format!("the titles cannot be searched: {error}")))?;
        Ok(Self { automaton })
    }

    /// Places of titles in a text, with the title of each; they do not overlap.
    pub(super) fn find(&self, text: &str) -> Vec<(usize, Range<usize>)> {
        let all = self.automaton.find_overlapping_iter(text);
        let mut found: Vec<(usize, Range<usize>)> =
            all.map(|one| (one.pattern().as_usize(), one.range())).filter(|(_, range)| is_whole(text, range)).collect();
        found.sort_by_key(|(_, range)| (range.start, std::cmp::Reverse(range.end)));
        let mut end = 0;
        found.retain(|(_, range)| {
            let is_free = range.start >= end;
            end = if is_free { range.end } else { end };
            is_free
        });
        found
    }
}

/// Whether no letter or digit touches a range from outside.
fn is_whole(text: &str, range: &Range<usize>) -> bool {
    let touches = |neighbour: Option<char>| neighbour.is_some_and(char::is_alphanumeric);
    let before = text.get(..range.start).map(|before| before.chars().next_back());
    let after = text.get(range.end..).map(|after| after.chars().next());
    // Titles are whole texts, so their ends never split a character.
    matches!((before, after), (Some(before), Some(after)) if !touches(before) && !touches(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(titles: &[&str], text: &'a str) -> Vec<(usize, &'a str)> {
        let finder = TitleFinder::new(titles).unwrap();
        finder.find(text).into_iter().map(|(title, range)| (title, &text[range])).collect()
    }

    #[test]
    fn titles_are_whole_words_and_the_longest_counts() {
        let titles = ["New York", "York", "New", "New York City"];
        assert_eq!(find(&titles, "New York City, New York; Yorkshire"), [(3, "New York City"), (0, "New York")]);
        // A longer title that is not a whole word does not hide a shorter one that is.
        assert_eq!(find(&titles, "New Yorkers in York."), [(2, "New"), (1, "York")]);
        assert_eq!(find(&["Nîme", "Nîmes", "îmes"], "à Nîmes."), [(1, "Nîmes")]);
        assert_eq!(find(&["A1"], "A12 xA1 A1"), [(0, "A1")]);
        assert_eq!(find(&["A B"], "A B A B"), [(0, "A B"), (0, "A B")]);
    }
}
