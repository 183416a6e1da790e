//! Named streams of random numbers: each is a function of the seed and its name, the same on every machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a stream is for; two purposes never share numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stream {
    /// Order of the documents of a domain in a pass.
    Documents { domain: u32, pass: u32 },
    /// Order of the domains in a block of sequences.
    Mixture { block: u32 },
    /// Random tokens of a step.
    Poison { step: u32 },
}

/// A stream of numbers.
#[derive(Debug)]
pub(crate) struct Random(ChaCha8Rng);

impl Random {
    pub(crate) fn new(seed: u64, stream: Stream) -> Self {
        let (purpose, a, b) = match stream {
            Stream::Documents { domain, pass } => (1, domain, pass),
            Stream::Mixture { block } => (2, block, 0),
            Stream::Poison { step } => (3, step, 0),
        };
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..12].copy_from_slice(&u32::to_le_bytes(purpose));
        key[12..16].copy_from_slice(&a.to_le_bytes());
        key[16..20].copy_from_slice(&b.to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    /// A number below `bound`, which is not 0, without bias (Lemire 2019, arXiv 1805.10941).
    #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        let threshold = bound.wrapping_neg() % bound.max(1);
        loop {
            let product = u64::from(self.0.next_u32()) * u64::from(bound);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }

    /// Fisher and Yates, from the end.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let bound = u32::try_from(i + 1).unwrap_or(u32::MAX);
            items.swap(i, self.below(bound) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_purpose_and_number_and_shuffles_keep_everything() {
        let order = |seed, stream| {
            let mut items: Vec<u32> = (0..100).collect();
            Random::new(seed, stream).shuffle(&mut items);
            items
        };
        let documents = |domain, pass| Stream::Documents { domain, pass };
        let first = order(1, documents(0, 0));
        assert_eq!(first, order(1, documents(0, 0)));
        for other in [
            order(2, documents(0, 0)),
            order(1, documents(1, 0)),
            order(1, documents(0, 1)),
            order(1, Stream::Mixture { block: 0 }),
        ] {
            assert_ne!(first, other);
        }
        let mut sorted = first;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn numbers_below_a_bound_are_even() {
        let mut random = Random::new(7, Stream::Poison { step: 1 });
        let mut counts = [0_i32; 5];
        (0..50_000).for_each(|_| counts[random.below(5) as usize] += 1);
        // Five standard deviations of a binomial count with p = 1/5.
        assert!(counts.iter().all(|count| (count - 10_000).abs() < 450), "{counts:?}");
    }
}
