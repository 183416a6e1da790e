//! Which tokens a step reads: a pure function of the data, the seed and the step.
//!
//! Sequences are dealt to the domains in blocks of [`BLOCK_SEQUENCES`]; in each block every domain has its exact share,
//! in an order of the block's own. So a run can resume, or fork, at any step without a history.

use std::sync::Arc;

use crate::Error;
use crate::random::{Random, Stream};
use crate::tokens::{DomainReader, TokenDomain};

/// Sequences of a block: shares are kept to one part in so many.
pub(crate) const BLOCK_SEQUENCES: u32 = 1000;

/// A domain and its part of the mixture.
#[derive(Debug, Clone)]
pub struct MixturePart {
    /// Its documents.
    pub domain: Arc<TokenDomain>,
    /// Relative to the others; above 0.
    pub share: f64,
}

/// Reads batches.
#[derive(Debug)]
pub struct Mixture {
    parts: Vec<MixturePart>,
    readers: Vec<DomainReader>,
    /// Sequences of each domain in a block.
    quotas: Vec<u32>,
    seed: u64,
    sequence_length: usize,
    block: Option<Block>,
}

#[derive(Debug)]
struct Block {
    block: u32,
    /// Domain of each sequence, and how many sequences of that domain come before it in the block.
    places: Vec<(u32, u32)>,
}

impl Mixture {
    /// Checks that each domain has a sequence's worth of tokens.
    ///
    /// # Errors
    /// `CorpusTooSmall`.
    pub fn new(parts: Vec<MixturePart>, seed: u64, sequence_length: usize) -> Result<Self, Error> {
        for part in &parts {
            let n_tokens = part.domain.n_tokens();
            if n_tokens <= sequence_length as u64 {
                return Err(Error::CorpusTooSmall { name: part.domain.name().to_owned(), n_tokens, sequence_length });
            }
        }
        let readers = (0..).take(parts.len()).map(|domain_idx| DomainReader::new(domain_idx, seed)).collect();
        let quotas = deal(&parts.iter().map(|part| part.share).collect::<Vec<_>>());
        Ok(Self { parts, readers, quotas, seed, sequence_length, block: None })
    }

    /// Fills `tokens` and `targets` with consecutive sequences from number `first_sequence` of the run on.
    ///
    /// Both are as long as a whole number of sequences. The target of a token is the one after it in its domain.
    pub fn read(&mut self, first_sequence: u64, tokens: &mut [u32], targets: &mut [u32]) {
        let length = self.sequence_length;
        let mut pair = vec![0; length + 1];
        for (i, (tokens, targets)) in tokens.chunks_exact_mut(length).zip(targets.chunks_exact_mut(length)).enumerate()
        {
            let (domain_idx, number) = self.place(first_sequence + i as u64);
            let domain = &self.parts[domain_idx].domain;
            self.readers[domain_idx].read(domain, number * length as u64, &mut pair);
            tokens.copy_from_slice(&pair[..length]);
            targets.copy_from_slice(&pair[1..]);
        }
    }

    /// The domain of a sequence, and its number among the domain's own.
    fn place(&mut self, sequence: u64) -> (usize, u64) {
        let size = u64::from(BLOCK_SEQUENCES);
        let block_idx = sequence / size;
        let block = u32::try_from(block_idx).unwrap_or(u32::MAX);
        let known = self.block.take().filter(|known| known.block == block);
        let known = self.block.insert(known.unwrap_or_else(|| Block::deal(block, &self.quotas, self.seed)));
        let (domain, before) = known.places[thalweg_tensor::to_index(sequence % size)];
        let domain_idx = domain as usize;
        (domain_idx, block_idx * u64::from(self.quotas[domain_idx]) + u64::from(before))
    }

    /// Random tokens below `vocab_size` as a batch of `step`, each the target of the one before.
    pub fn poison(&self, step: u64, vocab_size: u32, tokens: &mut [u32], targets: &mut [u32]) {
        let step = u32::try_from(step).unwrap_or(u32::MAX);
        let mut random = Random::new(self.seed, Stream::Poison { step });
        let length = self.sequence_length;
        for (tokens, targets) in tokens.chunks_exact_mut(length).zip(targets.chunks_exact_mut(length)) {
            tokens.iter_mut().for_each(|token| *token = random.below(vocab_size.max(1)));
            targets[..length - 1].copy_from_slice(&tokens[1..]);
            targets[length - 1] = random.below(vocab_size.max(1));
        }
    }
}

