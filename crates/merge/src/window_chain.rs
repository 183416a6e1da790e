//! Outputs whose windows move along the run: an order in which each sum is made from the one before.
//!
//! Says nothing about exactness: `thalweg_tensor::kernel::WindowSums` keeps a running sum only where it is the sum.

use std::collections::{BTreeMap, BTreeSet};

use thalweg_tensor::kernel::WindowWeights;

/// Windows in a chain, at least: the spread of all its sources is looked at before the first.
const LEAST_WINDOWS: usize = 4;

/// How the sum of a window comes about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WindowStep {
    /// All its sources are added.
    Start(ChainStart),
    /// These sources leave the window before, and those enter it, pair by pair.
    Move(Vec<(usize, usize)>),
    /// It is the window before, with other weights.
    Stay,
}

/// What a chain of windows needs to know before its first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChainStart {
    /// All sources of the chain.
    pub(crate) sources: Vec<usize>,
    /// Sources in a window.
    pub(crate) n_window: u32,
    /// `Rising` if any of its sums is.
    pub(crate) weights: WindowWeights,
}

/// In which order outputs are made, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WindowOrder {
    /// Every output once; those of a chain come one after the other.
    pub(crate) outputs: Vec<usize>,
    /// By output; `None` for those that are summed by themselves.
    pub(crate) steps: Vec<Option<WindowStep>>,
}

/// An output that is the sum of a window: its sources, the oldest first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WindowOutput<'a> {
    pub(crate) output: usize,
    pub(crate) sources: &'a [usize],
    pub(crate) weights: WindowWeights,
}

