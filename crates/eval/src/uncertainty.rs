//! How sure a score is, and a difference of two: influence values, t intervals, the bootstrap, Holm's adjustment.
//!
//! A score is a ratio of sums over items, R = sum N_i / sum D_i (a mean where every D_i is 1). Its standard error is
//! that of the ratio estimator (Cochran, Sampling Techniques, 3rd ed., eq. 6.13, the delta method): with the influence
//! values psi_i = (N_i - R D_i) / mean(D), SE(R) = sd(psi) / sqrt(n). An exponential exp(R) has the influence values
//! exp(R) psi_i. A paired difference has the difference of influence values, so that what both checkpoints find hard
//! cancels.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// Numerators and denominators of items, in the order of the items.
#[derive(Debug, Clone, Copy)]
pub struct Sums<'a> {
    /// What is summed.
    pub numerators: &'a [f64],
    /// What it is divided by; 1 each for a mean.
    pub denominators: &'a [f64],
    /// Whether the score is the exponential of the ratio.
    pub is_exponential: bool,
}

impl Sums<'_> {
    /// The score; NaN without items or where the denominators add up to nothing.
    ///
    /// # Example
    /// ```
    /// use thalweg_eval::uncertainty::Sums;
    /// let sums = Sums { numerators: &[1.0, 5.0], denominators: &[1.0, 2.0], is_exponential: false };
    /// assert_eq!(sums.value(), 2.0);
    /// ```
    pub fn value(&self) -> f64 {
        let ratio = self.numerators.iter().sum::<f64>() / self.denominators.iter().sum::<f64>();
        if self.is_exponential { ratio.exp() } else { ratio }
    }

    /// The influence of each item on the value; they add up to zero.
    pub(crate) fn influences(&self) -> Vec<f64> {
        let total: f64 = self.denominators.iter().sum();
        let ratio = self.numerators.iter().sum::<f64>() / total;
        let slope = if self.is_exponential { ratio.exp() } else { 1.0 };
        let scale = slope * count(self.numerators.len()) / total;
        self.numerators.iter().zip(self.denominators).map(|(n, d)| scale * (n - ratio * d)).collect()
    }

    /// Standard error of the value; `None` with fewer than two items.
    pub fn standard_error(&self) -> Option<f64> {
        standard_error(&self.influences())
    }

    fn value_of(&self, picked: &[usize]) -> f64 {
        let (mut numerator, mut denominator) = (0.0, 0.0);
        for &item in picked {
            numerator += self.numerators[item];
            denominator += self.denominators[item];
        }
        let ratio = numerator / denominator;
        if self.is_exponential { ratio.exp() } else { ratio }
    }
}

/// sd / sqrt(n) of values that are independent; `None` with fewer than two.
pub fn standard_error(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let n = count(values.len());
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    Some((squares / (n - 1.0) / n).sqrt())
}

/// A difference with its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// The difference.
    pub value: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Degrees of freedom of t.
    pub degrees: f64,
}

impl Difference {
    /// The two-sided interval that covers with probability `level` by Student's t.
    ///
    /// # Example
    /// ```
    /// use thalweg_eval::uncertainty::Difference;
    /// let [low, high] = Difference { value: 1.0, standard_error: 1.0, degrees: 4.0 }.t_interval(0.95);
    /// assert!((high - 3.776445).abs() < 1e-5 && (low + 1.776445).abs() < 1e-5);
    /// ```
    pub fn t_interval(&self, level: f64) -> [f64; 2] {
        let half = if self.standard_error > 0.0 { self.quantile(0.5 + level / 2.0) * self.standard_error } else { 0.0 };
        [self.value - half, self.value + half]
    }

    /// The smallest true difference that a comparison with this standard error finds with probability `power`, at a
    /// significance of 5 %, two-sided: (t(0.975) + t(power)) SE. `None` where the values have no spread, so that
    /// nothing is known of it.
    ///
    /// # Example
    /// ```
    /// use thalweg_eval::uncertainty::Difference;
    /// let found = Difference { value: 0.0, standard_error: 0.01, degrees: 1e6 }.smallest_found(0.8);
    /// assert!((found.unwrap() - 0.028016).abs() < 1e-6);
    /// ```
    pub fn smallest_found(&self, power: f64) -> Option<f64> {
        (self.standard_error > 0.0).then(|| (self.quantile(0.975) + self.quantile(power)) * self.standard_error)
    }