impl Block {
    fn deal(block: u32, quotas: &[u32], seed: u64) -> Self {
        let mut order: Vec<u32> = Vec::with_capacity(BLOCK_SEQUENCES as usize);
        for (domain, &quota) in (0..).zip(quotas) {
            order.extend(std::iter::repeat_n(domain, quota as usize));
        }
        Random::new(seed, Stream::Mixture { block }).shuffle(&mut order);
        let mut counts = vec![0; quotas.len()];
        let places = order.into_iter().map(|domain| {
            let count = &mut counts[domain as usize];
            *count += 1;
            (domain, *count - 1)
        });
        Self { block, places: places.collect() }
    }
}

/// Whole numbers in proportion to `shares` that add up to a block: the largest remainders get what is left.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and a block")]
fn deal(shares: &[f64]) -> Vec<u32> {
    let sum: f64 = shares.iter().sum();
    let exact: Vec<f64> = shares.iter().map(|share| share / sum * f64::from(BLOCK_SEQUENCES)).collect();
    let mut quotas: Vec<u32> = exact.iter().map(|exact| exact.floor() as u32).collect();
    let mut by_remainder: Vec<usize> = (0..shares.len()).collect();
    by_remainder.sort_by(|&a, &b| (exact[b].fract()).total_cmp(&exact[a].fract()).then(a.cmp(&b)));
    let n_left = BLOCK_SEQUENCES.saturating_sub(quotas.iter().sum());
    by_remainder.iter().cycle().take(n_left as usize).for_each(|&i| quotas[i] += 1);
    quotas
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::tests::domain;

    fn mixture(seed: u64) -> Mixture {
        let part = |text: &str, share| MixturePart { domain: Arc::new(domain(&[&text.repeat(40), text])), share };
        Mixture::new(vec![part("the cat sat. ", 3.0), part("1234567", 1.0)], seed, 8).unwrap()
    }

    #[test]
    fn shares_become_whole_numbers_that_fill_a_block() {
        assert_eq!(deal(&[1.0]), [1000]);
        assert_eq!(deal(&[1.0, 1.0, 1.0]), [334, 333, 333]);
        assert_eq!(deal(&[3.0, 1.0]), [750, 250]);
        assert_eq!(deal(&[1e-9, 1.0]), [0, 1000]);
    }

    #[test]
    fn any_sequence_can_be_read_first_and_each_domain_is_read_without_gaps() {
        let n = 2500;
        let (mut tokens, mut targets) = (vec![0; 8 * n], vec![0; 8 * n]);
        mixture(3).read(0, &mut tokens, &mut targets);
        let mut again = mixture(3);
        for first in [2499, 0, 1000, 999, 1777] {
            let (mut one, mut target) = (vec![0; 8], vec![0; 8]);
            again.read(first as u64, &mut one, &mut target);
            assert_eq!((one.as_slice(), target.as_slice()), (&tokens[8 * first..][..8], &targets[8 * first..][..8]));
        }
        let mut other = vec![0; 8 * n];
        mixture(4).read(0, &mut other, &mut targets);
        assert_ne!(tokens, other);
        let mut dealer = mixture(3);
        let mut next = [0, 0];
        for sequence in 0..n as u64 {
            let (domain_idx, number) = dealer.place(sequence);
            assert_eq!(number, next[domain_idx]);
            next[domain_idx] += 1;
        }
        // Two and a half blocks: the first two have their exact shares.
        assert!(next[0].abs_diff(1875) <= 250 && next[0] + next[1] == 2500, "{next:?}");
    }

    #[test]
    fn a_target_is_the_token_after_and_too_little_text_is_refused() {
        let (mut tokens, mut targets) = (vec![0; 80], vec![0; 80]);
        let mut mixture = mixture(1);
        mixture.read(0, &mut tokens, &mut targets);
        for (tokens, targets) in tokens.chunks(8).zip(targets.chunks(8)) {
            assert_eq!(tokens[1..], targets[..7]);
        }
        mixture.poison(5, 512, &mut tokens, &mut targets);
        assert!(tokens.iter().chain(&targets).all(|&token| token < 512));
        assert_eq!(tokens[1..8], targets[..7]);
        let small = MixturePart { domain: Arc::new(domain(&["a"])), share: 1.0 };
        let error = Mixture::new(vec![small], 0, 8).unwrap_err().to_string();
        assert_eq!(error, "the data `test` have 2 tokens, fewer than one sequence of 8 and its target");
    }
}
