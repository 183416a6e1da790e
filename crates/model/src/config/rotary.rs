//! Rotary positions: frequencies of each scaling, as transformers computes them.

use crate::Error;

/// Rotary position embedding in the half-split form.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotary {
    /// Base of the frequencies.
    pub theta: f64,
    /// Share of each head that is rotated, 0 < share <= 1 (`partial_rotary_factor`).
    pub share: f64,
    /// How frequencies are scaled for sequences longer than those of training.
    pub scaling: RotaryScaling,
}

/// A scaling of rotary frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RotaryScaling {
    /// None.
    None,
    /// Positions are divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Low frequencies are divided, high ones kept, those between blended (Llama 3.1).
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above the original length over this are low.
        low_freq_factor: f64,
        /// Wavelengths below the original length over this are high.
        high_freq_factor: f64,
        /// Positions before scaling.
        original_positions: usize,
    },
    /// Frequencies are blended by how often they turn, and the tables scaled (arXiv 2309.00071).
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// Turns above which a frequency is kept.
        beta_fast: f64,
        /// Turns below which a frequency is divided.
        beta_slow: f64,
        /// Factor of cosines and sines.
        attention_factor: f64,
        /// Positions before scaling.
        original_positions: usize,
    },
}

impl Rotary {
    /// Frequencies of the plain form.
    pub const fn plain(theta: f64) -> Self {
        Self { theta, share: 1.0, scaling: RotaryScaling::None }
    }

    /// Numbers of a head that are rotated; even.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a head is not negative and below 2^32"
    )]
    pub(crate) fn n_rotated(&self, head_dim: usize) -> usize {
        (as_f64(head_dim) * self.share) as usize
    }

    pub(crate) fn check(&self, head_dim: usize) -> Result<(), Error> {
        let bad = |key: &str, value: f64, expected| {
            Err(Error::BadValue { key: key.to_owned(), value: value.to_string(), expected })
        };
        if !(self.theta.is_finite() && self.theta > 1.0) {
            return bad("rope_theta", self.theta, "a number above 1");
        }
        if !(self.share > 0.0 && self.share <= 1.0) {
            return bad("partial_rotary_factor", self.share, "above 0 and at most 1");
        }
        let n = self.n_rotated(head_dim);
        if n == 0 || !n.is_multiple_of(2) {
            return bad(
                "partial_rotary_factor",
                self.share,
                "a share that rotates an even count of each head's numbers",
            );
        }
        let numbers: &[f64] = match &self.scaling {
            RotaryScaling::None => &[],
            RotaryScaling::Linear { factor } => &[*factor],
            RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, .. } => {
                if high_freq_factor <= low_freq_factor {
                    return bad("high_freq_factor", *high_freq_factor, "above `low_freq_factor`");
                }
                &[*factor, *low_freq_factor, *high_freq_factor]
            }
            RotaryScaling::Yarn { factor, beta_fast, beta_slow, attention_factor, .. } => {
                &[*factor, *beta_fast, *beta_slow, *attention_factor]
            }
        };
        match numbers.iter().find(|x| !(x.is_finite() && **x > 0.0)) {
            Some(&x) => bad("rope_scaling", x, "a positive number"),
            None => Ok(()),
        }
    }

    /// Radians a position turns each pair of numbers.
    pub(crate) fn frequencies(&self, head_dim: usize) -> Vec<f64> {
        let n = self.n_rotated(head_dim);
        let plain: Vec<f64> = (0..n / 2).map(|i| self.theta.powf(-as_f64(2 * i) / as_f64(n))).collect();
        match self.scaling {
            RotaryScaling::None => plain,
            RotaryScaling::Linear { factor } => plain.into_iter().map(|f| f / factor).collect(),
            RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
                let original = as_f64(original_positions);
                let scale = |f: f64| {
                    let wavelength = std::f64::consts::TAU / f;
                    let kept = ((original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor))
                        .clamp(0.0, 1.0);
                    (1.0 - kept) * f / factor + kept * f
                };
                plain.into_iter().map(scale).collect()
            }
            RotaryScaling::Yarn { factor, beta_fast, beta_slow, original_positions, .. } => {
                let dim_of = |turns: f64| {
                    as_f64(n) * (as_f64(original_positions) / (turns * std::f64::consts::TAU)).ln()
                        / (2.0 * self.theta.ln())
                };
                let low = dim_of(beta_fast).floor().max(0.0);
                let high = dim_of(beta_slow).ceil().min(as_f64(n) - 1.0);
                let high = if (low - high).abs() < f64::EPSILON { high + 0.001 } else { high };
                let blend = |(i, f): (usize, f64)| {
                    let divided = ((as_f64(i) - low) / (high - low)).clamp(0.0, 1.0);
                    f / factor * divided + f * (1.0 - divided)
                };
                plain.into_iter().enumerate().map(blend).collect()
            }
        }
    }

    /// Factor of cosines and sines.
    pub(crate) fn table_scale(&self) -> f64 {
        match self.scaling {
            RotaryScaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes are below 2^32")]
const fn as_f64(n: usize) -> f64 {
    n as f64
}
