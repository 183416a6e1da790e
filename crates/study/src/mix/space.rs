//! Components and the two coordinate systems of a mixture.

use std::collections::BTreeMap;

use thalweg_merge::Coefficients;
use thalweg_merge::plan::SourceRef;
use thalweg_tensor::{SplitMix, display_name};

use crate::Error;

/// Coefficients are multiples of one part in so many, so that they are exact and can be read.
pub(super) const GRID: u32 = 10_000;

/// A model that was trained on one candidate data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// The name of its data.
    pub name: String,
    /// The model.
    pub source: SourceRef,
}

/// The mixtures of some components.
#[derive(Debug, Clone, PartialEq)]
pub struct MixSpace {
    names: Vec<String>,
    general: usize,
    beta: f64,
}

/// A mixture as numerators over [`GRID`], one for each component.
pub(super) type Mixture = Vec<u32>;

impl MixSpace {
    /// Mixtures of named components, of which one is `general`; every other one was trained on a share `beta` of
    /// general data beside its data.
    ///
    /// # Errors
    /// `Request` for fewer than two components, a name that appears twice, a general component that is not there, and a
    /// share outside 0 to 1.
    ///
    /// # Example
    /// ```
    /// use thalweg_study::mix::MixSpace;
    ///
    /// let names = ["web", "code", "math"].map(str::to_owned);
    /// let space = MixSpace::new(&names, "web", 0.5)?;
    /// assert_eq!(space.data_shares(&[0.25, 0.75, 0.0]), [0.625, 0.375, 0.0]);
    /// # Ok::<(), thalweg_study::Error>(())
    /// ```
    pub fn new(names: &[String], general: &str, beta: f64) -> Result<Self, Error> {
        if names.len() < 2 {
            return Err(Error::request_with_hint(
                format!("a mixture needs at least two components, not {}", names.len()),
                "name each one: `--component web=CKPT --component code=CKPT`",
            ));
        }
        if names.iter().any(|name| name.trim().is_empty()) {
            return Err(Error::request_with_hint("a component has no name", "name each one, such as `web,math,code`"));
        }
        let mut sorted = names.to_vec();
        sorted.sort();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            let name = display_name(&pair[0]);
            return Err(Error::request_with_hint(format!("there are two components named `{name}`"), "rename one"));
        }
        let Some(place) = names.iter().position(|name| name == general) else {
            let known: Vec<String> = names.iter().map(|name| format!("`{}`", display_name(name))).collect();
            return Err(Error::request_with_hint(
                format!("the general component `{}` is not one of the components", display_name(general)),
                format!("name one of {} with `--general NAME`", known.join(", ")),
            ));
        };
        if !(0.0..1.0).contains(&beta) {
            return Err(Error::request_with_hint(
                format!("`--beta {beta}` is not a share of general data below 1"),
                "the paper uses 0.5; 0 means that components saw only their own data",
            ));
        }
        Ok(Self { names: names.to_vec(), general: place, beta })
    }

    /// The components, in the order of coefficients.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The general component.
    pub fn general(&self) -> &str {
        &self.names[self.general]
    }

    /// Share of general data in the other components.
    pub fn beta(&self) -> f64 {
        self.beta
    }

    /// What a run would train on: `(1 - beta) a_i` of each data set, and the rest general.
    pub fn data_shares(&self, coefficients: &[f64]) -> Vec<f64> {
        let own = |(i, coefficient): (usize, &f64)| match i == self.general {
            true => coefficient + self.beta * (1.0 - coefficient),
            false => (1.0 - self.beta) * coefficient,
        };
        coefficients.iter().enumerate().map(own).collect()
    }

    /// The coefficients that have these data shares.
    ///
    /// # Errors
    /// `Request` where the share of general data is too small for any.
    pub fn coefficients(&self, data_shares: &[f64]) -> Result<Vec<f64>, Error> {
        let general = data_shares.get(self.general).copied().unwrap_or(0.0);
        let own = |(i, share): (usize, &f64)| match i == self.general {
            true => (general - self.beta) / (1.0 - self.beta),
            false => share / (1.0 - self.beta),
        };
        let coefficients: Vec<f64> = data_shares.iter().enumerate().map(own).collect();
        if coefficients[self.general] < -1e-9 {
            return Err(Error::request_with_hint(
                format!("a share of {general} of `{}` is below `--beta {}`", self.general(), self.beta),
                "components that saw this much general data cannot represent a mixture with less",
            ));
        }
        Ok(coefficients)
    }

    /// Values by the names of the components.
    pub(super) fn by_name(&self, values: &[f64]) -> BTreeMap<String, f64> {
        self.names.iter().cloned().zip(values.iter().copied()).collect()
    }

    /// Values in the order of the components, from a map by name.
    pub(super) fn in_order(&self, values: &BTreeMap<String, f64>) -> Result<Vec<f64>, String> {
        if let Some(unknown) = values.keys().find(|name| !self.names.contains(name)) {
            return Err(format!("there is no component `{}`", display_name(unknown)));
        }
        Ok(self.names.iter().map(|name| values.get(name).copied().unwrap_or(0.0)).collect())
    }

    /// Mixtures that are drawn uniformly from the simplex.
    pub(super) fn draw(&self, n: usize, random: &mut SplitMix) -> Vec<Mixture> {
        (0..n).map(|_| self.draw_one(random)).collect()
    }

    /// The gaps between sorted uniform numbers are uniform on the simplex.
    fn draw_one(&self, random: &mut SplitMix) -> Mixture {
        let mut cuts: Vec<u32> =
            (1..self.names.len()).map(|_| u32::try_from(random.below(GRID as usize + 1)).unwrap_or(0)).collect();
        cuts.sort_unstable();
        let ends = cuts.iter().copied().chain([GRID]);
        let starts = [0].into_iter().chain(cuts.iter().copied());
        ends.zip(starts).map(|(end, start)| end - start).collect()
    }

    /// Each component alone, then all of them equally.
    pub(super) fn corners(&self) -> Vec<Mixture> {
        let n = self.names.len();
        let alone = |i: usize| (0..n).map(|j| if i == j { GRID } else { 0 }).collect();
        (0..n).map(alone).chain([round(&vec![1.0 / n as f64; n])]).collect()
    }
}

