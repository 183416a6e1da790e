//! Which subsets of the experts are merged: all of them, or a balanced design.

use std::collections::BTreeSet;

use thalweg_tensor::{SplitMix, counted};

use crate::Error;

/// The most merges of a curve.
pub(crate) const MAX_SUBSETS: usize = 1 << 16;

/// How many subsets are merged for each k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubsetChoice {
    /// All.
    All,
    /// At most this many.
    AtMost(usize),
}

/// Subsets of `n` experts for each k of `ks` (all, if empty), by k; places ascend within each.
///
/// A design takes runs of k neighbours on a circle of the experts in random order: n such runs have each expert equally
/// often. What is drawn depends on the seed, n and k alone.
///
/// # Errors
/// `Request` for a k that is not between 1 and n, and for more than [`MAX_SUBSETS`].
///
/// # Example
/// ```
/// use thalweg_study::law::{SubsetChoice, choose_subsets};
///
/// assert_eq!(choose_subsets(3, &[2], SubsetChoice::All, 0)?, [[0, 1], [0, 2], [1, 2]]);
/// # Ok::<(), thalweg_study::Error>(())
/// ```
pub fn choose_subsets(n: usize, ks: &[usize], choice: SubsetChoice, seed: u64) -> Result<Vec<Vec<usize>>, Error> {
    let all: Vec<usize> = (1..=n).collect();
    let mut ks = if ks.is_empty() { all } else { ks.to_vec() };
    ks.sort_unstable();
    ks.dedup();
    if let Some(k) = ks.iter().find(|k| **k == 0 || **k > n) {
        return Err(Error::request_with_hint(
            format!("`--k {k}` is not possible with {}", counted(n, "expert")),
            format!("k is between 1 and {n}; `--base` scores the base, which is k = 0"),
        ));
    }
    let wanted = |k: usize| match choice {
        SubsetChoice::All => n_subsets(n, k),
        SubsetChoice::AtMost(most) => n_subsets(n, k).min(most),
    };
    let total = ks.iter().fold(0_usize, |sum, k| sum.saturating_add(wanted(*k)));
    if total > MAX_SUBSETS {
        return Err(Error::request_with_hint(
            format!("these are {total} merges, more than {MAX_SUBSETS}"),
            "add `--subsets R` for at most R subsets of each k, or give fewer k with `--k`",
        ));
    }
    let mut subsets = Vec::new();
    for k in ks {
        if wanted(k) == n_subsets(n, k) {
            subsets.extend(every(n, k));
        } else {
            subsets.extend(design(n, k, wanted(k), seed));
        }
    }
    Ok(subsets)
}

/// n over k; the largest number where that is more.
fn n_subsets(n: usize, k: usize) -> usize {
    let k = k.min(n - k);
    // After each factor the product is a binomial coefficient itself, so the division is exact.
    (0..k)
        .try_fold(1_usize, |product, i| product.checked_mul(n - i).map(|product| product / (i + 1)))
        .unwrap_or(usize::MAX)
}

/// All subsets of k, in lexical order.
fn every(n: usize, k: usize) -> Vec<Vec<usize>> {
    let mut subsets = Vec::new();
    let mut subset: Vec<usize> = (0..k).collect();
    loop {
        subsets.push(subset.clone());
        let Some(i) = (0..k).rev().find(|&i| subset[i] < n - k + i) else { return subsets };
        subset[i] += 1;
        for j in i + 1..k {
            subset[j] = subset[j - 1] + 1;
        }
    }
}

fn design(n: usize, k: usize, wanted: usize, seed: u64) -> Vec<Vec<usize>> {
    /// Orders that bring nothing new before all subsets are searched instead.
    const PATIENCE: usize = 64;
    let mut random = SplitMix::new(seed ^ (k as u64).rotate_left(32));
    let (mut found, mut known, mut in_vain) = (Vec::new(), BTreeSet::new(), 0);
    while found.len() < wanted && in_vain < PATIENCE {
        let mut order: Vec<usize> = (0..n).collect();
        random.shuffle(&mut order);
        let before = found.len();
        for start in 0..n {
            let mut subset: Vec<usize> = (0..k).map(|i| order[(start + i) % n]).collect();
            subset.sort_unstable();
            if found.len() < wanted && known.insert(subset.clone()) {
                found.push(subset);
            }
        }
        in_vain = if found.len() == before { in_vain + 1 } else { 0 };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_subsets_of_eight_are_255_and_each_is_there_once() {
        let subsets = choose_subsets(8, &[], SubsetChoice::All, 0).unwrap();
        let distinct: BTreeSet<&Vec<usize>> = subsets.iter().collect();
        assert_eq!((subsets.len(), distinct.len()), (255, 255));
        assert!(subsets.iter().all(|subset| subset.is_sorted() && subset.iter().all(|i| *i < 8)));
        assert!(subsets.windows(2).all(|pair| pair[0].len() <= pair[1].len()));
    }

    #[test]
    fn a_design_is_balanced_and_follows_its_seed() {
        let draw = |seed| choose_subsets(12, &[1, 2, 4, 12], SubsetChoice::AtMost(24), seed).unwrap();
        let subsets = draw(3);
        let of = |k: usize| subsets.iter().filter(|subset| subset.len() == k).collect::<Vec<_>>();
        assert_eq!([1, 2, 4, 12].map(|k| of(k).len()), [12, 24, 24, 1]);
        // The first circle has each expert four times in twelve runs of four.
        let mut counts = [0; 12];
        of(4)[..12].iter().for_each(|subset| subset.iter().for_each(|i| counts[*i] += 1));
        assert_eq!(counts, [4; 12]);
        assert_eq!(subsets, draw(3));
        assert_ne!(subsets, draw(4));
        assert_eq!(subsets.iter().collect::<BTreeSet<_>>().len(), subsets.len());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(choose_subsets(4, &[5], SubsetChoice::All, 0).unwrap_err().to_string().contains("`--k 5`"));
        assert!(choose_subsets(4, &[0], SubsetChoice::All, 0).is_err());
        let error = choose_subsets(200, &[], SubsetChoice::All, 0).unwrap_err();
        assert!(error.hint().unwrap().contains("--subsets"), "{error}");
        assert_eq!((n_subsets(200, 100), n_subsets(60, 30), n_subsets(5, 5)), (usize::MAX, 118_264_581_564_861_424, 1));
    }
}