    fn quantile(&self, probability: f64) -> f64 {
        /// From here on the expansion of t about the normal (Abramowitz and Stegun 26.7.5) is exact to eight digits.
        /// The library's inverse loses digits with more degrees: it has six at 50,000.
        const MANY_DEGREES: f64 = 1000.0;
        if self.degrees >= MANY_DEGREES {
            let (z, n) = (Normal::standard().inverse_cdf(probability), self.degrees);
            let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n);
            return z + (z.powi(3) + z) / (4.0 * n) + second;
        }
        StudentsT::new(0.0, 1.0, self.degrees).map_or(f64::NAN, |t| t.inverse_cdf(probability))
    }

    /// Probability of a difference at least as large, either way, where there is none. Without any spread it is 1 for
    /// no difference, else 0.
    pub fn p_value(&self) -> f64 {
        if self.standard_error > 0.0 {
            let t = (self.value / self.standard_error).abs();
            StudentsT::new(0.0, 1.0, self.degrees.min(1e6)).map_or(f64::NAN, |d| 2.0 * d.sf(t))
        } else if self.value.abs() > 0.0 {
            0.0
        } else {
            1.0
        }
    }
}

/// Value of `b` minus value of `a` over the same items; `None` with fewer than two.
pub fn paired_difference(a: &Sums<'_>, b: &Sums<'_>) -> Option<Difference> {
    let influences: Vec<f64> = b.influences().iter().zip(a.influences()).map(|(b, a)| b - a).collect();
    let standard_error = standard_error(&influences)?;
    Some(Difference { value: b.value() - a.value(), standard_error, degrees: count(influences.len()) - 1.0 })
}

/// Mean of independent differences, with Welch and Satterthwaite's degrees of freedom; `None` of none.
pub fn mean_difference(parts: &[Difference]) -> Option<Difference> {
    if parts.is_empty() {
        return None;
    }
    let n = count(parts.len());
    let variances: Vec<f64> = parts.iter().map(|part| part.standard_error * part.standard_error / (n * n)).collect();
    let variance: f64 = variances.iter().sum();
    let spread: f64 = parts.iter().zip(&variances).map(|(part, v)| v * v / part.degrees).sum();
    let degrees = if spread > 0.0 { variance * variance / spread } else { 1.0 };
    let value = parts.iter().map(|part| part.value).sum::<f64>() / n;
    Some(Difference { value, standard_error: variance.sqrt(), degrees })
}

/// How a bootstrap is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bootstrap {
    /// Seed of ChaCha8; each resample has its own stream, so that threads do not matter.
    pub seed: u64,
    /// Resamples.
    pub n_resamples: u32,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { seed: 0, n_resamples: 2000 }
    }
}

/// Percentile interval of `b` minus `a`, items drawn with replacement, the same ones for both (Efron, Tibshirani 1993,
/// ch. 13).
pub(crate) fn bootstrap_interval(a: &Sums<'_>, b: &Sums<'_>, level: f64, bootstrap: Bootstrap) -> [f64; 2] {
    let n = a.numerators.len();
    let draw = |resample: u32| {
        let mut rng = ChaCha8Rng::seed_from_u64(bootstrap.seed);
        rng.set_stream(resample.into());
        let picked: Vec<usize> = (0..n).map(|_| below(&mut rng, n)).collect();
        b.value_of(&picked) - a.value_of(&picked)
    };
    let mut differences: Vec<f64> = (0..bootstrap.n_resamples).into_par_iter().map(draw).collect();
    differences.retain(|difference| difference.is_finite());
    differences.sort_by(f64::total_cmp);
    [quantile(&differences, 0.5 - level / 2.0), quantile(&differences, 0.5 + level / 2.0)]
}

/// A number below `n` by multiplication (Lemire 2019): the bias is below n / 2^64.
fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    let wide = u128::from(rng.next_u64()) * n as u128;
    usize::try_from(wide >> 64).unwrap_or(0)
}

/// Quantile of sorted values by linear interpolation between neighbours; NaN of none.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share.clamp(0.0, 1.0) * count(last);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place within a list")]
    let low = place.floor() as usize;
    let high = (low + 1).min(last);
    sorted[low] + (place - place.floor()) * (sorted[high] - sorted[low])
}

