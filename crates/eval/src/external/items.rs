//! What each item of a score scored.

use std::collections::BTreeMap;

use crate::uncertainty::Sums;

/// What the items of one score scored, by names that are the same in the results of every model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TaskItems {
    /// Whether the score is the exponential of the mean, as a perplexity is.
    pub is_exponential: bool,
    /// Numerator and denominator by the name of the item; the denominator is 1 for a plain mean.
    pub values: BTreeMap<String, [f64; 2]>,
    /// How often a name recurred.
    repeats: BTreeMap<String, usize>,
}

impl TaskItems {
    /// Adds an item. A name that is there already gets a number: a data set may hold a document twice.
    pub(super) fn add(&mut self, name: &str, value: [f64; 2]) {
        let mut unique = name.to_owned();
        if self.values.contains_key(name) {
            let repeats = self.repeats.entry(unique.clone()).or_insert(1);
            *repeats += 1;
            unique = format!("{name}#{repeats}");
        }
        self.values.insert(unique, value);
    }

    /// The score over the items that `keep` takes: numerators and denominators in the order of the names.
    pub(super) fn columns(&self, keep: impl Fn(&str) -> bool) -> (Vec<f64>, Vec<f64>) {
        let kept = self.values.iter().filter(|(name, _)| keep(name));
        kept.map(|(_, [numerator, denominator])| (*numerator, *denominator)).unzip()
    }
}

/// The columns as what a score is made of.
pub(super) fn sums<'a>((numerators, denominators): &'a (Vec<f64>, Vec<f64>), is_exponential: bool) -> Sums<'a> {
    Sums { numerators, denominators, is_exponential }
}