/// A mixture as numbers.
pub(super) fn fractions(mixture: &[u32]) -> Vec<f64> {
    mixture.iter().map(|numerator| f64::from(*numerator) / f64::from(GRID)).collect()
}

/// The nearest mixture of the grid to positive coefficients that sum to 1: the largest remainders are rounded up.
pub(super) fn round(coefficients: &[f64]) -> Mixture {
    let scaled: Vec<f64> = coefficients.iter().map(|one| one.max(0.0) * f64::from(GRID)).collect();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the grid")]
    let mut mixture: Mixture = scaled.iter().map(|one| one.min(f64::from(GRID)) as u32).collect();
    let mut order: Vec<usize> = (0..scaled.len()).collect();
    order.sort_by(|a, b| (scaled[*b] - scaled[*b].floor()).total_cmp(&(scaled[*a] - scaled[*a].floor())));
    let missing = GRID.saturating_sub(mixture.iter().sum()) as usize;
    order.iter().cycle().take(missing.min(GRID as usize)).for_each(|i| mixture[*i] += 1);
    mixture
}

/// Exact coefficients.
pub(super) fn exact(mixture: &[u32]) -> Result<Coefficients, Error> {
    Ok(Coefficients::new(mixture.iter().map(|one| u64::from(*one)), u64::from(GRID))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(beta: f64) -> MixSpace {
        MixSpace::new(&["web", "code", "math"].map(str::to_owned), "web", beta).unwrap()
    }

    #[test]
    fn the_papers_best_mixture_has_a_general_share_of_0_609() {
        // Li et al. 2026, table 9, the best row: 0.218 is a coefficient, not a share of data.
        let coefficients = [0.218, 0.468, 0.314];
        let shares = space(0.5).data_shares(&coefficients);
        assert!((shares[0] - 0.609).abs() < 1e-12 && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let back = space(0.5).coefficients(&shares).unwrap();
        assert!(back.iter().zip(coefficients).all(|(a, b)| (a - b).abs() < 1e-12));
        assert_eq!(space(0.0).data_shares(&coefficients), coefficients);
        assert!(space(0.5).coefficients(&[0.4, 0.3, 0.3]).unwrap_err().to_string().contains("below `--beta 0.5`"));
    }

    #[test]
    fn draws_are_uniform_on_the_simplex_and_sum_to_one_exactly() {
        let drawn = space(0.5).draw(4000, &mut SplitMix::new(7));
        assert!(drawn.iter().all(|one| one.iter().sum::<u32>() == GRID));
        // Uniform on the triangle: mean 1/3 and variance 1/18 for each; four standard errors of 4,000 draws.
        for i in 0..3 {
            let values: Vec<f64> = drawn.iter().map(|one| fractions(one)[i]).collect();
            let mean = values.iter().sum::<f64>() / 4000.0;
            let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 4000.0;
            assert!((mean - 1.0 / 3.0).abs() < 4.0 * (1.0_f64 / 18.0 / 4000.0).sqrt(), "{mean}");
            assert!((variance * 18.0 - 1.0).abs() < 0.1, "{variance}");
        }
        assert_eq!(round(&[1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0]), [3334, 3333, 3333]);
        assert_eq!(round(&[0.25, 0.75, 0.0]), [2500, 7500, 0]);
        assert_eq!(space(0.5).corners()[1], [0, GRID, 0]);
    }

    #[test]
    fn spaces_that_make_no_sense_are_refused() {
        let refused = |names: &[&str], general: &str, beta: f64| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            MixSpace::new(&names, general, beta).unwrap_err().to_string()
        };
        assert!(refused(&["web"], "web", 0.5).contains("at least two"));
        assert!(refused(&["web", "", "code"], "web", 0.5).contains("a component has no name"));
        assert!(refused(&["web", "web"], "web", 0.5).contains("two components named `web`"));
        assert!(refused(&["web", "code"], "text", 0.5).contains("`text` is not one of the components"));
        for beta in [-0.1, 1.0, f64::NAN] {
            assert!(refused(&["web", "code"], "web", beta).contains("--beta"));
        }
    }
}