impl WindowOrder {
    /// Finds the chains among `windows`, of `n_outputs` outputs in all.
    pub(crate) fn find(n_outputs: usize, windows: &[WindowOutput<'_>]) -> Self {
        let mut order = Self { outputs: Vec::with_capacity(n_outputs), steps: vec![None; n_outputs] };
        let mut by_sources: BTreeMap<&[usize], Vec<WindowOutput<'_>>> = BTreeMap::new();
        for window in windows {
            by_sources.entry(window.sources).or_default().push(*window);
        }
        for chain in chains(by_sources.keys().copied()) {
            if chain.len() >= LEAST_WINDOWS {
                order.add_chain(&chain, &by_sources);
            }
        }
        let alone = (0..n_outputs).filter(|&output| order.steps[output].is_none());
        order.outputs.extend(alone.collect::<Vec<_>>());
        order
    }

    fn add_chain(&mut self, chain: &[&[usize]], by_sources: &BTreeMap<&[usize], Vec<WindowOutput<'_>>>) {
        let all: BTreeSet<usize> = chain.iter().copied().flatten().copied().collect();
        let weights = chain.iter().filter_map(|window| by_sources.get(window)).flatten().map(|one| one.weights).max();
        let mut before: Option<&[usize]> = None;
        for window in chain {
            let mut step = match before {
                None => WindowStep::Start(ChainStart {
                    sources: all.iter().copied().collect(),
                    n_window: u32::try_from(window.len()).unwrap_or(u32::MAX),
                    weights: weights.unwrap_or(WindowWeights::Equal),
                }),
                Some(before) => WindowStep::Move(moves(before, window)),
            };
            for one in by_sources.get(window).into_iter().flatten() {
                self.outputs.push(one.output);
                self.steps[one.output] = Some(std::mem::replace(&mut step, WindowStep::Stay));
            }
            before = Some(window);
        }
    }
}

/// How many sources leave `before` until it is `after`, if that is less than summing all of them.
fn shift(before: &[usize], after: &[usize]) -> Option<usize> {
    let n = before.len();
    let most = if after.len() == n { n.saturating_sub(1) / 2 } else { 0 };
    (1..=most).find(|&shift| before[shift..] == after[..n - shift])
}

fn moves(before: &[usize], after: &[usize]) -> Vec<(usize, usize)> {
    let shift = shift(before, after).unwrap_or(0);
    before[..shift].iter().copied().zip(after[after.len() - shift..].iter().copied()).collect()
}

/// Windows that follow each other, from the first on; each window is in one chain.
fn chains<'a>(windows: impl Iterator<Item = &'a [usize]>) -> Vec<Vec<&'a [usize]>> {
    let windows: Vec<&[usize]> = windows.collect();
    // By the first source: only windows that begin within another one can follow it.
    let mut by_first: BTreeMap<usize, Vec<&[usize]>> = BTreeMap::new();
    for window in &windows {
        by_first.entry(window[0]).or_default().push(window);
    }
    let next_of = |window: &[usize]| {
        let within = window[1..].iter().filter_map(|first| by_first.get(first));
        within.flatten().copied().find(|after| shift(window, after).is_some())
    };
    let next: BTreeMap<&[usize], &[usize]> =
        windows.iter().filter_map(|&window| Some((window, next_of(window)?))).collect();
    let followers: BTreeSet<&[usize]> = next.values().copied().collect();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for first in windows.iter().copied().filter(|window| !followers.contains(window)) {
        let follow = |window: &&'a [usize]| next.get(window).copied();
        // Windows with two predecessors belong to the first of them.
        let chain: Vec<&[usize]> =
            std::iter::successors(Some(first), follow).take_while(|window| seen.insert(*window)).collect();
        found.push(chain);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use WindowWeights::{Equal, Rising};

    fn order(windows: &[(&[usize], WindowWeights)]) -> WindowOrder {
        let outputs: Vec<WindowOutput<'_>> = windows
            .iter()
            .enumerate()
            .map(|(output, &(sources, weights))| WindowOutput { output, sources, weights })
            .collect();
        WindowOrder::find(windows.len(), &outputs)
    }

    fn start(sources: &[usize], n_window: u32, weights: WindowWeights) -> Option<WindowStep> {
        Some(WindowStep::Start(ChainStart { sources: sources.to_vec(), n_window, weights }))
    }

    fn moved(pairs: &[(usize, usize)]) -> Option<WindowStep> {
        Some(WindowStep::Move(pairs.to_vec()))
    }

    #[test]
    fn windows_follow_each_other_whatever_their_order_in_the_plan() {
        let found = order(&[
            (&[3, 4, 5], Equal),
            (&[2, 3, 4], Rising),
            (&[2, 3, 4], Equal),
            (&[0, 1, 2], Equal),
            (&[1, 2, 3], Rising),
            (&[7], Equal),
        ]);
        assert_eq!(found.outputs, [3, 4, 1, 2, 0, 5]);
        assert_eq!(
            found.steps,
            [
                moved(&[(2, 5)]),
                moved(&[(1, 4)]),
                Some(WindowStep::Stay),
                start(&[0, 1, 2, 3, 4, 5], 3, Rising),
                moved(&[(0, 3)]),
                None,
            ]
        );
    }

    #[test]
    fn windows_of_every_second_end_move_by_two() {
        let found = order(&[
            (&[0, 1, 2, 3, 4], Equal),
            (&[2, 3, 4, 5, 6], Equal),
            (&[4, 5, 6, 7, 8], Equal),
            (&[6, 7, 8, 9, 10], Equal),
        ]);
        assert_eq!(found.outputs, [0, 1, 2, 3]);
        assert_eq!(found.steps[1..3], [moved(&[(0, 5), (1, 6)]), moved(&[(2, 7), (3, 8)])]);
    }

    #[test]
    fn few_windows_or_windows_that_share_little_are_summed_alone() {
        let few = order(&[(&[0, 1, 2], Equal), (&[1, 2, 3], Equal), (&[2, 3, 4], Equal)]);
        assert_eq!((few.outputs, few.steps), (vec![0, 1, 2], vec![None; 3]));
        let disjoint = order(&[(&[0, 1, 2], Equal), (&[2, 3, 4], Equal), (&[4, 5, 6], Equal), (&[6, 7, 8], Equal)]);
        assert_eq!(disjoint.steps, vec![None; 4]);
    }

    #[test]
    fn windows_in_a_circle_end() {
        let found = order(&[(&[0, 1, 2], Equal), (&[1, 2, 0], Equal), (&[2, 0, 1], Equal)]);
        assert_eq!((found.outputs, found.steps), (vec![0, 1, 2], vec![None; 3]));
    }
}
