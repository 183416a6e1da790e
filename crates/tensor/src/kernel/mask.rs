//! The random mask: a number for each element, from the seed, the tensor's name and the expert's number alone.
//!
//! SplitMix64 (Steele, Lea and Flood 2014) is a counter through a finaliser, so element n of a stream needs none of
//! those before it. `fixtures/make/expert_rules.py` computes the same numbers in Python.

use crate::random::{STEP, mix};

/// The stream of one tensor of one expert; experts are counted from 0.
pub fn stream_key(seed: u64, tensor: &str, expert: usize) -> u64 {
    let absorb = |key: u64, value: u64| mix((key ^ value).wrapping_add(STEP));
    let named = tensor.bytes().fold(mix(seed.wrapping_add(STEP)), |key, byte| absorb(key, u64::from(byte)));
    absorb(named, 256 + expert as u64)
}

/// Numbers that are drawn are whole multiples of 1 / `N_STEPS`, from 0 up to 1, which is excluded.
pub(crate) const N_STEPS: f64 = 9_007_199_254_740_992.0;

/// The number of an element, in steps.
#[inline(always)]
pub(crate) fn draw(key: u64, element: u64) -> u64 {
    mix(key.wrapping_add(STEP.wrapping_mul(element.wrapping_add(1)))) >> 11
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finaliser_is_that_of_splitmix64() {
        // The first numbers of the published generator for the seed 1234567.
        let stream: Vec<u64> = (1..=3).map(|n| mix(1_234_567_u64.wrapping_add(STEP.wrapping_mul(n)))).collect();
        assert_eq!(stream, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn numbers_are_even_and_streams_independent() {
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double")]
        let draw = |key| (0..20_000).map(move |i| draw(key, i) as f64 / N_STEPS);
        let (a, b) = (stream_key(0, "w", 0), stream_key(0, "w", 1));
        let mean = draw(a).sum::<f64>() / 20_000.0;
        let product = draw(a).zip(draw(b)).map(|(x, y)| (x - 0.5) * (y - 0.5)).sum::<f64>() / 20_000.0;
        // Standard errors: 0.002 and 0.0006.
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        assert!(product.abs() < 0.003, "{product}");
        let keys = [a, b, stream_key(1, "w", 0), stream_key(0, "v", 0), stream_key(0, "w0", 0)];
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key));
        }
    }
}