/// Holm's adjustment: each p-value as it is after many were looked at, in the order given (Holm 1979).
///
/// # Example
/// ```
/// let adjusted = thalweg_eval::uncertainty::holm_adjusted(&[0.01, 0.04, 0.03]);
/// assert_eq!(adjusted, [0.03, 0.06, 0.06]);
/// ```
pub fn holm_adjusted(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&i, &j| p_values[i].total_cmp(&p_values[j]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut largest = 0.0_f64;
    for (rank, &i) in order.iter().enumerate() {
        largest = largest.max((count(p_values.len() - rank) * p_values[i]).min(1.0));
        adjusted[i] = largest;
    }
    adjusted
}

#[expect(clippy::cast_precision_loss, reason = "counts of items are far below 2^53")]
pub(crate) const fn count(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn means(values: &[f64]) -> Sums<'_> {
        Sums { numerators: values, denominators: &[1.0; 64][..values.len()], is_exponential: false }
    }

    fn assert_close(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{found} is not {expected}");
    }

    #[test]
    fn quantiles_of_many_degrees_continue_those_of_fewer() {
        let quantile = |degrees, p| Difference { value: 0.0, standard_error: 1.0, degrees }.quantile(p);
        for p in [0.8, 0.9, 0.975] {
            let (below, above) = (quantile(999.999_999, p), quantile(1000.0, p));
            assert!((below - above).abs() < 2e-8, "{p}: {below} {above}");
        }
        // Tables: t of 1,000 degrees and of infinitely many.
        assert!((quantile(1e3, 0.975) - 1.962_339).abs() < 1e-6);
        assert!((quantile(1e9, 0.975) - 1.959_964).abs() < 1e-6);
        assert!((quantile(1e6, 0.8) - 0.841_622).abs() < 1e-6);
    }

    #[test]
    fn the_error_of_a_mean_is_its_closed_form() {
        // Variance of 1..=5 is 2.5, over 5 items: sqrt(0.5).
        let sums = means(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_close(sums.value(), 3.0);
        assert_close(sums.standard_error().unwrap(), 0.5_f64.sqrt());
        assert_eq!(means(&[1.0]).standard_error(), None);
    }

    #[test]
    fn the_error_of_a_share_is_its_closed_form() {
        // p (1 - p) / (n - 1) with p = 3/4, n = 4.
        assert_close(means(&[1.0, 1.0, 0.0, 1.0]).standard_error().unwrap(), (0.75_f64 * 0.25 / 3.0).sqrt());
    }

    #[test]
    fn the_error_of_a_ratio_is_the_delta_method_by_hand() {
        // R = 12/6 = 2, mean D = 2; psi = (3-2, 2-4, 7-6)/2 = (0.5, -1, 0.5); sd^2 = 0.75; SE = sqrt(0.25).
        let sums = Sums { numerators: &[3.0, 2.0, 7.0], denominators: &[1.0, 2.0, 3.0], is_exponential: false };
        assert_close(sums.value(), 2.0);
        assert_close(sums.standard_error().unwrap(), 0.5);
        let exponential = Sums { is_exponential: true, ..sums };
        assert_close(exponential.value(), 2.0_f64.exp());
        assert_close(exponential.standard_error().unwrap(), 0.5 * 2.0_f64.exp());
    }

    #[test]
    fn a_paired_difference_of_means_is_the_paired_t_test() {
        // Differences 1, 2, 3, 2: mean 2, sd^2 = 2/3, SE = sqrt(1/6); t(3) quantile 3.182446305284263.
        let (a, b) = ([10.0, 20.0, 30.0, 40.0], [11.0, 22.0, 33.0, 42.0]);
        let difference = paired_difference(&means(&a), &means(&b)).unwrap();
        assert_close(difference.value, 2.0);
        assert_close(difference.standard_error, (1.0_f64 / 6.0).sqrt());
        let [low, high] = difference.t_interval(0.95);
        let half = 3.182_446_305_284_263 * (1.0_f64 / 6.0).sqrt();
        assert!((low - (2.0 - half)).abs() < 1e-9 && (high - (2.0 + half)).abs() < 1e-9, "{low} {high}");
        // 2 * P(T > 4.898979) with three degrees, by the closed form of t(3).
        let t = 2.0 * 6.0_f64.sqrt();
        let tail =
            0.5 - (((t / 3.0_f64.sqrt()) / (1.0 + t * t / 3.0)) + (t / 3.0_f64.sqrt()).atan()) / std::f64::consts::PI;
        assert!((difference.p_value() - 2.0 * tail).abs() < 1e-9, "{} {}", difference.p_value(), 2.0 * tail);
    }

    #[test]
    fn without_spread_the_interval_is_a_point() {
        let same = paired_difference(&means(&[1.0, 2.0]), &means(&[1.0, 2.0])).unwrap();
        assert_eq!((same.t_interval(0.95), same.p_value()), ([0.0, 0.0], 1.0));
        let shifted = paired_difference(&means(&[1.0, 2.0]), &means(&[2.0, 3.0])).unwrap();
        assert_eq!((shifted.t_interval(0.95), shifted.p_value()), ([1.0, 1.0], 0.0));
    }

    #[test]
    fn pooling_equal_parts_keeps_the_value_and_divides_the_variance() {
        let part = Difference { value: 0.5, standard_error: 0.2, degrees: 9.0 };
        let pooled = mean_difference(&[part; 4]).unwrap();
        assert_close(pooled.value, 0.5);
        assert_close(pooled.standard_error, 0.1);
        assert_close(pooled.degrees, 36.0);
        assert_eq!(mean_difference(&[]), None);
    }

    #[test]
    fn holm_is_monotone_and_capped() {
        assert_eq!(holm_adjusted(&[0.5, 0.9]), [1.0, 1.0]);
        assert_eq!(holm_adjusted(&[]), Vec::<f64>::new());
        assert_eq!(holm_adjusted(&[0.02]), [0.02]);
    }

    #[test]
    fn quantiles_interpolate() {
        assert_close(quantile(&[0.0, 10.0], 0.25), 2.5);
        assert_close(quantile(&[1.0, 2.0, 3.0], 0.5), 2.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn the_bootstrap_repeats_its_bits_and_agrees_with_t_on_many_items() {
        let n = 400;
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let a: Vec<f64> = (0..n).map(|_| normal(&mut rng)).collect();
        let b: Vec<f64> = a.iter().map(|a| a + 0.1 + 0.5 * normal(&mut rng)).collect();
        let ones = vec![1.0; n];
        let sums = |numerators| Sums { numerators, denominators: &ones, is_exponential: false };
        let draw = || bootstrap_interval(&sums(&a), &sums(&b), 0.95, Bootstrap::default());
        assert_eq!(draw().map(f64::to_bits), draw().map(f64::to_bits));
        let [low, high] = draw();
        let [t_low, t_high] = paired_difference(&sums(&a), &sums(&b)).unwrap().t_interval(0.95);
        // The ends of a percentile interval of 2,000 draws wander by about 4 % of the interval's width.
        let slack = 0.08 * (t_high - t_low);
        assert!((low - t_low).abs() < slack && (high - t_high).abs() < slack, "{low} {high} {t_low} {t_high}");
    }

    fn uniform(rng: &mut ChaCha8Rng) -> f64 {
        (f64::from(rng.next_u32()) + 0.5) / 4_294_967_296.0
    }

    fn normal(rng: &mut ChaCha8Rng) -> f64 {
        (-2.0 * uniform(rng).ln()).sqrt() * (std::f64::consts::TAU * uniform(rng)).cos()
    }

    /// Documents of uneven length, where b is better by 0.05 for each byte and noise grows with the length.
    #[test]
    fn intervals_of_a_ratio_cover_the_true_gain_nineteen_times_in_twenty() {
        let mut rng = ChaCha8Rng::seed_from_u64(2026);
        let (n_studies, n_documents, gain) = (2000, 40, 0.05);
        let (mut n_t, mut n_bootstrap) = (0, 0);
        for study in 0..n_studies {
            let bytes: Vec<f64> = (0..n_documents).map(|_| 100.0 + 900.0 * uniform(&mut rng)).collect();
            let a: Vec<f64> = bytes.iter().map(|d| d * (2.0 + 0.3 * normal(&mut rng))).collect();
            let b: Vec<f64> = a.iter().zip(&bytes).map(|(a, d)| a - d * (gain + 0.1 * normal(&mut rng))).collect();
            let sums = |numerators| Sums { numerators, denominators: &bytes, is_exponential: false };
            let covers = |[low, high]: [f64; 2]| low <= -gain && -gain <= high;
            n_t += i32::from(covers(paired_difference(&sums(&a), &sums(&b)).unwrap().t_interval(0.95)));
            if study % 5 == 0 {
                let bootstrap = Bootstrap { seed: study, n_resamples: 400 };
                n_bootstrap += i32::from(covers(bootstrap_interval(&sums(&a), &sums(&b), 0.95, bootstrap)));
            }
        }
        // Of 2,000 at 95 % the binomial deviation is 9.7: 1,900 within three of them, and one per cent for the delta
        // method at 40 documents.
        assert!((1851..=1929).contains(&n_t), "{n_t} of 2000");
        // Percentile intervals of 40 items are known to be a little short: 93 to 95 %, of 400 within three deviations
        // of 4.6.
        assert!((356..=394).contains(&n_bootstrap), "{n_bootstrap} of 400");
    }
}
