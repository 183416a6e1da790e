//! BM25 over documents in memory (Robertson and Zaragoza 2009, eq. 3.15, k1 = 1.2, b = 0.75): how much a document has
//! to do with a query. Words are runs of letters and digits in lower case.

use std::collections::{BTreeMap, BTreeSet};

const K1: f64 = 1.2;
const B: f64 = 0.75;

/// Documents, by their words.
#[derive(Debug)]
pub(super) struct Bm25 {
    /// For each word, the documents that have it, and how often.
    places: BTreeMap<String, Vec<(usize, f64)>>,
    /// Words of each document.
    lengths: Vec<f64>,
    mean_length: f64,
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

impl Bm25 {
    pub(super) fn new<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let (mut places, mut lengths) = (BTreeMap::<String, Vec<(usize, f64)>>::new(), Vec::new());
        for (i, text) in texts.enumerate() {
            let mut length = 0.0;
            for word in words(text) {
                length += 1.0;
                let of_word = places.entry(word).or_default();
                match of_word.last_mut().filter(|(document, _)| *document == i) {
                    Some((_, n)) => *n += 1.0,
                    None => of_word.push((i, 1.0)),
                }
            }
            lengths.push(length);
        }
        let mean_length = lengths.iter().sum::<f64>() / (lengths.len() as f64).max(1.0);
        Self { places, lengths, mean_length }
    }

    /// The score of each document; words of the query count once.
    pub(super) fn scores(&self, query: &str) -> Vec<f64> {
        let n = self.lengths.len() as f64;
        let mut scores = vec![0.0; self.lengths.len()];
        for word in words(query).collect::<BTreeSet<_>>() {
            let Some(places) = self.places.get(&word) else { continue };
            let n_with = places.len() as f64;
            let rarity = (1.0 + (n - n_with + 0.5) / (n_with + 0.5)).ln();
            for &(document, count) in places {
                let length = 1.0 - B + B * self.lengths[document] / self.mean_length;
                scores[document] += rarity * count * (K1 + 1.0) / (count + K1 * length);
            }
        }
        scores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_follow_the_equation() {
        let texts = ["the river Kalos", "The river and the river", "bells"];
        let index = Bm25::new(texts.into_iter());
        let scores = index.scores("river, RIVER; lamps");
        // Three documents of 3, 5 and 1 words, mean 3; `river` is in two of them.
        let rarity = (1.0_f64 + 1.5 / 2.5).ln();
        let expected = [rarity * 2.2 / (1.0 + 1.2), rarity * 2.0 * 2.2 / (2.0 + 1.2 * (0.25 + 0.75 * 5.0 / 3.0)), 0.0];
        scores.iter().zip(expected).for_each(|(score, value)| assert!((score - value).abs() < 1e-12, "{scores:?}"));
    }
}
