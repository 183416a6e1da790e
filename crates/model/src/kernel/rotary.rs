//! Rotary position embedding in the half-split form of Hugging Face, on the first `n_rotated` numbers of a head.

use super::Real;

/// Cosines and sines for each position and frequency.
#[derive(Debug, Clone)]
pub struct RotaryTable<T> {
    cos: Vec<T>,
    sin: Vec<T>,
    n_frequencies: usize,
}

impl<T: Real> RotaryTable<T> {
    /// The table of the first `n_positions` positions for these frequencies (radians a position), times `scale` (1 but
    /// for some scalings).
    pub fn new(frequencies: &[f64], n_positions: usize, scale: f64) -> Self {
        let angles = || (0..n_positions).flat_map(|p| frequencies.iter().map(move |f| position(p) * f));
        Self {
            cos: angles().map(|a| T::from_f64(a.cos() * scale)).collect(),
            sin: angles().map(|a| T::from_f64(a.sin() * scale)).collect(),
            n_frequencies: frequencies.len(),
        }
    }

    /// Positions the table holds.
    pub fn n_positions(&self) -> usize {
        self.cos.len().checked_div(self.n_frequencies).unwrap_or(usize::MAX)
    }

    /// The rows of some positions alone: position 0 of the result is the first of them.
    pub fn rows(&self, positions: std::ops::Range<usize>) -> Self {
        let n = self.n_frequencies;
        let rows = positions.start * n..positions.end * n;
        Self { cos: self.cos[rows.clone()].to_vec(), sin: self.sin[rows].to_vec(), n_frequencies: n }
    }

    /// Rotates a head at a position, in place.
    #[inline(always)]
    pub fn rotate(&self, head: &mut [T], position: usize) {
        self.turn(head, position, T::ONE);
    }

    /// The transpose of [`Self::rotate`]: what gradients go through.
    #[inline(always)]
    pub(crate) fn rotate_back(&self, head: &mut [T], position: usize) {
        self.turn(head, position, -T::ONE);
    }

    #[inline(always)]
    fn turn(&self, head: &mut [T], position: usize, sign: T) {
        let n = self.n_frequencies;
        let (first, rest) = head.split_at_mut(n);
        let angles = self.cos[position * n..][..n].iter().zip(&self.sin[position * n..][..n]);
        for ((a, b), (&cos, &sin)) in first.iter_mut().zip(rest).zip(angles) {
            let (x, y, sin) = (*a, *b, sin * sign);
            *a = x * cos - y * sin;
            *b = y * cos + x * sin;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "positions are far below 2^53")]
const fn position(p: usize) -> f64 {
    p as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_exchanges_the_halves_and_back_undoes_it() {
        let table = RotaryTable::<f64>::new(&[std::f64::consts::FRAC_PI_2, 0.0], 2, 1.0);
        let mut head = [1.0, 2.0, 3.0, 4.0, 9.0];
        table.rotate(&mut head, 1);
        for (got, want) in head.iter().zip([-3.0, 2.0, 1.0, 4.0, 9.0]) {
            assert!((got - want).abs() < 1e-15);
        }
        table.rotate_back(&mut head, 1);
        for (got, want) in head.iter().zip([1.0, 2.0, 3.0, 4.0, 9.0]) {
            assert!((got - want).abs() < 1e-15);
        }
    }
}
