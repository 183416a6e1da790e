//! Numbers from a seed, the same on every machine: SplitMix64 (Steele, Lea and Flood 2014).

/// What its counter grows by.
pub(crate) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Its finaliser.
#[inline(always)]
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The generator: enough to draw items and orders.
#[derive(Debug, Clone)]
pub struct SplitMix(u64);

impl SplitMix {
    /// Begins at a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `n`, which is not 0: (64-bit output x n) / 2^64. The bias of that is below n x 2^-64.
    #[expect(clippy::cast_possible_truncation, reason = "below n, which is a usize")]
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(STEP);
        ((u128::from(mix(self.0)) * n as u128) >> 64) as usize
    }

    /// Puts the items into any order, each as likely as the others: Fisher-Yates from the last position down.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        (1..items.len()).rev().for_each(|i| items.swap(i, self.below(i + 1)));
    }
}
